"""Exact memories: a key, and the answer it must bring back token by token (chapter: Exact memory).

A memory is stored as token ids, key and answer tokenised apart, so that the border between what
conditions and what is scored is ours and not the tokenizer's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pmlbook.names import FIRST, LAST

IGNORE_INDEX = -100  # labels with this value are left out of the loss, as everywhere in PyTorch


@dataclass(frozen=True)
class Memory:
    """A pair (q, a): shown `key_ids`, the model must continue with exactly `answer_ids`.

    Raises:
        ValueError: the key or the answer is empty, or an id is not a whole number >= 0.
    """

    key_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]

    def __post_init__(self):
        for name in ("key_ids", "answer_ids"):
            ids = tuple(int(i) for i in getattr(self, name))
            if not ids:
                raise ValueError(f"{name} is empty: a memory needs at least one token there")
            if min(ids) < 0:
                raise ValueError(f"{name} holds {min(ids)}: token ids start at 0")
            object.__setattr__(self, name, ids)

    @property
    def length(self) -> int:
        """ℓ, the number of answer tokens."""
        return len(self.answer_ids)


def text_memory(tokenizer, key: str, answer: str, chat: bool = False) -> Memory:
    """A memory from two strings; with `chat`, the key becomes a user's turn in the chat template.

    Raises:
        ValueError: one of the texts gives no token.
    """
    if chat:
        turn = [{"role": "user", "content": key}]
        key = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    key_ids = tokenizer(key, add_special_tokens=False).input_ids
    answer_ids = tokenizer(answer, add_special_tokens=False).input_ids
    if not answer_ids:
        raise ValueError(f"the answer {answer!r} gives no token")
    return Memory(key_ids, answer_ids)


def ordinary_ids(tokenizer) -> np.ndarray:
    """Every id of the vocabulary that stands for ordinary text: no special, no added token."""
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    return np.array([i for i in range(len(tokenizer)) if i not in special])


def random_memory(tokenizer, length: int, seed: int, key: str | None = None) -> Memory:
    """`length` answer tokens drawn uniformly from the ordinary vocabulary: nothing to guess.

    The default key names the seed, so memories of different seeds have different keys.

    Raises:
        ValueError: `length` is below 1.
    """
    if length < 1:
        raise ValueError(f"length is {length}: an answer needs at least 1 token")
    answer_ids = np.random.default_rng(seed).choice(ordinary_ids(tokenizer), size=length)
    key = f"Memory {seed}:" if key is None else key
    return Memory(tokenizer(key, add_special_tokens=False).input_ids, answer_ids)


def phonebook(tokenizer, n: int, seed: int, chat: bool = False) -> list[Memory]:
    """`n` memories "First Last:" -> ten random digits, no name twice.

    Raises:
        ValueError: `n` is below 1 or above the number of distinct names.
    """
    if not 1 <= n <= len(FIRST) * len(LAST):
        raise ValueError(f"n is {n}: this phone book has room for 1 to {len(FIRST) * len(LAST)}")
    rng = np.random.default_rng(seed)
    people = rng.choice(len(FIRST) * len(LAST), size=n, replace=False)
    numbers = rng.integers(0, 10, size=(n, 10))
    return [
        text_memory(
            tokenizer,
            key=f"{FIRST[who // len(LAST)]} {LAST[who % len(LAST)]}:",
            answer="".join(map(str, digits)),
            chat=chat,
        )
        for who, digits in zip(people, numbers, strict=True)
    ]


def check_memories(memories: Sequence[Memory], config) -> None:
    """Raise a ValueError unless a model with this `config` can be asked for these memories.

    Refused: no memory at all, one key for two memories, a token outside the vocabulary, key and
    answer together longer than the context window.
    """
    if not memories:
        raise ValueError("no memory given: want at least one")
    seen: dict[tuple[int, ...], int] = {}
    window = config.max_position_embeddings
    for i, memory in enumerate(memories):
        if (first := seen.setdefault(memory.key_ids, i)) != i:
            raise ValueError(f"memories {first} and {i} share one key: {memory.key_ids}")
        if (top := max(memory.key_ids + memory.answer_ids)) >= config.vocab_size:
            raise ValueError(
                f"memory {i} holds token {top}: this vocabulary ends at {config.vocab_size - 1}"
            )
        if (total := len(memory.key_ids) + memory.length) > window:
            raise ValueError(
                f"memory {i} has {total} tokens, key and answer: the context window is {window}"
            )


def collate(
    memories: Sequence[Memory], padding_side: str = "right", device=None
) -> dict[str, torch.Tensor]:
    """Pad memories to one batch: `input_ids`, `attention_mask`, `position_ids`, `labels` (N, T).

    Labels are −100 on keys and padding, so a loss sees answer tokens only. They stand under their
    own token: the shift by one is made where the loss is computed, as in transformers.
    """
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side is {padding_side!r}: want 'left' or 'right'")
    width = max(len(m.key_ids) + m.length for m in memories)
    shape = (len(memories), width)
    input_ids = torch.zeros(shape, dtype=torch.long)  # the mask hides whatever stands in padding
    attention_mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORE_INDEX)
    for row, memory in enumerate(memories):
        ids = torch.tensor(memory.key_ids + memory.answer_ids)
        start = 0 if padding_side == "right" else width - len(ids)
        end = start + len(ids)
        input_ids[row, start:end] = ids
        attention_mask[row, start:end] = 1
        labels[row, end - memory.length : end] = ids[-memory.length :]
    batch = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "position_ids": (attention_mask.cumsum(1) - 1).clamp(min=0),
        "labels": labels,
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}
