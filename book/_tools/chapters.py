"""Which notebooks the book has, and when their outputs are stale."""

import hashlib
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[2]
# The numbers of a page depend on these versions; the others only dress it.
PINS = ("torch", "transformers", "peft", "tokenizers", "numpy", "scipy", "pandas", "matplotlib")


def chapters() -> list[Path]:
    """The notebooks of `_toc.yml`, in reading order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    files = [toc["root"]] + [c["file"] for part in toc["parts"] for c in part["chapters"]]
    return [ROOT / f"{file}.ipynb" for file in files if (ROOT / f"{file}.ipynb").exists()]


def read(path: Path) -> nbformat.NotebookNode:
    """A notebook as nbformat 4."""
    return nbformat.read(path, as_version=4)


def code_cells(notebook) -> list:
    """The code cells that hold code."""
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


def fingerprint(notebook) -> str:
    """A hash of all that the outputs depend on: code cells, pmlbook, measured data, versions."""
    digest = hashlib.sha256()
    for cell in code_cells(notebook):
        digest.update(cell.source.encode() + b"\0")
    files = [*(ROOT / "pmlbook").glob("*"), *(ROOT / "book" / "data").glob("*")]
    for path in sorted(path for path in files if path.is_file()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line.partition("==")[0] in PINS:
            digest.update(line.split()[0].encode())
    return digest.hexdigest()[:16]


def is_stale(path: Path) -> bool:
    """True when the notebook's outputs are not those of this code, package, data and versions."""
    notebook = read(path)
    if notebook.metadata.get("pmlbook", {}).get("hash") != fingerprint(notebook):
        return True
    return any(cell.execution_count is None for cell in code_cells(notebook))
