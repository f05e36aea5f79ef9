"""Which notebooks the book has, and when their outputs are stale."""

import ast
import hashlib
import re
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[2]
# The numbers of a page depend on these versions; the others only dress it.
PINS = (
    "torch",
    "transformers",
    "peft",
    "tokenizers",
    "numpy",
    "scipy",
    "pandas",
    "matplotlib",
)


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


def modules_used(source: str) -> set[str]:
    """The modules of pmlbook that this code imports, and those that they import in turn."""
    plain = re.sub(r"^\s*[%!].*$", "", source, flags=re.M)  # IPython's own lines are not Python
    found, todo = set(), [plain]
    while todo:
        for node in ast.walk(ast.parse(todo.pop())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pmlbook"):
                names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            for name in names:  # pmlbook.lora or pmlbook.lora.LoRALinear: the module is "lora"
                package, _, rest = name.partition(".")
                module = rest.partition(".")[0]
                path = ROOT / "pmlbook" / f"{module}.py"
                if package == "pmlbook" and module not in found and path.exists():
                    found.add(module)
                    todo.append(path.read_text())
    return found


def fingerprint(notebook) -> str:
    """A hash of all that the outputs depend on.

    That is: the code cells, the modules of pmlbook behind them, the tables they name, the
    versions of the libraries that compute.
    """
    source = "\n".join(cell.source for cell in code_cells(notebook))
    modules = modules_used(source) | {"__init__"}
    files = [ROOT / "pmlbook" / f"{module}.py" for module in modules]
    files += (ROOT / "pmlbook").glob("*.mplstyle")
    files += [path for path in (ROOT / "book" / "data").glob("*") if path.stem in source]
    digest = hashlib.sha256(source.encode())
    for path in sorted(files):
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
