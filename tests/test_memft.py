"""MemFT against its equations: loops, hand-worked numbers, gradients, padding, packing."""

import json
import math

import pytest
import torch
from conftest import tiny_llama
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import memft_by_loops

from pmlbook.data import IGNORE_INDEX, Memory, collate
from pmlbook.memft import (
    METHODS,
    OT,
    SFT,
    SW,
    AnswerTokens,
    anchors,
    answer_tokens,
    memft_loss,
    places,
    weighting,
)
from pmlbook.probe import write
from pmlbook.threshold import L_CRIT

V = 13


def batch(seed, lengths, keys):
    """Random memories of these lengths, and a function from a collated batch to its logits.

    The logits of a token depend on its memory and place alone, as with a perfect attention mask.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = lambda n: torch.randint(V, (n,), generator=generator).tolist()  # noqa: E731
    memories = [Memory(draw(k), draw(n)) for k, n in zip(keys, lengths, strict=True)]
    logits = [4 * torch.randn(len(m.key_ids) + m.length, V, generator=generator) for m in memories]
    return memories, logits


def padded(memories, logits, side):
    inputs = collate(memories, padding_side=side)
    full = torch.full((*inputs["labels"].shape, V), 7.7)
    for row, mine in enumerate(logits):
        full[row, inputs["attention_mask"][row].bool()] = mine
    return full, inputs["labels"]


def packed(memories, logits):
    """All samples in one row, without a mask, boundaries by position_ids."""
    ids = [torch.tensor(m.key_ids + m.answer_ids) for m in memories]
    labels = [x.clone() for x in ids]
    for memory, row in zip(memories, labels, strict=True):
        row[: len(memory.key_ids)] = IGNORE_INDEX
    positions = torch.cat([torch.arange(len(x)) for x in ids])
    return torch.cat(logits)[None], torch.cat(labels)[None], positions[None]


SIZES = {
    "lengths": st.lists(st.integers(1, 9), min_size=1, max_size=4),
    "seed": st.integers(0, 10**6),
}


@settings(deadline=None, max_examples=60)
@given(**SIZES, method=st.sampled_from([*METHODS]), side=st.sampled_from(["left", "right"]))
def test_equals_the_loops_whatever_the_padding(lengths, seed, method, side):
    memories, logits = batch(seed, lengths, [2 + i % 2 for i in range(len(lengths))])
    rows = []
    for memory, mine in zip(memories, logits, strict=True):
        log_p = mine.log_softmax(-1)
        start = len(memory.key_ids)
        rows.append(
            [
                (-log_p[start + i - 1, t].item(), log_p[start + i - 1].argmax().item() == t)
                for i, t in enumerate(memory.answer_ids)
            ]
        )
    tokens = answer_tokens(*padded(memories, logits, side))
    assert tokens.samples == len(memories)
    found = memft_loss(tokens.losses, weighting(method)(tokens)).item()
    assert found == pytest.approx(memft_by_loops(rows, method), rel=1e-4, abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(**SIZES, method=st.sampled_from([*METHODS]))
def test_packing_changes_nothing(lengths, seed, method):
    memories, logits = batch(seed, lengths, [2] * len(lengths))
    apart = answer_tokens(*padded(memories, logits, "right"))
    full, labels, positions = packed(memories, logits)
    for together in (answer_tokens(full, labels, positions), answer_tokens(full, labels)):
        torch.testing.assert_close(together.losses, apart.losses)
        assert torch.equal(together.sample, apart.sample)
        weights = [weighting(method)(tokens) for tokens in (together, apart)]
        torch.testing.assert_close(*weights)


def test_no_token_is_predicted_from_the_sample_before_it():
    """Samples without a key, packed: the first token of each has nothing that predicts it."""
    logits = torch.zeros(1, 6, V)
    labels = torch.tensor([[1, 2, 3, 4, 5, 6]])
    tokens = answer_tokens(logits, labels, torch.tensor([[0, 1, 2, 0, 1, 2]]))
    assert tokens.targets.tolist() == [2, 3, 5, 6]
    assert tokens.sample.tolist() == [0, 0, 1, 1]


def test_packed_samples_do_not_see_each_other_in_the_model():
    """With position_ids, no attention_mask and no cache, each sample has its own logits."""
    model = tiny_llama()
    memories = [Memory((3, 4, 5), (6, 7, 8, 9)), Memory((10, 11), (12, 13, 14))]
    ids = [torch.tensor(m.key_ids + m.answer_ids) for m in memories]
    positions = torch.cat([torch.arange(len(x)) for x in ids])[None]
    together = model(
        input_ids=torch.cat(ids)[None], position_ids=positions, use_cache=False
    ).logits[0]
    alone = torch.cat([model(input_ids=x[None]).logits[0] for x in ids])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def tokens_of(losses, correct=None, sample=None):
    losses = torch.tensor(losses, dtype=torch.float32)
    correct = losses < 0.5 if correct is None else torch.tensor(correct)
    sample = torch.zeros(len(losses)).long() if sample is None else torch.tensor(sample)
    return AnswerTokens(losses, correct, sample, torch.arange(len(losses)))


def test_hand_worked():
    """Three tokens of loss 0.2, 1, 2; the second is the first error; window 1, tau 2."""
    tokens = tokens_of([0.2, 1.0, 2.0], [True, False, True])
    assert memft_loss(tokens.losses, SFT()(tokens)).item() == pytest.approx(3.2 / 3)
    assert memft_loss(tokens.losses, OT()(tokens)).item() == pytest.approx(1.5)
    sw = SW(kappa=1, tau=2, window=1)(tokens)
    gate = [1 / (1 + math.exp(-(x - math.log(2)))) for x in (0.2, 1.0, 2.0)]
    assert sw.tolist() == pytest.approx([gate[0], gate[1], gate[2] * math.exp(-0.5)])
    far = SW(kappa=1, tau=2, window=0, floor=0.25)(tokens)
    assert far.tolist() == pytest.approx([gate[0], gate[1], gate[2] * 0.25])


def test_exactly_at_the_threshold_is_not_active():
    assert OT(threshold=1.0)(tokens_of([1.0, 1.1])).tolist() == [0.0, 1.0]


def test_without_an_error_sw_is_the_gate_alone():
    tokens = tokens_of([0.1, 0.2, 0.3], [True] * 3)
    assert SW()(tokens).tolist() == pytest.approx(
        torch.sigmoid(10 * (tokens.losses - L_CRIT)).tolist()
    )


def test_each_answer_has_its_own_anchor_and_places():
    tokens = tokens_of([0, 0, 0, 0, 0], [True, False, True, True, True], [0, 0, 0, 1, 1])
    assert places(tokens.sample).tolist() == [0, 1, 2, 0, 1]
    assert anchors(tokens).tolist() == [1, math.inf]
    assert torch.equal(tokens.of(1).losses, tokens.losses[3:])
    first, second = tokens.keys()
    assert first != second and tokens.of(0).keys() == [first] and tokens.of(1).keys() == [second]


def test_a_stuck_window_grows_and_shrinks_again_when_the_anchor_moves():
    sw = SW(window=10, patience=3, most=4)
    stuck = tokens_of([1.0] * 5, [True, True, False, True, False])
    sizes = [sw.windows(stuck.keys(), anchors(stuck)).item() for _ in range(9)]
    assert sizes == pytest.approx([10, 10, 10, 15, 22.5, 33.75, 40, 40, 40])
    moved = tokens_of([1.0] * 5, [True, True, True, False, False])
    assert sw.windows(moved.keys(), anchors(moved)).item() == 10


def test_patience_is_the_answers_own_and_survives_a_restart():
    a, b = tokens_of([1.0, 1.0], [False, True]), tokens_of([1.0] * 3, [True, False, True])
    first = SW(patience=1)
    for _ in range(3):
        first(a)
    first(b)
    again = SW(patience=1)
    again.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for tokens in (a, b, a):
        torch.testing.assert_close(first(tokens), again(tokens))
    assert first.still == again.still


@settings(deadline=None, max_examples=60)
@given(
    losses=st.lists(st.floats(0, 20), min_size=1, max_size=30),
    wrong=st.sets(st.integers(0, 29)),
    method=st.sampled_from([*METHODS]),
)
def test_weights_are_never_negative_nor_above_one(losses, wrong, method):
    tokens = tokens_of(losses, [i not in wrong for i in range(len(losses))])
    weights = weighting(method)(tokens)
    assert (weights >= 0).all() and (weights <= 1).all() and not weights.requires_grad


@given(losses=st.lists(st.floats(0.001, 20), min_size=1, max_size=20))
def test_ot_with_threshold_0_is_sft(losses):
    tokens = tokens_of(losses)
    assert torch.equal(OT(threshold=0.0)(tokens), SFT()(tokens))


def test_gradient_is_zero_below_the_threshold_and_right_above():
    logits = (5 * torch.randn(1, 9, V, generator=torch.Generator().manual_seed(1))).double()
    logits.requires_grad_(True)
    labels = torch.tensor([[-100, -100, 3, 4, 5, 6, 7, 8, 9]])
    labels[0, 2:5] = logits[0, 1:4].argmax(-1)  # three tokens above one half
    tokens = answer_tokens(logits, labels)
    active = OT()(tokens).bool()
    assert 0 < active.sum() < len(active)
    (gradient,) = torch.autograd.grad(memft_loss(tokens.losses, OT()(tokens)), logits)
    p = logits[0, 1:8].softmax(-1)
    wanted = (p - torch.nn.functional.one_hot(labels[0, 2:], V)) / active.sum()
    torch.testing.assert_close(gradient[0, 1:8][active], wanted[active], rtol=1e-4, atol=1e-6)
    assert (gradient[0, 1:8][~active] == 0).all()


def test_weights_are_constants_for_the_gradient():
    """With SW a gradient through σ would differ: compare with weights that are plain numbers."""
    logits = torch.randn(1, 6, V, generator=torch.Generator().manual_seed(2)).requires_grad_(True)
    labels = torch.tensor([[-100, 1, 2, 3, 4, 5]])
    tokens = answer_tokens(logits, labels)
    numbers = torch.tensor(SW()(tokens).tolist())
    for weights in (SW()(tokens), numbers, numbers.clone().requires_grad_(True)):
        (g,) = torch.autograd.grad(memft_loss(tokens.losses, weights), logits, retain_graph=True)
        (plain,) = torch.autograd.grad(
            (numbers * tokens.losses).sum() / numbers.sum(), logits, retain_graph=True
        )
        torch.testing.assert_close(g, plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_nothing_active_is_zero_and_no_nan(dtype):
    logits = torch.zeros(1, 4, V, dtype=dtype)
    labels = torch.tensor([[-100, 1, 2, 3]])
    logits[0, [0, 1, 2], [1, 2, 3]] = 50.0
    logits.requires_grad_(True)
    tokens = answer_tokens(logits, labels)
    loss = memft_loss(tokens.losses, OT()(tokens))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0 and (gradient == 0).all()


def test_no_label_at_all():
    logits = torch.zeros(2, 3, V, requires_grad=True)
    tokens = answer_tokens(logits, torch.full((2, 3), -100))
    for method in METHODS:
        loss = memft_loss(tokens.losses, weighting(method)(tokens))
        assert loss.item() == 0
        assert (torch.autograd.grad(loss, logits, retain_graph=True)[0] == 0).all()


def test_half_precision_logits_lose_little():
    memories, logits = batch(3, [6, 4], [2, 2])
    full, labels = padded(memories, logits, "right")
    exact = answer_tokens(full, labels)
    for dtype in (torch.float16, torch.bfloat16):
        half = answer_tokens(full.to(dtype), labels)
        assert half.losses.dtype == torch.float32
        torch.testing.assert_close(half.losses, exact.losses, rtol=0.03, atol=0.1)


def test_bad_input():
    with pytest.raises(ValueError, match=r"logits are \(2, 3\) and labels \(2, 3\)"):
        answer_tokens(torch.zeros(2, 3), torch.zeros(2, 3).long())
    with pytest.raises(ValueError, match="unknown method 'dpo': want one of sft, ot, sw"):
        weighting("dpo")
    with pytest.raises(ValueError, match=r"unknown method .sft:0\.7"):
        weighting("sft:0.7")
    with pytest.raises(ValueError, match=r"threshold of .ot:1\.5.: want a probability"):
        weighting("ot:1.5")


def test_a_threshold_in_the_name_is_a_probability():
    assert weighting("ot:0.7").threshold == pytest.approx(-math.log(0.7))
    assert weighting("ot:0.5") == OT()


def test_the_parts_of_sw():
    """Loss 0.2, 1, 2, first error in the middle: gate alone, and window behind a hard gate."""
    tokens = tokens_of([0.2, 1.0, 2.0], [True, False, True])
    gate = torch.sigmoid(10 * (tokens.losses - L_CRIT))
    torch.testing.assert_close(weighting("soft-gate")(tokens), gate)
    hard = weighting("hard-window")(tokens).tolist()
    assert hard == pytest.approx([0, 1, math.exp(-1 / 20)])


@pytest.mark.parametrize("method", [*METHODS])
def test_the_probe_takes_the_step_that_plain_autograd_takes(method):
    """One step of `write` against the weighted loss over whole logits."""
    memory = Memory((3, 4), (5, 6, 7, 8, 9, 10))
    model = tiny_llama()
    adapter = write(model, memory, 2, layer=2, steps=3, method=method, progress=False).adapter
    from pmlbook.lora import lora_attached
    from pmlbook.probe import lr_factor

    inputs, weigh = collate([memory]), weighting(method)
    with lora_attached(
        model, 2, "down_proj", 2, generator=torch.Generator().manual_seed(0)
    ) as lora:
        params = [lora.lora_A, lora.lora_B]
        optimizer = torch.optim.AdamW(params, lr=1e-2, weight_decay=0.0)
        for step in range(3):
            labels = inputs["labels"]
            tokens = answer_tokens(model(inputs["input_ids"]).logits, labels)
            optimizer.zero_grad()
            memft_loss(tokens.losses, weigh(tokens)).backward()
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.param_groups[0]["lr"] = 1e-2 * lr_factor(step, 3)
            optimizer.step()
        torch.testing.assert_close(adapter.lora_A, lora.lora_A.detach(), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(adapter.lora_B, lora.lora_B.detach(), rtol=1e-3, atol=1e-4)
