"""What recovery minimises besides the cross-entropy: divergences from a teacher's next tokens, distances of hidden states.

Each is a loss of logits, so `claw.engine.head_loss` makes these for a few positions at a time.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from claw.engine.head_loss import CHUNK, ROWS, Head, HeadLoss, probabilities


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
