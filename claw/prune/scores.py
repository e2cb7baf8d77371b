"""How much each feed-forward neuron, key-value group or block matters, by method: the highest scores are kept.

A score is a function of the anatomy, one of its blocks, the calibration statistics (None where the method needs none) and a
random generator. It gives (m,) for neurons or (G,) for groups. Weights are (out, in); a group's score is a sum over the
columns of the o projection that its query heads feed.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from claw.models.anatomy import Anatomy
from claw.models.blocks import Layer
from claw.prune.statistics import Statistics

Score = Callable[[Anatomy, Layer, Any, torch.Generator], torch.Tensor]


def magnitude_neurons(parts: Anatomy, layer: Layer, statistics: object, generator: torch.Generator) -> torch.Tensor:
    """S_j = ‖gate_j‖ · ‖up_j‖ · ‖down_:j‖, without the first where there is no gate: the size of what neuron j can write."""
    sizes = [linear.weight.float().norm(dim=1) for linear in (layer.gate, layer.up) if linear is not None]
    return (math.prod(sizes) * layer.down.weight.float().norm(dim=0)).cpu()


def magnitude_groups(parts: Anatomy, layer: Layer, statistics: object, generator: torch.Generator) -> torch.Tensor:
    """S_g = ‖v_g‖ · ‖o_:g‖: the size of what group g can write."""
    value = layer.v.weight.float().view(parts.groups, -1).norm(dim=1)
    return (value * _by_group(layer.o.weight.float().square().sum(dim=0), parts).sqrt()).cpu()


def ppm_neurons(parts: Anatomy, layer: Layer, statistics: object, generator: torch.Generator) -> torch.Tensor:
    """S_j = peak-to-peak of gate_j (if there is one) plus peak-to-peak of up_j, as public GLU pruning uses it."""
    weights = [linear.weight.float() for linear in (layer.gate, layer.up) if linear is not None]
    return sum((w.amax(dim=1) + w.amin(dim=1).abs() for w in weights), torch.zeros(())).cpu()


def wanda(layer: Layer, statistics: Statistics, site: str) -> torch.Tensor:
    """S_j = mean_i |W_ij| · ‖X_j‖ of each input of a site (Wanda-sp: An et al. 2024, arXiv 2312.11983)."""
    norm = statistics.moment(layer.index, site, "gram").diagonal().clamp_min(0).sqrt()
    return _reader(layer, site).abs().mean(dim=0).cpu() * norm


def flap(layer: Layer, statistics: Statistics, site: str) -> torch.Tensor:
    """S_j = Var(x_j) · ‖W_:j‖² of each input of a site: what its mean cannot replace (FLAP, An et al. 2024, the same paper)."""
    mean = statistics.moment(layer.index, site, "mean")
    variance = (statistics.moment(layer.index, site, "gram").diagonal() - mean.square()).clamp_min(0)
    return variance * _reader(layer, site).square().sum(dim=0).cpu()


def minitron(layer: Layer, statistics: Statistics, site: str) -> torch.Tensor:
    """S_j = √Σ_sequences (mean_t |x_j|)² of each input of a site (Minitron: Muralidharan et al. 2024, arXiv 2407.14679)."""
    return statistics.moment(layer.index, site, "spread")


def _reader(layer: Layer, site: str) -> torch.Tensor:
    """The weight that reads a site."""
    return (layer.down if site == "ffn" else layer.o).weight.float()


def _by_group(channels: torch.Tensor, parts: Anatomy) -> torch.Tensor:
    """Sum of an (H·h,) tensor over each group's channels, (G,)."""
    return channels.view(parts.groups, -1).sum(dim=1)


NEURONS: dict[str, Score] = {
    "random": lambda parts, layer, statistics, generator: torch.rand(parts.width, generator=generator),
    "magnitude": magnitude_neurons,
    "ppm": ppm_neurons,
    "wanda-sp": lambda parts, layer, statistics, generator: wanda(layer, statistics, "ffn"),
    "flap": lambda parts, layer, statistics, generator: flap(layer, statistics, "ffn"),
    "taylor": lambda parts, layer, statistics, generator: statistics.taylor(layer.index, "ffn"),
    "minitron": lambda parts, layer, statistics, generator: minitron(layer, statistics, "ffn"),
}
GROUPS: dict[str, Score] = {
    "random": lambda parts, layer, statistics, generator: torch.rand(parts.groups, generator=generator),
    "magnitude": magnitude_groups,
    "wanda-sp": lambda parts, layer, statistics, generator: _by_group(wanda(layer, statistics, "heads"), parts),
    "flap": lambda parts, layer, statistics, generator: _by_group(flap(layer, statistics, "heads"), parts),
    "taylor": lambda parts, layer, statistics, generator: statistics.taylor(layer.index, "heads"),
    "minitron": lambda parts, layer, statistics, generator: _by_group(
        minitron(layer, statistics, "heads").square(), parts
    ).sqrt(),
}


def best(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the `count` highest scores, ascending; equal scores keep the lower index."""
    return torch.sort(scores, descending=True, stable=True).indices[:count].sort().values


def best_units(parts: Anatomy, score: Score, count: int, statistics: Any, seed: int = 0) -> dict[int, torch.Tensor]:
    """Indices of the `count` neurons or groups with the highest scores in every block, by the block's index."""
    return best_of_runs(parts, score, count, statistics, [(layer.index,) for layer in parts.layers], seed)


def best_of_runs(
    parts: Anatomy, score: Score, count: int, statistics: Any, runs: Iterable[Sequence[int]], seed: int = 0
) -> dict[int, torch.Tensor]:
    """As `best_units`, but the `count` highest scores of the blocks of each run together."""
    generator, kept = torch.Generator().manual_seed(seed), {}
    for run in runs:
        each = [score(parts, parts.layers[index], statistics, generator) for index in run]
        together = best(torch.cat(each), count)
        for place, index in enumerate(run):
            own = together - place * len(each[0])
            kept[index] = own[(own >= 0) & (own < len(each[0]))]
    return kept


def blocks_by_influence(statistics: Statistics, remove: int) -> list[int]:
    """Blocks to keep when the `remove` single ones of least influence 1 - E cos(x_l, x_{l+1}) go.

    ShortGPT: Men et al. 2024, arXiv 2403.03853.
    """
    influence = torch.tensor([1 - statistics.cosine[i][i + 1] for i in range(statistics.depth)])
    return best(influence, statistics.depth - remove).tolist()


def blocks_by_angle(statistics: Statistics, remove: int) -> list[int]:
    """Blocks to keep when one run of `remove` blocks goes, the one with the smallest angle between its input and its output.

    Gromov et al. 2024, arXiv 2403.17887.
    """
    starts = range(statistics.depth - remove + 1)
    first = min(starts, key=lambda start: statistics.angle[start][start + remove])
    return [i for i in range(statistics.depth) if not first <= i < first + remove]
