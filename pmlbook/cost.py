"""What a sweep will cost, before it starts (chapter: The memory law).

A step multiplies each token with every weight above the adapter, once forward and once backward
(the frozen weights need no gradient of their own), and each answer token with the head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pmlbook.head import KEEP_BYTES


@dataclass(frozen=True)
class Size:
    """Weights of one decoder layer and of the head, in millions; and how many layers."""

    layers: int
    per_layer: float
    head: float
    tied: bool = True  # the input embedding is the head's weight


# From the models' published configurations.
SIZES = {
    "smollm2-135m": Size(30, 3.5, 28.3),
    "qwen3-0.6b": Size(28, 15.7, 155.6),
    "qwen3-1.7b": Size(28, 50.3, 311.2),
    "qwen3-8b": Size(36, 192.9, 622.3, tied=False),
    "llama-3.1-8b": Size(32, 218.1, 525.3, tied=False),
}


@dataclass(frozen=True)
class Device:
    """Multiplications and additions per second, in units of 10^12; and memory in GB."""

    speed: float
    gb: float


# The cores' speed is that of this book's sweeps (some 450 answer tokens a second at layer 20). The
# GPUs' is a third of what the maker states for 16 bits: a rule of thumb, not a measurement.
DEVICES = {
    "2 CPU cores": Device(0.11, 8),
    "T4": Device(20.0, 16),
    "L4": Device(40.0, 24),
    "H200": Device(330.0, 141),
}


def tokens_a_step(cell) -> int:
    """Answer tokens that one step of a run sees: of a phone book, 16 entries of 10 digits."""
    return min(cell.length, 160) if cell.kind == "phonebook" else cell.length


def token_steps(cells: Sequence) -> float:
    """Answer tokens times steps, over all cells (at most: runs may end early)."""
    return sum(cell.steps * tokens_a_step(cell) for cell in cells)


def floating_point_operations(cells: Sequence) -> float:
    """Multiplications and additions of the training of all cells, at most."""
    total = 0.0
    for cell in cells:
        size = SIZES[cell.model]
        weights = (size.layers - cell.layer) * size.per_layer + size.head  # millions
        total += 4e6 * weights * cell.steps * tokens_a_step(cell)
    return total


def memory_gb(cells: Sequence, slots: int) -> float:
    """Memory at the widest batch, in GB: weights, hidden states above the adapter, logits.

    A decoder layer of width d keeps some 34 d bytes a token for the way back in 16 bits
    (Korthikanti et al. 2022, Eq. 1, without the attention matrix); its weights are about 12 d².
    Of the logits at most `KEEP_BYTES` exist at once, in some three copies.
    """
    needs = []
    for cell in cells:
        size = SIZES[cell.model]
        small = cell.model == "smollm2-135m"
        bytes_each = 4 if small else 2  # hub models run in 16 bits on a GPU
        heads = size.head * (1 if size.tied else 2)
        weights = (size.layers * size.per_layer + heads) * 1e6 * bytes_each
        tokens = tokens_a_step(cell) * (1 if cell.kind == "phonebook" else slots)
        width = (size.per_layer * 1e6 / 12) ** 0.5
        kept = tokens * (size.layers - cell.layer) * 34 * width * bytes_each / 2
        logits = 3 * min(KEEP_BYTES, 4 * tokens * (49_152 if small else 152_000))
        needs.append(weights + kept + logits)
    return max(needs, default=0.0) / 1e9


def hours(cells: Sequence, slots: int) -> dict[str, float]:
    """Hours on each device that has the memory, by the matrix products alone.

    Not in it: attention, the recital at the end of each run, waiting. Not deducted: early ends.
    """
    work, need = floating_point_operations(cells), memory_gb(cells, slots)
    fits = {name: device for name, device in DEVICES.items() if need < device.gb}
    return {name: work / device.speed / 1e12 / 3600 for name, device in fits.items()}


def describe(cells: Sequence, slots: int) -> str:
    """The cost in words: runs, steps, memory, hours on the devices with so much of it."""
    found = hours(cells, slots)
    times = ", ".join(f"{time:.1f} on {device}" for device, time in found.items())
    steps = sum(cell.steps for cell in cells)
    return (
        f"{len(cells)} runs, {steps:,} steps of a run, {token_steps(cells) / 1e6:.1f} million "
        f"tokens; about {memory_gb(cells, slots):.0f} GB at {slots} runs a batch; hours of matrix "
        f"products: {times or 'more memory than any device we know has (fewer --slots?)'}"
    )
