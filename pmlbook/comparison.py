"""Methods compared fairly: rates chosen on other seeds, pairs of equal rank and seed
(chapter: MemFT).
"""

import numpy as np
import pandas as pd
from scipy import stats


def chosen_rates(table: pd.DataFrame, score: str) -> dict[tuple[str, str], float]:
    """The learning rate of each (kind, method): the one with the best mean of `score`.

    `table` holds runs of seeds that the comparison itself does not use. A failed run scores 0.
    Rates with an equal score are told apart by the mean `final_loss`.
    """
    table = table.fillna({score: 0.0, "final_loss": np.inf})
    means = table.groupby(["kind", "method", "lr"])[[score, "final_loss"]].mean().reset_index()
    ordered = means.sort_values([score, "final_loss"], ascending=[False, True])
    best = ordered.drop_duplicates(["kind", "method"])
    return {(row.kind, row.method): row.lr for row in best.itertuples()}


def interval(values, level: float = 0.95) -> tuple[float, float]:
    """Mean, and half the width of Student's interval for it.

    Raises:
        ValueError: fewer than two values.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        raise ValueError(f"{len(values)} value: an interval needs at least two")
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * stats.sem(values)
    return float(values.mean()), float(half)


def by_rank(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Method × rank, each cell "mean ± half-width" over the seeds, in percent."""
    cells = table.groupby(["method", "r"])[column].agg(interval)
    texts = cells.map(lambda cell: f"{100 * cell[0]:.0f} ± {100 * cell[1]:.0f}")
    return texts.unstack("r").reindex(pd.unique(table.method))


def pairs(table: pd.DataFrame, column: str, method: str, against: str = "sft") -> pd.Series:
    """`column` of `method` minus that of `against`, run by run: equal rank, equal seed.

    Raises:
        ValueError: a run has no partner.
    """
    wide = table.pivot(index=["r", "seed"], columns="method", values=column)
    both = wide[[method, against]]
    if both.isna().any(axis=None):
        raise ValueError(f"not every run of {method} and {against} has a partner with a {column}")
    return both[method] - both[against]


def paired(table: pd.DataFrame, column: str, methods, against: str = "sft") -> pd.DataFrame:
    """A row a method: mean difference and its interval, wins, ties, losses, Wilcoxon's p value.

    The p value is of the signed-rank test (two-sided; ties dropped), NaN when all pairs are tied.
    """
    rows = {}
    for method in methods:
        gaps = pairs(table, column, method, against)
        mean, half = interval(gaps)
        untied = gaps[gaps != 0]
        rows[method] = {
            "mean difference": mean,
            "±": half,
            "better": int((gaps > 0).sum()),
            "equal": int((gaps == 0).sum()),
            "worse": int((gaps < 0).sum()),
            "p value": stats.wilcoxon(untied).pvalue if len(untied) else np.nan,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(f"against {against}")
