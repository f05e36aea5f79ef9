"""What a committed notebook must be: executed in order, quiet, captioned, whole.

    lint_notebooks.py [chapter.ipynb …]

nbval passes a notebook that was never executed, and never looks at a figure. This does.
"""

import re
import sys
from pathlib import Path

from chapters import chapters, code_cells, fingerprint, read

MACHINE_PATH = re.compile(r"(/home/|/root/|/work/|/tmp/|/Users/|[A-Z]:\\Users)")
ADDRESS = re.compile(r"https?://[\w.-]+")
MAX_LINES = 30
MAX_BYTES = 2_000_000


def problems(path: Path) -> list[str]:
    """Everything that is wrong with one notebook, as sentences; empty when nothing is."""
    notebook = read(path)
    found = [
        *_execution(notebook),
        *_outputs(notebook),
        *_figures(notebook),
        *_prose(notebook),
    ]
    if notebook.metadata.get("pmlbook", {}).get("hash") != fingerprint(notebook):
        found.append("its outputs are stale: run book/_tools/execute.py")
    if "widgets" in notebook.metadata:
        found.append("it holds widget state: a page with it asks another host for its code")
    if path.stat().st_size > MAX_BYTES:
        found.append(f"it has {path.stat().st_size:,} bytes: want at most {MAX_BYTES:,}")
    return [f"{path.name}: {sentence}" for sentence in found]


def figure_names(path: Path) -> list[str]:
    """The names by which the figures of a notebook are referred to."""
    return [name for cell in code_cells(read(path)) if (name := _figure(cell).get("name"))]


def _execution(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if None in counts:
        yield f"{counts.count(None)} code cells were never executed"
    elif counts != list(range(1, len(counts) + 1)):
        yield f"cells were not executed in order from a clean kernel: {counts}"
    for cell in code_cells(notebook):
        if (lines := cell.source.count("\n") + 1) > MAX_LINES:
            yield f"cell {cell.id} has {lines} lines: want at most {MAX_LINES}"
        if MACHINE_PATH.search(cell.source):
            yield f"cell {cell.id} holds a path of one machine"


def _outputs(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"cell {cell.id} ends in {output.ename}"
            if output.get("name") == "stderr":
                yield f"cell {cell.id} writes to stderr: {output.text.strip()[:60]!r}"
            text = "".join(str(v) for k, v in output.get("data", {}).items() if "text" in k)
            text += str(output.get("text", ""))
            if output.output_type != "error" and MACHINE_PATH.search(text):
                yield f"cell {cell.id} prints a path of one machine"
            if match := ADDRESS.search(text):
                yield f"cell {cell.id} prints the address {match[0]}"
        checked = "nbval-check-output" in cell.metadata.get("tags", [])
        if checked and not cell.outputs and cell.execution_count:
            yield f"cell {cell.id} is marked to be compared, and prints nothing"


def _figure(cell) -> dict:
    return cell.metadata.get("mystnb", {}).get("figure", {})


def _figures(notebook):
    for cell in code_cells(notebook):
        if not any("image/png" in output.get("data", {}) for output in cell.outputs):
            continue
        caption = _figure(cell).get("caption", "")
        if not caption.startswith("**"):
            yield f"the figure of cell {cell.id} has no caption that starts with a **claim**"
        if not _figure(cell).get("name"):
            yield f"the figure of cell {cell.id} has no name to refer to it"
        if len(cell.metadata.get("mystnb", {}).get("image", {}).get("alt") or "") < 40:
            yield f"the figure of cell {cell.id} has no alt text that says what is drawn"


def _prose(notebook):
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    text = re.sub(r"^```(bash|python).*?^```", "", "\n\n".join(texts), flags=re.M | re.S)
    titles = re.findall(r"^# .+", text, re.M)
    if len(titles) != 1:
        yield f"it has {len(titles)} titles: want one"
    if word := re.search(r"\b(TODO|FIXME|XXX)\b", text):
        yield f"its prose says {word[0]}"
    if "(ch-" not in text:
        return  # the introduction
    for heading in ("## Summary", "## Exercises"):
        if f"{heading}\n" not in text:
            yield f"it has no section {heading!r}"
    exercises = re.findall(r"```\{exercise\}\n:label: (\S+)", text)
    solutions = re.findall(r"```\{solution\} (\S+)\n:class: dropdown", text)
    if len(exercises) < 4:
        yield f"it has {len(exercises)} exercises: want at least 4"
    for label in sorted(set(exercises) ^ set(solutions)):
        yield f"exercise {label} wants one folded solution"


if __name__ == "__main__":
    wrong = [s for path in map(Path, sys.argv[1:] or chapters()) for s in problems(path)]
    sys.exit("\n".join(wrong) or 0)
