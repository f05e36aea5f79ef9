"""Write memories into one adapter, and keep the history (chapters: Exact memory, The memory law).

LoRA as a probe: base frozen, one adapter on one projection of one layer, rank r the only knob of
capacity. Two things make a step cheap and change no number. Below the adapter nothing ever
changes, so those hidden states are computed once. And the head runs on answer positions only,
backward on those that the method gives any weight.
"""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from pmlbook.curriculum import share
from pmlbook.data import IGNORE_INDEX, Memory, check_memories, collate
from pmlbook.head import HeadPass
from pmlbook.lora import Adapter, LoRALinear, find_linear, lora_attached
from pmlbook.memft import AnswerTokens, shares, weighting
from pmlbook.models import check_layers
from pmlbook.recall import predicts_answer
from pmlbook.threshold import is_ordered


@dataclass(frozen=True)
class Snapshot:
    """The state after `step` updates: teacher-forced losses of all answer tokens, in nats, whether
    each is the argmax, and the adapter as it was."""

    step: int
    token_losses: np.ndarray  # (Σℓ,), memory after memory
    correct: np.ndarray  # (Σℓ,)
    adapter: Adapter

    @property
    def mean_loss(self) -> float:
        """L after `step` updates, nats."""
        return float(self.token_losses.mean())


@dataclass(frozen=True)
class History:
    """How a memory was written.

    Attributes:
        losses: mean loss (nats) of the batch of each step, before that step's update; whatever
            the method, every answer token counts the same in it.
        snapshots: the recorded states, by step; the first is the base model, the last the end.
        seconds: wall time of the training loop, snapshots included.
        lengths: ℓ of each memory, to split `token_losses`.
    """

    losses: list[float]
    snapshots: list[Snapshot]
    seconds: float
    lengths: list[int]

    @property
    def base_loss(self) -> float:
        """L of the base model, nats."""
        return self.snapshots[0].mean_loss

    @property
    def recited_at(self) -> int | None:
        """The step of the first snapshot in which every token was the argmax; None if in none."""
        return next((s.step for s in self.snapshots if s.correct.all()), None)

    @property
    def final_loss(self) -> float:
        """L after the last update, nats."""
        return self.snapshots[-1].mean_loss

    @property
    def adapter(self) -> Adapter:
        """The adapter after the last update."""
        return self.snapshots[-1].adapter

    def stubborn(self, last: int = 2) -> np.ndarray:
        """Tokens that were at p <= 1/2 in each of the `last` snapshots, the end included (Σℓ,)."""
        return np.all([~is_ordered(s.token_losses) for s in self.snapshots[-last:]], axis=0)


def write(
    model,
    memories: Memory | Sequence[Memory],
    r: int,
    *,
    layer: int | None = None,
    target: str = "down_proj",
    lora_alpha: float | None = None,
    steps: int = 150,
    lr: float = 1e-2,
    batch_size: int | None = None,
    seed: int = 0,
    method="sft",
    curriculum: Sequence[int] | None = None,
    start: Adapter | None = None,
    record_at: Iterable[int] = (),
    progress: bool = True,
) -> History:
    """Train one adapter to hold `memories`; the model itself is afterwards as it was found.

    AdamW without weight decay, gradients clipped to norm 1, `lr` constant and then brought to 0
    over the last 30 % of the steps. Same seed, same machine: same numbers (on a CPU).

    Args:
        r: rank of the adapter.
        layer: decoder layer of the adapter; by default the one two thirds up (see `probe_layer`).
        target: the linear module of that layer which gets the adapter.
        lora_alpha: see `LoRALinear`; by default r.
        batch_size: memories per step; by default all. The batches are fixed, their order random.
        method: "sft", "ot", "sw", or a weighting of `memft` with settings of its own.
        curriculum: epochs at which the share of batches trained on grows (see `curriculum`).
        start: an adapter to go on from, of the same rank and place; by default a fresh one.
        record_at: steps at which to keep a `Snapshot`, besides the start and the end.
        progress: show a bar.

    Returns:
        A `History`; its `adapter` is what was learnt.

    Raises:
        ValueError: see `check_memories`, `LoRALinear`, `find_linear`; or `steps`, `lr` not above 0;
            or `start` is of another rank or place.
        FloatingPointError: the loss is no longer a number.
    """
    memories = [memories] if isinstance(memories, Memory) else list(memories)
    layer = probe_layer(model) if layer is None else layer
    check_memories(memories, model.config)
    find_linear(model, layer, target)
    if not (steps >= 1 and lr > 0):
        raise ValueError(f"steps is {steps} and lr is {lr}: want steps >= 1 and lr > 0")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: want at least 1 memory per step")
    if start is not None and (start.r, start.layer, start.target) != (r, layer, target):
        raise ValueError(
            f"start is of rank {start.r} on {start.target} of layer {start.layer}: "
            f"want rank {r} on {target} of layer {layer}"
        )
    size = batch_size or len(memories)
    was_training = model.training
    model.eval()  # dropout in the base would change the hidden states that we keep
    try:
        prefixes = [
            Prefix(model, collate(memories[i : i + size], device=model.device), layer)
            for i in range(0, len(memories), size)
        ]
        generator = torch.Generator().manual_seed(seed)
        alpha = start.lora_alpha if start is not None else lora_alpha
        with lora_attached(model, layer, target, r, alpha, generator) as lora:
            if start is not None:
                lora.load_state_dict({"lora_A": start.lora_A, "lora_B": start.lora_B}, strict=False)
            marks = {0, steps, *record_at}
            snap = lambda step: _snapshot(step, prefixes, lora, layer, target)  # noqa: E731
            params = [lora.lora_A, lora.lora_B]
            optimizer = torch.optim.AdamW(params, lr=lr, weight_decay=0.0)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: lr_factor(s, steps))
            weigh = weighting(method)
            losses, snapshots, order, epoch = [], [], [], 0
            began = time.perf_counter()
            for step in tqdm(range(steps), desc=f"writing, r={r}", disable=not progress):
                if step in marks:
                    snapshots.append(snap(step))
                if not order:
                    part = 1.0 if curriculum is None else share(epoch, curriculum)
                    count = max(1, round(part * len(prefixes)))
                    order = torch.randperm(count, generator=generator).tolist()
                    epoch += 1
                pass_, tokens = prefixes[order.pop()].head_pass()
                mean = tokens.losses.mean().item()
                if not math.isfinite(mean):
                    raise FloatingPointError(f"loss is {mean} at step {step}: lower lr (now {lr})")
                loss = pass_.weighted_sum(shares(weigh(tokens)))
                # Gradients of the adapter alone: nothing is written into the base's .grad.
                for parameter, grad in zip(params, torch.autograd.grad(loss, params), strict=True):
                    parameter.grad = grad
                torch.nn.utils.clip_grad_norm_(params, 1.0)
                optimizer.step()
                schedule.step()
                losses.append(mean)
            snapshots.append(snap(steps))
            seconds = time.perf_counter() - began
    finally:
        model.train(was_training)
    return History(losses, snapshots, seconds, [m.length for m in memories])


class Prefix:
    """A batch, run through the model once up to decoder layer `layer`, ready to go on from there.

    Every layer from `layer` on is called again with the very arguments the model gave it (masks,
    rotary embeddings), so any padding is handled as the model handles it.

    Raises:
        ValueError: the layer does not exist.
        RuntimeError: the model does something between its layers that this split misses.
    """

    def __init__(self, model, batch: dict[str, torch.Tensor], layer: int):
        check_layers(model, layer)
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        labels = batch["labels"]
        self.model = model
        self.predicts = predicts_answer(labels)  # (N, T)
        self.targets = labels[labels != IGNORE_INDEX]  # (answer tokens,)
        self.sample = (labels != IGNORE_INDEX).nonzero()[:, 0]  # the memory of each answer token
        self.calls = []  # (decoder layer, its keyword arguments)
        hooks = [
            block.register_forward_pre_hook(self._record, with_kwargs=True)
            for block in model.model.layers[layer:]
        ]
        try:
            with torch.no_grad():
                whole = model.model(**inputs, use_cache=False).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        with torch.no_grad():
            straight = model.lm_head(whole[self.predicts]).float()
            if not torch.allclose(self.answer_logits(), straight, atol=1e-2, rtol=1e-2):
                raise RuntimeError(
                    f"{type(model).__name__} cannot be resumed at layer {layer}: its logits differ"
                )

    def _record(self, block, args, kwargs):
        if not self.calls:
            self.hidden = args[0]  # (N, T, d), the input of the adapter's layer
        self.calls.append((block, kwargs))

    def answer_hidden(self) -> torch.Tensor:
        """What the head gets (answer tokens, d), from the stored hidden states upwards."""
        hidden = self.hidden
        for block, kwargs in self.calls:
            hidden = block(hidden, **kwargs)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return self.model.model.norm(hidden[self.predicts])

    def answer_logits(self) -> torch.Tensor:
        """Logits (answer tokens, V), float32."""
        return self.model.lm_head(self.answer_hidden()).float()

    def token_losses(self) -> torch.Tensor:
        """Cross-entropy of each answer token, nats (answer tokens,)."""
        return F.cross_entropy(self.answer_logits(), self.targets, reduction="none")

    def head_pass(self) -> tuple[HeadPass, AnswerTokens]:
        """The pass that gradients come from, and what a weighting has to know of it."""
        done = HeadPass(self.answer_hidden(), self.model.lm_head, self.targets)
        return done, AnswerTokens(done.losses, done.correct, self.sample, self.targets)


def probe_layer(model) -> int:
    """The layer two thirds up: 20 of 30, 24 of 36 (where the paper puts it for Qwen3-8B)."""
    return round(model.config.num_hidden_layers * 2 / 3)


def lr_factor(step: int, steps: int) -> float:
    """Share of the learning rate at `step`: 1, then a straight line to 0 over the last 30 %."""
    return min(1.0, (steps - step) / (0.3 * steps))


@torch.no_grad()
def _snapshot(step, prefixes, lora: LoRALinear, layer, target) -> Snapshot:
    tokens = [prefix.head_pass()[1] for prefix in prefixes]
    losses = torch.cat([batch.losses for batch in tokens]).cpu().numpy()
    correct = torch.cat([batch.correct for batch in tokens]).cpu().numpy()
    a, b = (x.detach().cpu().clone() for x in (lora.lora_A, lora.lora_B))
    return Snapshot(step, losses, correct, Adapter(a, b, lora.lora_alpha, layer, target))
