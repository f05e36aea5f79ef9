"""The sweep: many memories over ranks, lengths, ratios and seeds, one tidy table (chapter: The
memory law; paper Eq. 6).

    python -m pmlbook.sweep cpu            print what it costs, then run it, or go on with it
    python -m pmlbook.sweep cpu --cost     only print what it costs
    python -m pmlbook.sweep cpu --backend dask --cluster tcp://…:8786    on a cluster

Each run's result is one small JSON file, written whole or not at all. So a sweep may be killed at
any moment: started again, it repeats nothing that is finished.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import math
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from pmlbook.benchmarks import sized_phonebook, stress_memory
from pmlbook.cost import describe, tokens_a_step
from pmlbook.curriculum import epochs_for
from pmlbook.lora import lora_parameters
from pmlbook.models import DEFAULT, load_model
from pmlbook.probe import write
from pmlbook.provenance import provenance, save_table
from pmlbook.recall import recall_all
from pmlbook.stacked import Job, write_stacked

RECITE_EVERY = 20  # steps between two looks whether a phone book is recited
ROUNDS = 3  # so often may the workers be lost without a single finished run


@dataclass(frozen=True)
class Cell:
    """One run of the sweep: what is written, with what, for how long."""

    kind: str  # "stress" or "phonebook"
    length: int  # ℓ, answer tokens (of the whole phone book)
    ratio: float  # share of random tokens; 1 for a phone book's digits
    r: int
    seed: int
    steps: int
    layer: int
    target: str = "down_proj"
    method: str = "sft"
    lr: float = 1e-2
    model: str = DEFAULT

    @property
    def key(self) -> str:
        """A name for this cell's file that no other cell has."""
        text = json.dumps(asdict(self), sort_keys=True)
        return (
            f"{self.kind}-l{self.length}-r{self.r}-{hashlib.sha1(text.encode()).hexdigest()[:10]}"
        )


@dataclass(frozen=True)
class Preset:
    """A grid to run: every combination of its axes."""

    model: str
    ranks: tuple[int, ...]
    lengths: tuple[int, ...]
    seeds: tuple[int, ...]
    steps: int
    layer: int
    ratios: tuple[float, ...] = (1.0,)
    target: str = "down_proj"
    phonebooks: tuple[int, ...] = ()
    phonebook_ranks: tuple[int, ...] = ()
    methods: tuple[str, ...] = ("sft",)
    lrs: tuple[float, ...] = (1e-2,)

    def cells(self) -> list[Cell]:
        """All runs of the grid, shortest first, so that a table is soon worth looking at."""
        common = {"layer": self.layer, "target": self.target, "model": self.model}
        ways = list(itertools.product(self.methods, self.lrs))
        stress = [
            Cell("stress", length, ratio, r, seed, self.steps, **common, method=method, lr=lr)
            for length, ratio, seed, r, (method, lr) in itertools.product(
                self.lengths, self.ratios, self.seeds, self.ranks, ways
            )
        ]
        books = [
            Cell("phonebook", size, 1.0, r, seed, self.steps, **common, method=method, lr=lr)
            for size, seed, r, (method, lr) in itertools.product(
                self.phonebooks, self.seeds, self.phonebook_ranks, ways
            )
        ]
        return sorted(stress, key=lambda c: (c.seed, c.length)) + books


R100 = (1.0,)
# What each method chose of the rates of "memft-lr" (`comparison.chosen_rates`; a test compares).
RATES = {
    ("stress", "sft"): 1e-1, ("stress", "ot"): 1e-1, ("stress", "sw"): 1e-1,
    ("phonebook", "sft"): 3e-2, ("phonebook", "ot"): 3e-2, ("phonebook", "sw"): 1e-1,
}  # fmt: skip
PRESETS: dict[str, tuple[Preset, ...]] = {
    # seconds: enough to see that everything works
    "smoke": (Preset(DEFAULT, (1, 4), (8, 16), (0,), 20, 26),),
    # a laptop, an hour or two: the book's own grid
    "cpu": (
        Preset(DEFAULT, (1, 2, 3, 4, 6), (48, 64, 96, 128, 192), (0, 1, 2), 160, 20),
        Preset(DEFAULT, (1, 2, 3), (144,), (0, 1), 160, 20),
        # the same question at a site with a third of the parameters a rank
        Preset(DEFAULT, (1, 2, 4, 6, 8), (12, 16, 24, 32, 48, 64), (0,), 160, 20, R100, "v_proj"),
        # the budget is a variable of the law: half and twice the steps
        Preset(DEFAULT, (1, 2, 3), (64, 96, 128, 192), (0,), 80, 20),
        Preset(DEFAULT, (1, 2, 3), (64, 96, 128, 192), (0,), 320, 20),
        # text instead of random tokens, wholly or by half: more of it fits, so it is longer
        Preset(DEFAULT, (1, 2), (192, 384), (0,), 160, 20, (0.0,)),
        Preset(DEFAULT, (1, 2), (96, 192), (0,), 160, 20, (0.5,)),
        Preset(
            DEFAULT, (), (), (0,), 160, 20, phonebooks=(80, 160, 320), phonebook_ranks=(1, 4)
        ),
    ),
    # what the book predicts before it looks: lengths, a seed and a rank not in "cpu"
    "sealed": (
        Preset(DEFAULT, (1, 2), (80,), (3,), 160, 20),
        Preset(DEFAULT, (1, 3), (160,), (3,), 160, 20),
        Preset(DEFAULT, (2, 5), (256,), (3,), 160, 20),
    ),
    # MemFT compared: first each method's learning rate, on seeds of its own, …
    "memft-lr": (
        Preset(
            DEFAULT, (3,), (48,), (10, 11), 240, 20, R100, "v_proj", (160,), (3,),
            ("sft", "ot", "sw"), (1e-2, 3e-2, 1e-1, 3e-1),
        ),
    ),
    # … then ranks and seeds at those rates; at last its threshold moved and its parts alone
    "memft": tuple(
        Preset(
            DEFAULT, ranks, lengths, (0, 1, 2), 240, 20, R100, "v_proj", books, book_ranks,
            (method,), (RATES[kind, method],),
        )
        for kind, ranks, lengths, books, book_ranks in (
            ("stress", (1, 2, 3, 4, 6), (48,), (), ()),
            ("phonebook", (), (), (160,), (2, 3, 4, 6, 8)),
        )
        for method in ("sft", "ot", "sw")
    ),
    "memft-parts": tuple(
        Preset(
            DEFAULT, (2,), (48,), (0, 1, 2), 240, 20, R100, "v_proj", methods=methods,
            lrs=(RATES["stress", method],),
        )
        for method, methods in (
            ("ot", ("ot:0.3", "ot:0.7", "ot:0.9")),
            ("sw", ("soft-gate", "hard-window")),
        )
    ),
    # one T4 or L4, an hour or two
    "colab": (
        Preset(
            "qwen3-0.6b", (1, 2, 4, 8, 16), (100, 200, 500, 800), (0, 1), 400, 19,
            phonebooks=(1000, 2000), phonebook_ranks=(1, 4, 16),
        ),
    ),
    # the paper's grids; its text is longer than ours, so give one with --text
    "paper": tuple(
        Preset(
            model, ranks, (50, 100, 200, 500, 1000, 2000, 4000, 6000, 8000, 10000), (42,), 2000,
            layer, ratios, "down_proj", books, book_ranks,
        )
        for model, layer in (("qwen3-8b", 24), ("llama-3.1-8b", 18))
        for ranks, ratios, books, book_ranks in (
            (
                (1, 2, 4, 6, 8, 10, 12, 14, 16), (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
                (1000, 2000, 4000, 8000, 12000, 16000, 24000, 32000), (1, 2, 4, 8, 16, 32, 64),
            ),
            ((24, 32, 64, 128, 256, 512), R100, (), ()),
        )
    ),
}  # fmt: skip


@dataclass(frozen=True)
class How:
    """How the cells are run. Results depend on it by rounding and early ends only, but for
    `book_batch`: rows of another batch size belong in another folder."""

    slots: int = 8  # runs of one length in a batch (see `stacked`)
    end_early: bool = True  # see `stacked.write_stacked`
    book_batch: int = 16  # entries of a phone book a step
    text: str | None = None  # the stress test's text, when ours is too short


def run_sweep(
    cells: Sequence[Cell],
    folder: Path,
    how: How = How(),
    *,
    backend: str | None = None,
    n_jobs: int = 1,
    progress: bool = True,
) -> pd.DataFrame:
    """Make every run that `folder` does not hold yet, and return the table of all of `cells`.

    A run that fails (no memory left, loss not a number, process killed) is a row with its `error`.
    To try it again, delete its file.

    Args:
        backend: a joblib backend, such as "loky", "ray", "dask"; None: this process.
        n_jobs: how many groups of runs at once, with a backend.

    Raises:
        RuntimeError: the workers of `backend` were lost `ROUNDS` times without finishing a run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups = _groups(_missing(cells, folder), how.slots)
    total = sum(map(_work, itertools.chain.from_iterable(groups)))
    with tqdm(total=total, desc="tokens to train on", unit="Mtok", disable=not progress) as bar:
        if backend is None:
            for group in groups:
                run_group(group, folder, how)
                bar.update(sum(map(_work, group)))
        else:
            with _progress(bar, groups, folder):
                _in_workers(cells, folder, how, backend, n_jobs)
    return load_rows(cells, folder)


def _in_workers(cells, folder, how, backend, n_jobs) -> None:
    """Give all groups to the workers; what is lost with a worker is given out again."""
    fruitless = 0
    while missing := _missing(cells, folder):
        task = joblib.delayed(run_group_safely)
        tasks = [task(group, folder, how) for group in _groups(missing, how.slots)]
        try:
            with joblib.parallel_config(backend=backend, n_jobs=n_jobs):
                joblib.Parallel()(tasks)
        except Exception as error:  # every backend has its own class for a lost worker
            tqdm.write(f"a worker was lost ({type(error).__name__}); going on with what is missing")
            fruitless = fruitless + 1 if len(_missing(cells, folder)) == len(missing) else 0
            if fruitless == ROUNDS:
                raise RuntimeError(f"{ROUNDS} rounds of {backend} finished no run") from error


def run_group_safely(cells: Sequence[Cell], folder: Path, how: How) -> None:
    """`run_group` in a process of its own, so that no cell can bring down its worker.

    If that process dies, its cells get one each; a cell that kills even that one is a failed row.
    """
    if _child(cells, folder, how) == 0:
        return
    for cell in _missing(cells, folder):
        if code := _child([cell], folder, how):
            _save_row(cell, folder, {"error": f"its process ended with exit code {code}"})


def _child(cells, folder, how) -> int:
    """The exit code of a new Python process that runs these cells."""
    code = "from pmlbook.sweep import _child_main; _child_main()"
    task = pickle.dumps((os.getpid(), list(cells), Path(folder).resolve(), how))
    return subprocess.run([sys.executable, "-c", code], input=task).returncode


def _child_main() -> None:
    parent, *task = pickle.load(sys.stdin.buffer)

    def leave_with_parent():  # a lost worker's child would compete with the one that replaces it
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
    run_group(*task)


def run_group(cells: Sequence[Cell], folder: Path, how: How) -> None:
    """Write the memories of one group of cells, and leave one JSON file for each."""
    cells = _missing(cells, folder)
    if cells:
        _run_cells(cells, folder, how)


def _missing(cells: Iterable[Cell], folder: Path) -> list[Cell]:
    return [cell for cell in cells if not (folder / f"{cell.key}.json").exists()]


def _run_cells(cells: Sequence[Cell], folder: Path, how: How) -> None:
    """Save a row for every cell; a group that fails as a whole is tried again cell by cell."""
    try:
        model, tokenizer = _model(cells[0].model)
        if cells[0].kind == "phonebook":
            for cell in cells:
                _save_row(cell, folder, _phonebook_row(model, tokenizer, cell, how.book_batch))
        else:
            _stress_rows(model, tokenizer, cells, folder, how)
    except (RuntimeError, ValueError, FloatingPointError) as error:  # out of memory is the first
        problem = f"{type(error).__name__}: {error}"[:500]
        error.__traceback__ = None  # its frames hold the tensors that there was no room for
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        missing = _missing(cells, folder)
        for cell in missing:
            if len(cells) > 1:
                _run_cells([cell], folder, how)
            else:
                _save_row(cell, folder, {"error": problem})


def _stress_rows(model, tokenizer, cells, folder, how: How) -> None:
    """Runs of one length and site train together; each is saved as it ends."""
    jobs = [
        Job(cell, stress_memory(tokenizer, cell.length, cell.ratio, cell.seed, how.text), cell.r,
            cell.seed, cell.steps, cell.lr, cell.method)
        for cell in cells
    ]  # fmt: skip
    site = {"layer": cells[0].layer, "target": cells[0].target}
    for run in write_stacked(model, jobs, slots=how.slots, end_early=how.end_early, **site):
        cell = run.job.name
        if run.ended.startswith("failed"):
            _save_row(cell, folder, {"error": run.ended, "seconds": run.seconds})
            continue
        records = recall_all(model, tokenizer, [run.job.memory], run.adapter(**site))
        row = _row(model, cell, records, run.losses[0], run.seconds)
        row |= {"steps_done": len(run.losses), "ended": run.ended, "losses": run.losses}
        row["recited_at"] = run.recited_at
        _save_row(cell, folder, row)


def _phonebook_row(model, tokenizer, cell: Cell, batch_size: int) -> dict:
    """A phone book is written by the plain probe, in fixed batches.

    Across its batches SW is what the paper makes of it: OT's weights, and the temporal curriculum.
    """
    memories = sized_phonebook(tokenizer, cell.length, cell.seed)
    batches = math.ceil(len(memories) / batch_size)
    looks = range(0, cell.steps, max(RECITE_EVERY, 2 * batches))  # a look costs an epoch's forward
    method = {"method": cell.method}
    if cell.method == "sw":
        method = {"method": "ot", "curriculum": epochs_for(cell.steps, batches)}
    history = write(
        model, memories, cell.r, layer=cell.layer, target=cell.target, steps=cell.steps,
        lr=cell.lr, batch_size=batch_size, seed=cell.seed, record_at=looks, progress=False,
        **method,
    )  # fmt: skip
    records = recall_all(model, tokenizer, memories, history.adapter)
    row = _row(model, cell, records, history.base_loss, history.seconds)
    row |= {"steps_done": cell.steps, "ended": "budget", "losses": history.losses}
    return row | {"recited_at": history.recited_at}


def _row(model, cell: Cell, records, base_loss: float, seconds: float) -> dict:
    """The measured columns; with several memories, positions of failures are of the first."""
    losses = np.concatenate([record.token_losses for record in records])
    mean = lambda values: float(np.mean(np.concatenate(list(values))))  # noqa: E731
    return {
        "parameters": lora_parameters(model, cell.r, cell.target, [cell.layer]),
        "base_loss": float(base_loss),
        "final_loss": float(losses.mean()),
        "delta_loss": float(base_loss - losses.mean()),
        "acc_teacher_forced": mean(record.token_ranks == 1 for record in records),
        "acc_free_running": mean(record.recited for record in records),
        "acc_em": float(np.mean([record.exact_match for record in records])),
        "p_min": float(np.exp(-losses.max())),
        "p_median": float(np.exp(-np.median(losses))),
        "share_ordered": mean(record.ordered for record in records),
        "first_disordered": records[0].first_disordered,
        "first_failure": records[0].first_failure,
        "seconds": round(seconds, 2),
        "error": "",
    }


def _save_row(cell: Cell, folder: Path, row: dict) -> None:
    """One JSON file, written whole or not at all."""
    record = provenance("python -m pmlbook.sweep", cell.model)
    if row.get("losses"):
        row["losses"] = [round(x, 5) for x in row["losses"][::10]]  # every tenth step
    scratch = folder / f"{cell.key}.{os.getpid()}.part"
    scratch.write_text(json.dumps({"cell": asdict(cell), "row": row, "record": record}))
    os.replace(scratch, folder / f"{cell.key}.json")


def load_rows(cells: Iterable[Cell], folder: Path) -> pd.DataFrame:
    """The tidy table: one row a finished run of `cells`, columns of the cell, then what was found.

    Loss curves (every tenth step) stay in the JSON files, under `row`, `losses`.
    """
    rows = []
    for cell in cells:
        path = folder / f"{cell.key}.json"
        if path.exists():
            saved = json.loads(path.read_text())
            saved["row"].pop("losses", None)
            versions = {k: saved["record"][k] for k in ("torch", "transformers", "peft", "commit")}
            rows.append({**saved["cell"], **saved["row"], **versions})
    return pd.DataFrame(rows)


def _groups(cells: Sequence[Cell], slots: int) -> list[list[Cell]]:
    """Cells that can train together, in groups of a few batches: one group is one task."""
    same = lambda c: (c.kind, c.model, c.layer, c.target, c.length)  # noqa: E731
    groups = []
    for _, members in itertools.groupby(cells, key=same):
        members = list(members)
        size = 4 * slots if members[0].kind == "stress" else 1
        groups += [members[i : i + size] for i in range(0, len(members), size)]
    return groups


@contextlib.contextmanager
def _progress(bar, groups, folder: Path):
    """Move the bar by what lies in the folder, whoever put it there."""
    cells, stop = list(itertools.chain.from_iterable(groups)), threading.Event()

    def watch():
        while not stop.wait(2):
            missing = sum(map(_work, _missing(cells, folder)))
            bar.update(bar.total - missing - bar.n)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _work(cell: Cell) -> float:
    """Million answer tokens to train on, at most."""
    return cell.steps * tokens_a_step(cell) / 1e6


@lru_cache(maxsize=1)
def _model(name: str):
    return load_model(name)


def connect(backend: str | None, address: str | None = None):
    """Get a cluster ready to be named as a backend: a Dask or Ray one at `address`, or a local one.

    Returns what must be kept until the end (Dask's client), or None.

    Raises:
        ModuleNotFoundError: the backend's library is not installed.
    """
    if backend == "dask":
        from distributed import Client

        # One task at a time a worker: each wants the whole of its machine.
        return Client(address) if address else Client(threads_per_worker=1)
    if backend == "ray":
        import ray
        from ray.util.joblib import register_ray

        ray.init(address=address)
        register_ray()
    return None


def planned_cells(preset: str) -> list[Cell]:
    """All runs of a preset: the first seed of everything first."""
    cells = [cell for grid in PRESETS[preset] for cell in grid.cells()]
    return sorted(cells, key=lambda cell: cell.seed)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("--cost", action="store_true", help="print what it costs, and stop")
    parser.add_argument("--out", type=Path, help="folder of the rows (default: sweep-PRESET)")
    parser.add_argument("--table", type=Path, help="write the tidy table here (CSV, and JSON)")
    parser.add_argument("--slots", type=int, default=8, help="runs of one length at once")
    parser.add_argument("--book-batch", type=int, default=16, help="phone book entries a step")
    parser.add_argument("--backend", help="a joblib backend: loky, ray, dask (default: none)")
    parser.add_argument("--n-jobs", type=int, default=-1, help="workers to use (default: all)")
    parser.add_argument("--cluster", help="address of a running Dask or Ray cluster")
    parser.add_argument("--text", type=Path, help="the stress test's text, if ours is too short")
    parser.add_argument("--longest", type=int, help="leave out what is longer, in tokens")
    parser.add_argument("--model", help="of the preset's models, this one only")
    parser.add_argument("--full-budget", action="store_true", help="no run ends early")
    options = parser.parse_args()
    cells = [
        cell
        for cell in planned_cells(options.preset)
        if (options.longest is None or cell.length <= options.longest)
        and options.model in (None, cell.model)
    ]
    if not cells:
        parser.error("no run of this preset is left: see --longest and --model")
    print(describe(cells, options.slots), flush=True)
    if options.cost:
        return
    start = time.perf_counter()
    client = connect(options.backend, options.cluster)
    table = run_sweep(
        cells,
        options.out or Path(f"sweep-{options.preset}"),
        How(
            slots=options.slots,
            end_early=not options.full_budget,
            book_batch=options.book_batch,
            text=options.text and options.text.read_text(),
        ),
        backend=options.backend,
        n_jobs=options.n_jobs,
    )
    if client is not None:
        client.close()
    failed = int((table.error.fillna("") != "").sum())
    minutes = (time.perf_counter() - start) / 60
    print(f"{len(table)} rows, {failed} of them with an error, {minutes:.1f} minutes")
    if options.table:
        # What it was run with; where its files were is this machine's matter.
        skip = ("preset", "out", "table", "cost", "backend", "n_jobs", "cluster", "text")
        given = {k: v for k, v in vars(options).items() if k not in skip and v}
        flags = " ".join(f"--{k.replace('_', '-')} {v}" for k, v in given.items())
        command = f"python -m pmlbook.sweep {options.preset} {flags}"
        save_table(table, options.table, provenance(command, cells[0].model))


if __name__ == "__main__":
    from pmlbook import sweep  # workers look these classes up here, not in __main__

    sweep.main()
