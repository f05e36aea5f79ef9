"""The sweep: one tidy row a run, whatever is killed, broken or lost on the way."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pandas as pd
import pytest
import torch
from conftest import byte_tokenizer, tiny_llama

from pmlbook import cost, sweep
from pmlbook.probe import write
from pmlbook.provenance import load_table, save_table
from pmlbook.sweep import PRESETS, Cell, How, load_rows, planned_cells, run_sweep

COLUMNS = {
    "kind", "model", "layer", "target", "r", "parameters", "length", "ratio", "method", "seed",
    "steps", "lr", "base_loss", "final_loss", "delta_loss", "acc_teacher_forced",
    "acc_free_running", "acc_em", "share_ordered", "p_min", "p_median", "recited_at",
    "first_disordered", "first_failure", "seconds", "steps_done", "ended", "error", "torch",
    "transformers", "peft", "commit",
}  # fmt: skip


@pytest.fixture(scope="session")
def folder_of_model(tmp_path_factory):
    """A tiny model on disk: cells name it as they would a hub id."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_llama(tie_word_embeddings=False).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def cells_of(model, lengths=(4, 6), ranks=(1, 2, 3), seeds=(0,), steps=12, **changes):
    settings = {"kind": "stress", "ratio": 1.0, "layer": 2, "model": model, "steps": steps}
    return [
        Cell(**settings | {"length": length, "r": r, "seed": seed} | changes)
        for length in lengths
        for seed in seeds
        for r in ranks
    ]


def test_a_row_a_run_with_everything_in_it(folder_of_model, tmp_path):
    cells = cells_of(folder_of_model)
    cells += cells_of(folder_of_model, (20,), (1,), kind="phonebook")
    table = run_sweep(cells, tmp_path, progress=False)
    assert len(table) == 7 and set(table.columns) == COLUMNS
    assert (table.error == "").all()
    assert (table.delta_loss - (table.base_loss - table.final_loss)).abs().max() < 1e-6
    assert table.parameters.tolist() == [80 * r for r in table.r]  # 48 in, 32 out
    assert table.share_ordered.between(0, 1).all()
    assert ((0 < table.p_min) & (table.p_min <= table.p_median) & (table.p_median < 1)).all()


def test_a_row_is_what_the_probe_gives(folder_of_model, tmp_path):
    cell = cells_of(folder_of_model, (5,), (2,))[0]
    (row,) = run_sweep([cell], tmp_path, How(end_early=False), progress=False).to_dict("records")
    model, tokenizer = sweep._model(folder_of_model)
    memory = sweep.stress_memory(tokenizer, 5, 1.0, 0)
    alone = write(model, memory, 2, layer=2, steps=12, progress=False)
    assert row["base_loss"] == pytest.approx(alone.base_loss, abs=1e-4)
    assert row["final_loss"] == pytest.approx(alone.final_loss, abs=1e-3)


@pytest.mark.parametrize("kind", ["stress", "phonebook"])
def test_methods_of_memft_are_methods_of_the_sweep(folder_of_model, tmp_path, kind):
    length, r = {"stress": (8, 2), "phonebook": (20, 8)}[kind]
    cells = [
        cell
        for method in ("sft", "ot", "sw")
        for cell in cells_of(folder_of_model, (length,), (r,), kind=kind, method=method, steps=300)
    ]
    how = How(end_early=False, book_batch=1)
    table = run_sweep(cells, tmp_path, how, progress=False).set_index("method")
    assert (table.error == "").all() and (table.steps_done == 300).all()
    assert table.final_loss.nunique() == 3  # three ways, three ends


def test_finished_runs_are_not_repeated_and_half_files_not_read(folder_of_model, tmp_path):
    cells = cells_of(folder_of_model)
    run_sweep(cells[:4], tmp_path, progress=False)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert len(times) == 4
    (tmp_path / f"{cells[5].key}.77.part").write_text('{"cell": {"ki')  # a writer that was killed
    assert len(load_rows(cells, tmp_path)) == 4
    assert len(run_sweep(cells, tmp_path, progress=False)) == 6
    assert {path: path.stat().st_mtime_ns for path in times} == times


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_sweep import cells_of
from pmlbook.sweep import run_sweep
run_sweep(cells_of({model!r}, lengths=range(4, 24), steps=60), Path({out!r}), progress=False)
"""


def test_killed_in_the_middle_it_goes_on(folder_of_model, tmp_path):
    code = KILLED.format(tests=os.path.dirname(__file__), model=folder_of_model, out=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code])
    wait_for(lambda: len(list(tmp_path.glob("*.json"))) >= 4)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    cells = cells_of(folder_of_model, lengths=range(4, 24), steps=60)
    assert 4 <= len(finished) < len(cells)
    assert all(json.loads(path.read_text())["row"] for path in finished)  # each is whole
    table = run_sweep(cells, tmp_path, progress=False)
    assert len(table) == len(cells) and (table.error == "").all()
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_a_failed_run_is_a_row_and_the_rest_goes_on(folder_of_model, tmp_path):
    cells = cells_of(folder_of_model, (4,)) + cells_of(folder_of_model, (4,), lr=float("inf"))
    table = run_sweep(cells, tmp_path, progress=False)
    assert (
        table.error.str.startswith("failed: loss is nan at step").tolist()
        == [False] * 3 + [True] * 3
    )
    assert len(run_sweep(cells, tmp_path, progress=False)) == 6


def test_without_room_for_the_group_each_run_is_tried_alone(folder_of_model, tmp_path, monkeypatch):
    """Memory for one run, not for two; and one run that finds no room even alone."""
    real = sweep.write_stacked

    def small(model, jobs, **settings):
        if len(jobs) > 1 or jobs[0].r == 3:
            raise torch.OutOfMemoryError("tried to allocate more than there is")
        return real(model, jobs, **settings)

    monkeypatch.setattr(sweep, "write_stacked", small)
    table = run_sweep(cells_of(folder_of_model, (4,)), tmp_path, progress=False)
    assert table.error.tolist() == [
        "", "", "OutOfMemoryError: tried to allocate more than there is",
    ]  # fmt: skip


POISON = """
import os
import pmlbook.stacked as stacked
start = stacked._start
def poisoned(job, *rest):
    if job.r == 7:
        os.kill(os.getpid(), 9)
    return start(job, *rest)
stacked._start = poisoned
"""


def test_a_lost_worker_and_a_cell_that_kills_its_process(folder_of_model, tmp_path, monkeypatch):
    """On a local Dask cluster one worker is killed midway, and one cell kills whoever runs it."""
    distributed = pytest.importorskip("distributed")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(POISON)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    cells = cells_of(folder_of_model, lengths=(4, 5, 6), ranks=(1, 2))
    cells += cells_of(folder_of_model, lengths=(7,), ranks=(1, 7))
    rows = tmp_path / "rows"
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
    ):
        pids = [worker.pid for worker in cluster.workers.values()]

        def kill_one():
            wait_for(lambda: rows.exists() and list(rows.glob("*.json")))
            os.kill(pids[0], signal.SIGKILL)

        killer = threading.Thread(target=kill_one)
        killer.start()
        table = run_sweep(cells, rows, backend="dask", n_jobs=2, progress=False)
        killer.join()
    assert len(table) == len(cells)
    bad = table[table.error != ""]
    assert bad.r.tolist() == [7]
    assert bad.error.iloc[0] == "its process ended with exit code -9"


def wait_for(ready, seconds=120):
    for _ in range(10 * seconds):
        if ready():
            return
        time.sleep(0.1)
    raise TimeoutError("it never came")


# ---- presets and their cost ----


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_distinct_cells_and_a_cost(preset):
    cells = planned_cells(preset)
    assert len({cell.key for cell in cells}) == len(cells) > 0
    text = cost.describe(cells, slots=8)
    assert f"{len(cells)} runs" in text and "hours" in text


def test_methods_and_learning_rates_are_axes_of_a_grid():
    grid = sweep.Preset(
        "smollm2-135m", (1, 2), (8,), (0,), 10, 20, phonebooks=(80,), phonebook_ranks=(1,),
        methods=("sft", "ot"), lrs=(0.1, 0.2, 0.3),
    )  # fmt: skip
    cells = grid.cells()
    assert len({cell.key for cell in cells}) == len(cells) == (2 + 1) * 2 * 3
    assert {(c.method, c.lr) for c in cells} == {
        (method, lr) for method in ("sft", "ot") for lr in (0.1, 0.2, 0.3)
    }


def test_the_books_grid_is_as_large_as_promised():
    cells = [c for c in planned_cells("cpu") if c.target == "down_proj" and c.steps == 160]
    main = [c for c in cells if c.kind == "stress" and c.ratio == 1]
    assert len({c.r for c in main}) >= 5 and len({c.length for c in main}) >= 5
    assert len({c.seed for c in main}) >= 3
    assert len({c.ratio for c in cells if c.kind == "stress"}) >= 3
    assert len({c.length for c in cells if c.kind == "phonebook"}) >= 3


def test_the_papers_grid():
    cells = planned_cells("paper")
    assert {(c.model, c.layer) for c in cells} == {("qwen3-8b", 24), ("llama-3.1-8b", 18)}
    assert {c.ratio for c in cells} == {0.0, 0.2, 0.4, 0.6, 0.8, 1.0}
    assert max(c.length for c in cells if c.kind == "phonebook") == 32000
    assert {c.lr for c in cells} == {1e-2} and {c.steps for c in cells} == {2000}


def test_the_sealed_cells_are_new():
    known = {(c.length, c.ratio, c.seed, c.r) for c in planned_cells("cpu")}
    assert not known & {(c.length, c.ratio, c.seed, c.r) for c in planned_cells("sealed")}


def test_cost_only_prints_and_runs_nothing(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sweep", "smoke", "--cost"])
    sweep.main()
    assert "4 runs, 80 steps" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_preset_can_be_cut(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sweep", "smoke", "--cost", "--longest", "8"])
    sweep.main()
    assert "2 runs, 40 steps" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["sweep", "smoke", "--cost", "--model", "none"])
    with pytest.raises(SystemExit):
        sweep.main()
    assert "no run of this preset is left" in capsys.readouterr().err


def test_hours_are_told_for_devices_with_the_memory():
    small = Cell("stress", 48, 1.0, 1, 0, 240, layer=20)
    large = Cell("stress", 10_000, 1.0, 1, 0, 2000, layer=24, model="qwen3-8b")
    assert list(cost.hours([small], 8)) == list(cost.DEVICES)
    assert list(cost.hours([large], 1)) == ["H200"]
    assert "fewer --slots" in cost.describe([large], 8)


def test_the_operations_counted_are_those_of_the_layers_above():
    """By hand: 2 layers of 3.5 million weights and the head, 2 tokens, 5 steps, there and back."""
    cell = Cell("stress", 2, 1.0, 1, 0, 5, layer=28)
    assert cost.floating_point_operations([cell]) == pytest.approx(4e6 * (2 * 3.5 + 28.3) * 10)


def test_a_step_of_a_phone_book_sees_one_batch():
    book = Cell("phonebook", 32_000, 1.0, 1, 0, 5, layer=24, model="qwen3-8b")
    text = Cell("stress", 160, 1.0, 1, 0, 5, layer=24, model="qwen3-8b")
    assert cost.token_steps([book]) == cost.token_steps([text]) == 800
    assert cost.memory_gb([book], slots=8) == cost.memory_gb([text], slots=1)


def test_memory_grows_with_the_batch_and_has_the_weights_for_a_floor():
    cells = [Cell("stress", 10_000, 1.0, 1, 0, 5, layer=24, model="qwen3-8b")]
    one, two = (cost.memory_gb(cells, slots) for slots in (1, 2))
    weights = 2 * (36 * 192.9 + 622.3) / 1e3
    assert weights < one < two < 2 * one


def test_a_table_survives_its_csv(folder_of_model, tmp_path):
    table = run_sweep(cells_of(folder_of_model, (4,)), tmp_path / "rows", progress=False)
    save_table(table, tmp_path / "t.csv", {"command": "c"})
    again, record = load_table(tmp_path / "t.csv")
    assert record == {"command": "c"}
    pd.testing.assert_series_equal(again.r, table.r)
