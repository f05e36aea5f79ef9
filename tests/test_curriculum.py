"""The temporal curriculum: shares, epochs, order, and going on after a stop."""

import pytest

from pmlbook.curriculum import CurriculumSampler, epochs_for, paper_epochs, share


def test_the_share_grows_at_the_epochs_named():
    epochs = (20, 40, 60, 80, 300)
    assert [share(e, epochs) for e in (0, 19, 20, 59, 79, 80, 299, 999)] == [
        0.2, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0,
    ]  # fmt: skip


def test_the_papers_epochs():
    assert paper_epochs(1000) == (20, 40, 60, 80, 300)
    assert paper_epochs(16000) == (80, 160, 240, 320, 600)
    with pytest.raises(ValueError, match="answer_tokens is 40000"):
        paper_epochs(40000)


def test_a_schedule_for_few_steps_ends_with_all_samples():
    epochs = epochs_for(steps=260, batches=10)
    assert epochs == (2, 4, 6, 8, 30)
    assert epochs_for(steps=5, batches=10) == (1, 2, 3, 4, 15)


@pytest.mark.parametrize("bad", [(1, 2, 3), (5, 4, 6, 7, 8), (1, 1, 2, 3, 4)])
def test_bad_epochs(bad):
    with pytest.raises(ValueError, match="want 5 rising numbers"):
        CurriculumSampler(10, bad)


def test_an_epoch_is_a_shuffle_of_the_first_share():
    sampler = CurriculumSampler(20, (1, 2, 3, 4, 6), seed=3)
    whole, passes = iter(sampler), []
    for count in (4, 8, 12, 16, 20, 20):
        passes.append([next(whole) for _ in range(count)])
    assert next(whole, None) is None and len(sampler) == 80
    assert set(passes[0]) < set(passes[1]) < set(passes[4]) == set(range(20))
    assert passes[4] != passes[5]


def test_the_order_is_the_seeds():
    first, again, other = (list(CurriculumSampler(20, (1, 2, 3, 4, 6), s)) for s in (3, 3, 4))
    assert first == again != other
