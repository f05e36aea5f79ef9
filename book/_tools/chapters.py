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


# The first code cell of every chapter. Colab's torch, numpy, transformers and ipywidgets stay as
# they are: --no-deps, and of what the package needs only what Colab does not have.
SETUP_CELL = """\
# On Colab: fetch the package and the data. Where pmlbook is, do nothing.
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("pmlbook") is None:
    book = "{address}"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
    fetch = ["git", "clone", "-q", "--depth", "1", book, "lora-book"]
    subprocess.run(fetch, check=True)
    subprocess.run([*pip, "./lora-book", "{gguf}"], check=True)
    importlib.invalidate_caches()
    os.chdir("lora-book/book")\
"""


def address() -> str:
    """The address of this book's repository, which stands in `_config.yml` and nowhere else."""
    return yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]


def git_takes_this_checkout() -> dict[str, str]:
    """Environment in which git itself puts this checkout in the place of that address."""
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{ROOT}.insteadOf",
        "GIT_CONFIG_VALUE_0": address(),
    }


def setup_cell() -> str:
    """Its code, with that address."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    gguf = next(line.split()[0] for line in lines if line.startswith("gguf=="))
    return SETUP_CELL.format(address=address(), gguf=gguf)


def with_setup_cell(notebook):
    """The notebook with that cell before its other code, folded; an older one is replaced."""
    notebook.cells = [cell for cell in notebook.cells if cell.get("id") != "setup"]
    kinds = [cell.cell_type for cell in notebook.cells]
    fold = {"tags": ["hide-cell"], "mystnb": {"code_prompt_show": "Set-up (for Colab)"}}
    cell = nbformat.v4.new_code_cell(setup_cell(), id="setup", metadata=fold)
    notebook.cells.insert(kinds.index("code"), cell)
    return notebook


def begins_with_setup(path: Path) -> bool:
    """Whether the notebook's first code cell is the set-up cell as it is now."""
    return code_cells(read(path))[0].source == setup_cell()


def pages() -> list[str]:
    """The files of `_toc.yml`, without their endings, in reading order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    return [toc["root"]] + [c["file"] for part in toc["parts"] for c in part["chapters"]]


def chapters() -> list[Path]:
    """Those of them that are notebooks."""
    return [ROOT / f"{file}.ipynb" for file in pages() if (ROOT / f"{file}.ipynb").exists()]


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

    That is: the code cells (but for set-up), the modules of pmlbook behind them, the tables they
    name, the versions of the libraries that compute.
    """
    cells = [cell for cell in code_cells(notebook) if cell.get("id") != "setup"]
    source = "\n".join(cell.source for cell in cells)
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
