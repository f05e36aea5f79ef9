"""Run every chapter as Colab would: its versions, and the notebook alone in an empty folder.

    colab.py [chapter.ipynb …]      (make colab; some 15 minutes, 3 GB)

Python is this machine's and torch its CPU build; every other library has Colab's version (its list
of August 2026). The set-up cell clones this checkout instead of the published address. Nothing is
written but `.venv-colab` and a table on the screen.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from chapters import ROOT, chapters, git_takes_this_checkout

ENVIRONMENT = ROOT / ".venv-colab"
# From googlecolab/backend-info, pip-freeze.txt of 2026-08-19, but for torch.
COLAB = """
torch==2.13.0
transformers==5.15.0
peft==0.20.0
accelerate==1.14.0
numpy==2.1.3
scipy==1.16.3
matplotlib==3.10.0
joblib==1.5.3
ipywidgets==7.7.1
ipython==7.34.0
ipykernel==6.17.1
pandas<3
tqdm
platformdirs
nbclient
""".split()

RUN = """
import sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
errors = [o for c in notebook.cells for o in c.get("outputs", []) if o.output_type == "error"]
sys.exit(len(errors))
"""


def make_environment() -> Path:
    """Colab's versions in an environment of their own; its Python."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", *COLAB], check=True)
    spec = [python, "-m", "ipykernel", "install", "--prefix", ENVIRONMENT, "--name", "python3"]
    subprocess.run(spec, check=True, capture_output=True)
    return python


def run_alone(python: Path, chapter: Path) -> tuple[float, str]:
    """Seconds, and what went wrong, of one chapter alone in an empty folder."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder) / chapter.name
        alone.write_bytes(chapter.read_bytes())
        # The package is installed afresh for each chapter, as in a new runtime.
        subprocess.run(
            [python, "-m", "pip", "uninstall", "-qy", "pmlbook", "gguf"], capture_output=True
        )
        done = subprocess.run(
            [python, "-c", RUN, alone], cwd=folder, env=os.environ | git_takes_this_checkout(),
            text=True, capture_output=True,
        )  # fmt: skip
    return time.perf_counter() - start, "" if done.returncode == 0 else done.stderr[-1500:]


def main(files: list[Path]) -> None:
    """See the module's docstring."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    python = make_environment()
    failed = 0
    for chapter in files or chapters():
        seconds, problem = run_alone(python, chapter.resolve())
        failed += bool(problem)
        print(f"{chapter.name}: {'failed' if problem else 'ran'}, {seconds:.0f} s", flush=True)
        if problem:
            print(problem)
    sys.exit(f"{failed} of the chapters failed" if failed else 0)


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
