"""Build the HTML with warnings as errors, and say which file to open."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The module has no entry of its own for python -m, and the environment need not be activated.
MAIN = "from jupyter_book.cli.main import main; main()"
JUPYTER_BOOK = [sys.executable, "-c", MAIN]


def build(output: Path) -> subprocess.CompletedProcess:
    """Run Jupyter Book; any warning makes the return code 1, all of them are reported."""
    # --all: else a changed style sheet alone would not reach the pages.
    command = [*JUPYTER_BOOK, "build", str(ROOT), "--path-output", str(output), "--all"]
    return subprocess.run([*command, "-W", "--keep-going", "-q"], text=True, capture_output=True)


if __name__ == "__main__":
    print("== building the HTML, warnings are errors", flush=True)
    done = build(ROOT / "book")
    if done.returncode:
        sys.exit(f"{done.stdout[-4000:]}\n{done.stderr[-8000:]}\nthe book has warnings or errors")
    page = ROOT / "book" / "_build" / "html" / "index.html"
    if not page.exists():
        sys.exit(f"the build made no page\n{done.stdout[-4000:]}")
    print(f"== the book is ready. Open {page}")
