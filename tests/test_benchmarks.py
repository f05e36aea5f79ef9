"""The paper's benchmarks: exact shares of random tokens, sizes, and files read without mercy."""

import json

import numpy as np
import pytest
from conftest import byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from pmlbook.benchmarks import STRESS_TEXT, read_pairs, sized_phonebook, stress_memory

TOKENIZER = byte_tokenizer()
TEXT_IDS = TOKENIZER(STRESS_TEXT.read_text(), add_special_tokens=False).input_ids


@given(length=st.integers(1, 40), ratio=st.sampled_from([0, 0.2, 0.4, 0.6, 0.8, 1]))
def test_so_many_tokens_are_random_and_the_rest_is_the_text(length, ratio):
    answer = stress_memory(TOKENIZER, length, ratio, seed=1).answer_ids
    assert len(answer) == length
    # The passage begins somewhere in the text; at that place all unreplaced tokens agree.
    passages = (TEXT_IDS[i : i + length] for i in range(len(TEXT_IDS) - length + 1))
    agree = max(sum(a == b for a, b in zip(answer, p, strict=True)) for p in passages)
    assert agree >= length - round(ratio * length)


def test_ratio_0_is_the_text_and_ratio_1_is_not(tokenizer):
    plain = stress_memory(tokenizer, 50, 0.0, seed=3)
    assert tokenizer.decode(plain.answer_ids) in STRESS_TEXT.read_text()
    noise = np.array(stress_memory(tokenizer, 50, 1.0, seed=3).answer_ids)
    assert np.mean(noise == np.array(plain.answer_ids)) < 0.2


def test_same_seed_same_memory_other_seed_another(tokenizer):
    first, again, other = (stress_memory(tokenizer, 30, 0.6, seed) for seed in (1, 1, 2))
    assert first == again and first.answer_ids != other.answer_ids


def test_a_text_of_ones_own(tokenizer):
    assert stress_memory(tokenizer, 3, 0.0, 0, text="abc").answer_ids == tuple(
        tokenizer("abc").input_ids
    )


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_bad_ratio(tokenizer, ratio):
    with pytest.raises(ValueError, match="ratio is"):
        stress_memory(tokenizer, 10, ratio, 0)


@pytest.mark.parametrize("length", [0, 4])
def test_bad_length(tokenizer, length):
    with pytest.raises(ValueError, match="has 1 to 3 tokens to give"):
        stress_memory(tokenizer, length, 0.5, 0, text="abc")


@pytest.mark.parametrize("size", [10, 25, 99])
def test_a_phonebook_fills_its_size_and_no_more(tokenizer, size):
    total = sum(memory.length for memory in sized_phonebook(tokenizer, size, seed=0))
    assert size - 11 < total <= size


def test_a_phonebook_too_small(tokenizer):
    with pytest.raises(ValueError, match="answer_tokens is 5"):
        sized_phonebook(tokenizer, 5, seed=0)


QUERY = {"id": 1, "query": "Who?", "target": "Nobody.", "target_len": 3}
QUESTION = {"question": "Who?", "matching": "Nobody."}


@pytest.mark.parametrize("pair", [QUERY, QUESTION])
def test_both_published_layouts(tokenizer, tmp_path, pair):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(pair) + "\n" + json.dumps(pair) + "\n")
    memories = read_pairs(path, tokenizer, chat=False)
    assert [tokenizer.decode(m.answer_ids) for m in memories] == ["Nobody.", "Nobody."]


@pytest.mark.parametrize(
    "line", ["not json", "[1, 2]", '{"query": "Who?"}', '{"query": "Who?", "target": 5}', "",
             '{"query": "Who?", "target": ""}'],
)  # fmt: skip
def test_a_bad_line_is_named(tokenizer, tmp_path, line):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(QUERY) + "\n" + line + "\n" + json.dumps(QUERY) + "\n")
    with pytest.raises(ValueError, match=r"pairs\.jsonl, line 2"):
        read_pairs(path, tokenizer)


def test_an_empty_file(tokenizer, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="has no line"):
        read_pairs(tmp_path / "empty.jsonl", tokenizer)
