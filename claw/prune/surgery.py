"""Cut a decoder to a smaller shape: which rows and columns stay, and the best weights for what is left.

A cut never changes the model it is given. The result is a stock model of the same class with smaller sizes in its
configuration. Tensors that no cut touches share memory with the dense model, as views do, until `unshare` copies them, which
`claw.compress` does with every model that it gives away.
"""

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch

from claw.models.anatomy import Anatomy, spans_heads
from claw.models.blocks import HEAD_NORMS, Layer, has_gain
from claw.models.common_names import State, common_state, stock_state
from claw.models.few_layers import keep_layers
from claw.models.pretrained import assembled
from claw.models.shape import Shape
from claw.prune.statistics import Statistics
from claw.specs.methods import AXES


@dataclass(frozen=True)
class Units:
    """What stays of a dense model."""

    layers: Sequence[int]
    kept: Mapping[str, Mapping[int, torch.Tensor]] = field(default_factory=dict)
    """Of "ffn" and "heads", the neurons (m',) and key-value groups (G',) that stay of each dense block, by its index."""
    runs: Mapping[int, Sequence[int]] = field(default_factory=dict)
    """Of a block that stays, itself and the removed blocks after it whose neurons may join its own, by its index."""

    def run(self, index: int) -> Sequence[int]:
        """The blocks that the one at `index` stands for, itself first."""
        return self.runs.get(index, (index,))

    def of(self, axis: str, index: int) -> torch.Tensor:
        """Those of one axis that stay of the block at `index`; none where it is not named."""
        return self.kept[axis].get(index, torch.empty(0, dtype=torch.long))


def cut(parts: Anatomy, target: Shape, units: Units, statistics: Statistics | None = None, *, ridge: bool = True) -> Any:
    """The stock model of shape `target` with only `units` left of each axis that it cuts.

    With `statistics` the linear layers that read the cut units are refitted on the calibration moments; without `ridge` only
    their biases, where they have one, take what the removed units gave on average (FLAP, An et al. 2024, arXiv 2312.11983).
    """
    dense = common_state(parts)
    state = dict(dense)
    axes = [axis for axis in ("ffn", "heads") if getattr(target, AXES[axis]) < getattr(parts, AXES[axis])]
    for layer in (parts.layers[index] for index in units.layers):
        for axis in axes:
            reader, columns = slice_units(state, parts, layer, axis, units.kept[axis][layer.index])
            if statistics:
                refit_reader(state, dense, reader, columns, Moments.of(statistics, layer.index, axis), ridge=ridge)
    return assemble(parts, state, units.layers, **sizes_of(parts, target))


@dataclass(frozen=True)
class Moments:
    """Of the inputs of a linear: their Gram matrix E[x xᵀ] (n, n), their mean (n,), and the ridge penalty that suits them."""

    gram: torch.Tensor
    mean: torch.Tensor
    penalty: float

    @classmethod
    def of(cls, statistics: Statistics, index: int, site: str) -> "Moments":
        """Those of one site of a block."""
        gram, mean, penalty = (statistics.moment(index, site, name) for name in ("gram", "mean", "ridge"))
        return cls(gram, mean, float(penalty))


def refit_reader(
    state: State, dense: State, reader: str, columns: torch.Tensor, moments: Moments, *, ridge: bool = True
) -> None:
    """Refit the weight `reader` of `state` to its `columns`, and its bias, if it has one, to what is then missing on average.

    With a bias the weights fit what varies, so the moments are taken about the mean.
    """
    bias = reader.removesuffix("weight") + "bias"
    mean = moments.mean.to(dense[reader].device)
    if ridge:
        gram = moments.gram if bias not in dense else moments.gram - moments.mean[:, None] * moments.mean[None, :]
        state[reader] = compensated(dense[reader], gram, columns, moments.penalty)
    if bias in dense:
        missing = dense[reader].float() @ mean - state[reader].float() @ mean[columns.to(mean.device)]
        state[bias] = (dense[bias].float() + missing).to(dense[bias].dtype)


def prefix(layer: Layer) -> str:
    """What the names of a block's weights begin with."""
    return f"model.layers.{layer.index}"


def slice_units(state: State, parts: Anatomy, layer: Layer, axis: str, keep: torch.Tensor) -> tuple[str, torch.Tensor]:
    """Keep the neurons or key-value groups `keep` of a block; the name of the weight that reads them and its columns that stay.

    A group keeps all of its query heads, so grouped-query attention stays valid. Names are the common ones (`common_names`).
    """
    if axis == "ffn":
        rows = {"mlp.gate_proj": keep, "mlp.up_proj": keep}
        reader, columns = f"{prefix(layer)}.mlp.down_proj.weight", keep
    else:
        keys, queries = group_channels(keep, parts)
        rows = {"self_attn.q_proj": queries, "self_attn.k_proj": keys, "self_attn.v_proj": keys}
        reader, columns = f"{prefix(layer)}.self_attn.o_proj.weight", queries
        if spans_heads(layer):  # gains of all heads: those of the heads that stay are kept, a row or a number each
            size = parts.head_size if cast(Any, layer.head_norms)[0].weight.ndim > 1 else 1
            for own, other in HEAD_NORMS:
                rows |= {f"self_attn.{own}": queries[::size] // size, f"self_attn.{other}": keys[::size] // size}
    for name, index in rows.items():
        for key in (f"{prefix(layer)}.{name}.weight", f"{prefix(layer)}.{name}.bias"):
            if key in state:
                state[key] = state[key][index.to(parts.device)]
    state[reader] = state[reader][:, columns.to(parts.device)].contiguous()
    return reader, columns


def join_neurons(state: State, parts: Anatomy, run: Sequence[int]) -> None:
    """Give the first block of `run` the neurons that `state` has left of all of them, in that order.

    They read what its own norm gives, so the gains of their own norms go into their weights.
    """
    first, *others = (parts.layers[index] for index in run)
    gain = norm_gain(first.mlp_norm, parts)
    usual = gain.abs() > 1e-3 * gain.abs().median()
    for layer in others:
        scale = torch.where(usual, norm_gain(layer.mlp_norm, parts) / gain, 1.0)
        for name, axis in (("gate", 0), ("up", 0), ("down", 1)):
            key, other = (f"{prefix(one)}.mlp.{name}_proj" for one in (first, layer))
            if f"{key}.weight" not in state:
                continue
            weight = state[f"{other}.weight"]
            weight = weight if name == "down" else (weight.float() * scale).to(weight.dtype)
            state[f"{key}.weight"] = torch.cat([state[f"{key}.weight"], weight], axis)
            if name != "down" and f"{key}.bias" in state:
                state[f"{key}.bias"] = torch.cat([state[f"{key}.bias"], state[f"{other}.bias"]])


def group_channels(groups: torch.Tensor, parts: Anatomy) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices into the keys or values (G·h,) and into the attention output (H·h,) that belong to these key-value groups."""
    key, query = parts.head_size, parts.head_size * (parts.heads // parts.groups)
    keys, queries = ((groups[:, None] * size + torch.arange(size)).flatten() for size in (key, query))
    return keys, queries


def norm_gain(norm: Any, parts: Anatomy, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """What an RMSNorm of this model multiplies by, (d,)."""
    if not has_gain(norm):
        return torch.ones(parts.hidden, dtype=dtype, device=parts.device)
    return norm.weight.to(dtype) + parts.gain_offset


def compensated(weight: torch.Tensor, gram: torch.Tensor, keep: torch.Tensor, penalty: float) -> torch.Tensor:
    """Columns `keep` of W, refitted to write what the whole of W wrote: W' = W G_:S (G_SS + λI)⁻¹.

    Ridge regression on the inputs' second moments G = E[x xᵀ]; λ = `penalty` · mean diag G. `weight` (out, in), `gram`
    (in, in), result (out, |S|) in the weight's type. The penalty pulls towards the plain columns, not towards zero, so a
    large λ gives back the uncompensated cut: W' = W_:S + (W_:R G_RS)(G_SS + λI)⁻¹ with R the removed inputs.

    Refitting what reads the cut units from a Gram matrix by ridge regression is also GRAIL (CPAL 2026); SlimGPT and MoDeGPT
    refit from second moments too, the one in the order of optimal brain surgery, the other by factorising pairs of matrices.
    """
    gram = gram.to(weight.device, torch.float32)
    keep = keep.to(weight.device)
    removed = torch.ones(gram.shape[0], dtype=torch.bool, device=weight.device)
    removed[keep] = False
    inner = gram[keep][:, keep]
    inner.diagonal().add_(max(penalty, 1e-6) * float(gram.diagonal().mean()))
    full = weight.float()
    cross = full[:, removed] @ gram[removed][:, keep]
    return (full[:, keep] + solve_positive(inner, cross.T).T).to(weight.dtype)


def solve_positive(matrix: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """A⁻¹ B in float32 for a symmetric A (n, n) that is positive definite but for rounding, and B (n, k).

    Where A is singular (units that are always zero, fewer tokens than columns), the least-squares solution of least size:
    eigenvalues below n ε times the largest count as zero. A zero A gives zeros.
    """
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if not failed and torch.isfinite(solved := torch.cholesky_solve(right, factor)).all():
        return solved
    values, vectors = torch.linalg.eigh(matrix.double())
    floor = len(matrix) * torch.finfo(torch.float32).eps * values.abs().max()
    inverse = torch.where(values > floor, 1 / values.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
    return (vectors @ (inverse[:, None] * (vectors.T @ right.double()))).float()


def assemble(parts: Anatomy, state: State, layers: Sequence[int], **sizes: Any) -> Any:
    """A stock model of the same class with the blocks `layers` of `state` for weights and `sizes` in its configuration.

    `state` has the common names. Blocks are renumbered, and every list in the configuration that has one entry per block is
    cut with them.
    """
    state, config = stock_state(parts, state, layers), configured(parts, layers, sizes)
    kind: Any = type(parts.model)
    attention = parts.config._attn_implementation
    model = assembled(kind, config, state, dtype=parts.dtype, attn_implementation=attention)
    if parts.model.generation_config is not None:
        model.generation_config = copy.deepcopy(parts.model.generation_config)
    return model.to(parts.device).eval()


def unshare(model: Any, dense: Any) -> None:
    """Give `model` memory of its own for every weight and buffer that lies in the memory of `dense`; tied ones stay tied."""
    tensors = lambda owner: itertools.chain(owner.parameters(), owner.buffers())
    taken = {tensor.untyped_storage().data_ptr() for tensor in tensors(dense) if tensor.numel()}
    for tensor in tensors(model):  # a tied weight is one parameter under two names
        if tensor.numel() and tensor.untyped_storage().data_ptr() in taken:
            tensor.data = tensor.data.clone()


def configured(parts: Anatomy, layers: Sequence[int], sizes: Mapping[str, Any]) -> Any:
    """A copy of the model's configuration with `sizes` in it and every list with one entry per block cut to `layers`."""
    config = copy.deepcopy(parts.config)
    for name, value in sizes.items():
        setattr(config, name, value)
    keep_layers(config, parts.depth, layers)
    return config


def sizes_of(parts: Anatomy, target: Shape) -> dict[str, Any]:
    """What the model's configuration calls the sizes of a shape, of those that differ from its own."""
    names = {
        "hidden": "hidden_size",
        "width": parts.names.width,
        "heads": "num_attention_heads",
        "groups": "num_key_value_heads",
    }
    changed = [size for size in names if getattr(target, size) != getattr(parts, size)]
    if "heads" in changed or "hidden" in changed:  # else some configurations divide the one by the other
        names["head_size"] = "head_dim"
        changed.append("head_size")
    return {names[size]: getattr(target, size) for size in changed}
