"""How much each feed-forward neuron or key-value group of one block matters, by method. Higher is kept.

Each function returns an (m,) tensor for `ffn` or a (G,) tensor for `heads`. Weights are (out, in); sums over a group run
over the columns of the o projection that its query heads feed.
"""

from collections.abc import Callable

import torch

from claw.models.anatomy import Anatomy, Layer
from claw.prune.statistics import Statistics

Score = Callable[[Anatomy, Layer, "Statistics | None", torch.Generator], torch.Tensor]


def random_neurons(parts: Anatomy, layer: Layer, statistics: Statistics | None, generator: torch.Generator) -> torch.Tensor:
    """Uniform random numbers: the control that every method must beat."""
    return torch.rand(parts.width, generator=generator)


def random_groups(parts: Anatomy, layer: Layer, statistics: Statistics | None, generator: torch.Generator) -> torch.Tensor:
    """Uniform random numbers."""
    return torch.rand(parts.groups, generator=generator)


def magnitude_neurons(parts: Anatomy, layer: Layer, statistics: Statistics | None, generator: torch.Generator) -> torch.Tensor:
    """S_j = ‖gate_j‖ · ‖up_j‖ · ‖down_:j‖: the size of the product that neuron j can write."""
    gate, up, down = (linear.weight.float() for linear in (layer.gate, layer.up, layer.down))
    return (gate.norm(dim=1) * up.norm(dim=1) * down.norm(dim=0)).cpu()


def magnitude_groups(parts: Anatomy, layer: Layer, statistics: Statistics | None, generator: torch.Generator) -> torch.Tensor:
    """S_g = ‖v_g‖ · ‖o_:g‖: the size of what group g can write."""
    value = layer.v.weight.float().view(parts.groups, -1).norm(dim=1)
    return (value * _columns(layer.o.weight.float().square(), parts).sqrt()).cpu()


def ppm_neurons(parts: Anatomy, layer: Layer, statistics: Statistics | None, generator: torch.Generator) -> torch.Tensor:
    """S_j = peak-to-peak of gate_j plus peak-to-peak of up_j, as public GLU pruning uses it."""
    rows = (layer.gate.weight.float(), layer.up.weight.float())
    return sum(weight.amax(dim=1) + weight.amin(dim=1).abs() for weight in rows).cpu()


def wanda_neurons(parts: Anatomy, layer: Layer, statistics: Statistics, generator: torch.Generator) -> torch.Tensor:
    """S_j = mean_i |W_ij| · ‖X_j‖ over the down projection (Wanda-sp: An et al. 2024, arXiv 2312.11983)."""
    return layer.down.weight.float().abs().mean(dim=0).cpu() * _norm(statistics, layer, "ffn")


def wanda_groups(parts: Anatomy, layer: Layer, statistics: Statistics, generator: torch.Generator) -> torch.Tensor:
    """The same over the o projection, summed over a group's columns."""
    return _sum_groups(layer.o.weight.float().abs().mean(dim=0).cpu() * _norm(statistics, layer, "heads"), parts)


def flap_neurons(parts: Anatomy, layer: Layer, statistics: Statistics, generator: torch.Generator) -> torch.Tensor:
    """S_j = Var(x_j) · ‖W_:j‖²: what the mean cannot replace (FLAP: An et al. 2024, arXiv 2312.11983)."""
    return _variance(statistics, layer, "ffn") * layer.down.weight.float().square().sum(dim=0).cpu()


def flap_groups(parts: Anatomy, layer: Layer, statistics: Statistics, generator: torch.Generator) -> torch.Tensor:
    """The same over the o projection, summed over a group's columns."""
    return _sum_groups(_variance(statistics, layer, "heads") * layer.o.weight.float().square().sum(dim=0).cpu(), parts)


def taylor_neurons(parts: Anatomy, layer: Layer, statistics: Statistics, generator: torch.Generator) -> torch.Tensor:
    """S_j = |Σ w·g| over gate row, up row and down column (see `claw.prune.gradients`)."""
    return statistics.taylor(layer.index, "ffn")


def taylor_groups(parts: Anatomy, layer: Layer, statistics: Statistics, generator: torch.Generator) -> torch.Tensor:
    """S_g = |Σ w·g| over q, k, v rows and o columns of the group."""
    return statistics.taylor(layer.index, "heads")


def minitron_neurons(parts: Anatomy, layer: Layer, statistics: Statistics, generator: torch.Generator) -> torch.Tensor:
    """S_j = √Σ_sequences (mean_t |a_j|)² (Minitron: Muralidharan et al. 2024, arXiv 2407.14679)."""
    return statistics.layer(layer.index)["ffn.spread"]


def minitron_groups(parts: Anatomy, layer: Layer, statistics: Statistics, generator: torch.Generator) -> torch.Tensor:
    """The same for attention outputs, the norm over a group's channels."""
    return _sum_groups(statistics.layer(layer.index)["heads.spread"].square(), parts).sqrt()


NEURONS: dict[str, Score] = {
    "random": random_neurons, "magnitude": magnitude_neurons, "ppm": ppm_neurons, "wanda-sp": wanda_neurons,
    "flap": flap_neurons, "taylor": taylor_neurons, "minitron": minitron_neurons,
}  # fmt: skip
GROUPS: dict[str, Score] = {
    "random": random_groups, "magnitude": magnitude_groups, "wanda-sp": wanda_groups, "flap": flap_groups,
    "taylor": taylor_groups, "minitron": minitron_groups,
}  # fmt: skip


def _norm(statistics: Statistics, layer: Layer, site: str) -> torch.Tensor:
    """Root mean square of each input of a site."""
    return statistics.gram(layer.index, site).diagonal().clamp_min(0).sqrt()


def _variance(statistics: Statistics, layer: Layer, site: str) -> torch.Tensor:
    mean = statistics.layer(layer.index)[f"{site}.mean"]
    return (statistics.gram(layer.index, site).diagonal() - mean.square()).clamp_min(0)


def _sum_groups(channels: torch.Tensor, parts: Anatomy) -> torch.Tensor:
    """Sum of an (H·h,) tensor over each group's channels, (G,)."""
    return channels.view(parts.groups, -1).sum(dim=1)


def _columns(weight: torch.Tensor, parts: Anatomy) -> torch.Tensor:
    """Sum of an o projection's (d, H·h) entries over rows and over each group's columns, (G,)."""
    return _sum_groups(weight.sum(dim=0), parts)
