"""The largest scale that fits, and a clear word when the one asked for does not."""

import pytest

from pmlbook.scale import SCALES, pick_scale


@pytest.mark.parametrize(
    ("free", "scale"), [(0, "cpu"), (2, "cpu"), (15, "colab"), (24, "colab"), (141, "paper")]
)
def test_the_largest_that_fits(free, scale):
    assert pick_scale(free_gb=free)[0] == scale


def test_a_smaller_one_may_be_asked_for():
    assert pick_scale("cpu", free_gb=80)[0] == "cpu"


def test_one_that_does_not_fit_says_what_to_do():
    with pytest.raises(ValueError, match=r"needs \d+ GB at one run a batch, and 15 GB.*'colab'"):
        pick_scale("paper", free_gb=15)
    with pytest.raises(ValueError, match="no GPU was found"):
        pick_scale("colab", free_gb=0)
    with pytest.raises(ValueError, match=", ".join(SCALES)):
        pick_scale("huge")
