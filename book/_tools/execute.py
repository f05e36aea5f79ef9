"""Execute the chapters whose outputs are stale, each from a clean kernel, and log the runs.

    execute.py [--force | --check] [chapter.ipynb …]

Sphinx's own ways are not enough: `auto` never runs a notebook again that has outputs, and `cache`
does not see a changed helper module. The rule here is a hash (see chapters.fingerprint).
"""

import argparse
import os
import platform
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from chapters import (
    ROOT,
    begins_with_setup,
    chapters,
    fingerprint,
    is_stale,
    read,
    with_setup_cell,
)
from pmlbook.models import DEFAULT, GGUF_SHA256
from pmlbook.provenance import load_table


def execute(path: Path) -> None:
    """Run one notebook and write it back with its outputs; raises and writes nothing on an error.

    No output may come from stderr: a warning in a page is a fault of the page.
    """
    notebook = with_setup_cell(read(path))
    notebook.metadata.pop("widgets", None)
    start = time.perf_counter()
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": path.parent}},
        # The kernel would warn at each start that others on this machine could listen.
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    ).execute()
    seconds = time.perf_counter() - start
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # time stamps would change at every run
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise RuntimeError(f"a cell writes to stderr:\n{cell.source}\n\n{output.text}")
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata["pmlbook"] = {
        "hash": fingerprint(notebook),
        "seconds": round(seconds),
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "peft")},
    }
    scratch = path.with_suffix(".ipynb.part")
    nbformat.write(notebook, scratch)
    os.replace(scratch, path)


def write_run_log(notebooks: list[Path], target: Path) -> None:
    """The book's page of run times and versions, from the records in the notebooks."""
    lines = [
        "(runlog)=",
        "# Run log",
        "",
        "How each chapter was last executed, from a clean kernel. The build writes this page.",
        "",
        "| chapter | seconds | date | Python | torch | transformers | peft |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in notebooks:
        run = read(path).metadata["pmlbook"]
        cells = [
            run[k]
            for k in (
                "seconds",
                "date",
                "python",
                "torch",
                "transformers",
                "peft",
            )
        ]
        lines.append(f"| []({path.name}) | {' | '.join(map(str, cells))} |")
    lines += [
        "",
        "The measured tables, and the commands that make them again:",
        "",
        "| table | rows | command | date | machine | commit |",
        "|---|---|---|---|---|---|",
    ]
    for table in sorted((ROOT / "book" / "data").glob("*.csv")):
        frame, run = load_table(table)
        cells = [
            f"{len(frame):,}",
            f"`{run['command']}`",
            run["date"],
            run["machine"],
        ]
        lines.append(f"| `{table.name}` | {' | '.join(cells)} | `{run['commit']}` |")
    lines += [
        "",
        f"The base model of every run was `{DEFAULT}`, a GGUF file with SHA-256",
        f"`{GGUF_SHA256}`.",
        "Seconds are wall time on two CPU cores and vary with the machine's mood.",
        "",
    ]
    target.write_text("\n".join(lines))


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--force", action="store_true", help="run fresh chapters too")
    parser.add_argument("--check", action="store_true", help="only list what is stale")
    parser.add_argument("files", nargs="*", type=Path, help="chapters (default: the whole book)")
    arguments = parser.parse_args()
    files = [path.resolve() for path in arguments.files] or chapters()
    fresh = [path for path in files if begins_with_setup(path) and not is_stale(path)]
    stale = [path for path in files if arguments.force or path not in fresh]
    if arguments.check:
        sys.exit("".join(f"stale: {path.name}\n" for path in stale) or 0)
    # Bars become widgets in a notebook, and a page with a widget asks other hosts for its code.
    os.environ["TQDM_DISABLE"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    print(
        f"== chapters: {len(files) - len(stale)} fresh, {len(stale)} to execute",
        flush=True,
    )
    for i, path in enumerate(stale, start=1):
        print(f"   {i}/{len(stale)} {path.name} …", end="", flush=True)
        start = time.perf_counter()
        try:
            execute(path)
        except (CellExecutionError, RuntimeError) as error:
            sys.exit(f" failed\n{error}")
        print(f" {time.perf_counter() - start:.0f} s", flush=True)
    if not any(is_stale(path) for path in chapters()):
        write_run_log(chapters(), ROOT / "book" / "runlog.md")


if __name__ == "__main__":
    main()
