"""Build the HTML with warnings as errors, and say which file to open."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def build(output: Path, quiet: bool = True) -> subprocess.CompletedProcess:
    """Run Jupyter Book; any warning makes the return code 1, all of them are reported."""
    command = [sys.executable, "-m", "jupyter_book.cli.main", "build", str(ROOT)]
    command += ["--path-output", str(output), "-W", "--keep-going", *(["-q"] if quiet else [])]
    return subprocess.run(command, text=True, capture_output=True)


if __name__ == "__main__":
    print("== building the HTML, warnings are errors", flush=True)
    done = build(ROOT / "book")
    if done.returncode:
        sys.exit(f"{done.stdout[-4000:]}\n{done.stderr[-8000:]}\nthe book has warnings or errors")
    page = ROOT / "book" / "_build" / "html" / "index.html"
    print(f"== the book is ready. Open {page}")
