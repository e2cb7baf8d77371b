"""Losses through the output head whose logits over the vocabulary exist for a few positions at a time.

The gradient with respect to hidden states and head is worked out in the forward pass, chunk by chunk: with logits
z = W h, the cross-entropy has dz = softmax(z) - e_target. So the head costs three matrix products in all, nothing is
computed twice, and no tensor over all positions and the vocabulary is ever made.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

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


def divergence(
    hidden: Tensor,
    head: Head,
    teacher_hidden: Tensor,
    teacher_head: Head,
    targets: Tensor,
    *,
    kind: str,
    data: float,
    skew: float = 0.1,
) -> Tensor:
    """Sum over positions of (1 - data) D + data cross-entropy, in nats, with the teacher's logits made chunk by chunk.

    D is the divergence `kind` of student from teacher over the whole vocabulary (`divergence_slopes`).
    """

    def gradient(logits: Tensor, room: Tensor, where: slice):
        logarithms = torch.log_softmax(logits, -1, out=room)
        taught = teacher_head.logits(teacher_hidden[where]).log_softmax(-1)
        losses, pull = divergence_slopes(kind, logarithms, taught, skew)
        p = logarithms.exp()
        change = pull.sub_(p * pull.sum(-1, keepdim=True))
        if data:
            index = targets[where, None]
            p.scatter_add_(1, index, torch.full_like(losses, -1.0))
            losses = (1 - data) * losses - data * logarithms.gather(1, index)
            change = (1 - data) * change + data * p
        return losses, change

    return HeadLoss.apply(hidden, *head, gradient)


def top_divergence(
    hidden: Tensor, head: Head, top: "Top", targets: Tensor, *, kind: str, data: float, skew: float = 0.1
) -> Tensor:
    """As `divergence`, over the teacher's k most probable tokens and one bucket for all others.

    A bucket of one token is that token; the others' probabilities p add up to P, and dP/dz = p (1[others] - P).
    """

    def gradient(logits: Tensor, room: Tensor, where: slice):
        index, taught, target = top.ids[where], top.logarithms[where], targets[where, None]
        p, said = probabilities(logits, target, room)
        own = logits.gather(1, index) - (logits.gather(1, target) - said)
        p.scatter_(1, index, 0.0)
        others = p.sum(-1, keepdim=True)
        buckets = torch.cat([own, others.log()], dim=-1).clamp_(min=LEAST)
        losses, pull = divergence_slopes(kind, buckets, taught, skew)
        total = pull.sum(-1, keepdim=True)
        p.mul_((1 - data) * (pull[:, -1:] / others.clamp(min=1e-38) - total) + data)
        p.scatter_(1, index, (1 - data) * pull[:, :-1] + (data - (1 - data) * total) * own.exp())
        if data:
            p.scatter_add_(1, target, torch.full_like(said, -data))
            losses = (1 - data) * losses - data * said
        return losses, p

    return HeadLoss.apply(hidden, *head, gradient)


LEAST = -1e4  # the logarithm of no probability at all


def divergence_slopes(kind: str, own: Tensor, taught: Tensor, skew: float) -> tuple[Tensor, Tensor]:
    """Divergence (n, 1) of log-probabilities (n, V), and its derivative with respect to those of the student (n, V).

    With p the student's and q the teacher's: forward Σ q (log q - log p); reverse Σ p (log p - log q); and from a mixture m, as
    DistiLLM has them (Ko et al. 2024), skew Σ q (log q - log m) with m = α q + (1 - α) p, and skew-reverse
    Σ p (log p - log m) with m = (1 - α) q + α p.
    """
    if kind == "forward":
        q = taught.exp()
        return (q * (taught - own)).sum(-1, keepdim=True), q.neg_()
    if kind == "skew":
        q, mixed = taught.exp(), torch.logaddexp(taught + math.log(skew), own + math.log1p(-skew))
        return (q * (taught - mixed)).sum(-1, keepdim=True), q.mul_((own - mixed).exp_()).mul_(skew - 1)
    p = own.exp()
    if kind == "reverse":
        distance = own - taught
        return (p * distance).sum(-1, keepdim=True), p.mul_(distance + 1)
    mixed = torch.logaddexp(taught + math.log1p(-skew), own + math.log(skew))
    distance = own - mixed
    return (p * distance).sum(-1, keepdim=True), p.mul_(distance + 1 - skew * distance.exp())


def hidden_distance(states: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Sum over positions of the mean over pairs (student's, teacher's) of |s - t|² / |t|², hidden states (N, d)."""
    apart = [((s.float() - t.float()).square().sum(-1) / t.float().square().sum(-1).clamp(min=1e-6)) for s, t in states]
    return torch.stack([distances.sum() for distances in apart]).mean()


class Top(NamedTuple):
    """The k most probable next tokens by a teacher: `ids` (N, k), and `logarithms` (N, k + 1), the last one of all others."""

    ids: Tensor
    logarithms: Tensor

    @staticmethod
    def of(ids: Tensor, logarithms: Tensor) -> "Top":
        """From what `top_of` gave: wide types, and probabilities that add up to 1, which rounded ones do not."""
        wide = logarithms.float()
        return Top(ids.long(), wide - wide.logsumexp(-1, keepdim=True))

    def at(self, places: Tensor) -> "Top":
        """At some of the places."""
        return Top(self.ids[places], self.logarithms[places])


def top_of(hidden: Tensor, head: Head, k: int) -> tuple[Tensor, Tensor]:
    """Ids (N, k), int64, of the most probable next tokens, and log-probabilities (N, k + 1) in float16, as they are kept.

    The last one is of all others. It is summed over them: as what is left of 1 it would be the rounding of the first ones.
    """
    rows = ROWS if hidden.device.type == "cpu" else CHUNK
    pieces = []
    for part in hidden.split(rows):
        logarithms = head.logits(part).log_softmax(-1)
        most, ids = logarithms.topk(k, dim=-1)
        others = logarithms.exp_().scatter_(1, ids, 0.0).sum(-1, keepdim=True).log_().clamp_(min=LEAST)
        pieces.append((ids, torch.cat([most, others], dim=-1).half()))
    return torch.cat([ids for ids, _ in pieces]), torch.cat([logarithms for _, logarithms in pieces])
