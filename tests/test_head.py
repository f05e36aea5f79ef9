"""The head's own way back equals autograd's, whole or in chunks, in 32 and in 16 bits."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pmlbook.head import HeadPass


def pieces(tokens=7, width=5, vocabulary=11, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=generator).to(dtype).requires_grad_(True)
    head = nn.Linear(width, vocabulary, bias=False).requires_grad_(False).to(dtype)
    head.weight.copy_(torch.randn(vocabulary, width, generator=generator))
    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    coefficients = torch.rand(tokens, generator=generator)
    return hidden, head, targets, coefficients


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6), zeros=st.sets(st.integers(0, 6)), rows=st.sampled_from([1, 2, 100])
)
def test_value_and_gradient_are_autograds(seed, zeros, rows):
    hidden, head, targets, coefficients = pieces(seed=seed)
    coefficients[list(zeros)] = 0
    plain = (coefficients * F.cross_entropy(head(hidden), targets, reduction="none")).sum()
    (wanted,) = torch.autograd.grad(plain, hidden)
    done = HeadPass(hidden, head, targets, keep_bytes=rows * 4 * 11)
    loss = done.weighted_sum(coefficients)
    (found,) = torch.autograd.grad(3 * loss, hidden)
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(found, 3 * wanted, rtol=1e-4, atol=1e-6)
    assert (found[list(zeros)] == 0).all()


def test_losses_and_argmax_in_chunks_are_those_of_the_whole():
    hidden, head, targets, _ = pieces(tokens=9)
    targets[::2] = head(hidden).argmax(-1)[::2]
    whole, parts = HeadPass(hidden, head, targets), HeadPass(hidden, head, targets, 100)
    assert len(whole.chunks) == 1 and len(parts.chunks) == 5
    torch.testing.assert_close(whole.losses, parts.losses)
    assert whole.correct[::2].all() and torch.equal(whole.correct, parts.correct)


@pytest.mark.parametrize("keep_bytes", [1, 10**9])
def test_a_token_that_is_no_number_spoils_only_itself(keep_bytes):
    hidden, head, targets, coefficients = pieces()
    hidden.data[2] = float("nan")
    coefficients[2] = 0
    done = HeadPass(hidden, head, targets, keep_bytes)
    assert done.losses.isnan().tolist() == [t == 2 for t in range(7)]
    loss = done.weighted_sum(coefficients)
    (gradient,) = torch.autograd.grad(loss, hidden)
    assert loss.isfinite() and gradient.isfinite().all()


def test_sixteen_bits():
    hidden, head, targets, coefficients = pieces(dtype=torch.bfloat16)
    logits = head(hidden).float()
    plain = (coefficients * F.cross_entropy(logits, targets, reduction="none")).sum()
    (wanted,) = torch.autograd.grad(plain, hidden)
    (found,) = torch.autograd.grad(
        HeadPass(hidden, head, targets).weighted_sum(coefficients), hidden
    )
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2)
