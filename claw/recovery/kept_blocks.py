"""Which blocks of the dense parent a model with fewer blocks has kept, read off the weights."""

from typing import Any

import numpy as np
import torch

from claw.errors import InputError
from claw.models.anatomy import anatomy

FAR = 0.5  # relative distance above which two weights are not the same one, trained a little further


def kept_blocks(student: Any, teacher: Any) -> list[int]:
    """The teacher's block that each of the student's was, ascending: the assignment whose norm gains are nearest in all.

    Compression that cuts no depth keeps every block. InputError where the student's hidden states are in another space than the
    teacher's: of another width, or rotated.
    """
    own, dense = anatomy(student), anatomy(teacher)
    widths = [parts.embedding.weight.shape[1] for parts in (own, dense)]
    if widths[0] != widths[1] or _far(own.embedding.weight, dense.embedding.weight):
        what = (
            f"{widths[0]:,} wide and its parent's {widths[1]:,}" if widths[0] != widths[1] else "rotated against its parent's"
        )
        raise InputError(
            f"hidden_loss compares hidden states with the dense parent's, but this model's are {what}. Leave hidden_loss out; "
            "the divergence of the predictions works for every cut."
        )
    if own.depth > dense.depth:
        raise InputError(f"The student has {own.depth} blocks and its teacher {dense.depth}: name the dense parent as teacher.")
    gains = [torch.stack([_gains(layer) for layer in parts.layers]) for parts in (own, dense)]
    return _ascending((torch.cdist(gains[0], gains[1]) / gains[1].norm(dim=1)).square().numpy())


def _gains(layer: Any) -> torch.Tensor:
    return torch.cat([norm.weight.detach().double().cpu() for norm in layer.norms])


def _far(a: torch.Tensor, b: torch.Tensor) -> bool:
    rows = min(len(a), len(b), 4096)
    first, second = (x[:rows].detach().float().cpu() for x in (a, b))
    return bool((first - second).norm() > FAR * second.norm())


def _ascending(costs: np.ndarray) -> list[int]:
    """Of each row a column, ascending, with the least sum of costs (n, m)."""
    count, total = costs.shape
    best = np.full((count + 1, total + 1), np.inf)  # of the first i rows in the first j columns
    best[0] = 0
    for i in range(1, count + 1):
        for j in range(i, total + 1):
            best[i, j] = min(best[i, j - 1], best[i - 1, j - 1] + costs[i - 1, j - 1])
    chosen, j = [], total
    for i in range(count, 0, -1):
        while best[i, j] == best[i, j - 1]:
            j -= 1
        chosen.append(j - 1)
        j -= 1
    return chosen[::-1]
