"""Losses through the output head whose logits over the vocabulary exist for a few positions at a time.

The gradient with respect to hidden states and head is worked out in the forward pass, chunk by chunk: with logits
z = W h, the cross-entropy has dz = softmax(z) - e_target. So the head costs three matrix products in all, nothing is
computed twice, and no tensor over all positions and the vocabulary is ever made.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 1024  # positions whose logits exist at one time
ROWS = 64  # positions that are widened to float32 at one time

Gradient = Callable[[Tensor, slice], tuple[Tensor, Tensor]]
"""Logits (n, V) and their places to losses (n,) float32 and gradients (n, V)."""


class HeadLoss(torch.autograd.Function):
    """Sum over positions of a loss of logits, for hidden states (N, d) and head weight (V, d)."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, gradient: Gradient) -> Tensor:
        total = torch.zeros((), device=hidden.device, dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros(weight.shape, device=weight.device, dtype=torch.float32) if weight.requires_grad else None
        rows = ROWS if hidden.device.type == "cpu" else CHUNK
        for start in range(0, len(hidden), CHUNK):
            part = hidden[start : start + CHUNK]
            logits = F.linear(part, weight)
            for first in range(0, len(part), rows):
                piece = logits[first : first + rows]
                losses, slopes = gradient(piece.float(), slice(start + first, start + first + len(piece)))
                total += losses.sum()
                piece.copy_(slopes)
            torch.mm(logits, weight, out=grad_hidden[start : start + CHUNK])
            if grad_weight is not None:
                grad_weight += logits.t() @ part
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total

    @staticmethod
    def backward(ctx, scale: Tensor):
        grad_hidden, grad_weight = ctx.saved_tensors
        # the scale is one number, known to be 1 / the number of targets: exact in float32, one pass in either type
        return grad_hidden * scale, None if grad_weight is None else grad_weight.mul_(scale), None


def head_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Sum of -log p(target) over positions, in nats; hidden (N, d), head weight (V, d), targets (N,)."""

    def gradient(logits: Tensor, where: slice):
        index = targets[where, None]
        logarithms = logits.log_softmax(-1)
        losses = -logarithms.gather(1, index)
        slopes = logarithms.exp_()
        slopes.scatter_add_(1, index, torch.full_like(losses, -1.0))
        return losses, slopes

    return HeadLoss.apply(hidden, weight, gradient)


def divergence(
    hidden: Tensor, weight: Tensor, teacher_hidden: Tensor, teacher_weight: Tensor, targets: Tensor, *, kind: str, data: float
) -> Tensor:
    """Sum over positions of (1 - data) KL + data cross-entropy, in nats, with the teacher's logits made chunk by chunk.

    Forward KL(teacher ‖ student) = Σ q (log q - log p), dz = p - q; reverse KL(student ‖ teacher) = Σ p (log p - log q),
    dz = p (log p - log q - KL). p: student, q: teacher.
    """

    def gradient(logits: Tensor, where: slice):
        logarithms = logits.log_softmax(-1)
        taught = F.linear(teacher_hidden[where], teacher_weight).float().log_softmax(-1)
        p = logarithms.exp()
        if kind == "forward":
            q = taught.exp()
            losses = (q * (taught - logarithms)).sum(-1, keepdim=True)
            slopes = p - q
        else:
            distance = logarithms - taught
            losses = (p * distance).sum(-1, keepdim=True)
            slopes = p * (distance - losses)
        if data:
            index = targets[where, None]
            p.scatter_add_(1, index, torch.full_like(losses, -1.0))
            losses = (1 - data) * losses - data * logarithms.gather(1, index)
            slopes = (1 - data) * slopes + data * p
        return losses, slopes

    return HeadLoss.apply(hidden, weight, gradient)
