"""What a model recites, token by token (chapter: Exact memory).

Two ways to look at one answer. Teacher forcing shows the model the true answer up to t and asks
for token t: that gives p, rank and loss. Free running lets greedy decoding go on from its own
output, as `generate` does: that gives what is really recited. They part at the first error.
"""

import contextlib
import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from transformers import GenerationConfig

from pmlbook.data import IGNORE_INDEX, Memory, check_memories, collate
from pmlbook.lora import Adapter, adapter_attached
from pmlbook.threshold import is_ordered


@dataclass(frozen=True, repr=False)
class Recall:
    """One memory as a model recalls it. Every array has one entry per answer token, (ℓ,).

    Attributes:
        memory: what should have been recited.
        tokens: the answer's tokens as text.
        token_losses: cross-entropy under teacher forcing, nats.
        token_ranks: place of the right token among all, under teacher forcing; 1 is the argmax.
        greedy_ids: what greedy decoding of the key alone gave.
        greedy_tokens: the same as text.
    """

    memory: Memory
    tokens: list[str]
    token_losses: np.ndarray
    token_ranks: np.ndarray
    greedy_ids: np.ndarray
    greedy_tokens: list[str]

    @property
    def p(self) -> np.ndarray:
        """Probability of each right token under teacher forcing."""
        return np.exp(-self.token_losses)

    @property
    def mean_loss(self) -> float:
        """L: mean cross-entropy over answer tokens, nats."""
        return float(self.token_losses.mean())

    @property
    def recited(self) -> np.ndarray:
        """Which tokens greedy decoding, on its own, gets right."""
        return self.greedy_ids == np.array(self.memory.answer_ids)

    @property
    def token_accuracy_teacher_forced(self) -> float:
        """Share of tokens that are the argmax when the true prefix is given."""
        return float((self.token_ranks == 1).mean())

    @property
    def token_accuracy_free_running(self) -> float:
        """Share of tokens that greedy decoding, fed its own output, gets right."""
        return float(self.recited.mean())

    @property
    def exact_match(self) -> bool:
        """True when greedy decoding gives the whole answer."""
        return bool(self.recited.all())

    @property
    def ordered(self) -> np.ndarray:
        """Which tokens have p > 1/2 (Eq. 7)."""
        return is_ordered(self.token_losses)

    @property
    def disordered(self) -> np.ndarray:
        """Which tokens have p <= 1/2; those that stay so when training ends are stubborn."""
        return ~self.ordered

    @property
    def first_failure(self) -> int | None:
        """Position (from 0) of the first token that greedy decoding gets wrong; None: no error."""
        return _first(~self.recited)

    @property
    def first_disordered(self) -> int | None:
        """Position (from 0) of the earliest token with p <= 1/2; None when there is none."""
        return _first(self.disordered)

    def __repr__(self) -> str:
        return (
            f"Recall({self.memory.length} tokens, L = {self.mean_loss:.3f} nats, "
            f"{int(self.ordered.sum())} ordered, {int(self.recited.sum())} recited)"
        )

    def _repr_html_(self) -> str:
        """The answer, tokens shaded by p: blue above 1/2, orange below; errors underlined."""
        spans = []
        for t, token in enumerate(self.tokens):
            color = "0,114,178" if self.ordered[t] else "230,159,0"
            shade = 0.08 + 0.42 * abs(2 * self.p[t] - 1)
            wrong = "" if self.recited[t] else ";text-decoration:underline wavy #D55E00"
            note = f"p = {self.p[t]:.3f}, place {self.token_ranks[t]}"
            if not self.recited[t]:
                note += f", greedy decoding says {self.greedy_tokens[t]!r}"
            spans.append(
                f'<span style="background:rgba({color},{shade:.2f}){wrong}" '
                f'title="{html.escape(note)}">{html.escape(token)}</span>'
            )
        legend = (
            f"{self.ordered.sum()} of {self.memory.length} tokens above ½ (blue), the rest below "
            f"(orange); {int((~self.recited).sum())} recited wrongly (underlined); "
            f"L = {self.mean_loss:.3f} nats"
        )
        return (
            '<div class="pml-recall"><div style="white-space:pre-wrap;line-height:1.9">'
            f"{''.join(spans)}</div><small>{legend}</small></div>"
        )


def recall(model, tokenizer, memory: Memory, adapter: Adapter | None = None) -> Recall:
    """Ask the model, with `adapter` or bare, for one memory."""
    return recall_all(model, tokenizer, [memory], adapter)[0]


@torch.no_grad()
def recall_all(
    model, tokenizer, memories: Sequence[Memory], adapter: Adapter | None = None, batch_size=16
) -> list[Recall]:
    """Ask the model, with `adapter` or bare, for each memory.

    Raises:
        ValueError: see `check_memories`.
    """
    check_memories(memories, model.config)
    records = []
    with adapter_attached(model, adapter):
        for start in range(0, len(memories), batch_size):
            chunk = memories[start : start + batch_size]
            losses, ranks = teacher_forced(model, chunk)
            for memory, loss, rank, ids in zip(
                chunk, losses, ranks, greedy(model, chunk), strict=True
            ):
                texts = [[tokenizer.decode([i]) for i in x] for x in (memory.answer_ids, ids)]
                records.append(Recall(memory, texts[0], loss, rank, ids, texts[1]))
    return records


@torch.no_grad()
def teacher_forced(model, memories: Sequence[Memory]) -> tuple[list, list]:
    """Per memory, the losses (nats) and the ranks (1 = argmax) of its answer tokens, (ℓ,) each."""
    batch = collate(memories, device=model.device)
    labels = batch.pop("labels")
    hidden = model.model(**batch, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[predicts_answer(labels)]).float()  # (answer tokens, V)
    targets = labels[labels != IGNORE_INDEX]
    losses = F.cross_entropy(logits, targets, reduction="none")
    ranks = token_ranks(logits, targets)
    lengths = [m.length for m in memories]
    return tuple([x.cpu().numpy() for x in flat.split(lengths)] for flat in (losses, ranks))


@torch.no_grad()
def greedy(model, memories: Sequence[Memory]) -> list[np.ndarray]:
    """For each memory, ℓ tokens decoded greedily from its key by the model's own `generate`."""
    width = max(len(m.key_ids) for m in memories)
    input_ids = torch.zeros((len(memories), width), dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for row, memory in enumerate(memories):  # padding on the left, so that all keys end together
        input_ids[row, width - len(memory.key_ids) :] = torch.tensor(memory.key_ids)
        attention_mask[row, width - len(memory.key_ids) :] = 1
    with _plain_generation(model):
        output = model.generate(
            input_ids=input_ids.to(model.device),
            attention_mask=attention_mask.to(model.device),
            max_new_tokens=max(m.length for m in memories),
            do_sample=False,
        )
    return [
        ids[: memory.length].cpu().numpy()
        for memory, ids in zip(memories, output[:, width:], strict=True)
    ]


def predicts_answer(labels: torch.Tensor) -> torch.Tensor:
    """Positions whose *next* token is an answer token: where the head has to run, (N, T) bool."""
    mask = torch.zeros_like(labels, dtype=torch.bool)
    mask[:, :-1] = labels[:, 1:] != IGNORE_INDEX
    return mask


def token_ranks(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Place of each target among all logits (n, V) -> (n,); 1 is what argmax picks.

    Of equal logits the lower index comes first, as in `argmax`.
    """
    mine = logits.gather(-1, targets[:, None])
    index = torch.arange(logits.shape[-1], device=logits.device)
    before = (logits > mine) | ((logits == mine) & (index < targets[:, None]))
    return before.sum(-1) + 1


def tokens_frame(records: Sequence[Recall], **columns) -> pd.DataFrame:
    """One row per answer token of all records; `columns` are constants to add (rank, seed, …).

    Columns: memory, position, p, loss, token_rank, ordered, argmax (right under teacher forcing),
    recited (right in free running).
    """
    frames = [
        pd.DataFrame(
            {
                **columns,
                "memory": i,
                "position": np.arange(record.memory.length),
                "p": record.p,
                "loss": record.token_losses,
                "token_rank": record.token_ranks,
                "ordered": record.ordered,
                "argmax": record.token_ranks == 1,
                "recited": record.recited,
            }
        )
        for i, record in enumerate(records)
    ]
    return pd.concat(frames, ignore_index=True)


def _first(mask: np.ndarray) -> int | None:
    return int(mask.argmax()) if mask.any() else None


@contextlib.contextmanager
def _plain_generation(model):
    """Greedy decoding and nothing else.

    A model's own generation settings may hold a repetition penalty (Qwen's do), which is not
    greedy decoding of the model, and an end token, which would cut an answer that contains it.
    """
    saved = model.generation_config
    model.generation_config = GenerationConfig(pad_token_id=0)
    try:
        yield
    finally:
        model.generation_config = saved
