"""How much each feed-forward neuron or key-value group matters, by method. Higher is kept.

Each function returns one (m,) or (G,) tensor for one block. Weights are (out, in); S_j is the score of neuron j.
"""

import torch

from claw.anatomy import Layer
from claw.prune.statistics import Statistics


def random_neurons(layer: Layer, statistics: Statistics | None, generator: torch.Generator) -> torch.Tensor:
    """Uniform random numbers: the control that every method must beat."""
    return torch.rand(layer.gate.out_features, generator=generator)


def magnitude_neurons(layer: Layer, statistics: Statistics | None, generator: torch.Generator) -> torch.Tensor:
    """S_j = ‖gate_j‖ · ‖up_j‖ · ‖down_:j‖: the size of the product that neuron j can write."""
    gate, up, down = (linear.weight.float() for linear in (layer.gate, layer.up, layer.down))
    return gate.norm(dim=1) * up.norm(dim=1) * down.norm(dim=0)


def wanda_neurons(layer: Layer, statistics: Statistics, generator: torch.Generator) -> torch.Tensor:
    """S_j = mean_i |W_ij| · ‖X_j‖ over the down projection (Wanda-sp; An et al. 2024, arXiv 2312.11983)."""
    norm = statistics.gram(layer.index, "ffn").diagonal().clamp_min(0).sqrt()
    return layer.down.weight.float().abs().mean(dim=0).cpu() * norm
