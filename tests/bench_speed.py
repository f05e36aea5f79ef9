"""What the sweep saves, measured on this machine in one go: python tests/bench_speed.py

`speed_steps.csv`: seconds a step and run at each length, by plain peft, by the probe, by the stack;
and how near each comes to the machine's own peak (a plain large matmul in the same run),
counting only the products that the probe needs.
`speed_grid.csv`: seconds of a whole small grid, by transformers.Trainer and by ours, feature after
feature, with the mean ΔL that each reaches. Times are noisy; read the ratios.
`stall_check.csv` (with --stall, alone): what the rule for runs that have stopped moving costs in ΔL
and saves in steps, against the same runs that go on to the end of a long budget.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm
from transformers import Trainer, TrainingArguments

from pmlbook.benchmarks import stress_memory
from pmlbook.cost import floating_point_operations
from pmlbook.data import collate
from pmlbook.lora import Adapter, LoRALinear, adapter_attached, as_peft, find_linear
from pmlbook.models import load_model
from pmlbook.probe import lr_factor, write
from pmlbook.provenance import provenance, save_table
from pmlbook.recall import teacher_forced
from pmlbook.stacked import Job, write_stacked
from pmlbook.sweep import Cell

LAYER, TARGET, LR = 20, "down_proj", 1e-2
SHAPES = (16, 32, 64, 128, 256)
RANKS, LENGTHS, STEPS = (1, 2, 4, 8), (16, 32, 64, 128), 120


def main(folder: Path, stall: bool) -> None:
    """Measure the tables."""
    model, tokenizer = load_model()
    if stall:
        record = provenance("python tests/bench_speed.py --stall")
        save_table(stall_table(model, tokenizer), folder / "stall_check.csv", record)
        return
    record = provenance("python tests/bench_speed.py")
    save_table(steps_table(model, tokenizer), folder / "speed_steps.csv", record)
    save_table(grid_table(model, tokenizer), folder / "speed_grid.csv", record)


def steps_table(model, tokenizer, rounds: int = 5) -> pd.DataFrame:
    """The ways take turns, so that a slow minute of the machine slows all of them."""
    rows = []
    for length in tqdm(SHAPES, desc="shapes"):
        memory = stress_memory(tokenizer, length, 1.0, seed=0)
        ways = {
            "peft": lambda m=memory: peft_loop(model, m, r=4, steps=3),
            "probe": lambda m=memory: probe(model, m, steps=3),
            "stack of 8": lambda m=memory: stack(model, m, runs=8, steps=3),
        }
        seconds = {name: [] for name in [*ways, "matmul"]}
        for _ in range(rounds):
            for name, way in ways.items():
                seconds[name].append(way())
            seconds["matmul"].append(matmul())
        median = {name: statistics.median(values) for name, values in seconds.items()}
        peak = 1024**3 / median["matmul"]  # multiplications and additions per second
        needed = floating_point_operations([Cell("stress", length, 1.0, 4, 0, 1, LAYER)]) / 2
        for name in ways:
            rows.append(
                {
                    "length": length,
                    "way": name,
                    "seconds": median[name],
                    "times_faster": median["peft"] / median[name],
                    "share_of_peak": needed / median[name] / peak,
                }
            )
    return pd.DataFrame(rows)


def stall_table(model, tokenizer, steps: int = 800) -> pd.DataFrame:
    """The same runs with and without early ends; all of them are too small for their texts."""
    rows = []
    for early in (True, False):
        for length in (24, 32):
            jobs = [
                Job((r, seed), stress_memory(tokenizer, length, 1.0, seed), r, seed, steps, LR)
                for r, seed in itertools.product((1, 2), (0, 1))
            ]
            for run in write_stacked(
                model, jobs, layer=LAYER, target="v_proj", slots=8, end_early=early
            ):
                r, seed = run.job.name
                found = {"ended": run.ended, "steps_done": len(run.losses)}
                found["delta_loss"] = run.losses[0] - run.losses[-1]
                rows.append({"early": early, "length": length, "r": r, "seed": seed} | found)
    return pd.DataFrame(rows).sort_values(["length", "r", "seed", "early"])


def grid_table(model, tokenizer) -> pd.DataFrame:
    """Every cell of a small grid, the same start and schedule in each way."""
    cells = list(itertools.product(LENGTHS, RANKS))
    memories = {length: stress_memory(tokenizer, length, 1.0, seed=0) for length in LENGTHS}
    base = {length: _loss(model, memory) for length, memory in memories.items()}
    rows = []

    def timed(way, losses):
        start = time.perf_counter()
        values = list(losses)
        seconds = time.perf_counter() - start
        gain = statistics.fmean(base[length] - loss for length, loss in values)
        rows.append({"way": way, "seconds": seconds, "mean_delta_loss": gain})
        print(rows[-1], flush=True)

    def by_trainer():
        for length, r in tqdm(cells, desc="Trainer"):
            yield length, train_with_trainer(model, memories[length], r)

    def by_probe():
        for length, r in tqdm(cells, desc="probe"):
            memory = memories[length]
            yield length, write(model, memory, r, steps=STEPS, lr=LR, progress=False).final_loss

    def by_stack(end_early):
        for length in LENGTHS:
            jobs = [Job(length, memories[length], r, 0, STEPS, LR) for r in RANKS]
            site = {"layer": LAYER, "target": TARGET}
            for run in write_stacked(model, jobs, slots=8, end_early=end_early, **site):
                with adapter_attached(model, run.adapter(**site)):
                    yield length, _loss(model, memories[length])

    timed("transformers.Trainer with peft", by_trainer())
    timed("+ hidden states kept (probe)", by_probe())
    timed("+ runs of one length in a batch", by_stack(end_early=False))
    timed("+ finished runs leave", by_stack(end_early=True))
    frame = pd.DataFrame(rows)
    frame["times_faster"] = frame.seconds.iloc[0] / frame.seconds
    return frame


def fresh_adapter(model, r: int) -> Adapter:
    """The start that `write` gives an adapter of seed 0."""
    parent, name = find_linear(model, LAYER, TARGET)
    lora = LoRALinear(getattr(parent, name), r, None, torch.Generator().manual_seed(0))
    return Adapter(lora.lora_A.detach(), lora.lora_B.detach(), lora.lora_alpha, LAYER, TARGET)


def peft_loop(model, memory, r: int, steps: int) -> float:
    """Seconds a step of the loop that everybody writes first."""
    wrapped = as_peft(model, fresh_adapter(model, r))
    trained = [p for p in wrapped.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=0.0)
    batch = collate([memory])
    start = time.perf_counter()
    for _ in range(steps):
        loss = wrapped(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    seconds = (time.perf_counter() - start) / steps
    wrapped.unload()
    return seconds


def probe(model, memory, steps: int) -> float:
    """Seconds a step of `write`; the snapshots of start and end are part of it."""
    return write(model, memory, 4, layer=LAYER, steps=steps, lr=LR, progress=False).seconds / steps


def stack(model, memory, runs: int, steps: int) -> float:
    """Seconds a step and run of `write_stacked`."""
    jobs = [Job(seed, memory, 4, seed, steps, LR) for seed in range(runs)]
    done = write_stacked(model, jobs, layer=LAYER, slots=runs, end_early=False)
    return sum(run.seconds for run in done) / steps / runs


def matmul(n: int = 1024) -> float:
    """Seconds of one plain product of two n × n matrices, the best of five."""
    a, b = torch.randn(n, n), torch.randn(n, n)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def train_with_trainer(model, memory, r: int) -> float:
    """The final loss of one run by transformers.Trainer, as its documentation would have it."""
    wrapped = as_peft(model, fresh_adapter(model, r))
    trained = [p for p in wrapped.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=0.0)
    schedule = LambdaLR(optimizer, lambda step: lr_factor(step, STEPS))
    batch = collate([memory])
    with tempfile.TemporaryDirectory() as scratch:
        settings = TrainingArguments(
            scratch, max_steps=STEPS, per_device_train_batch_size=1, max_grad_norm=1.0,
            save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True,
            use_cpu=True,
        )  # fmt: skip
        trainer = Trainer(
            model=wrapped, args=settings, train_dataset=[{"row": 0}],
            data_collator=lambda rows: batch, optimizers=(optimizer, schedule),
        )  # fmt: skip
        trainer.train()
    loss = _loss(model.eval(), memory)  # peft has changed the model in place
    wrapped.unload()
    return loss


@torch.no_grad()
def _loss(model, memory) -> float:
    return float(teacher_forced(model, [memory])[0][0].mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", dest="folder", type=Path, default=Path("book/data"))
    parser.add_argument("--stall", action="store_true", help="only check the rule for early ends")
    main(**vars(parser.parse_args()))
