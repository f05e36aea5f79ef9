"""The rule's pairs are right and apart; the measures mean what they say."""

import numpy as np
import pytest
from conftest import byte_tokenizer

from pmlbook import generalization as rules


def texts(memories):
    tokenizer = byte_tokenizer()
    return [(tokenizer.decode(m.key_ids), tokenizer.decode(m.answer_ids)) for m in memories]


def test_no_pair_is_trained_on_and_asked_for_and_every_answer_is_the_rule():
    trained, unseen = (texts(m) for m in rules.rule_memories(byte_tokenizer(), seed=3))
    assert len({key for key, _ in trained + unseen}) == rules.TRAINED + rules.UNSEEN
    for key, answer in trained + unseen:
        x, y = map(int, key.removeprefix("f(").removesuffix(")=").split(","))
        assert answer == f"{3 * x + 5 * y + 7}."


def test_another_seed_splits_otherwise():
    a, b = (texts(rules.rule_memories(byte_tokenizer(), seed)[0]) for seed in (0, 1))
    assert a != b and a == texts(rules.rule_memories(byte_tokenizer(), 0)[0])


@pytest.mark.parametrize(
    ("tokens", "want"),
    [(["8", "6", "."], 86), (["86", ". 8"], 86), (["x"], None), (["²"], None), ([""], None)],
)
def test_the_number_before_the_full_stop(tokens, want):
    got = rules.number(tokens)
    assert np.isnan(got) if want is None else got == want


def test_one_run_gives_one_row_of_shares_and_losses(model, monkeypatch):
    monkeypatch.setattr(rules, "STEPS", 3)
    monkeypatch.setattr(rules, "TRAINED", 8)
    (row,) = rules.measure(model, byte_tokenizer(), "ot", 2, 0).to_dict("records")
    assert 0 <= row["memory"] <= 1 and 0 <= row["generalization"] <= 1
    assert row["final_loss"] < row["base_loss"]
    assert row["plain_before"] == pytest.approx(rules.plain_loss(model, byte_tokenizer()))
