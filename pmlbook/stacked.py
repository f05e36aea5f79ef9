"""Many memories in one batch: K adapters at one site, trained together (chapter: The memory law).

The base is frozen, and each run's loss depends on its own adapter alone. So the gradient of the
*sum* of the losses holds each run's own gradient, and K runs can share one forward pass. Every
run keeps its own optimizer, clipping, schedule and end: what comes out is what `probe.write` gives.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from pmlbook.data import Memory, check_memories, collate
from pmlbook.lora import Adapter, LoRALinear, find_linear
from pmlbook.memft import shares, weighting
from pmlbook.probe import Prefix, lr_factor

# A run is over when every token has at least this probability: far inside the ordered phase.
SATURATED_P = 0.9
# A run has stopped moving when 50 steps bring less than this share of its first loss.
STALL_STEPS, STALL_SHARE = 50, 0.002


class StackedLoRA(nn.Module):
    """A frozen linear layer and K low-rank updates of it: row k of the batch gets the k-th.

    Ranks may differ: the stacked matrices are padded with zeros, which add nothing to the output.
    """

    def __init__(self, base: nn.Linear, loras: list[LoRALinear]):
        super().__init__()
        self.base = base
        self.loras = loras  # a plain list: these modules are owned by their runs

    def forward(self, x):  # (K, T, in) -> (K, T, out)
        a = pad_sequence([lora.lora_A for lora in self.loras], batch_first=True)  # (K, R, in)
        b = pad_sequence([lora.lora_B.T for lora in self.loras], batch_first=True)  # (K, R, out)
        scaling = x.new_tensor([lora.scaling for lora in self.loras])[:, None, None]
        update = torch.bmm(torch.bmm(x.to(a.dtype), a.mT), b) * scaling
        return self.base(x) + update.to(x.dtype)


@dataclass(frozen=True)
class Job:
    """One memory to be written with one adapter. `name` is handed back with the result."""

    name: object
    memory: Memory
    r: int
    seed: int
    steps: int
    lr: float = 1e-2
    method: object = "sft"  # a name or a weighting, see `memft.weighting`


@dataclass
class Run:
    """A job under way, and what it has come to."""

    job: Job
    lora: LoRALinear
    optimizer: torch.optim.Optimizer
    weigh: Callable
    end: int  # the step at which it stops; `stall` may bring it forward
    losses: list[float] = field(default_factory=list)  # mean loss before each update, nats
    recited_at: int | None = None  # updates until every token was the argmax for the first time
    ended: str = ""  # why: "budget", "saturated", "no active token", "stalled", "failed: …"
    seconds: float = 0.0  # its share of the wall time of the steps that it took part in

    def adapter(self, layer: int, target: str) -> Adapter:
        """What it has learnt so far."""
        a, b = (x.detach().cpu().clone() for x in (self.lora.lora_A, self.lora.lora_B))
        return Adapter(a, b, self.lora.lora_alpha, layer, target)


def write_stacked(
    model,
    jobs: Iterable[Job],
    *,
    layer: int,
    target: str = "down_proj",
    slots: int = 8,
    end_early: bool = True,
    on_step: Callable[[int], None] = lambda runs: None,
) -> Iterator[Run]:
    """Write each job's memory with its own adapter, `slots` at a time; yield runs as they end.

    A run ends with its budget of steps. With `end_early` it also ends when it is saturated (every
    token at p > 0.9) or its method gives no token any weight; and when it has stopped moving, its
    decay starts at once. Its place is taken by the next job. A run whose loss is no longer a
    number ends as "failed", and the others go on.

    Args:
        on_step: called after every step with the number of runs in it, to show progress.

    Raises:
        ValueError: see `check_memories`, `LoRALinear`, `find_linear`.
    """
    parent, name = find_linear(model, layer, target)
    base = getattr(parent, name)
    queue, running, prefix = deque(jobs), [], None
    stacked = StackedLoRA(base, [])
    was_training = model.training
    model.eval()
    setattr(parent, name, stacked)
    try:
        while queue or running:
            while queue and len(running) < slots:
                running.append(_start(queue.popleft(), base, model.config))
                prefix = None
            if prefix is None:  # the batch has changed: run it once up to the adapters' layer
                stacked.loras = [run.lora for run in running]
                memories = [run.job.memory for run in running]
                prefix = Prefix(model, collate(memories, device=model.device), layer)
            _step(prefix, running, end_early)
            on_step(len(running))
            ended = [run for run in running if run.ended]
            if ended:
                running = [run for run in running if not run.ended]
                prefix = None
                setattr(parent, name, base)  # whoever receives a run finds the model as it was
                yield from ended
                setattr(parent, name, stacked)
    finally:
        setattr(parent, name, base)
        model.train(was_training)


def _start(job: Job, base: nn.Linear, config) -> Run:
    check_memories([job.memory], config)
    lora = LoRALinear(base, job.r, generator=torch.Generator().manual_seed(job.seed))
    optimizer = torch.optim.AdamW([lora.lora_A, lora.lora_B], lr=job.lr, weight_decay=0.0)
    return Run(job, lora, optimizer, weighting(job.method), end=job.steps)


def _step(prefix: Prefix, running: list[Run], end_early: bool) -> None:
    """One step of every run: a shared forward and backward, then each on its own."""
    start = time.perf_counter()
    done, tokens = prefix.head_pass()
    coefficients = torch.zeros_like(tokens.losses)
    for i, run in enumerate(running):
        mine = tokens.sample == i
        loss, worst = tokens.losses[mine].mean().item(), tokens.losses[mine].max().item()
        if not math.isfinite(loss):
            run.ended = f"failed: loss is {loss} at step {len(run.losses)}"
            continue
        run.losses.append(loss)
        if run.recited_at is None and tokens.correct[mine].all():
            run.recited_at = len(run.losses) - 1
        if end_early and worst < -math.log(SATURATED_P):
            run.ended = "saturated"
            continue
        weights = run.weigh(tokens.of(i))
        if end_early and not weights.any():
            run.ended = "no active token"
            continue
        coefficients[mine] = shares(weights)
    going = [run for run in running if not run.ended]
    params = [(run.lora.lora_A, run.lora.lora_B) for run in going]
    flat = [parameter for pair in params for parameter in pair]
    grads = torch.autograd.grad(done.weighted_sum(coefficients), flat) if flat else []
    for i, run in enumerate(going):
        for parameter, grad in zip(params[i], grads[2 * i : 2 * i + 2], strict=True):
            parameter.grad = grad
        nn.utils.clip_grad_norm_(params[i], 1.0)
        for group in run.optimizer.param_groups:
            group["lr"] = run.job.lr * lr_factor(len(run.losses) - 1, run.end)
        run.optimizer.step()
        if end_early and _stalled(run):
            run.end = round(len(run.losses) / 0.7)  # the decay, the last 30 %, begins now
        if len(run.losses) == run.end:
            run.ended = "budget" if run.end == run.job.steps else "stalled"
    share = (time.perf_counter() - start) / len(running)
    for run in running:
        run.seconds += share


def _stalled(run: Run) -> bool:
    """True when a run still at full learning rate has stopped moving."""
    steps = len(run.losses)
    if steps % STALL_STEPS or not 2 * STALL_STEPS <= steps < 0.7 * run.end:
        return False
    then, now = (
        sum(run.losses[i : i + STALL_STEPS]) / STALL_STEPS
        for i in (steps - 2 * STALL_STEPS, steps - STALL_STEPS)
    )
    return then - now < STALL_SHARE * run.losses[0]
