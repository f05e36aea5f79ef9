"""The memory law's pictures draw what they are given, with labels and units."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from test_law import KNOWN, synthetic

from pmlbook import law, law_figures

TABLE = synthetic("no offset", KNOWN["no offset"], noise=0.3)
FITTED = law.fit(TABLE, "no offset")
FRAME = FITTED.table.join(law.predict_interval(FITTED, law.bootstrap(FITTED, 10), FITTED.table))
CALLS = {
    "fig_predicted": ({"law": FRAME, "rival": FRAME},),
    "fig_residuals": (FITTED,),
    "fig_budget": (pd.concat([TABLE.assign(steps=s) for s in (80, 160)]).query("r <= 3"),),
    "fig_bits": ({"down_proj": TABLE, "v_proj": TABLE},),
}


pytestmark = pytest.mark.usefixtures("styled")


def test_every_picture_is_tested():
    made = {name for name in vars(law_figures) if name.startswith("fig_")}
    assert made == {*CALLS, "fig_law"}


@pytest.mark.parametrize("name", CALLS)
def test_axes_are_labelled_and_an_axes_that_is_given_is_used(name):
    ax = plt.subplots()[1]
    assert getattr(law_figures, name)(*CALLS[name], ax=ax) is ax
    ax.figure.canvas.draw()
    assert ax.get_xlabel() and ax.get_ylabel()
    for label in (ax.get_xlabel(), ax.get_ylabel()):
        assert "ΔL" not in label or "(nats per token)" in label


def test_saturated_cells_are_hollow_and_outside_the_curves():
    axes = law_figures.fig_law(TABLE, FITTED)
    axes[0].figure.canvas.draw()
    assert axes[0].get_xlabel() == "length ℓ (tokens)" and axes[1].get_xlabel() == "rank r"
    full = TABLE.groupby(["r", "length"]).final_loss.min() <= law.SATURATED
    marks = [line for line in axes[0].get_lines() if line.get_marker() == "o"]
    hollow = sum(len(m.get_xdata()) for m in marks if m.get_markerfacecolor() == "none")
    assert hollow == full.sum() > 0


def test_more_is_darker():
    colors = law_figures.shades([3, 1, 2, 2])
    assert list(colors) == [1, 2, 3]
    light = [sum(color[:3]) for color in colors.values()]
    assert light == sorted(light, reverse=True)


def test_residuals_are_those_of_the_cells():
    ax = law_figures.fig_residuals(FITTED)
    frame = FITTED.table.assign(residual=FITTED.residuals)
    wanted = frame.groupby(["r", "length"]).residual.mean()
    assert sorted(t.get_text() for t in ax.texts) == sorted(f"{x:+.2f}" for x in wanted)
