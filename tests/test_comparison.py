"""Hand-worked comparisons."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pmlbook.comparison import by_rank, chosen_rates, interval, paired, pairs


def table(gain=0.1, ranks=(1, 2), seeds=(0, 1, 2)):
    return pd.DataFrame(
        {"method": method, "r": r, "seed": seed, "acc": 0.1 * r + 0.01 * seed + add}
        for method, add in (("sft", 0.0), ("ot", gain))
        for r in ranks
        for seed in seeds
    )


def test_the_best_rate_of_each_kind_and_method():
    runs = pd.DataFrame(
        [
            ("stress", "sft", 0.01, 0.5, 1.0), ("stress", "sft", 0.03, 0.7, 1.0),
            ("stress", "sft", 0.03, np.nan, np.nan), ("stress", "ot", 0.01, 0.4, 3.0),
            ("stress", "ot", 0.03, 0.4, 2.0), ("phonebook", "ot", 0.03, 0.1, 1.0),
        ],
        columns=["kind", "method", "lr", "acc", "final_loss"],
    )  # fmt: skip
    assert chosen_rates(runs, "acc") == {
        ("phonebook", "ot"): 0.03,
        ("stress", "sft"): 0.01,  # a failed run counts as 0: 0.35 < 0.5
        ("stress", "ot"): 0.03,  # an equal score, and the lower loss
    }


def test_interval_is_students():
    mean, half = interval([1, 2, 3])
    low, high = stats.t.interval(0.95, 2, loc=2, scale=stats.sem([1, 2, 3]))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    with pytest.raises(ValueError, match="at least two"):
        interval([1])


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = [
        abs(mean - 5) < half for mean, half in (interval(rng.normal(5, 2, 3)) for _ in "x" * 2000)
    ]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.02)


def test_pairs_are_of_equal_rank_and_seed():
    shuffled = table().sample(frac=1, random_state=0)
    gaps = pairs(shuffled, "acc", "ot")
    assert len(gaps) == 6 and np.allclose(gaps, 0.1)
    with pytest.raises(ValueError, match="has a partner"):
        pairs(shuffled.iloc[1:], "acc", "ot")


def test_paired_counts_and_tests():
    row = paired(table(), "acc", ["ot"]).loc["ot"]
    assert (row.better, row.equal, row.worse) == (6, 0, 0)
    assert row["p value"] == pytest.approx(2 / 2**6)
    tied = paired(table(gain=0.0), "acc", ["ot"]).loc["ot"]
    assert tied.equal == 6 and np.isnan(tied["p value"])


def test_by_rank_keeps_the_order_of_the_methods():
    shown = by_rank(table(), "acc")
    assert list(shown.index) == ["sft", "ot"] and list(shown.columns) == [1, 2]
    assert shown.loc["ot", 1] == "21 ± 2"
