"""MemFT's pictures. They draw tables, histories and weights, and compute no result
(chapters: MemFT, Memory against generalization).

A method has one colour, one line and one mark throughout.
"""

import matplotlib.pyplot as plt
import numpy as np

from pmlbook.comparison import interval
from pmlbook.figures import AMBER, BLUE, GREEN, GREY, PURPLE, VERMILLION
from pmlbook.threshold import L_CRIT, is_ordered

LOOK = {  # color, line, mark
    "sft": (GREY, "-", "o"),
    "ot": (BLUE, "--", "s"),
    "sw": (VERMILLION, ":", "^"),
    "ot:0.9": (GREEN, "-.", "D"),
    "soft-gate": (PURPLE, "-.", "v"),
    "hard-window": (AMBER, "-.", "P"),
}


def fig_pull(history, ax=None):
    """Of the pull on the logits, Σ (1 − p), the part on tokens that are safe already, by step."""
    ax = ax or plt.subplots(figsize=(6.4, 3.0))[1]
    steps = [state.step for state in history.snapshots]
    safe, rest = [], []
    for state in history.snapshots:
        pull, ordered = 1 - np.exp(-state.token_losses), is_ordered(state.token_losses)
        safe.append(100 * pull[ordered].sum() / pull.sum())
        rest.append(100 * ordered.mean())
    ax.plot(steps, rest, color=BLUE, label="tokens above ½")
    ax.plot(steps, safe, color=VERMILLION, linestyle="--", label="their part of the gradient")
    ax.set(xlabel="step", ylabel="share (%)", ylim=(0, 103))
    ax.legend()
    return ax


def fig_convergence(histories: dict, axes=None):
    """Mean loss, and the share of tokens above ½, against step; one line a method."""
    if axes is None:
        axes = plt.subplots(1, 2, figsize=(7.2, 3.1))[1]
    for method, history in histories.items():
        color, line, _ = LOOK[method]
        steps = [state.step for state in history.snapshots]
        losses = [state.mean_loss for state in history.snapshots]
        ordered = [100 * is_ordered(state.token_losses).mean() for state in history.snapshots]
        axes[0].plot(steps, losses, line, color=color, label=method.upper())
        axes[1].plot(steps, ordered, line, color=color)
    axes[0].axhline(L_CRIT, color=GREY, linestyle=":", linewidth=1)
    axes[0].annotate("ln 2", (0, L_CRIT), (2, 2), textcoords="offset points", color=GREY)
    axes[0].set(xlabel="step", ylabel="mean loss L (nats per token)", yscale="log")
    axes[1].set(xlabel="step", ylabel="tokens above ½ (%)", ylim=(0, 103))
    axes[0].legend()
    return axes


def fig_by_rank(table, columns: dict[str, str], axes=None):
    """Each of `columns` (and its label) against rank: a line a method, a mark a run.

    The line goes through means over seeds; the bar is their range.
    """
    if axes is None:
        axes = plt.subplots(1, len(columns), figsize=(7.2, 3.2))[1]
    ranks = sorted(table.r.unique())
    methods = [method for method in LOOK if method in set(table.method)]
    for ax, (column, label) in zip(np.atleast_1d(axes), columns.items(), strict=True):
        for i, method in enumerate(methods):
            color, line, mark = LOOK[method]
            cells = 100 * table[table.method == method].groupby("r")[column].agg(
                ["mean", "min", "max"]
            )
            x = np.arange(len(ranks)) + 0.12 * (i - (len(methods) - 1) / 2)
            spread = [cells["mean"] - cells["min"], cells["max"] - cells["mean"]]
            ax.errorbar(
                x, cells["mean"], spread, fmt=mark, linestyle=line, color=color, elinewidth=1.1,
                markersize=5, label=method.upper(),
            )  # fmt: skip
        ax.set_xticks(range(len(ranks)), ranks)
        ax.set(xlabel="rank r", ylabel=label, ylim=(-3, 103))
    np.atleast_1d(axes)[0].legend()
    return axes


def fig_thresholds(table, columns: dict[str, str], axes=None):
    """Each of `columns` against OT's threshold p: a line a rank, bars are 95 % intervals."""
    if axes is None:
        axes = plt.subplots(1, len(columns), figsize=(7.2, 3.1))[1]
    ranks = sorted(table.r.unique())
    for ax, (column, label) in zip(np.atleast_1d(axes), columns.items(), strict=True):
        for r, color, mark in zip(ranks, (BLUE, VERMILLION), "os", strict=False):
            cells = table[table.r == r].groupby("p")[column].agg(interval)
            mean, half = (np.array([cell[k] for cell in cells]) for k in (0, 1))
            ax.errorbar(
                cells.index, mean, half, fmt=mark, linestyle="-", color=color, elinewidth=1.1,
                label=f"rank {r}",
            )  # fmt: skip
        ax.axvline(0.5, color=GREY, linestyle=":", linewidth=1)
        ax.set(xlabel="threshold p of OT", ylabel=label)
    np.atleast_1d(axes)[0].legend()
    return axes


def fig_margins(finals: dict, ax=None):
    """Probability of every token at the end, sorted, one line a method: (ℓ,) arrays."""
    ax = ax or plt.subplots(figsize=(6.4, 3.0))[1]
    for method, p in finals.items():
        color, line, _ = LOOK[method]
        share = 100 * np.arange(1, len(p) + 1) / len(p)
        ax.step(share, np.sort(p), line, color=color, where="pre", label=method.upper())
    ax.axhline(0.5, color=GREY, linestyle=":", linewidth=1)
    ax.set(xlabel="tokens, the least certain first (%)", ylabel="p at the end", ylim=(0, 1.03))
    ax.legend(loc="lower right")
    return ax
