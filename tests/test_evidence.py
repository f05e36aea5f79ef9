"""The evidence run resumes where it was stopped; the committed table keeps the theorem."""

import pandas as pd
import pytest
from chapters import ROOT

from pmlbook import evidence, models
from pmlbook.provenance import load_table

KEYS = ["kind", "r", "length", "seed"]


def fake_rows(model, tokenizer, **run) -> pd.DataFrame:
    return pd.DataFrame([{**run, "step": 50, "position": 0, "p": 0.9}])


def test_planned_runs_are_distinct():
    runs = [tuple(run.values()) for run in evidence.planned_runs()]
    assert len(runs) == len(set(runs)) == 39


def test_killed_and_started_again_it_repeats_no_finished_run(tmp_path, monkeypatch):
    path, made = tmp_path / "table.csv", []

    def measure(model, tokenizer, **run):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(tuple(run.values()))
        return fake_rows(model, tokenizer, **run)

    monkeypatch.setattr(evidence, "load_model", lambda: (None, None))
    monkeypatch.setattr(evidence, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        evidence.main(path)
    assert len(load_table(path)[0]) == 3

    again = []
    monkeypatch.setattr(
        evidence,
        "measure",
        lambda m, t, **run: again.append(tuple(run.values())) or fake_rows(m, t, **run),
    )
    evidence.main(path)
    assert len(again) == 36 and not set(again) & set(made)
    table, record = load_table(path)
    assert len(table) == 39 and record["command"] == evidence.COMMAND


@pytest.fixture(scope="module")
def committed():
    return load_table(ROOT / "book" / "data" / "one_half.csv")


def test_the_committed_table_says_how_it_was_made(committed):
    table, record = committed
    assert record["command"] == evidence.COMMAND
    assert record["model_sha256"] == models.GGUF_SHA256
    planned = {tuple(run.values()) for run in evidence.planned_runs()}
    assert set(table[KEYS].itertuples(index=False, name=None)) == planned
    assert set(table.step) == set(evidence.STATES)


def test_the_committed_table_keeps_the_theorem(committed):
    table = committed[0].sort_values("position")
    assert len(table) > 10_000 and table.ordered.sum() > 1_000
    assert ((table.p > 0.5) == table.ordered).all()
    assert table.argmax[table.ordered].all()
    safe = table.groupby([*KEYS, "step", "memory"]).ordered.cummin()
    assert table.recited[safe].all()
