"""Which preset this machine can run, and why (chapter: At the paper's scale)."""

import torch

from pmlbook.cost import memory_gb
from pmlbook.models import pick_device
from pmlbook.sweep import planned_cells

SCALES = ("paper", "colab", "cpu")  # the largest first; each is a preset of the sweep


def free_gpu_gb() -> float:
    """Free memory of the first GPU in GB; 0 without one."""
    return torch.cuda.mem_get_info()[0] / 1e9 if pick_device() == "cuda" else 0.0


def pick_scale(wanted: str | None = None, free_gb: float | None = None) -> tuple[str, str]:
    """A scale and the reason for it: the one `wanted`, or the largest that fits.

    Args:
        free_gb: GPU memory to count on; by default what is free now.

    Raises:
        ValueError: `wanted` is no scale, or does not fit, in which case it says what to lower.
    """
    free = free_gpu_gb() if free_gb is None else free_gb
    needs = {scale: memory_gb(planned_cells(scale), slots=1) for scale in SCALES}
    fits = [scale for scale in SCALES if scale == "cpu" or needs[scale] < free]
    here = f"{free:.0f} GB of GPU memory are free" if free else "no GPU was found"
    if wanted is None:
        return fits[0], f"{here}, and {fits[0]!r} is the largest scale that fits"
    if wanted not in SCALES:
        raise ValueError(f"SCALE is {wanted!r}: want one of {', '.join(SCALES)}")
    if wanted not in fits:
        raise ValueError(
            f"SCALE is {wanted!r}, which needs {needs[wanted]:.0f} GB at one run a batch, and "
            f"{here}: take {fits[0]!r}"
        )
    return wanted, f"you asked for it, and {here}"
