"""What MemFT saves, measured on this machine in one go: python tests/bench_memft.py

`speed_memft.csv`: steps and seconds until a text is recited in full, by method and seed; the
methods take turns. And the seconds of one step, early (everything active) and late.
`memory_head.csv`: the peak memory of a process that takes one gradient of the loss of 1,024 answer
tokens over a vocabulary of 151,936: by whole logits, as every trainer does it, and by `HeadPass`
with all tokens active or one in ten. Each in a process of its own.
Times are noisy; read the ratios.
"""

import argparse
import itertools
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F

from pmlbook.benchmarks import stress_memory
from pmlbook.head import HeadPass
from pmlbook.models import load_model
from pmlbook.provenance import provenance, save_table
from pmlbook.stacked import Job, write_stacked
from pmlbook.sweep import RATES

COMMAND = "python tests/bench_memft.py"
METHODS, SEEDS = ("sft", "ot", "sw"), (0, 1)
LENGTH, R, STEPS, LAYER, TARGET = 48, 6, 240, 20, "v_proj"
TOKENS, WIDTH, VOCABULARY = 1024, 576, 151_936


def recall_table(model, tokenizer) -> pd.DataFrame:
    """One run a row, each alone and to the end of its budget."""
    rows = []
    for seed in SEEDS:
        for method in METHODS:
            memory = stress_memory(tokenizer, LENGTH, 1.0, seed)
            job = Job(None, memory, R, seed, STEPS, RATES["stress", method], method)
            clock = [time.perf_counter()]
            (run,) = write_stacked(
                model, [job], layer=LAYER, target=TARGET, slots=1, end_early=False,
                on_step=lambda runs, clock=clock: clock.append(time.perf_counter()),
            )  # fmt: skip
            took = [b - a for a, b in itertools.pairwise(clock)]
            at = run.recited_at
            rows.append(
                {
                    "method": method,
                    "seed": seed,
                    "steps_to_recall": at,
                    "seconds_to_recall": None if at is None else clock[at] - clock[0],
                    "seconds_a_step_early": statistics.median(took[5:35]),
                    "seconds_a_step_late": statistics.median(took[-30:]),
                }
            )
            print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def one_gradient(way: str) -> None:
    """Take the gradient once, and print how much memory this process has needed for it, in MB."""
    torch.manual_seed(0)
    head = torch.nn.Linear(WIDTH, VOCABULARY, bias=False).requires_grad_(False)
    hidden = torch.randn(TOKENS, WIDTH, requires_grad=True)
    targets = torch.randint(VOCABULARY, (TOKENS,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if way == "whole logits":
        F.cross_entropy(head(hidden), targets).backward()
    else:
        done = HeadPass(hidden, head, targets)
        weights = torch.ones(TOKENS)
        if way.endswith("1 token in 10 active"):
            weights[torch.arange(TOKENS) % 10 > 0] = 0
        done.weighted_sum(weights / weights.sum()).backward()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print((peak - before) / 1024)


def memory_table() -> pd.DataFrame:
    """Each way in a process of its own, since a peak never goes down again."""
    ways = ("whole logits", "HeadPass, all active", "HeadPass, 1 token in 10 active")
    rows = []
    for way in ways:
        out = subprocess.run(
            [sys.executable, __file__, "--one", way], capture_output=True, text=True, check=True
        ).stdout
        rows.append({"way": way, "peak_mb": float(out)})
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def main(folder: Path) -> None:
    """Measure both tables."""
    save_table(memory_table(), folder / "memory_head.csv", provenance(COMMAND))
    model, tokenizer = load_model()
    save_table(recall_table(model, tokenizer), folder / "speed_memft.csv", provenance(COMMAND))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", dest="folder", type=Path, default=Path("book/data"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one_gradient(options.one)
    else:
        main(options.folder)
