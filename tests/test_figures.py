"""The pictures draw what they are given, with labels and units, and change nothing."""

import copy
from itertools import combinations
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from pmlbook import figures

SHARES = pd.DataFrame({"argmax": [0.1, 1.0], "recited": [0.0, 0.9]}, index=[0.25, 0.75])
STATES = pd.DataFrame({"loss": [0.1, 2.0], "argmax": [1.0, 0.5], "recited": [1.0, 0.0]})
FIRST = pd.DataFrame({"first_disordered": [0, 3, 3], "first_failure": [2, 3, 3]})
HISTORY = SimpleNamespace(losses=[3.0, 1.0], final_loss=0.1)
CALLS = {
    "fig_probability_grid": ([[0.1, 0.9], [0.6, 0.7]], ["rank 1", "rank 2"]),
    "fig_losses": ([HISTORY], ["rank 1"]),
    "fig_loss_against_recall": (STATES,),
    "fig_share_by_p": (SHARES,),
    "fig_first_failure": (FIRST,),
    "fig_cascade": (SHARES,),
    "fig_noise": ({"cache": np.array([1e-6, 0.0])},),
}


pytestmark = pytest.mark.usefixtures("styled")


def test_every_picture_is_tested():
    made = {name for name in vars(figures) if name.startswith("fig_")}
    assert made == {*CALLS, "fig_low_rank"}


@pytest.mark.parametrize("name", CALLS)
def test_axes_are_labelled_and_data_untouched(name):
    before = repr(copy.deepcopy(CALLS[name]))
    ax = getattr(figures, name)(*CALLS[name])
    ax.figure.canvas.draw()
    assert ax.get_xlabel()
    assert ax.get_ylabel() or [t.get_text() for t in ax.get_yticklabels()] == ["rank 1", "rank 2"]
    for label in (ax.get_xlabel(), ax.get_ylabel()):
        assert "loss" not in label or "(nats per token)" in label
    assert repr(CALLS[name]) == before


@pytest.mark.parametrize("name", [name for name in CALLS if name != "fig_probability_grid"])
def test_an_axes_that_is_given_is_used(name):
    ax = plt.subplots()[1]
    assert getattr(figures, name)(*CALLS[name], ax=ax) is ax


def test_a_dot_marks_each_error_and_nothing_else():
    ax = figures.fig_probability_grid(
        [[0.1, 0.9], [0.6, 0.7]], ["a", "b"], recited=[[False, True], [True, False]]
    )
    (dots,) = ax.lines
    assert list(zip(dots.get_xdata(), dots.get_ydata(), strict=True)) == [(0, 0), (1, 1)]


def test_low_rank_is_to_scale():
    ax = figures.fig_low_rank(576, 1536, 4)
    w, b, a = ax.patches
    assert (w.get_width(), w.get_height()) == (1536, 576)
    assert b.get_height() == w.get_height() and a.get_width() == w.get_width()


def test_below_and_above_one_half_differ_in_colour():
    below, above = figures.HALF(0.35), figures.HALF(0.65)
    assert below[0] > below[2] and above[2] > above[0]  # amber has more red, blue more blue


# Machado et al. (2009), full deuteranopia, on linear RGB.
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
)


def test_line_colours_differ_for_the_colour_blind():
    colors = [figures.BLUE, figures.VERMILLION, figures.GREEN, figures.AMBER, figures.SKY]
    seen = [DEUTERANOPIA @ np.array(to_rgb(c)) ** 2.2 for c in colors]
    closest = min(np.linalg.norm(x - y) for x, y in combinations(seen, 2))
    assert closest > 0.1
