"""MemFT's pictures draw what they are given, with labels and units."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from pmlbook import memft_figures
from pmlbook.probe import History, Snapshot

pytestmark = pytest.mark.usefixtures("styled")

STATES = [
    Snapshot(step, np.array(losses), np.array([True, False, True]), adapter=None)
    for step, losses in ((0, [3.0, 2.0, 0.5]), (10, [1.0, 0.2, 0.1]))
]
HISTORY = History([3.0, 1.0], STATES, 0.0, [3])
TABLE = pd.DataFrame(
    {"method": method, "r": r, "seed": seed, "acc": 0.2 * r + 0.05 * seed, "p": p}
    for method, p in (("sft", 0.3), ("ot", 0.7))
    for r in (1, 2)
    for seed in (0, 1, 2)
)
CALLS = {
    "fig_pull": (HISTORY,),
    "fig_convergence": ({"sft": HISTORY, "ot": HISTORY},),
    "fig_by_rank": (TABLE, {"acc": "right (%)"}),
    "fig_thresholds": (TABLE, {"acc": "right (%)", "r": "rank"}),
    "fig_margins": ({"sft": np.array([0.9, 0.6]), "ot": np.array([0.5, 0.7])},),
}


def test_every_picture_is_tested():
    assert {name for name in vars(memft_figures) if name.startswith("fig_")} == {*CALLS}


@pytest.mark.parametrize("name", CALLS)
def test_axes_are_labelled(name):
    drawn = getattr(memft_figures, name)(*CALLS[name])
    plt.gcf().canvas.draw()
    for ax in np.atleast_2d(drawn)[-1]:
        assert ax.get_xlabel()
    assert np.atleast_2d(drawn)[0, 0].get_ylabel()


def test_the_pull_on_safe_tokens_is_their_part_of_the_gradient():
    ax = memft_figures.fig_pull(HISTORY)
    p = np.exp(-STATES[1].token_losses)
    part = ax.get_lines()[1].get_ydata()
    assert part[1] == pytest.approx(100 * (2 - p[1:].sum()) / (3 - p.sum()))


def test_margins_are_sorted():
    ax = memft_figures.fig_margins(CALLS["fig_margins"][0])
    assert ax.get_lines()[0].get_ydata().tolist() == [0.6, 0.9]
