"""Tables of measured numbers, and beside each table how it came to be (every chapter)."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pandas as pd
import peft
import torch
import transformers
from tqdm.auto import tqdm

from pmlbook import __version__, models


def provenance(command: str, model: str = models.DEFAULT) -> dict:
    """What a reader needs to make a table again: command, model, versions, machine, date."""
    return {
        "command": command,
        "model": model,
        "model_sha256": models.GGUF_SHA256 if model == models.DEFAULT else None,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "pmlbook": __version__,
    }


def save_table(frame: pd.DataFrame, path: Path, record: dict) -> None:
    """Write `frame` as CSV and `record` as JSON beside it; a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = {
        path: frame.to_csv(index=False, float_format="%.6g"),
        path.with_suffix(".json"): json.dumps(record, indent=1) + "\n",
    }
    for target, text in texts.items():
        scratch = target.with_name(target.name + ".part")
        scratch.write_text(text)
        os.replace(scratch, target)


def load_table(path) -> tuple[pd.DataFrame, dict]:
    """A table of `save_table`, and its record.

    Raises:
        FileNotFoundError: the table or its record is not there.
    """
    path = Path(path)
    return pd.read_csv(path), json.loads(path.with_suffix(".json").read_text())


def fill_table(path: Path, runs: list[dict], measure: Callable, command: str) -> pd.DataFrame:
    """Make the `runs` that the table at `path` does not hold yet, saving after each.

    `measure(**run)` gives the rows of one run as a frame, in which the keys of `run` are columns.
    """
    done = load_table(path)[0] if path.exists() else None
    for run in tqdm(runs, desc="runs"):
        if done is not None and (done[list(run)] == pd.Series(run)).all(axis=1).any():
            continue
        done = pd.concat([done, measure(**run)], ignore_index=True)
        save_table(done, path, provenance(command))
    return done


@cache
def _commit() -> str | None:
    """The commit that the package was run from, with "+" when files had changed since."""
    git = ["git", "-C", str(Path(__file__).parent)]
    if shutil.which("git") is None:
        return None
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        return None
    changes = subprocess.run([*git, "status", "--porcelain", "."], capture_output=True, text=True)
    return head.stdout.strip() + ("+" if changes.stdout.strip() else "")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


# Asked once, at import: a long run is of the code that it began with, whatever is committed since.
_commit()
