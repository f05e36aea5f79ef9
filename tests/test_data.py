"""Memories: makers, refusals, and batches."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pmlbook.data import (
    Memory,
    check_memories,
    collate,
    ordinary_ids,
    phonebook,
    random_memory,
    text_memory,
)

ids = st.lists(st.integers(2, 257), min_size=1, max_size=9)
memories = st.lists(st.builds(Memory, ids, ids), min_size=1, max_size=5)


def test_key_and_answer_are_tokenised_apart(tokenizer):
    memory = text_memory(tokenizer, "Say it:", " so be it")
    assert tokenizer.decode(memory.key_ids) == "Say it:"
    assert tokenizer.decode(memory.answer_ids) == " so be it"
    assert memory.length == 9


def test_chat_template_wraps_the_key_only(tokenizer):
    plain = text_memory(tokenizer, "who?", "me")
    chat = text_memory(tokenizer, "who?", "me", chat=True)
    assert tokenizer.decode(chat.key_ids) == "<start>who?<end><start>"
    assert chat.answer_ids == plain.answer_ids


@pytest.mark.parametrize(
    ("key", "answer", "message"),
    [("k", "", "the answer '' gives no token"), ("", "a", "key_ids is empty")],
)
def test_empty_texts_are_refused(tokenizer, key, answer, message):
    with pytest.raises(ValueError, match=message):
        text_memory(tokenizer, key, answer)


def test_negative_ids_are_refused():
    with pytest.raises(ValueError, match=r"answer_ids holds -100: token ids start at 0"):
        Memory((1,), (5, -100))


def test_random_memories_are_ordinary_tokens_and_repeat_by_seed(tokenizer):
    memory = random_memory(tokenizer, 500, seed=3)
    assert memory == random_memory(tokenizer, 500, seed=3)
    assert memory.answer_ids != random_memory(tokenizer, 500, seed=4).answer_ids
    assert memory.key_ids != random_memory(tokenizer, 500, seed=4).key_ids
    assert set(memory.answer_ids) <= set(ordinary_ids(tokenizer).tolist())
    assert not set(ordinary_ids(tokenizer).tolist()) & set(tokenizer.all_special_ids)


def test_random_memory_needs_a_length(tokenizer):
    with pytest.raises(ValueError, match="length is 0"):
        random_memory(tokenizer, 0, seed=0)


def test_phonebook_has_unique_names_and_ten_digits(tokenizer):
    book = phonebook(tokenizer, 300, seed=1)
    names = [tokenizer.decode(m.key_ids) for m in book]
    assert len(set(names)) == 300
    assert all(re.fullmatch(r"\w+ \w+:", name) for name in names)
    assert all(re.fullmatch(r"\d{10}", tokenizer.decode(m.answer_ids)) for m in book)
    assert book == phonebook(tokenizer, 300, seed=1)
    assert book != phonebook(tokenizer, 300, seed=2)


@pytest.mark.parametrize("n", [0, 10_001])
def test_phonebook_says_its_range(tokenizer, n):
    with pytest.raises(ValueError, match=f"n is {n}: this phone book has room for 1 to 10000"):
        phonebook(tokenizer, n, seed=0)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([], "no memory given"),
        ([Memory((5,), (6,)), Memory((5,), (7,))], r"memories 0 and 1 share one key: \(5,\)"),
        ([Memory((5,), (258,))], "memory 0 holds token 258: this vocabulary ends at 257"),
        ([Memory((5,) * 100, (6,) * 29)], "memory 0 has 129 tokens.*context window is 128"),
    ],
)
def test_impossible_memories_are_refused(model, batch, message):
    with pytest.raises(ValueError, match=message):
        check_memories(batch, model.config)


def test_the_longest_possible_memory_is_accepted(model):
    check_memories([Memory((5,) * 100, (6,) * 28)], model.config)


@given(memories, st.sampled_from(["left", "right"]))
def test_collate_loses_nothing(batch, side):
    tensors = collate(batch, padding_side=side)
    for row, memory in enumerate(batch):
        real = tensors["attention_mask"][row].bool()
        whole = list(memory.key_ids + memory.answer_ids)
        assert tensors["input_ids"][row][real].tolist() == whole
        assert tensors["position_ids"][row][real].tolist() == list(range(len(whole)))
        labels = tensors["labels"][row]
        assert labels[labels != -100].tolist() == list(memory.answer_ids)
        # A label stands under its own token, and nowhere under padding.
        assert torch.equal(labels[labels != -100], tensors["input_ids"][row][labels != -100])
        assert (labels[~real] == -100).all()


def test_collate_names_the_side_it_was_given():
    with pytest.raises(ValueError, match="padding_side is 'middle'"):
        collate([Memory((1,), (2,))], padding_side="middle")
