"""The evidence of the chapter on p > 1/2: many memories, each token's p beside what was recited.

Run `python -m pmlbook.evidence` to make `book/data/one_half.csv` again. Each finished run is
saved at once, and a second start goes on with the runs that are missing.
"""

import argparse
from functools import partial
from pathlib import Path

import pandas as pd

from pmlbook.data import phonebook, random_memory
from pmlbook.models import load_model
from pmlbook.probe import write
from pmlbook.provenance import fill_table
from pmlbook.recall import recall_all, tokens_frame

COMMAND = "python -m pmlbook.evidence"
RANKS = (1, 2, 3, 4, 6, 8)
LENGTHS = (32, 64, 128)
SEEDS = (0, 1)
STEPS = 150
STATES = (50, 100, 150)  # recall is asked for after so many updates: half-learnt states count too


def planned_runs() -> list[dict]:
    """Every run of the table: random texts over the grid, and a phone book of 32 numbers."""
    texts = [
        {"kind": "random", "r": r, "length": length, "seed": seed}
        for length in LENGTHS
        for r in RANKS
        for seed in SEEDS
    ]
    books = [{"kind": "phonebook", "r": r, "length": 10, "seed": 0} for r in (1, 2, 4)]
    return texts + books


def measure(model, tokenizer, kind: str, r: int, length: int, seed: int) -> pd.DataFrame:
    """One run: write, then recall at each of `STATES`; one row per state and answer token."""
    if kind == "random":
        memories, options = [random_memory(tokenizer, length, seed)], {}
    else:
        memories, options = phonebook(tokenizer, 32, seed), {"batch_size": 8}
    history = write(
        model, memories, r, steps=STEPS, seed=seed, record_at=STATES, progress=False, **options
    )
    run = {"kind": kind, "r": r, "length": length, "seed": seed}
    return pd.concat(
        tokens_frame(recall_all(model, tokenizer, memories, state.adapter), **run, step=state.step)
        for state in history.snapshots
        if state.step in STATES
    )


def main(path: Path) -> None:
    """Make the runs that `path` does not hold yet, saving after each."""
    model, tokenizer = load_model()
    fill_table(path, planned_runs(), partial(measure, model, tokenizer), COMMAND)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("book/data/one_half.csv"))
    main(parser.parse_args().out)
