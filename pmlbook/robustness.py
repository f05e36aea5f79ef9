"""What a finished memory withstands: rounding, merging, another prompt (chapter: MemFT).

A method that stops pushing at p = 1/2 leaves its tokens close to it. Each memory here is written
for the same number of steps by each method, and is then asked for under harder conditions.

Run `python -m pmlbook.robustness` to make `book/data/robustness.csv` again. Each finished run is
saved at once, and a second start goes on with the runs that are missing.
"""

import argparse
import copy
import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pmlbook.benchmarks import stress_memory
from pmlbook.data import Memory
from pmlbook.generalization import plain_loss
from pmlbook.lora import Adapter, adapter_merged
from pmlbook.models import load_model
from pmlbook.probe import write
from pmlbook.provenance import fill_table
from pmlbook.recall import Recall, recall
from pmlbook.sweep import RATES

COMMAND = "python -m pmlbook.robustness"
METHODS, RANKS, SEEDS = ("sft", "ot", "ot:0.9", "sw"), (6,), (0, 1, 2)
LENGTH, STEPS, LAYER, TARGET = 48, 240, 20, "v_proj"
PREFIX = "Please recite the following. "  # put before the key that was trained


def conditions(model, tokenizer, memory: Memory, adapter: Adapter) -> Iterator[tuple[str, Recall]]:
    """The same memory under each condition, the gentlest first."""
    yield "as trained", recall(model, tokenizer, memory, adapter)
    rounded = replace(
        adapter,
        lora_A=adapter.lora_A.bfloat16().float(),
        lora_B=adapter.lora_B.bfloat16().float(),
    )
    yield "adapter rounded to bf16", recall(model, tokenizer, memory, rounded)
    with adapter_merged(model, adapter):
        yield "merged", recall(model, tokenizer, memory)
        half = copy.deepcopy(model).bfloat16()
    yield "merged, whole model in bf16", recall(half, tokenizer, memory)
    prefix = tuple(tokenizer(PREFIX, add_special_tokens=False).input_ids)
    prefixed = Memory(prefix + tuple(memory.key_ids), memory.answer_ids)
    yield "another sentence before the key", recall(model, tokenizer, prefixed, adapter)


def measure(model, tokenizer, method: str, r: int, seed: int) -> pd.DataFrame:
    """One memory, one row a condition."""
    memory = stress_memory(tokenizer, LENGTH, 1.0, seed)
    history = write(
        model, memory, r, layer=LAYER, target=TARGET, steps=STEPS, seed=seed, method=method,
        lr=RATES["stress", method.partition(":")[0]], progress=False,
    )  # fmt: skip
    before, after = (plain_loss(model, tokenizer, adapter) for adapter in (None, history.adapter))
    delta = torch.linalg.matrix_norm(history.adapter.delta_weight()).item()
    run = {"method": method, "r": r, "seed": seed}
    return pd.DataFrame(
        {
            **run,
            "condition": name,
            "p_min": record.p.min(),
            "p_median": np.median(record.p),
            "share_ordered": record.ordered.mean(),
            "acc_teacher_forced": record.token_accuracy_teacher_forced,
            "acc_free_running": record.token_accuracy_free_running,
            "acc_em": float(record.exact_match),
            "delta_norm": delta,  # Frobenius norm of ΔW
            "plain_before": before,
            "plain_after": after,
        }
        for name, record in conditions(model, tokenizer, memory, history.adapter)
    )


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
    parser.add_argument("--out", type=Path, default=Path("book/data/robustness.csv"))
    main(parser.parse_args().out)
