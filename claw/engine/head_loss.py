"""Losses through the output head whose logits over the vocabulary exist for a few positions at a time.

The gradient with respect to hidden states and head is worked out in the forward pass, chunk by chunk: with logits
z = W h, the cross-entropy has dz = softmax(z) - e_target. So the head costs three matrix products in all, nothing is
computed twice, and no tensor over all positions and the vocabulary is ever made.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from claw.models.arithmetic import readout_of

CHUNK = 1024  # positions whose logits exist at one time
ROWS = 16  # positions that are widened to float32 at one time: few enough to stay in a processor's cache

Gradient = Callable[[Tensor, Tensor, slice], tuple[Tensor, Tensor]]
"""Logits (n, V) in float32, room like them, and their places, to losses (n, 1) and gradients (n, V), perhaps in the room."""


class Head(NamedTuple):
    """What gives logits (N, V) from hidden states h (N, d): cap · tanh((W h + b) / cap), or W h + b without a cap."""

    weight: Tensor  # (V, d)
    bias: Tensor | None = None  # (V,)
    cap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """In float32."""
        wide = F.linear(hidden, self.weight, self.bias).float()
        return wide if self.cap is None else (wide / self.cap).tanh_() * self.cap


def head_of(model: Any) -> Head:
    """What gives a model's logits from its last hidden states, which are to be multiplied by `Readout.scale` before."""
    head = model.get_output_embeddings()
    return Head(head.weight, head.bias, readout_of(model).cap)


class HeadLoss(torch.autograd.Function):
    """Sum over positions of a loss of logits, for hidden states (N, d) and the parts of a `Head`."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor | None, cap: float | None, gradient: Gradient) -> Tensor:
        total = torch.zeros((), device=hidden.device, dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden)
        zeros = lambda of: torch.zeros(of.shape, device=of.device, dtype=torch.float32)
        grad_weight = zeros(weight) if weight.requires_grad else None
        grad_bias = zeros(bias) if bias is not None and bias.requires_grad else None
        room = min(len(hidden), CHUNK)
        rows = min(room, ROWS if hidden.device.type == "cpu" else CHUNK)
        kept = torch.empty(room, len(weight), device=hidden.device, dtype=hidden.dtype)  # made once: fresh memory is slow
        wide, scratch = torch.empty(2, rows, len(weight), device=hidden.device, dtype=torch.float32)
        for start in range(0, len(hidden), CHUNK):
            part = hidden[start : start + CHUNK]
            logits = torch.mm(part, weight.t(), out=kept[: len(part)])
            for first in range(0, len(part), rows):
                piece = logits[first : first + rows]
                given = wide[: len(piece)].copy_(piece)
                if bias is not None:
                    given += bias
                if cap is not None:
                    given.div_(cap).tanh_().mul_(cap)
                losses, slopes = gradient(given, scratch[: len(piece)], slice(start + first, start + first + len(piece)))
                total += losses.sum()
                if cap is not None:
                    slopes = slopes * (1 - (given / cap).square_())
                if grad_bias is not None:
                    grad_bias += slopes.sum(0)
                piece.copy_(slopes)
            torch.mm(logits, weight, out=grad_hidden[start : start + CHUNK])
            if grad_weight is not None:
                grad_weight += logits.t() @ part
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return total

    @staticmethod
    def backward(ctx, scale: Tensor):
        grad_hidden, *of_head = ctx.saved_tensors
        # the scale is one number, known to be 1 / the number of targets: exact in float32, one pass in either type
        scaled = (None if grad is None else grad.mul_(scale) for grad in of_head)
        return grad_hidden * scale, *scaled, None, None


def head_cross_entropy(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    """Sum of -log p(target) over positions, in nats; hidden (N, d), targets (N,)."""

    def gradient(logits: Tensor, room: Tensor, where: slice):
        index = targets[where, None]
        p, said = probabilities(logits, index, room)
        p.scatter_add_(1, index, torch.full_like(said, -1.0))
        return -said, p

    return HeadLoss.apply(hidden, *head, gradient)


def probabilities(logits: Tensor, index: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities (n, V), in `room`, of logits in float32, and log-probabilities (n, 1) of the tokens `index` (n, 1)."""
    p = torch.softmax(logits, -1, out=room)
    said = p.gather(1, index).log_()
    if (rare := said < -60).any():  # near or below what float32 holds as a probability
        said = torch.where(rare, logits.gather(1, index) - logits.logsumexp(-1, keepdim=True), said)
    return p, said
