"""The head, with a gradient only where it is wanted (chapter: MemFT).

The head turns each hidden state into one logit per word of the vocabulary: the widest product of
the model. A token without weight needs no gradient, so the way back can leave it out; and in
a wide vocabulary the logits of all tokens at once need not exist.
"""

import torch
import torch.nn.functional as F
from torch import nn

KEEP_BYTES = 512 * 2**20  # logits up to this size are kept for the way back, not computed again


class HeadPass:
    """One pass of answer positions through a frozen head.

    Args:
        hidden: (M, d), the normed hidden states that predict the M answer tokens.
        head: the output layer, weight (V, d); it gets no gradient of its own.
        targets: (M,), the answer tokens.
        keep_bytes: above this many bytes of float32 logits, work goes in chunks of that size.

    Attributes:
        losses: cross-entropy of each token, nats, float32 (M,), without gradient.
        correct: whether each token is the argmax (M,).
    """

    def __init__(self, hidden, head: nn.Linear, targets, keep_bytes: int = KEEP_BYTES):
        self.hidden, self.head, self.targets = hidden, head, targets
        rows = max(1, int(keep_bytes // (4 * head.out_features)))
        self.chunks = torch.arange(len(targets), device=targets.device).split(rows)
        self.kept = None
        losses, correct = [], []
        with torch.no_grad():
            for chunk in self.chunks:
                logits = head(hidden[chunk]).float()  # (rows, V)
                losses.append(F.cross_entropy(logits, targets[chunk], reduction="none"))
                correct.append(logits.argmax(-1) == targets[chunk])
                if len(self.chunks) == 1:
                    self.kept = logits
        self.losses, self.correct = torch.cat(losses), torch.cat(correct)

    def weighted_sum(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Σ c_t L_t, with a gradient to `hidden`; c_t = 0 costs nothing on the way back.

        `coefficients` (M,) are constants. To be called once.
        """
        coefficients = coefficients.detach().float()
        gradient = torch.zeros_like(self.hidden)  # (M, d)
        with torch.no_grad():
            for chunk in self.chunks:
                active = chunk[coefficients[chunk] != 0]
                if not len(active):
                    continue
                if self.kept is None:
                    p = self.head(self.hidden[active]).float().softmax(-1)
                else:
                    p = self.kept[active].softmax(-1)  # (active, V)
                # The gradient of cross-entropy: probabilities minus the one-hot target.
                p[torch.arange(len(active), device=p.device), self.targets[active]] -= 1
                weight = self.head.weight
                p = (p * coefficients[active, None]).to(weight.dtype)
                gradient[active] = (p @ weight).to(gradient.dtype)
            self.kept = None
            used = torch.where(coefficients != 0, self.losses, 0)
            value = (coefficients * used).sum()
        return _Given.apply(self.hidden, gradient, value)


class _Given(torch.autograd.Function):
    """A number whose gradient is already known."""

    @staticmethod
    def forward(ctx, hidden, gradient, value):
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None
