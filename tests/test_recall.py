"""Recall against plain loops and against transformers' own results."""

import numpy as np
import pytest
import torch
from conftest import tiny_llama
from transformers import GenerationConfig

from pmlbook.data import Memory, random_memory, text_memory
from pmlbook.probe import write
from pmlbook.recall import Recall, greedy, recall, recall_all, teacher_forced, tokens_frame

BOOK = [Memory((5, 6, 7), (8, 9)), Memory((10,), (11, 12, 13, 14)), Memory((15, 16), (17,))]


def slow_losses_and_ranks(model, memory):
    """Teacher forcing, one token at a time, without a batch, a mask or a cache."""
    losses, ranks = [], []
    for t, answer in enumerate(memory.answer_ids):
        prefix = torch.tensor([memory.key_ids + memory.answer_ids[:t]])
        scores = model(prefix).logits[0, -1].double()
        losses.append(-scores.log_softmax(-1)[answer].item())
        ranks.append(scores.argsort(descending=True, stable=True).tolist().index(answer) + 1)
    return losses, ranks


def slow_greedy(model, memory):
    said = []
    for _ in memory.answer_ids:
        prefix = torch.tensor([[*memory.key_ids, *said]])
        said.append(model(prefix).logits[0, -1].argmax().item())
    return said


def test_teacher_forcing_equals_the_plain_loop(model):
    losses, ranks = teacher_forced(model, BOOK)
    for memory, loss, rank in zip(BOOK, losses, ranks, strict=True):
        want_losses, want_ranks = slow_losses_and_ranks(model, memory)
        np.testing.assert_allclose(loss, want_losses, rtol=1e-5)
        assert rank.tolist() == want_ranks


def test_greedy_equals_the_plain_loop_for_keys_of_any_length(model):
    for memory, ids in zip(BOOK, greedy(model, BOOK), strict=True):
        assert ids.tolist() == slow_greedy(model, memory)


def test_mean_loss_is_transformers_loss_with_the_key_masked(model):
    memory = BOOK[1]
    ids = torch.tensor([memory.key_ids + memory.answer_ids])
    labels = ids.clone()
    labels[:, : len(memory.key_ids)] = -100
    losses, _ = teacher_forced(model, [memory])
    assert losses[0].mean() == pytest.approx(model(ids, labels=labels).loss.item(), rel=1e-5)


def test_generation_settings_of_a_model_are_put_aside_and_given_back(model):
    memory = Memory((5, 6, 7), (8,) * 12)
    want = slow_greedy(model, memory)
    # An end token among the true greedy output, and a penalty that would change the argmax.
    model.generation_config = GenerationConfig(eos_token_id=want[2], repetition_penalty=5.0)
    kept = model.generation_config
    assert greedy(model, [memory])[0].tolist() == want
    assert model.generation_config is kept


def made_up(losses, ranks, greedy_ids) -> Recall:
    ids = tuple(range(len(losses)))
    texts = [f"w{i} " for i in ids]
    return Recall(
        Memory((1,), ids),
        texts,
        np.array(losses),
        np.array(ranks),
        np.array(greedy_ids),
        [f"w{i} " for i in greedy_ids],
    )


def test_metrics_by_hand():
    # Token 1 has p = 0.45 and is the argmax all the same; token 2 is lost, token 3 falls with it.
    record = made_up([0.1, 0.8, 2.0, 0.2], [1, 1, 3, 1], [0, 1, 7, 9])
    assert record.mean_loss == pytest.approx(0.775)
    assert record.token_accuracy_teacher_forced == 0.75
    assert record.token_accuracy_free_running == 0.5
    assert not record.exact_match
    assert record.ordered.tolist() == [True, False, False, True]
    assert record.disordered.tolist() == [False, True, True, False]
    assert record.first_disordered == 1
    assert record.first_failure == 2


def test_a_perfect_record_has_no_first_failure():
    record = made_up([0.1, 0.2], [1, 1], [0, 1])
    assert record.exact_match
    assert record.first_failure is None
    assert record.first_disordered is None


def test_a_record_shows_itself_and_escapes_its_text():
    record = made_up([0.1, 2.0], [1, 2], [0, 5])
    object.__setattr__(record, "tokens", ["<b>", "&"])
    page = record._repr_html_()
    assert "&lt;b&gt;" in page and "&amp;" in page and "<b>" not in page
    assert "1 of 2 tokens above ½" in page
    assert "p = 0.135, place 2" in page


def test_tokens_frame_has_a_row_a_token():
    records = [made_up([0.1, 2.0], [1, 2], [0, 5]), made_up([0.3], [1], [0])]
    frame = tokens_frame(records, r=4)
    assert frame[["r", "memory", "position"]].to_numpy().tolist() == [
        [4, 0, 0],
        [4, 0, 1],
        [4, 1, 0],
    ]
    assert frame["ordered"].tolist() == [True, False, True]
    assert frame["recited"].tolist() == [True, False, True]


def test_batches_do_not_matter(model):
    one = recall_all(model, _Words(), BOOK, batch_size=1)
    all_at_once = recall_all(model, _Words(), BOOK)
    for a, b in zip(one, all_at_once, strict=True):
        np.testing.assert_allclose(a.token_losses, b.token_losses, rtol=1e-4)
        assert a.greedy_ids.tolist() == b.greedy_ids.tolist()


def test_a_written_memory_is_recited_and_the_base_model_is_not_changed(tokenizer):
    model = tiny_llama()
    memory = text_memory(tokenizer, "key:", "a long answer")
    before = recall(model, tokenizer, memory)
    history = write(model, memory, r=16, layer=1, steps=200, progress=False)
    with_adapter = recall(model, tokenizer, memory, history.adapter)
    assert not before.exact_match
    assert with_adapter.exact_match
    assert with_adapter.ordered.all()
    assert with_adapter.mean_loss == pytest.approx(history.final_loss, rel=1e-3)
    after = recall(model, tokenizer, memory)
    assert np.array_equal(after.token_losses, before.token_losses)


def test_recall_refuses_what_the_model_cannot_hold(model, tokenizer):
    with pytest.raises(ValueError, match="context window is 128"):
        recall(model, tokenizer, random_memory(tokenizer, 200, seed=0))


class _Words:
    def decode(self, ids):
        return " ".join(map(str, ids))
