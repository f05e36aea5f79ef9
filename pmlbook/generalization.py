"""Memory against generalization: an adapter learns pairs of a rule, and is asked for others
(chapter: Memory against generalization; the paper's test f(x, y) = 3x + 5y + 7).

Run `python -m pmlbook.generalization` to make `book/data/linear_rule.csv` again. Each finished run
is saved at once, and a second start goes on with the runs that are missing.
"""

import argparse
import itertools
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from pmlbook.benchmarks import stress_memory
from pmlbook.data import Memory, text_memory
from pmlbook.lora import Adapter, adapter_attached
from pmlbook.models import load_model
from pmlbook.probe import write
from pmlbook.provenance import fill_table
from pmlbook.recall import recall_all, teacher_forced

COMMAND = "python -m pmlbook.generalization"
SIDE = 16  # x and y are 0 to 15: 256 pairs
TRAINED, UNSEEN = 64, 64
METHODS, RANKS, SEEDS = ("sft", "ot"), (1, 2, 4, 8), (0, 1)
STEPS, BATCH = 200, 16


def rule(x: int, y: int) -> int:
    """f(x, y) = 3x + 5y + 7."""
    return 3 * x + 5 * y + 7


def rule_memories(tokenizer, seed: int) -> tuple[list[Memory], list[Memory]]:
    """Pairs to train on and pairs that are kept back, no pair in both: "f(3,14)=" -> "86."

    The full stop is part of the answer, so that 8 is not a right beginning of 86.
    """
    order = np.random.default_rng(seed).permutation(SIDE * SIDE)[: TRAINED + UNSEEN]
    pairs = [divmod(int(number), SIDE) for number in order]
    memories = [text_memory(tokenizer, f"f({x},{y})=", f"{rule(x, y)}.") for x, y in pairs]
    return memories[:TRAINED], memories[TRAINED:]


def number(tokens: list[str]) -> float:
    """The number that stands before the first full stop; NaN if there is none."""
    text = "".join(tokens).split(".")[0]
    return float(text) if text.isascii() and text.isdigit() else np.nan


def plain_loss(model, tokenizer, adapter: Adapter | None = None, length: int = 384) -> float:
    """Mean loss (nats per token) on a passage of plain text that no run is trained on."""
    passage = stress_memory(tokenizer, length, 0.0, seed=99)
    key = tokenizer("Once upon a time,", add_special_tokens=False).input_ids
    passage = Memory(key, passage.answer_ids)  # a key unlike any that is trained
    with adapter_attached(model, adapter):
        return float(teacher_forced(model, [passage])[0][0].mean())


def measure(model, tokenizer, method: str, r: int, seed: int) -> pd.DataFrame:
    """One run: memory on the trained pairs, accuracy on the unseen ones, and what it broke."""
    trained, unseen = rule_memories(tokenizer, seed)
    history = write(
        model, trained, r, steps=STEPS, batch_size=BATCH, seed=seed, method=method, progress=False
    )
    known, asked = (
        recall_all(model, tokenizer, memories, history.adapter) for memories in (trained, unseen)
    )
    errors = [abs(number(record.greedy_tokens) - number(record.tokens)) for record in asked]
    row = {
        "method": method,
        "r": r,
        "seed": seed,
        "memory": np.mean([record.exact_match for record in known]),
        "generalization": np.mean([record.exact_match for record in asked]),
        "median_error": pd.Series(errors).fillna(np.inf).median(),
        "base_loss": history.base_loss,
        "final_loss": history.final_loss,
        "unseen_loss": np.mean(np.concatenate([record.token_losses for record in asked])),
        "plain_before": plain_loss(model, tokenizer),
        "plain_after": plain_loss(model, tokenizer, history.adapter),
        "seconds": history.seconds,
    }
    return pd.DataFrame([row])


def main(path: Path) -> None:
    """Make the runs that `path` does not hold yet, saving after each."""
    model, tokenizer = load_model()
    runs = [
        {"method": method, "r": r, "seed": seed}
        for seed, r, method in itertools.product(SEEDS, RANKS, METHODS)
    ]
    fill_table(path, runs, partial(measure, model, tokenizer), COMMAND)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("book/data/linear_rule.csv"))
    main(parser.parse_args().out)
