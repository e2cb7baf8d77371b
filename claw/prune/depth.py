"""Remove whole blocks: those that change the stream least.

`shortgpt` removes single blocks by block influence 1 - E cos(x_l, x_{l+1}) (Men et al. 2024, arXiv 2403.03853); `blocks`
removes one contiguous run of n blocks, the one with the smallest angle between its input and its output (Gromov et al.
2024, arXiv 2403.17887).
"""

import torch

from claw.models.anatomy import Anatomy
from claw.prune import surgery
from claw.prune.statistics import Statistics


def by_influence(statistics: Statistics, remove: int) -> list[int]:
    """Blocks to keep when the `remove` least influential ones go."""
    influence = torch.tensor([1 - statistics.cosine[i][i + 1] for i in range(statistics.depth)])
    return surgery.kept(influence, statistics.depth - remove).tolist()


def by_angle(statistics: Statistics, remove: int) -> list[int]:
    """Blocks to keep when the contiguous run of `remove` blocks with the smallest angle goes."""
    starts = range(statistics.depth - remove + 1)
    first = min(starts, key=lambda start: statistics.angle[start][start + remove])
    return [i for i in range(statistics.depth) if not first <= i < first + remove]


def drop(parts: Anatomy, keep: list[int]) -> torch.nn.Module:
    """The model with only the blocks `keep`, its configuration brought along."""
    return surgery.assemble(parts, surgery.plain_state(parts), layers=keep)
