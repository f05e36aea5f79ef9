"""The paper's benchmarks, for any tokenizer (chapter: The memory law).

The Long-Context stress test mixes a text with random tokens in a chosen ratio; the PhoneBook is
sized by its answer tokens. Both are made from a seed. The authors' published files can be read too.
"""

import json
from pathlib import Path

import numpy as np

from pmlbook.data import Memory, ordinary_ids, phonebook, text_memory

# A text of our own, so that no model has seen it: some 970 tokens.
STRESS_TEXT = Path(__file__).with_name("stress_text.txt")


def stress_memory(
    tokenizer, length: int, ratio: float, seed: int, text: str | None = None
) -> Memory:
    """The first `length` tokens of `text`, a share `ratio` of them replaced by random tokens.

    At ratio 0 this is plain text, at ratio 1 nothing but random tokens. `seed` chooses the
    places, the tokens, and where in the text the passage begins.

    Raises:
        ValueError: `ratio` is not within 0 to 1, or the text has fewer than `length` tokens.
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio is {ratio}: want a share from 0 to 1")
    text = STRESS_TEXT.read_text() if text is None else text
    ids = np.array(tokenizer(text, add_special_tokens=False).input_ids)
    if not 1 <= length <= len(ids):
        raise ValueError(f"length is {length}: this text has 1 to {len(ids)} tokens to give")
    rng = np.random.default_rng([seed, length, round(100 * ratio)])
    start = rng.integers(len(ids) - length + 1)
    answer = ids[start : start + length].copy()
    places = rng.permutation(length)[: round(ratio * length)]
    answer[places] = rng.choice(ordinary_ids(tokenizer), size=len(places))
    key = tokenizer(f"Passage {seed}:", add_special_tokens=False).input_ids
    return Memory(key, answer)


def sized_phonebook(tokenizer, answer_tokens: int, seed: int, chat: bool = False) -> list[Memory]:
    """A phone book with as many entries as fit into `answer_tokens`, at least one.

    Raises:
        ValueError: not even one number fits, or there are not enough distinct names.
    """
    per_entry = phonebook(tokenizer, 1, seed, chat)[0].length
    if answer_tokens < per_entry:
        raise ValueError(
            f"answer_tokens is {answer_tokens}: one number takes {per_entry} with this tokenizer"
        )
    book = phonebook(tokenizer, answer_tokens // per_entry, seed, chat)
    while sum(memory.length for memory in book) > answer_tokens:  # ten digits may differ in tokens
        book.pop()
    return book


def read_pairs(path, tokenizer, chat: bool = True) -> list[Memory]:
    """Read one pair a line, in either layout that the authors published.

    `{"id": …, "query": …, "target": …, "target_len": …}` or `{"question": …, "matching": …}`.

    Raises:
        ValueError: a line that is neither; the message gives file and line. None is skipped.
    """
    memories = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                pair = json.loads(line)
                key, answer = _key_and_answer(pair)
                memories.append(text_memory(tokenizer, key, answer, chat))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
    if not memories:
        raise ValueError(f"{path} has no line: want one pair a line")
    return memories


def _key_and_answer(pair) -> tuple[str, str]:
    """The two texts of a line's object, whichever layout it has."""
    for names in (("query", "target"), ("question", "matching")):
        if isinstance(pair, dict) and all(isinstance(pair.get(name), str) for name in names):
            return pair[names[0]], pair[names[1]]
    found = sorted(pair) if isinstance(pair, dict) else type(pair).__name__
    raise ValueError(f"want texts under query and target, or question and matching; got {found}")
