"""The theorem of chapter 3, tried on any distribution whatever."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pmlbook.recall import token_ranks
from pmlbook.threshold import (
    L_CRIT,
    certain_mean_loss,
    is_ordered,
    least_accuracy,
    most_disordered,
)

logits = npst.arrays(
    np.float64,
    st.tuples(st.integers(1, 6), st.integers(2, 9)),
    elements=st.floats(-30, 30, width=32),
)


def losses_of(z, y):
    return torch.nn.functional.cross_entropy(torch.as_tensor(z), y, reduction="none")


@given(logits, st.data())
def test_above_one_half_is_the_argmax(z, data):
    """Lemma: p > 1/2 implies rank 1, for any logits and any target."""
    y = torch.tensor(
        data.draw(st.lists(st.integers(0, z.shape[1] - 1), min_size=len(z), max_size=len(z)))
    )
    ordered = is_ordered(losses_of(z, y))
    ranks = token_ranks(torch.tensor(z), y)
    assert (ranks[ordered] == 1).all()


def test_the_converse_is_false():
    z = torch.log(torch.tensor([[0.4, 0.3, 0.3]]))
    y = torch.tensor([0])
    assert token_ranks(z, y).item() == 1
    assert not is_ordered(losses_of(z, y)).item()


def test_at_exactly_one_half_argmax_may_pick_the_other():
    z = torch.zeros(1, 2)
    assert not is_ordered(losses_of(z, torch.tensor([1]))).item()
    assert token_ranks(z, torch.tensor([1])).item() == 2  # a tie: argmax takes the lower index
    assert token_ranks(z, torch.tensor([0])).item() == 1


@settings(max_examples=200)
@given(st.integers(1, 4), st.integers(2, 4), st.integers(0, 2**32 - 1))
def test_greedy_recites_when_every_token_is_above_one_half(length, vocab, seed):
    """Theorem, on a whole random language model given as a table from prefixes to logits.

    The oracle is plain: a fresh distribution for each prefix, greedy decoding step by step.
    """
    rng = np.random.default_rng(seed)
    table = {}

    def distribution(prefix):
        if prefix not in table:
            table[prefix] = rng.dirichlet(np.full(vocab, 0.2))
        return table[prefix]

    answer = tuple(rng.integers(0, vocab, size=length).tolist())
    forced = [distribution(answer[:t])[answer[t]] for t in range(length)]
    said = ()
    for _ in range(length):
        said += (int(np.argmax(distribution(said))),)
    if min(forced) > 0.5:
        assert said == answer
    first_wrong = next((t for t in range(length) if said[t] != answer[t]), length)
    first_low = next((t for t in range(length) if forced[t] <= 0.5), length)
    assert first_wrong >= first_low  # the earliest low token bounds the first failure from below


@given(st.lists(st.floats(0, 20), min_size=1, max_size=50))
def test_a_mean_loss_bounds_the_disordered_tokens(losses):
    losses = np.array(losses)
    low = int((~is_ordered(losses)).sum())
    assert low <= most_disordered(losses.mean(), len(losses))
    share = 1 - low / len(losses)
    assert share >= least_accuracy(losses.mean()) - 1e-12
    if losses.mean() < certain_mean_loss(len(losses)) * (1 - 1e-12):
        assert low == 0


@given(st.integers(1, 500), st.floats(0.001, 3))
def test_the_bound_is_tight(length, mean_loss):
    count = most_disordered(mean_loss, length)
    assume(count > 0)
    losses = np.zeros(length)
    losses[:count] = length * mean_loss / count
    assert losses.mean() == pytest.approx(mean_loss)
    assert (losses[:count] >= L_CRIT - 1e-9).all()  # so many tokens at 1/2 or below, as promised


def test_numbers_in_the_book():
    assert math.isclose(L_CRIT, 0.693147, abs_tol=1e-6)
    assert certain_mean_loss(1) == L_CRIT
    assert most_disordered(0.69, 100) == 99
    assert most_disordered(0.0069, 100) == 0
    assert most_disordered(5.0, 100) == 100


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="length is 0"):
        certain_mean_loss(0)
    with pytest.raises(ValueError, match="mean_loss is -1"):
        most_disordered(-1, 5)
