"""Regress a smaller decoder onto the dense one, block by block, so that it gives what the dense one gave.

The dense model and the small one walk through the calibration text side by side. Every linear layer of the small block is
refitted in turn on what the small model itself reads there, so errors of earlier blocks are seen and corrected:

- q, k, v and gate, up read the normalised small stream and aim at what the dense layers of the same name gave (kept units);
- o and down aim at the difference between the dense stream, brought to the small width, and the small stream before them.

The hidden width is cut by a fixed map T (d' × d): principal directions of the streams in the metric √g of the final norm's
gain g, so that a tied head stays tied: E T' diag(gain) reads what E diag(g) read. Dimensions whose gain is far from the usual
keep an axis of their own. Ridge regression pulls towards the weights that plain projection gives (`ridge`).

Where a block adds a multiple of what it writes (Granite), o and down aim at that difference divided by it.

Blocks that normalise what they write (Gemma 3), that add otherwise, or that a rotation of the stream changes cannot be mapped
this way; `supports` says so.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from claw.models.anatomy import Anatomy, Layer, anatomy
from claw.models.arithmetic import arithmetic_of
from claw.models.shape import Shape
from claw.progress import tqdm
from claw.prune import surgery, trial_cut
from claw.prune.blockwise import first_inputs, run_block, token_batches
from claw.prune.statistics import Statistics
from claw.prune.surgery import Units
from claw.texts.token_blocks import Blocks

READS, WRITES = 1e-2, 1e-1  # ridge penalties of what reads the stream and of what writes to it
TOKENS = 8192  # what a minute is enough for
OUTLYING = 0.5  # a gain this far from the median, as a fraction of it, gets an axis of its own


def supports(parts: Anatomy) -> bool:
    """Whether the hidden width of this architecture can be regressed."""
    written = parts.layers[0].after_attention is None and parts.layers[0].after_mlp is None
    return written and not arithmetic_of(parts).why_not_residual and not trial_cut.why_not(parts, "hidden")


@dataclass(frozen=True)
class WidthMap:
    """The linear map from the dense stream to the small one."""

    down: torch.Tensor  # T (d', d)
    back: torch.Tensor  # (d, d'), its inverse on the kept space
    gain: torch.Tensor  # (d',), of the final norm


def width_map(parts: Anatomy, statistics: Statistics, size: int) -> WidthMap:
    """The map onto the `size` directions that carry most of what the blocks and the head read."""
    gain = surgery.norm_gain(parts.norm, parts)
    if size == parts.hidden:
        whole = torch.eye(size, device=parts.device)
        return WidthMap(whole, whole, gain)
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


def ridge(inputs: torch.Tensor, targets: torch.Tensor, start: torch.Tensor, penalty: float) -> torch.Tensor:
    """W (out, in) with inputs Wᵀ ≈ targets by ridge regression pulled towards `start`: W₀ + (C - W₀ G)(G + λI)⁻¹, C = Σ y xᵀ.

    `inputs` (N, in) and `targets` (N, out); λ is `penalty` times the mean diagonal of G. Linears that read the same are fitted
    together, with their targets and starts beside each other, because G is most of the work.
    """
    inputs = inputs.float()  # in bfloat16 the rounding of large entries drowns the small directions
    gram = inputs.T @ inputs
    cross = inputs.T @ targets.float() - gram @ start.T.float()
    gram.diagonal().add_(penalty * gram.diagonal().mean())
    return start.float() + surgery.solve_positive(gram, cross).T


@torch.no_grad()
def regressed(parts: Anatomy, target: Shape, units: Units, statistics: Statistics, blocks: Blocks) -> nn.Module:
    """The stock model of shape `target` that keeps `units`, every linear refitted on `blocks`, at most `TOKENS` of them."""
    mapping = width_map(parts, statistics, target.hidden)
    small = _projected(parts, target, units, mapping)
    inner = anatomy(small)
    ids = blocks.ids[: max(1, TOKENS // blocks.length)]
    pairs = [_PairedBatch(parts, inner, mapping, chunk) for chunk in token_batches(parts, ids)]
    small_layers = dict(zip(units.layers, inner.layers, strict=True))
    for layer in tqdm(parts.layers, desc="refitting", unit=" blocks", leave=False):
        for pair in pairs:
            pair.advance_dense(layer, units)
        if layer.index in small_layers:
            _refit_block(small_layers[layer.index], pairs)
    if parts.tied:
        rms = lambda x: x.float().square().mean(-1).sqrt()
        # E[rms(T x) / rms(x)]: what the small final norm divides by, over what the dense one does
        scale = torch.stack([(rms(pair.mapped(pair.dense)) / rms(pair.dense)).mean() for pair in pairs]).mean()
        inner.norm.weight.data = (mapping.gain * scale - parts.gain_offset).to(parts.dtype)
    return small


def _projected(parts: Anatomy, target: Shape, units: Units, mapping: WidthMap) -> nn.Module:
    """The small model by plain projection: the starting point, and what the ridge pulls towards."""
    state = surgery.rebased(parts, mapping.back, mapping.down.T, 1.0, tied=parts.tied)
    for layer in parts.layers:
        for axis, kept in units.kept.items():
            surgery.slice_units(state, parts, layer, axis, kept[layer.index])
    if parts.tied:
        state["model.norm.weight"] = (mapping.gain - parts.gain_offset).to(parts.dtype)
    return surgery.assemble(parts, state, units.layers, **surgery.sizes_of(target))


class _PairedBatch:
    """One batch of text on its way through both models: the dense stream, the small one, and what the dense block gave."""

    def __init__(self, parts: Anatomy, inner: Anatomy, mapping: WidthMap, ids: torch.Tensor):
        self.parts, self.mapping, self.residual = parts, mapping, arithmetic_of(parts).residual
        self.dense, self.dense_arguments = first_inputs(parts, ids)
        small, self.small_arguments = first_inputs(inner, ids)
        self.small = small.float()
        self.outputs: dict[str, torch.Tensor] = {}

    def advance_dense(self, layer: Layer, units: Units) -> None:
        """Run the dense block; remember the outputs of its reading linears (kept units) and the stream after each half."""
        neurons = units.kept["ffn"][layer.index]
        keys, queries = surgery.group_channels(units.kept["heads"][layer.index], self.parts)
        columns = {"q": queries, "k": keys, "v": keys, "gate": neurons, "up": neurons}
        handles = [
            getattr(layer, name).register_forward_hook(lambda m, a, out, n=name, k=keep: self.outputs.update({n: out[..., k]}))
            for name, keep in columns.items()
        ]
        handles.append(layer.mlp_norm.register_forward_pre_hook(lambda m, a: self.outputs.update(middle=a[0])))
        self.dense = self.outputs["end"] = run_block(layer, self.dense, self.dense_arguments[layer.index])
        for handle in handles:
            handle.remove()

    def mapped(self, dense: torch.Tensor) -> torch.Tensor:
        """A dense stream in the small width."""
        return dense.float() @ self.mapping.down.T


def _refit_block(block: Layer, pairs: list[_PairedBatch]) -> None:
    """Refit the linears of one small block in the order in which the stream meets them, and bring the small stream past it."""
    for norm, half, names, writer, stage in (
        (block.input_norm, block.attention, ("q", "k", "v"), block.o, "middle"),
        (block.mlp_norm, block.mlp, ("gate", "up"), block.down, "end"),
    ):
        read = [norm(pair.small.to(writer.weight.dtype)) for pair in pairs]
        wanted = [torch.cat([pair.outputs[name] for name in names], dim=-1) for pair in pairs]
        _refit([getattr(block, name) for name in names], read, wanted, READS)
        arguments = [pair.small_arguments[block.index] if half is block.attention else {} for pair in pairs]
        entering = [_entering(writer, half, x, kwargs) for x, kwargs in zip(read, arguments, strict=True)]
        _refit([writer], entering, [(pair.mapped(pair.outputs[stage]) - pair.small) / pair.residual for pair in pairs], WRITES)
        for pair, inputs in zip(pairs, entering, strict=True):
            pair.small = pair.small + writer(inputs).float() * pair.residual


def _entering(linear: nn.Linear, module: nn.Module, x: torch.Tensor, arguments: dict[str, Any]) -> torch.Tensor:
    """What `linear`, a part of `module`, reads when the module reads `x`."""
    inputs: list[torch.Tensor] = []
    with linear.register_forward_pre_hook(lambda _, args: inputs.append(args[0])):
        module(x, **arguments)
    return inputs[0]


def _refit(linears: list[nn.Linear], inputs: list[torch.Tensor], targets: list[torch.Tensor], penalty: float) -> None:
    x = torch.cat([part.flatten(0, -2) for part in inputs])
    y = torch.cat([part.flatten(0, -2) for part in targets])
    if linears[0].bias is not None:
        y = y - torch.cat([linear.bias for linear in linears])
    weights = ridge(x, y, torch.cat([linear.weight for linear in linears]), penalty)
    for linear, weight in zip(linears, weights.split([linear.out_features for linear in linears]), strict=True):
        linear.weight.data = weight.to(linear.weight.dtype).contiguous()
