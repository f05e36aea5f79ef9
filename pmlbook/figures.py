"""The book's pictures. They draw what they are given and compute nothing (every chapter).

`fig_*` functions take data and an optional Axes, and return the Axes. Blue is above one half,
amber below; vermillion marks an error. Call `use_style()` once a notebook.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, Normalize

from pmlbook.threshold import L_CRIT

BLUE, VERMILLION, GREEN, PURPLE, AMBER, SKY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)
INK, GREY = "#1b1f24", "#57606a"

# Amber, pale at one half, blue: which side a token is on is the first thing seen.
HALF = LinearSegmentedColormap.from_list(
    "half", ["#8a5f00", "#E69F00", "#fbf1da", "#d9eaf5", "#0072B2", "#00395a"]
)


def use_style() -> None:
    """Draw in the book's style from here on."""
    plt.style.use(Path(__file__).with_name("pml.mplstyle"))


def fig_probability_grid(rows, labels, recited=None, ax=None):
    """One row per state, one cell per answer token, coloured by p; a dot marks a recall error.

    `rows` and `recited` are lists of (ℓ,) arrays, `labels` the names of the rows.
    """
    rows = np.asarray(rows)
    ax = ax or plt.subplots(figsize=(7.2, 0.42 * len(rows) + 1.2))[1]
    image = ax.imshow(rows, aspect="auto", cmap=HALF, norm=Normalize(0, 1), interpolation="none")
    if recited is not None:
        y, x = np.nonzero(~np.asarray(recited))
        ax.plot(x, y, ".", color=VERMILLION, markersize=3.2)
    ax.set_yticks(range(len(rows)), labels)
    ax.set_xlabel("position in the answer (tokens)")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(image, ax=ax, pad=0.01, ticks=[0, 0.5, 1])
    bar.set_label("p of the right token")
    bar.outline.set_visible(False)
    return ax


def fig_losses(histories, labels, ax=None, threshold=True):
    """Mean loss against step, one line per history, and the line L = ln 2."""
    ax = ax or plt.subplots()[1]
    for history, label in zip(histories, labels, strict=True):
        ax.plot([*history.losses, history.final_loss], label=label)
    if threshold:
        ax.axhline(L_CRIT, color=GREY, linestyle=":", linewidth=1.3)
        ax.annotate("ln 2", (0, L_CRIT), (2, 2), textcoords="offset points", color=GREY)
    ax.set(xlabel="step", ylabel="mean loss L (nats per token)", yscale="log")
    ax.legend()
    return ax


def fig_low_rank(out_features, in_features, r, ax=None):
    """W, B and A drawn to scale: how little of a weight a low-rank update is."""
    ax = ax or plt.subplots(figsize=(7.2, 2.6))[1]
    gap = 0.16 * in_features
    thick = max(r, 0.012 * in_features)  # a rank of 4 would be thinner than a line
    boxes = [
        (0, 0, in_features, out_features, SKY, f"W\n{out_features} × {in_features}, frozen"),
        (in_features + gap, 0, thick, out_features, BLUE, ""),
        (in_features + 1.6 * gap, out_features - thick, in_features, thick, VERMILLION, ""),
    ]
    for x, y, width, height, color, text in boxes:
        ax.add_patch(plt.Rectangle((x, y), width, height, facecolor=color, alpha=0.85))
        ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=INK)
    middle = out_features / 2
    ax.text(in_features + gap / 2, middle, "+", ha="center", va="center", fontsize=16)
    ax.text(
        in_features + gap + thick / 2, -0.06 * out_features, f"B: {out_features} × {r}",
        ha="center", va="top", color=BLUE,
    )  # fmt: skip
    ax.text(
        in_features * 1.5 + 1.6 * gap, out_features - thick - 0.06 * out_features,
        f"A: {r} × {in_features}", ha="center", va="top", color=VERMILLION,
    )  # fmt: skip
    ax.set_xlim(-5, 2 * in_features + 1.7 * gap)
    ax.set_ylim(-0.22 * out_features, 1.03 * out_features)
    ax.set_aspect("equal")
    ax.axis("off")
    return ax


def fig_loss_against_recall(states, ax=None):
    """Mean loss against the share of tokens recited on its own: one dot per state of a run.

    `states` has the columns loss, argmax (teacher-forced accuracy) and recited (free-running).
    """
    ax = ax or plt.subplots()[1]
    for column, color, marker, label in (
        ("argmax", SKY, "o", "teacher-forced"),
        ("recited", VERMILLION, "D", "free-running"),
    ):
        ax.plot(
            states["loss"], states[column], marker, color=color, alpha=0.75, label=label,
            markersize=4.5, markeredgewidth=0,
        )  # fmt: skip
    ax.axvline(L_CRIT, color=GREY, linestyle=":", linewidth=1.3)
    ax.annotate("ln 2", (L_CRIT, 1.0), (3, 4), textcoords="offset points", color=GREY)
    ax.set(
        xscale="log", xlabel="mean loss L (nats per token)", ylabel="share of answer tokens right"
    )
    ax.legend(loc="lower left", title="token accuracy")
    return ax


def fig_share_by_p(table, ax=None):
    """Share of tokens right, by probability bin; `table` is indexed by bin centre.

    Its columns: argmax (true prefix given) and recited (free running), shares from 0 to 1.
    """
    ax = ax or plt.subplots()[1]
    ax.axvspan(0.5, 1, color=BLUE, alpha=0.07, linewidth=0)
    ax.axvline(0.5, color=GREY, linestyle=":", linewidth=1.3)
    ax.plot(table.index, table["argmax"], "-o", color=BLUE, label="true prefix given: argmax")
    ax.plot(table.index, table["recited"], "-D", color=VERMILLION, label="free running: recited")
    ax.text(0.52, 0.86, "ordered phase", color=BLUE, transform=ax.get_xaxis_transform())
    ax.set(xlabel="p of the right token (bin centre)", ylabel="share of tokens right", xlim=(0, 1))
    ax.legend(loc="lower right")
    return ax


def fig_first_failure(states, ax=None):
    """Earliest token at p <= 1/2 against the first recall error, with the bound as a diagonal.

    `states` has the columns first_disordered and first_failure (tokens, from 0). A dot's area is
    the number of states at that place.
    """
    ax = ax or plt.subplots(figsize=(4.6, 4.2))[1]
    top = max(states["first_failure"].max(), states["first_disordered"].max()) + 2
    ax.fill_between([0, top], [0, top], 0, color=GREY, alpha=0.12, linewidth=0)
    ax.plot([0, top], [0, top], color=GREY, linestyle=":", linewidth=1.3)
    ax.text(0.62 * top, 0.2 * top, "impossible", color=GREY, ha="center")
    places = states.groupby(["first_disordered", "first_failure"]).size()
    x, y = zip(*places.index, strict=True)
    ax.scatter(x, y, s=22 * places, color=VERMILLION, alpha=0.6, linewidths=0)
    ax.set(
        xlabel="earliest token at p ≤ ½ (position)",
        ylabel="first recall error (position)",
        xlim=(-1, top),
        ylim=(-1, top),
    )
    return ax


def fig_cascade(table, ax=None):
    """Accuracy by distance from the first error; `table` is indexed by distance in tokens."""
    ax = ax or plt.subplots()[1]
    ax.axvline(0, color=GREY, linestyle=":", linewidth=1.3)
    ax.plot(table.index, table["argmax"], color=BLUE, label="true prefix given: argmax")
    ax.plot(table.index, table["recited"], color=VERMILLION, label="free running: recited")
    ax.set(
        xlabel="tokens after the first recall error",
        ylabel="share of tokens right",
        ylim=(-0.03, 1.05),
    )
    ax.legend()
    return ax


def fig_noise(differences, ax=None):
    """How far p moves between two ways to compute it: sorted absolute Δp, one line per comparison.

    `differences` maps a name to an array of absolute Δp, one entry a token.
    """
    ax = ax or plt.subplots()[1]
    for name, values in differences.items():
        values = np.sort(np.maximum(values, 1e-9))  # a log axis has no place for 0
        ax.plot(values, np.arange(1, len(values) + 1) / len(values), label=name)
    ax.set(
        xscale="log",
        xlabel="absolute Δp (0 is drawn at 1e-9)",
        ylabel="share of tokens that moved less",
    )
    ax.legend()
    return ax
