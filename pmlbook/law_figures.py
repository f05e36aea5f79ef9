"""The memory law's pictures. They draw tables and fits, and fit nothing (chapter: The memory law).

Darker is larger: ranks and lengths have an order, and so have their colours. A filled mark is a
run that the law is about; a hollow one was saturated, and no fit has seen it.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import Normalize

from pmlbook.figures import BLUE, GREY, INK, SKY, VERMILLION
from pmlbook.law import SATURATED, Fit, bits_per_parameter

NATS = "(nats per token)"


def shades(values) -> dict:
    """A colour for each of the ordered `values`, from light to dark, safe for colour blindness."""
    values = sorted(set(values))
    colors = map(tuple, plt.cm.cividis_r(np.linspace(0.15, 1, len(values))))
    return dict(zip(values, colors, strict=True))


def fig_law(table: pd.DataFrame, fitted: Fit, axes=None):
    """ΔL against ℓ (a line a rank) and against r (a line a length), both axes in logs.

    Marks are means over seeds with the seeds' range; curves are the fit where it was fitted.
    """
    if axes is None:
        axes = plt.subplots(1, 2, figsize=(7.2, 3.6), sharey=True)[1]
    for ax, x, by, word in ((axes[0], "length", "r", "rank"), (axes[1], "r", "length", "ℓ =")):
        colors = shades(table[by])
        for value, group in table.groupby(by):
            cells = group.groupby(x).agg(
                mean=("delta_loss", "mean"), low=("delta_loss", "min"), high=("delta_loss", "max"),
                end=("final_loss", "min"),
            )  # fmt: skip
            fitted_on = cells.end > SATURATED
            for cell, fill in ((cells[fitted_on], colors[value]), (cells[~fitted_on], "none")):
                ax.errorbar(
                    cell.index, cell["mean"], [cell["mean"] - cell.low, cell.high - cell["mean"]],
                    fmt="o", color=colors[value], markerfacecolor=fill, elinewidth=1.2,
                )  # fmt: skip
            ax.plot([], [], "o-", color=colors[value], label=f"{word} {value}")
            if fitted_on.sum() > 1:
                inside = cells.index[fitted_on]
                fine = np.geomspace(inside.min(), inside.max(), 40)
                points = pd.DataFrame({x: fine, by: value})
                points["base_loss"], points["parameters"] = table.base_loss.mean(), np.nan
                ax.plot(fine, fitted.predict(points), color=colors[value], linewidth=1.6)
        ax.axhline(table.base_loss.mean(), color=GREY, linestyle=":", linewidth=1.3)
        ticks = sorted(table[x].unique())
        labels = [
            "" if tick / before < 1.15 else tick  # 144 behind 128 would touch it
            for before, tick in zip([0.5 * ticks[0], *ticks[:-1]], ticks, strict=True)
        ]
        ax.set(xscale="log", yscale="log", xticks=ticks, xticklabels=labels)
        ax.minorticks_off()
        ax.legend(fontsize=8, loc="lower left" if x == "length" else "lower right")
    y = [5, 7, 10, 14]
    axes[0].set(xlabel="length ℓ (tokens)", ylabel=f"what was learnt, ΔL {NATS}", yticks=y)
    axes[0].set_yticklabels(y)
    axes[1].set(xlabel="rank r")
    return axes


def fig_predicted(frames: dict[str, pd.DataFrame], ax=None):
    """Measured against predicted ΔL; frames have delta_loss, predicted, and perhaps low, high."""
    ax = ax or plt.subplots(figsize=(4.6, 4.2))[1]
    both = pd.concat(frames.values())[["delta_loss", "predicted"]].to_numpy()
    ends = [both.min() - 0.5, both.max() + 0.5]
    ax.plot(ends, ends, color=GREY, linestyle=":", linewidth=1.3)
    for (name, frame), color, marker in zip(
        frames.items(), (BLUE, VERMILLION, SKY), "oDs", strict=False
    ):
        error = None
        if "low" in frame:
            error = [frame.predicted - frame.low, frame.high - frame.predicted]
        ax.errorbar(
            frame.delta_loss, frame.predicted, error, fmt=marker, color=color, alpha=0.75,
            markersize=4.5, markeredgewidth=0, elinewidth=1, label=name,
        )  # fmt: skip
    ax.set(xlabel=f"ΔL measured {NATS}", ylabel=f"ΔL predicted {NATS}", aspect="equal")
    ax.legend(loc="upper left")
    return ax


def fig_residuals(fitted: Fit, ax=None):
    """Mean residual of each cell, nats, coloured by sign; a good fit leaves no pattern."""
    ax = ax or plt.subplots(figsize=(6.4, 2.9))[1]
    frame = fitted.table.assign(residual=fitted.residuals)
    cells = frame.pivot_table(index="r", columns="length", values="residual")
    top = np.nanmax(np.abs(cells.to_numpy()))
    ax.imshow(cells, cmap="PuOr", norm=Normalize(-top, top), aspect="auto")
    for (i, j), value in np.ndenumerate(cells.to_numpy()):
        if np.isfinite(value):
            color = "white" if abs(value) > 0.65 * top else INK
            ax.text(j, i, f"{value:+.2f}", ha="center", va="center", color=color, fontsize=9)
    ax.set_xticks(range(len(cells.columns)), cells.columns)
    ax.set_yticks(range(len(cells.index)), cells.index)
    ax.set(xlabel="length ℓ (tokens)", ylabel="rank r")
    ax.grid(False)
    return ax


def fig_budget(table: pd.DataFrame, ax=None):
    """ΔL against the number of steps, one line a cell (rank, length)."""
    ax = ax or plt.subplots()[1]
    colors = shades(table.length)
    styles = dict(zip(sorted(table.r.unique()), ("-", "--", ":", "-."), strict=False))
    for (r, length), cell in table.groupby(["r", "length"]):
        cell = cell.groupby("steps").delta_loss.mean()
        ax.plot(cell.index, cell, marker="o", linestyle=styles[r], color=colors[length])
    for r, style in styles.items():
        ax.plot([], [], style, color=INK, label=f"rank {r}")
    for length, color in colors.items():
        ax.plot([], [], "o", color=color, label=f"ℓ = {length}")
    ticks = sorted(table.steps.unique())
    ax.set(
        xscale="log", xticks=ticks, xticklabels=ticks, xlabel="training budget (steps)",
        ylabel=f"what was learnt, ΔL {NATS}",
    )  # fmt: skip
    ax.minorticks_off()
    ax.legend(ncols=2, fontsize=8, loc="lower right")
    return ax


def fig_bits(sites: dict[str, pd.DataFrame], ax=None):
    """Bits learnt per trained parameter against how full the adapter is asked to be.

    The horizontal axis is the text's own bits, ℓ · base loss, per parameter: left of the diagonal
    nothing is left to learn.
    """
    ax = ax or plt.subplots()[1]
    top = 0.0
    for (name, table), color, marker in zip(sites.items(), (BLUE, VERMILLION), "oD", strict=False):
        asked = table.base_loss * table.length / (table.parameters * np.log(2))
        learnt = bits_per_parameter(table)
        ax.plot(
            asked, learnt, marker, color=color, alpha=0.7, markeredgewidth=0,
            label=name,
        )  # fmt: skip
        top = max(top, 1.15 * learnt.max())
    line = np.array([0, top])
    ax.plot(line, line, color=GREY, linestyle=":", linewidth=1.3)
    label = {"xytext": (6, -8), "textcoords": "offset points", "color": GREY}
    ax.annotate("all there is to learn", line[[1, 1]], **label)
    ax.set(
        xlabel="bits in the text, per trained parameter",
        ylabel="bits learnt, per trained parameter", xlim=(0, None), ylim=(0, top),
    )  # fmt: skip
    ax.legend(loc="lower right")
    return ax
