"""The temporal curriculum: first a few samples, then more, at last all (chapter: MemFT).

The paper's SW across the batches of a phone book: samples are shuffled once; training sees the
first 20, 40, 60, 80, 100 % of them, and the share grows at set epochs.
"""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)
# Epochs at which each share ends, by the number of answer tokens (the paper's, for Qwen3-8B).
PAPER = {
    2000: (20, 40, 60, 80, 300),
    8000: (30, 60, 90, 120, 350),
    12000: (60, 120, 180, 240, 500),
    24000: (80, 160, 240, 320, 600),
    32000: (100, 200, 300, 400, 700),
}


def paper_epochs(answer_tokens: int) -> tuple[int, ...]:
    """The paper's epochs for a phone book of this size; the next larger size it names.

    Raises:
        ValueError: larger than any that the paper names.
    """
    for size, epochs in PAPER.items():
        if answer_tokens <= size:
            return epochs
    raise ValueError(f"answer_tokens is {answer_tokens}: the paper's largest is {max(PAPER)}")


def epochs_for(steps: int, batches: int) -> tuple[int, ...]:
    """The paper's smallest schedule, 20 : 40 : 60 : 80 : 300, for a training of `steps` steps.

    `batches` is how many make up a full epoch. Early epochs are short: the five stages take
    0.2 + 0.4 + 0.6 + 0.8 + 11 = 13 full epochs for each unit of 20.
    """
    unit = max(1, round(steps / (13 * batches)))
    return (unit, 2 * unit, 3 * unit, 4 * unit, 15 * unit)


def share(epoch: int, epochs: Sequence[int]) -> float:
    """Which share of the samples is trained on in `epoch` (from 0).

    Raises:
        ValueError: `epochs` are not five rising numbers.
    """
    if len(epochs) != len(SHARES) or list(epochs) != sorted(set(epochs)):
        raise ValueError(f"epochs are {tuple(epochs)}: want {len(SHARES)} rising numbers")
    return next((s for s, end in zip(SHARES, epochs, strict=True) if epoch < end), 1.0)


class CurriculumSampler(Sampler[int]):
    """The samples of a whole training in one pass: its epochs, one after another.

    Shuffled once by `seed`; within an epoch the order is drawn anew, from seed and epoch alone. So
    its place is the number of samples that were taken: a trainer that resumes by skipping what
    it has seen, as transformers' does, goes on in the very epoch where it stopped. Since epochs
    differ in length, a batch may hold the end of one and the beginning of the next.
    """

    def __init__(self, size: int, epochs: Sequence[int], seed: int = 0):
        self.counts = [
            max(1, round(share(e, epochs) * size)) for e in range(max(epochs, default=0))
        ]
        self.seed = seed
        self.first = torch.randperm(size, generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return sum(self.counts)

    def __iter__(self) -> Iterator[int]:
        for epoch, count in enumerate(self.counts):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            yield from self.first[torch.randperm(count, generator=generator)].tolist()
