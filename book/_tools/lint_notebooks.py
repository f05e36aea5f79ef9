"""What a committed notebook must be: executed in order, quiet, captioned, whole.

    lint_notebooks.py [chapter.ipynb …]

nbval passes a notebook that was never executed, and never looks at a figure. This does.
"""

import re
import sys
from pathlib import Path

from chapters import chapters, code_cells, fingerprint, read

# Not after a word or a dot: the path of an address, or of a file in this book, is no machine's.
MACHINE_PATH = re.compile(r"(?<![\w.])(/home/|/root/|/work/|/tmp/|/Users/|[A-Z]:\\+Users)")
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
        *_prose(notebook, is_chapter=path.stem != "intro"),
    ]
    if notebook.metadata.get("pmlbook", {}).get("hash") != fingerprint(notebook):
        found.append("its outputs are stale: run book/_tools/execute.py")
    if "widgets" in notebook.metadata:
        found.append("it holds widget state: a page with it asks another host for its code")
    if path.stat().st_size > MAX_BYTES:
        found.append(f"it has {path.stat().st_size:,} bytes: want at most {MAX_BYTES:,}")
    return [f"{path.name}: {sentence}" for sentence in found]


def repeated_names(paths: list[Path]) -> list[str]:
    """Figures of one name, in one notebook or in two: a reference could mean either."""
    first, found = {}, []
    for path in paths:
        for name in filter(None, (_figure(cell).get("name") for cell in code_cells(read(path)))):
            if name in first:
                found.append(f"{path.name}: the figure name {name} is taken by {first[name]}")
            first.setdefault(name, path.name)
    return found


def _execution(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if never := [cell.id for cell in code_cells(notebook) if cell.execution_count is None]:
        yield f"cells were never executed: {', '.join(never)}"
    elif counts != list(range(1, len(counts) + 1)):
        yield f"cells were not executed in order from a clean kernel: {counts}"
    for cell in code_cells(notebook):
        if (lines := cell.source.count("\n") + 1) > MAX_LINES:
            yield f"cell {cell.id} has {lines} lines: want at most {MAX_LINES}"
    for cell in notebook.cells:
        if MACHINE_PATH.search(cell.source):
            yield f"cell {cell.id} holds a path of one machine"


def _outputs(notebook):
    for cell in code_cells(notebook):
        compared = ""
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
            if not _is_picture(output):  # nbval does not compare pictures
                compared += text + output.get("ename", "")
        checked = "nbval-check-output" in cell.metadata.get("tags", [])
        if checked and cell.execution_count and not compared.strip():
            yield f"cell {cell.id} is marked to be compared, and prints nothing"


def _figure(cell) -> dict:
    return cell.metadata.get("mystnb", {}).get("figure", {})


def _is_picture(output) -> bool:
    return any(kind.startswith("image/") for kind in output.get("data", {}))


def _figures(notebook):
    for cell in code_cells(notebook):
        if not any(_is_picture(output) for output in cell.outputs):
            continue
        caption = _figure(cell).get("caption") or ""
        if not re.match(r"\*\*[^*]+\*\*", caption):
            yield f"the figure of cell {cell.id} has no caption that starts with a **claim**"
        if not _figure(cell).get("name"):
            yield f"the figure of cell {cell.id} has no name to refer to it"
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt") or ""
        if len(alt) < 40 or alt in (caption, caption.replace("*", "")):
            yield f"the figure of cell {cell.id} has no alt text that says what is drawn"


def _prose(notebook, is_chapter: bool):
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    text = re.sub(r"^```(bash|python).*?^```", "", "\n\n".join(texts), flags=re.M | re.S)
    titles = re.findall(r"^# .+", text, re.M)
    if len(titles) != 1:
        yield f"it has {len(titles)} titles: want one"
    elif not re.match(r"(\(.+\)=\s+)?# ", notebook.cells[0].source):
        yield "it does not begin with its title"
    if word := re.search(r"\b(TODO|FIXME|XXX)\b", text):
        yield f"its prose says {word[0]}"
    if not is_chapter:
        return
    for heading in ("## Summary", "## Exercises"):
        if not re.search(rf"^{heading}$", text, re.M):
            yield f"it has no section {heading!r}"
    exercises = re.findall(r"\{exercise\}\n:label: (\S+)", text)
    # A folded solution of that label before the next exercise begins.
    follows = r"(?:(?!\{exercise\}).)*?\{solution\} \1\n:class: dropdown\n"
    solved = re.findall(r"\{exercise\}\n:label: (\S+)" + follows, text, re.S)
    if len(exercises) < 4:
        yield f"it has {len(exercises)} exercises: want at least 4"
    for label in exercises:
        if label not in solved:
            yield f"exercise {label} wants a folded solution right after it"


if __name__ == "__main__":
    paths = list(map(Path, sys.argv[1:])) or chapters()
    wrong = [*(s for path in paths for s in problems(path)), *repeated_names(paths)]
    sys.exit("\n".join(wrong) or 0)
