"""The linear map from the dense residual stream to a narrower one, and the model that plain projection with it gives.

Where blocks only add to the stream the map is a fixed T (d' × d): principal directions of what the norms and the head read, in
the metric √g of the final norm's gain g, so that a tied head stays tied: E T' diag(gain) reads what E diag(g) read. Dimensions
whose gain is far from the usual keep an axis of their own.

Blocks that normalise what they write (Gemma 3) multiply by a gain for every dimension, which commutes with no rotation. It does
commute with leaving dimensions out, so there the map selects: the dimensions that carry most of what is read stay.
"""

from dataclasses import dataclass

import torch
from torch import nn

from claw.allocator import give_back_freed
from claw.models.anatomy import Anatomy
from claw.models.common_names import State, common_state
from claw.models.shape import Shape
from claw.prune import rotation, surgery
from claw.prune.statistics import Statistics
from claw.prune.surgery import Units

OUTLYING = 0.5  # a gain this far from the median, as a fraction of it, gets an axis of its own


@dataclass(frozen=True)
class WidthMap:
    """The linear map from the dense stream to the small one."""

    down: torch.Tensor  # T (d', d)
    back: torch.Tensor  # (d, d'), its inverse on the kept space
    gain: torch.Tensor  # (d',), of the final norm
    kept: torch.Tensor | None = None  # (d',), the dimensions that stay, where T only selects

    @property
    def whole(self) -> bool:
        """Whether the width stays as it is."""
        return self.down.shape[0] == self.down.shape[1]

    def __call__(self, stream: torch.Tensor) -> torch.Tensor:
        """A dense stream (..., d) in the small width, (..., d') in float32."""
        if self.whole:
            return stream.float()
        return stream[..., self.kept].float() if self.kept is not None else stream.float() @ self.down.T


def normalises_writes(parts: Anatomy) -> bool:
    """Whether blocks normalise what they write to the stream."""
    return parts.layers[0].after_attention is not None or parts.layers[0].after_mlp is not None


def width_map(parts: Anatomy, statistics: Statistics, size: int) -> WidthMap:
    """The map onto the `size` directions, or dimensions, that carry most of what the blocks and the head read."""
    gain = surgery.norm_gain(parts.norm, parts)
    if size == parts.hidden:
        whole = torch.eye(size, device=parts.device)
        return WidthMap(whole, whole, gain)
    if normalises_writes(parts):
        kept = important_dimensions(parts, statistics).topk(size).indices.sort().values
        down = torch.eye(parts.hidden, device=parts.device)[kept]
        return WidthMap(down, down.T, gain[kept], kept)
    middle = gain.median()
    if middle == 0:  # a norm that is switched off for most dimensions has no usual gain
        middle = gain.abs().max().clamp_min(1e-6)
    outlying, metric = torch.zeros_like(gain, dtype=torch.bool), torch.ones_like(gain)
    if parts.tied:
        distance = (gain / middle - 1).abs()
        outlying = distance > OUTLYING
        if outlying.sum() > size // 2:
            outlying = torch.zeros_like(outlying).index_fill_(0, distance.topk(size // 2).indices, True)
        metric = torch.where(outlying, metric, (gain / middle).clamp_min(1e-3).sqrt())
    covariance = statistics.stream_gram().to(parts.device) * metric[:, None] * metric[None, :]
    own, mixed = outlying.nonzero().flatten(), (~outlying).nonzero().flatten()
    basis = torch.linalg.eigh(covariance[mixed][:, mixed].double()).eigenvectors.flip(1)[:, : size - len(own)].float()
    down = torch.zeros(size, parts.hidden, device=parts.device)
    back = torch.zeros(parts.hidden, size, device=parts.device)
    rows = torch.arange(len(own), device=parts.device)
    down[rows, own] = back[own, rows] = 1.0
    down[len(own) :, mixed] = (metric[mixed][:, None] * basis).T
    back[mixed, len(own) :] = basis / metric[mixed][:, None]
    rest = torch.full((size - len(own),), float(middle), device=parts.device)
    return WidthMap(down, back, torch.cat([gain[own], rest]))


def important_dimensions(parts: Anatomy, statistics: Statistics) -> torch.Tensor:
    """How much of what is read each dimension of the stream carries, (d,): E x_i² g_i² Σ W_:i² over all that reads it."""
    total = torch.zeros(parts.hidden, device=parts.device)
    for layer in parts.layers:
        for site, norm, linears in (
            ("attention", layer.input_norm, (layer.q, layer.k, layer.v)),
            ("mlp", layer.mlp_norm, (layer.gate, layer.up) if layer.gated else (layer.up,)),
        ):
            power = statistics.moment(layer.index, site, "gram").diagonal().to(parts.device)
            gain = surgery.norm_gain(norm, parts)
            weights = sum(linear.weight.float().square().sum(0) / linear.out_features for linear in linears)
            total += power * gain.square() * weights
    return total / total.mean()


def projected(parts: Anatomy, target: Shape, units: Units, mapping: WidthMap, statistics: Statistics) -> nn.Module:
    """The small model by projection: where the regression starts, and what its ridge pulls towards.

    What reads neurons or groups that go is compensated for them on the dense moments (`surgery.compensated`), which rest on
    all of the calibration text. Neurons that stay of removed blocks join those of the block before (`surgery.Units.runs`).
    """
    dense = common_state(parts)
    state = dict(dense)
    for layer in (parts.layers[index] for first in units.layers for index in units.run(first)):
        for axis in units.kept:
            reader, columns = surgery.slice_units(state, parts, layer, axis, units.of(axis, layer.index))
            if len(columns) < dense[reader].shape[1]:
                moments = surgery.Moments.of(statistics, layer.index, axis)
                surgery.refit_reader(state, dense, reader, columns, moments)
    for index in units.layers:
        surgery.join_neurons(state, parts, units.run(index))
    if mapping.kept is not None:
        state = selected(parts, state, mapping.kept)
    elif not mapping.whole:
        state = rotation.rebased(parts, mapping.back, mapping.down.T, 1.0, tied=parts.tied, state=state)
        if parts.tied:
            state["model.norm.weight"] = (mapping.gain - parts.gain_offset).to(parts.dtype)
    small = surgery.assemble(parts, state, units.layers, **surgery.sizes_of(parts, target))
    give_back_freed()
    return small


def selected(parts: Anatomy, state: State, kept: torch.Tensor) -> State:
    """The weights with only the dimensions `kept` of the stream, in order."""
    names = {"model.embed_tokens.weight": 1, "model.positions.weight": 1, "model.norm.weight": 0, "lm_head.weight": 1}
    for layer in parts.layers:
        start = surgery.prefix(layer)
        names |= {f"{start}.self_attn.{name}_proj.weight": 1 for name in "qkv"}
        names |= {f"{start}.mlp.{name}_proj.weight": 1 for name in ("gate", "up")}
        names |= {f"{start}.{name}_proj.{kind}": 0 for name in ("self_attn.o", "mlp.down") for kind in ("weight", "bias")}
        names |= {f"{start}.{name}.weight": 0 for name in layer.norm_names.values()}
    return state | {name: state[name].index_select(axis, kept) for name, axis in names.items() if name in state}
