"""MemFT: spend the gradient on tokens that are not safe yet (chapter: MemFT; paper Eq. 8 to 10).

    L = Σ w_t L_t / (Σ w_t + ε)        (Eq. 8; the weights are constants for the gradient)

Plain fine-tuning (SFT) has w = 1. OT keeps the tokens below the threshold, p <= 1/2. SW prefers
the tokens around the first greedy error of each answer, since all behind it is lost anyway.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F

from pmlbook.data import IGNORE_INDEX
from pmlbook.threshold import L_CRIT

EPSILON = 1e-8


@dataclass(frozen=True)
class AnswerTokens:
    """All answer tokens of a batch in a row, answer after answer; padding and keys are gone.

    Attributes:
        losses: cross-entropy of each token, nats, float32 (M,).
        correct: whether the token is the argmax under teacher forcing (M,).
        sample: the number of the answer that each token belongs to, from 0 (M,), rising.
        targets: the tokens (M,).
    """

    losses: torch.Tensor
    correct: torch.Tensor
    sample: torch.Tensor
    targets: torch.Tensor

    @property
    def samples(self) -> int:
        """How many answers there are."""
        return int(self.sample[-1]) + 1 if len(self.sample) else 0

    def of(self, number: int) -> "AnswerTokens":
        """The tokens of one answer alone."""
        mine = self.sample == number
        return AnswerTokens(
            self.losses[mine], self.correct[mine], self.sample[mine] * 0, self.targets[mine]
        )

    def keys(self) -> list[str]:
        """A name for each answer, the same whenever it comes by: a digest of its tokens."""
        counts = torch.bincount(self.sample, minlength=self.samples).tolist()
        parts = self.targets.cpu().split(counts)
        return [
            hashlib.blake2b(part.numpy().tobytes(), digest_size=12).hexdigest() for part in parts
        ]


def scored_positions(labels, position_ids=None) -> tuple[torch.Tensor, torch.Tensor]:
    """Which labels are predicted, and of which answer each is: mask (N, T−1), numbers (M,).

    Column t of the mask is the label at t + 1, predicted from position t. An unbroken run of labels
    is one answer. In packed rows `position_ids` (N, T) start again at each sample: answers end
    there too, and no token counts as predicted from the sample before it.
    """
    scored = labels != IGNORE_INDEX
    scored[:, 0] = False  # nothing predicts a row's first token
    if position_ids is not None:
        position_ids = position_ids.expand_as(labels)
        scored[:, 1:] &= position_ids[:, 1:] == position_ids[:, :-1] + 1
    begins = scored[:, 1:] & ~scored[:, :-1]
    scored = scored[:, 1:]
    return scored, begins[scored].cumsum(0) - 1


def answer_tokens(logits, labels, position_ids=None) -> AnswerTokens:
    """The answer tokens of a batch: `logits` (N, T, V), `labels` (N, T) with −100 elsewhere.

    Labels stand under their own token, as in transformers; the shift by one is made here. For
    what counts as one answer, and for packed rows, see `scored_positions`.

    Raises:
        ValueError: the shapes do not agree.
    """
    if logits.dim() != 3 or logits.shape[:2] != labels.shape:
        raise ValueError(
            f"logits are {tuple(logits.shape)} and labels {tuple(labels.shape)}: "
            "want (N, T, V) and (N, T)"
        )
    scored, sample = scored_positions(labels, position_ids)
    targets = labels[:, 1:][scored]
    flat = logits[:, :-1][scored].float()  # (M, V)
    return AnswerTokens(
        losses=F.cross_entropy(flat, targets, reduction="none"),
        correct=flat.argmax(-1) == targets,
        sample=sample,
        targets=targets,
    )


def shares(weights) -> torch.Tensor:
    """The part w_t / (Σ w + ε) of the loss that each token has in Eq. 8, without gradient (M,)."""
    weights = weights.detach()
    return weights / (weights.sum() + EPSILON)


def memft_loss(losses, weights) -> torch.Tensor:
    """Eq. 8: Σ w L / (Σ w + ε). With no weight at all it is 0, and so is its gradient."""
    return (shares(weights) * losses).sum()


def places(sample: torch.Tensor) -> torch.Tensor:
    """Position of each token within its answer, from 0 (M,)."""
    index = torch.arange(len(sample), device=sample.device)
    starts = torch.ones_like(sample, dtype=torch.bool)
    starts[1:] = sample[1:] != sample[:-1]
    return index - torch.cummax(torch.where(starts, index, 0), 0).values if len(sample) else index


def anchors(tokens: AnswerTokens) -> torch.Tensor:
    """Position of the first greedy error of each answer; infinite where there is none (S,)."""
    place = places(tokens.sample).float()
    place = torch.where(tokens.correct, torch.inf, place)
    none = torch.full((tokens.samples,), torch.inf, device=place.device)
    return none.scatter_reduce(0, tokens.sample, place, "amin")


@dataclass
class SFT:
    """Plain supervised fine-tuning: every answer token counts the same."""

    def __call__(self, tokens: AnswerTokens) -> torch.Tensor:
        """Weights (M,)."""
        return torch.ones_like(tokens.losses).detach()


@dataclass
class OT:
    """Only threshold (Eq. 9): w = 1 where L_t > `threshold` (nats), else 0."""

    threshold: float = L_CRIT

    def __call__(self, tokens: AnswerTokens) -> torch.Tensor:
        """Weights (M,)."""
        return (tokens.losses.detach() > self.threshold).float()


@dataclass
class SW:
    """Sliding window (Eq. 10): w = σ(κ (L_t − threshold)) · φ(t), with the released settings.

    φ is 1 before the anchor a, the answer's first greedy error; exp(−(t − a)/τ) from it to
    `window` tokens behind it; `floor` farther on. It is 1 everywhere when there is no error.

    An anchor that has stood still for `patience` steps is stuck: from then on its window grows by
    half a step, to `most` times its size at the utmost. When the anchor moves, it is small again.
    """

    threshold: float = L_CRIT
    kappa: float = 10.0  # 1 / nats
    tau: float = 20.0  # tokens
    window: int = 50  # tokens
    floor: float = 0.01
    patience: int = 3  # steps
    most: float = 4.0
    # answer -> (its last anchor, how many steps it has stood still)
    still: dict[str, tuple[float, int]] = field(default_factory=dict, repr=False)

    def __call__(self, tokens: AnswerTokens) -> torch.Tensor:
        """Weights (M,). Each call is one training step of the answers in `tokens`."""
        anchor = anchors(tokens)  # (S,)
        window = self.windows(tokens.keys(), anchor)
        gate = torch.sigmoid(self.kappa * (tokens.losses.detach() - self.threshold))
        return gate * self.shape(tokens.sample, anchor, window)

    def shape(self, sample, anchor, window) -> torch.Tensor:
        """φ (M,), given each answer's anchor and window (S,)."""
        behind = places(sample) - anchor[sample]  # −inf without an error
        near = torch.exp(-behind.clamp(min=0) / self.tau)
        far = torch.where(behind <= window[sample], near, self.floor)
        return torch.where(behind < 0, 1.0, far)

    def windows(self, keys: Sequence[str], anchor: torch.Tensor) -> torch.Tensor:
        """The window of each answer (S,) in tokens; remembers how long its anchor has stood."""
        sizes = []
        for key, place in zip(keys, anchor.tolist(), strict=True):
            last, count = self.still.get(key, (None, 0))
            count = count + 1 if place == last else 0
            self.still[key] = (place, count)
            growth = 1.5 ** max(0, count - self.patience + 1)
            sizes.append(self.window * min(growth, self.most))
        return torch.tensor(sizes, device=anchor.device)

    def state_dict(self) -> dict:
        """What a resumed training has to know, ready for JSON."""
        return {"still": {key: list(state) for key, state in self.still.items()}}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a `state_dict`."""
        self.still = {key: tuple(value) for key, value in state["still"].items()}


METHODS = {"sft": SFT, "ot": OT, "sw": SW}
# SW taken apart: its soft gate without the window, and its window behind OT's hard gate.
PARTS = {
    "soft-gate": partial(SW, tau=math.inf, window=10**9),
    "hard-window": partial(SW, kappa=1e9),
}


def weighting(method):
    """A fresh weighting of that name; or the weighting itself, if one is given.

    Names: "sft", "ot", "sw"; "ot:0.7" is OT with its threshold at p = 0.7; and those of `PARTS`.

    Raises:
        ValueError: unknown name, or a threshold that is no probability between 0 and 1.
    """
    if callable(method):
        return method
    name, colon, p = method.partition(":")
    known = METHODS | PARTS
    if name not in known or (colon and name != "ot"):
        raise ValueError(f"unknown method {method!r}: want one of {', '.join(known)}, ot:0.7")
    if not colon:
        return known[name]()
    if not 0 < float(p) < 1:
        raise ValueError(f"threshold of {method!r}: want a probability between 0 and 1")
    return OT(threshold=-math.log(float(p)))
