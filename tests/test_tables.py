"""The committed tables are the planned ones: every run there, none failed, how made is recorded."""

import pytest
from chapters import ROOT

from pmlbook import generalization, robustness, sweep
from pmlbook.comparison import chosen_rates
from pmlbook.models import GGUF_SHA256
from pmlbook.provenance import load_table

AXES = ["kind", "length", "ratio", "r", "seed", "steps", "target", "method", "lr"]
PRESETS = {
    "law_grid": "cpu",
    "law_sealed": "sealed",
    "memft_lr": "memft-lr",
    "memft": "memft",
    "memft_parts": "memft-parts",
}


def table_of(name):
    return load_table(ROOT / "book" / "data" / f"{name}.csv")


@pytest.mark.parametrize("name", PRESETS)
def test_a_sweeps_table_holds_its_preset(name):
    table, record = table_of(name)
    cells = sweep.planned_cells(PRESETS[name])
    planned = {tuple(getattr(cell, axis) for axis in AXES) for cell in cells}
    assert {tuple(row) for row in table[AXES].itertuples(index=False)} == planned
    assert len(table) == len(planned) and table.error.isna().all()
    assert record["command"].startswith(f"python -m pmlbook.sweep {PRESETS[name]}")
    assert record["model_sha256"] == GGUF_SHA256


def test_the_rates_compared_are_those_that_were_chosen():
    table, _ = table_of("memft_lr")
    assert chosen_rates(table, "acc_free_running") == sweep.RATES
    compared, _ = table_of("memft")
    assert not set(table.seed) & set(compared.seed)
    # No method's choice lies at the edge of what was tried.
    assert max(sweep.RATES.values()) < table.lr.max() and min(sweep.RATES.values()) > table.lr.min()


def test_the_robustness_table():
    table, record = table_of("robustness")
    assert record["command"] == robustness.COMMAND
    runs = table.groupby(["method", "r", "seed"]).size()
    planned = len(robustness.METHODS) * len(robustness.RANKS) * len(robustness.SEEDS)
    assert len(runs) == planned and (runs == 5).all()


def test_the_linear_rules_table():
    table, record = table_of("linear_rule")
    assert record["command"] == generalization.COMMAND
    axes = generalization.METHODS, generalization.RANKS, generalization.SEEDS
    assert len(table) == len(table.drop_duplicates(["method", "r", "seed"]))
    assert len(table) == len(axes[0]) * len(axes[1]) * len(axes[2])
    assert table.generalization.between(0, 1).all() and table.plain_before.nunique() == 1
