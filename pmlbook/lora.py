"""The low-rank update ΔW = (α/r)·BA, by hand and by peft (chapter: LoRA basics; Hu et al. 2021).

`LoRALinear` is the whole idea in one line of `forward`. Around it: an `Adapter` record (the
numbers that were learnt, apart from any model), a context manager that puts one into a model and
takes it out again, and the same adapter made by peft.
"""

import contextlib
import math
import warnings
from dataclasses import dataclass

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from pmlbook.models import check_layers


class LoRALinear(nn.Module):
    """A frozen linear layer plus a trainable low-rank update of it.

    Args:
        base: the layer to adapt, weight W of shape (out, in). Left untouched.
        r: the rank, 1 <= r <= min(in, out).
        lora_alpha: the update is scaled by lora_alpha / r. By default lora_alpha = r: scale 1.
        generator: source of the random start of A, for a reproducible one.

    Raises:
        ValueError: r is not within its range.
    """

    def __init__(self, base: nn.Linear, r: int, lora_alpha: float | None = None, generator=None):
        super().__init__()
        limit = min(base.in_features, base.out_features)
        if not (isinstance(r, int) and 1 <= r <= limit):
            raise ValueError(
                f"r is {r!r}: want a whole number from 1 to {limit}, "
                f"the smaller side of a ({base.out_features}, {base.in_features}) weight"
            )
        self.base = base
        self.r = r
        self.lora_alpha = r if lora_alpha is None else lora_alpha
        self.scaling = self.lora_alpha / r
        device = base.weight.device
        # float32 whatever the base is: an update of 1e-2 per step does not survive in bfloat16.
        self.lora_A = nn.Parameter(torch.empty(r, base.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r, device=device))
        # Uniform within 1/sqrt(in), whatever the rank: peft's start (its kaiming a=sqrt(5)).
        bound = 1 / math.sqrt(base.in_features)
        start = torch.rand(r, base.in_features, generator=generator) * 2 - 1
        self.lora_A.data.copy_(bound * start)

    def forward(self, x):  # (..., in) -> (..., out)
        update = (x.to(self.lora_A.dtype) @ self.lora_A.T) @ self.lora_B.T * self.scaling
        return self.base(x) + update.to(x.dtype)

    def delta_weight(self) -> torch.Tensor:
        """ΔW = (α/r)·BA, shape (out, in)."""
        return self.lora_B @ self.lora_A * self.scaling


@dataclass(frozen=True)
class Adapter:
    """What was learnt, and where it goes: `target` is a module's name in decoder layer `layer`.

    lora_A is (r, in), lora_B is (out, r).
    """

    lora_A: torch.Tensor
    lora_B: torch.Tensor
    lora_alpha: float
    layer: int
    target: str

    @property
    def r(self) -> int:
        """The rank."""
        return self.lora_A.shape[0]

    @property
    def parameters(self) -> int:
        """How many numbers were trained: r · (in + out)."""
        return self.lora_A.numel() + self.lora_B.numel()

    def delta_weight(self) -> torch.Tensor:
        """ΔW = (α/r)·BA, shape (out, in)."""
        return self.lora_B @ self.lora_A * (self.lora_alpha / self.r)


def find_linear(model: PreTrainedModel, layer: int, target: str) -> tuple[nn.Module, str]:
    """Where the linear layer `target` of decoder layer `layer` hangs: (its parent, its name there).

    Raises:
        ValueError: no such layer, or no such linear module in it (the message lists them).
    """
    check_layers(model, layer)
    linears = {}
    for path, module in model.model.layers[layer].named_modules():
        if isinstance(module, nn.Linear):
            parent, _, name = path.rpartition(".")
            linears[name] = (model.model.layers[layer].get_submodule(parent), name)
    if target not in linears:
        raise ValueError(f"no linear module {target!r} in layer {layer}: there are {[*linears]}")
    return linears[target]


@contextlib.contextmanager
def lora_attached(model, layer: int, target: str, r: int, lora_alpha=None, generator=None):
    """Within the `with` block, `target` of `layer` is a fresh `LoRALinear`, which is yielded.

    However the block ends, Ctrl-C included, the model is afterwards as it was found.
    """
    parent, name = find_linear(model, layer, target)
    base = getattr(parent, name)
    lora = LoRALinear(base, r, lora_alpha, generator)
    setattr(parent, name, lora)
    try:
        yield lora
    finally:
        setattr(parent, name, base)


@contextlib.contextmanager
def adapter_attached(model, adapter: Adapter | None):
    """Within the `with` block the model carries `adapter`; with None, it is the base model."""
    if adapter is None:
        yield
        return
    with lora_attached(model, adapter.layer, adapter.target, adapter.r, adapter.lora_alpha) as lora:
        lora.lora_A.data.copy_(adapter.lora_A)
        lora.lora_B.data.copy_(adapter.lora_B)
        lora.requires_grad_(False)
        yield


@contextlib.contextmanager
def adapter_merged(model, adapter: Adapter):
    """Within the `with` block the adapter is merged, W + (α/r)·BA, and no extra layer is left.

    Unmerging puts the saved W back: subtracting ΔW again would leave rounding errors behind.
    """
    parent, name = find_linear(model, adapter.layer, adapter.target)
    weight = getattr(parent, name).weight
    saved = weight.detach().clone()
    delta = adapter.delta_weight().to(weight.device)
    with torch.no_grad():
        weight.copy_((weight.to(delta.dtype) + delta).to(weight.dtype))
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(saved)


def as_peft(model, adapter: Adapter):
    """The same adapter as a peft model. peft changes `model` in place; `.unload()` undoes it."""
    config = LoraConfig(
        r=adapter.r,
        lora_alpha=adapter.lora_alpha,
        target_modules=[adapter.target],
        layers_to_transform=[adapter.layer],
        lora_dropout=0.0,
    )
    with warnings.catch_warnings():
        # transformers 5.23 calls its own old name while peft wraps a model; not the reader's fault.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        wrapped = get_peft_model(model, config)
    (site,) = [m for m in wrapped.modules() if hasattr(m, "lora_A") and "default" in m.lora_A]
    with torch.no_grad():
        site.lora_A["default"].weight.copy_(adapter.lora_A)
        site.lora_B["default"].weight.copy_(adapter.lora_B)
    return wrapped


def lora_parameters(model, r: int, target: str, layers) -> int:
    """How many parameters LoRA of rank `r` trains on `target` of these layers: Σ r · (in + out)."""
    total = 0
    for layer in layers:
        parent, name = find_linear(model, layer, target)
        linear = getattr(parent, name)
        total += r * (linear.in_features + linear.out_features)
    return total
