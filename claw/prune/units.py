"""Cut neurons or key-value groups of every block by score, and refit what reads them where that is asked for."""

import torch

from claw.models.anatomy import Anatomy, Layer
from claw.models.shape import Shape
from claw.prune import surgery
from claw.prune.scores import Score
from claw.prune.statistics import Statistics
from claw.prune.surgery import Units

Kept = tuple[tuple[int, ...], ...]


def cut(
    parts: Anatomy, target: Shape, axis: str, score: Score, statistics: Statistics | None, seed: int, ridge: bool
) -> tuple[torch.nn.Module, Kept]:
    """The model with the best-scored units of `axis` ("ffn" or "heads") left in each block, and their indices.

    With `ridge` the linear layer that read the cut units is refitted on the calibration moments.
    """
    state = surgery.plain_state(parts)
    generator = torch.Generator().manual_seed(seed)
    kept = []
    for layer in parts.layers:
        units = score(parts, layer, statistics, generator)
        keep = surgery.kept(units, target.width if axis == "ffn" else target.groups)
        (_cut_neurons if axis == "ffn" else _cut_groups)(parts, state, layer, keep, statistics if ridge else None)
        kept.append(tuple(keep.tolist()))
    sizes = {"intermediate_size": target.width}
    sizes |= {"num_attention_heads": target.heads, "num_key_value_heads": target.groups, "head_dim": target.head_size}
    return surgery.assemble(parts, state, **sizes), tuple(kept)


def cut_chosen(parts: Anatomy, target: Shape, chosen: Units, statistics: Statistics) -> torch.nn.Module:
    """The model with the chosen blocks, neurons and groups, compensated on the dense moments wherever something was cut."""
    state = surgery.plain_state(parts)
    for layer in parts.layers:
        if target.width < parts.width:
            _cut_neurons(parts, state, layer, chosen.neurons[layer.index], statistics)
        if target.groups < parts.groups:
            _cut_groups(parts, state, layer, chosen.groups[layer.index], statistics)
    sizes = {"intermediate_size": target.width, "num_attention_heads": target.heads, "num_key_value_heads": target.groups}
    return surgery.assemble(parts, state, layers=chosen.layers, head_dim=target.head_size, **sizes)


def _cut_neurons(parts: Anatomy, state: surgery.State, layer: Layer, keep: torch.Tensor, statistics: Statistics | None) -> None:
    prefix = surgery.prefix(layer)
    refitted = _refitted(layer, "ffn", layer.down.weight, keep, statistics)
    surgery.slice_neurons(state, prefix, keep)
    if refitted is not None:
        state[f"{prefix}.mlp.down_proj.weight"] = refitted


def _cut_groups(parts: Anatomy, state: surgery.State, layer: Layer, keep: torch.Tensor, statistics: Statistics | None) -> None:
    prefix = surgery.prefix(layer)
    refitted = _refitted(layer, "heads", layer.o.weight, surgery.query_columns(keep, parts), statistics)
    surgery.slice_groups(state, prefix, keep, parts)
    if refitted is not None:
        state[f"{prefix}.self_attn.o_proj.weight"] = refitted


def _refitted(
    layer: Layer, site: str, weight: torch.Tensor, keep: torch.Tensor, statistics: Statistics | None
) -> torch.Tensor | None:
    if statistics is None:
        return None
    moments = statistics.layer(layer.index)
    return surgery.compensated(weight, moments[f"{site}.gram"], keep, moments[f"{site}.ridge"])
