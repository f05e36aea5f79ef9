"""MemFT in transformers' Trainer (chapter: MemFT; paper Eq. 8).

    Trainer(model, args, train_dataset=data, compute_loss_func=MemFTLoss("ot"))
    MemFTTrainer(model, args, train_dataset=data, method="ot")

Eq. 8 divides by Σ w of the *whole step*, all its micro-batches and all processes together. A loss
function sees one micro-batch at a time, so the first form is for steps of one micro-batch on
one process, and says so otherwise. The second is exact in every case.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import Trainer, TrainerCallback

from pmlbook.curriculum import CurriculumSampler
from pmlbook.data import IGNORE_INDEX
from pmlbook.memft import EPSILON, answer_tokens, memft_loss, weighting

STATE_FILE = "memft.json"


class MemFTLoss:
    """Eq. 8 as a `compute_loss_func`. An unbroken run of labels counts as one answer.

    Args:
        method: "sft", "ot", "sw", or a weighting of `memft` with settings of its own.

    Raises:
        ValueError: the method is unknown; or, when called, the step has labels elsewhere too
            (gradient accumulation, several processes): Σ w is not known then.
    """

    def __init__(self, method="ot"):
        self.weigh = weighting(method)

    def __call__(self, outputs, labels, num_items_in_batch=None) -> torch.Tensor:
        """The loss of one batch; `outputs.logits` is (N, T, V), `labels` (N, T)."""
        tokens = answer_tokens(outputs.logits, labels)
        if num_items_in_batch is not None and num_items_in_batch > (labels != IGNORE_INDEX).sum():
            raise ValueError(
                f"this batch has {len(tokens.losses)} labels of {int(num_items_in_batch)} in the "
                "step: with gradient accumulation or several processes take MemFTTrainer, which "
                "knows Σ w of the whole step"
            )
        return memft_loss(tokens.losses, self.weigh(tokens))


class WholeStep:
    """Eq. 8 with Σ w taken over the whole step: a mixin for Trainer and its kin.

    How: after k micro-batches the gradients are those of Σ w L / S_k, with S_k the weights so far.
    The next one brings its own weights, so what is there is first brought from 1/S_k to 1/S_(k+1).
    In evaluation the loss is the plain mean, whatever the method, so that methods compare.

    Packed rows: give `position_ids`, and no attention_mask. A checkpoint holds the weighting's
    state; resuming takes it up again.

    Args:
        method: "sft", "ot", "sw", or a weighting of `memft` with settings of its own.
        curriculum: epochs at which the share of the samples grows (see `curriculum`). The whole
            of it counts as one epoch of the Trainer, so `num_train_epochs` has to be 1.

    Raises:
        ValueError: the method is unknown; or a curriculum and another number of epochs.
    """

    loss_is_scaled_for_ga = True  # read by transformers from 5.21 on; before, compute_loss_func is

    def __init__(self, *args, method="ot", curriculum: Sequence[int] | None = None, **kwargs):
        self.weigh, self.curriculum = weighting(method), curriculum
        super().__init__(*args, **kwargs)
        if curriculum is not None and self.args.num_train_epochs != 1:
            raise ValueError(
                f"num_train_epochs is {self.args.num_train_epochs}: a curriculum has epochs of its "
                "own, and wants 1"
            )
        self._step, self._sum = None, 0.0
        self.add_callback(_KeepState(self.weigh))

    def _get_train_sampler(self, train_dataset=None):
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.curriculum is None:
            return super()._get_train_sampler(dataset)
        return CurriculumSampler(len(dataset), self.curriculum, self.args.seed)

    def answers(self, model, inputs):
        """Run the model: its `AnswerTokens`, and its outputs."""
        raise NotImplementedError

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """See `Trainer.compute_loss`."""
        tokens, outputs = self.answers(model, dict(inputs))
        if model.training:
            loss = self._share(model, tokens)
        else:
            loss = tokens.losses.sum() / max(1, len(tokens.losses))
        return (loss, outputs) if return_outputs else loss

    def _share(self, model, tokens) -> torch.Tensor:
        """This micro-batch's part of the step's loss; the parts before it are brought in line."""
        weights = self.weigh(tokens)
        total = self.accelerator.reduce(weights.sum().detach(), "sum")
        if self._step != self.state.global_step:  # the first micro-batch of a step
            self._step, self._sum = self.state.global_step, 0.0
        before, self._sum = self._sum, self._sum + total
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_((before + EPSILON) / (self._sum + EPSILON))
        # Gradients are averaged over processes, and want to be summed.
        parts = self.accelerator.num_processes
        return parts * (weights * tokens.losses).sum() / (self._sum + EPSILON)


class MemFTTrainer(WholeStep, Trainer):
    """transformers' Trainer with the loss of Eq. 8, however a step is cut (see `WholeStep`)."""

    def __init__(self, *args, method="ot", **kwargs):
        # Not called; before 5.21 its presence tells Trainer that the loss needs no more scaling.
        scaled = MemFTLoss(method)
        super().__init__(*args, method=method, compute_loss_func=scaled, **kwargs)

    def answers(self, model, inputs):
        """From whole logits. No cache: with one, packed samples would see each other."""
        labels = inputs.pop("labels")
        outputs = model(**inputs, use_cache=False)
        return answer_tokens(outputs.logits, labels, inputs.get("position_ids")), outputs


class _KeepState(TrainerCallback):
    """Write the weighting's state beside each checkpoint, and read it when one is resumed."""

    def __init__(self, weigh):
        self.weigh = weigh

    def _path(self, args, state) -> Path:
        return Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE_FILE

    def on_save(self, args, state, control, **kwargs):
        if hasattr(self.weigh, "state_dict") and state.is_world_process_zero:
            self._path(args, state).write_text(json.dumps(self.weigh.state_dict()))

    def on_train_begin(self, args, state, control, **kwargs):
        path = self._path(args, state)
        if hasattr(self.weigh, "load_state_dict") and path.exists():
            self.weigh.load_state_dict(json.loads(path.read_text()))
