"""Regress a smaller decoder onto the dense one, block by block, so that it gives what the dense one gave.

The dense model and the small one walk through the calibration text side by side. Every linear layer of the small block is
refitted in turn on what the small model itself reads there, so errors of earlier blocks are seen and corrected:

- q, k, v and gate, up read the normalised small stream and aim at what the dense layers of the same name gave (kept units);
- o and down aim at the difference between the dense stream, brought to the small width, and the small stream before them.

Each is one ridge regression on moments that are added up batch by batch, so more text costs time and no more memory than the
two streams; the ridge pulls towards the weights that plain projection gives. The hidden width is cut by a fixed map
(`claw.prune.width_map`).

Where a block adds a multiple of what it writes (Granite), o and down aim at that difference divided by it. Where it normalises
what it writes (Gemma 3), they aim at what the dense layer wrote before its norm, corrected by what the streams differ by, and
the gain of that norm is refitted after them.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from claw.models.anatomy import Anatomy, Layer, anatomy
from claw.models.arithmetic import arithmetic_of
from claw.models.shape import Shape
from claw.progress import tqdm
from claw.prune import surgery, trial_cut
from claw.prune.blockwise import first_inputs, run_block, token_batches, unit_rms
from claw.prune.moments import Cross, Gram
from claw.prune.statistics import Statistics
from claw.prune.surgery import Units
from claw.prune.width_map import WidthMap, normalises_writes, projected, width_map
from claw.texts.token_blocks import Blocks

SMALL_GAIN = 0.1  # of the median: smaller gains of a norm after a half are not divided by
HALVES = (("attention", ("q", "k", "v"), "o"), ("mlp", ("gate", "up"), "down"))


@dataclass(frozen=True)
class Penalties:
    """Of the ridge, as fractions of the mean diagonal: of what reads the stream and of what writes to it."""

    reads: float
    writes: float

    @classmethod
    def best_for(cls, tokens: int) -> "Penalties":
        """Those that lost least on SmolLM2-135M at 20, 40, 60 and 80 % removed with 8,192 and 131,072 tokens, and between."""
        scarcity = 131072 / tokens
        return cls(min(0.03, 0.01 * scarcity**0.4), min(0.3, 0.03 * scarcity**0.8))


def supports(parts: Anatomy) -> bool:
    """Whether this architecture can be regressed at all."""
    return not arithmetic_of(parts).why_not_residual


def supports_width(parts: Anatomy) -> bool:
    """Whether its hidden width can be cut and regressed, too."""
    return supports(parts) and (normalises_writes(parts) or not trial_cut.why_not(parts, "hidden"))


def ridge(gram: torch.Tensor, cross: torch.Tensor, start: torch.Tensor, penalty: float) -> torch.Tensor:
    """W (out, in) by ridge regression pulled towards `start`: W₀ + (C - W₀ G)(G + λI)⁻¹, with G = Σ x xᵀ and C = Σ y xᵀ.

    λ is `penalty` times the mean diagonal of G (in, in). Linears that read the same are fitted together, with their rows of C
    and their starts below each other, because G is most of the work.
    """
    start = start.float()
    damped = gram.clone()
    damped.diagonal().add_(penalty * gram.diagonal().mean())
    return start + surgery.solve_positive(damped, (cross - start @ gram).T).T


@torch.no_grad()
def regressed(
    parts: Anatomy, target: Shape, units: Units, statistics: Statistics, blocks: Blocks, penalties: Penalties | None = None
) -> nn.Module:
    """The stock model of shape `target` that keeps `units`, every linear refitted on `blocks`."""
    mapping = width_map(parts, statistics, target.hidden)
    small = projected(parts, target, units, mapping, statistics)
    penalties = penalties or Penalties.best_for(blocks.ids.numel())
    inner = anatomy(small)
    pairs = [_Pair(parts, inner, mapping, chunk) for chunk in token_batches(parts, blocks.ids)]
    small_layers = dict(zip(units.layers, inner.layers, strict=True))
    for layer in tqdm(parts.layers, desc="refitting", unit=" blocks", leave=False):
        block = small_layers.get(layer.index)
        for pair in pairs:
            pair.advance_dense(layer, remember=block is not None)
        if block is not None:
            kept = _kept_weights(parts, layer, units)
            for half in range(len(HALVES)):
                _refit_half(half, inner, block, kept, pairs, penalties)
    if parts.tied or mapping.kept is not None:
        rms = lambda x: x.float().square().mean(-1).sqrt()
        # E[rms(T x) / rms(x)]: what the small final norm divides by, over what the dense one does
        scale = torch.stack([(rms(mapping(pair.dense)) / rms(pair.dense).clamp_min(1e-30)).mean() for pair in pairs]).mean()
        inner.norm.weight.data = (mapping.gain * scale - parts.gain_offset).to(parts.dtype)
    return small


def _kept_weights(parts: Anatomy, layer: Layer, units: Units) -> dict[str, torch.Tensor]:
    """The rows of a dense block's linears that write the units kept, by the linear's name."""
    neurons = units.kept["ffn"][layer.index]
    keys, queries = surgery.group_channels(units.kept["heads"][layer.index], parts)
    rows = {"q": queries, "k": keys, "v": keys, "gate": neurons, "up": neurons}
    return {name: getattr(layer, name).weight[kept.to(parts.device)] for name, kept in rows.items()}


class _Pair:
    """One batch of text on its way through both models: what the dense block read and gave, and the small stream."""

    def __init__(self, parts: Anatomy, inner: Anatomy, mapping: WidthMap, ids: torch.Tensor):
        self.mapping, self.residual = mapping, arithmetic_of(parts).residual
        self.dense, self.dense_arguments = first_inputs(parts, ids)
        small, self.small_arguments = first_inputs(inner, ids)
        self.small = small.float()
        self.read: list[torch.Tensor] = []  # what the norm of each half gave in the dense block
        self.after: list[torch.Tensor] = []  # the dense stream after each half
        self.written: list[torch.Tensor] = []  # what each half wrote before a norm of its own, where it has one

    def advance_dense(self, layer: Layer, *, remember: bool) -> None:
        """Run the dense block, and remember what its halves read and gave where a small block is to be fitted to it."""
        self.read, self.after, self.written = [], [], []
        keep = lambda store: lambda module, args, output=None: store.append(args[0] if output is None else output)
        handles = []
        if remember:
            handles = [norm.register_forward_hook(keep(self.read)) for norm in (layer.input_norm, layer.mlp_norm)]
            handles.append(layer.mlp_norm.register_forward_pre_hook(keep(self.after)))
            for norm in (layer.after_attention, layer.after_mlp):
                if norm is not None:
                    handles.append(norm.register_forward_pre_hook(keep(self.written)))
        try:
            self.dense = run_block(layer, self.dense, self.dense_arguments[layer.index])
        finally:
            for handle in handles:
                handle.remove()
        self.after.append(self.dense)

    def missing(self, half: int) -> torch.Tensor:
        """What the small half must add so that the small stream is the dense one."""
        return (self.mapping(self.after[half]) - self.small) / self.residual


def _refit_half(
    half: int, inner: Anatomy, block: Layer, kept: dict[str, torch.Tensor], pairs: list[_Pair], penalties: Penalties
) -> None:
    """Refit the linears of one half of a small block in the order in which the stream meets them, and bring the stream past it.

    What reads the stream aims at what the dense linears W of the same name write: Σ y xᵀ = W Σ n xᵀ, with n what the dense
    norm gave, so only what the norms give is correlated, and not what every linear writes.
    """
    name, readers, last = HALVES[half]
    norm, after = ((block.input_norm, block.after_attention), (block.mlp_norm, block.after_mlp))[half]
    module, writer, linears = getattr(block, name), getattr(block, last), [getattr(block, reader) for reader in readers]
    dtype, device = writer.weight.dtype, writer.weight.device
    gram = Gram(linears[0].in_features, device, dtype)
    cross = Cross(pairs[0].read[half].shape[-1], linears[0].in_features, device, dtype)
    for pair in pairs:
        read = norm(pair.small.to(dtype)).flatten(0, -2)
        gram.add(read)
        cross.add(pair.read[half].flatten(0, -2), read)
    wanted = torch.cat([kept[reader] for reader in readers]).float()
    _refit(linears, gram.total(), wanted @ cross.sum, penalties.reads)

    gram, cross = Gram(writer.in_features, device, dtype), Cross(writer.out_features, writer.in_features, device, dtype)
    entering = []
    for pair in pairs:
        arguments = pair.small_arguments[block.index] if name == "attention" else {}
        entering.append(_entering(writer, module, norm(pair.small.to(dtype)), arguments))
        rows = entering[-1].flatten(0, -2)
        wanted = pair.missing(half) if after is None else _before_norm(pair, half, surgery.norm_gain(after, inner))
        if writer.bias is not None:
            wanted = wanted - writer.bias
        gram.add(rows)
        cross.add(wanted.flatten(0, -2), rows)
    _refit([writer], gram.total(), cross.sum, penalties.writes)
    if after is not None:
        _refit_gain(half, inner, after, writer, entering, pairs)
    for pair, rows in zip(pairs, entering, strict=True):
        out = writer(rows)
        pair.small = pair.small + (out if after is None else after(out)).float() * pair.residual


def _before_norm(pair: _Pair, half: int, gain: torch.Tensor) -> torch.Tensor:
    """What the writer of a half aims at where a norm follows it: what the dense one wrote, and the streams' difference in the
    norm's own scale, divided by its gain where that is not small."""
    written = pair.mapping(pair.written[half])
    scale = written.square().mean(-1, keepdim=True).sqrt()
    wrong = pair.missing(half) - written / scale.clamp_min(1e-12) * gain
    return written + scale * wrong * gain / (gain.square() + (SMALL_GAIN * gain.abs().median()).square()).clamp_min(1e-12)


def _refit_gain(
    half: int, inner: Anatomy, after: Any, writer: nn.Linear, entering: list[torch.Tensor], pairs: list[_Pair]
) -> None:
    """The gain of the norm after a half that gives most nearly what is missing, each dimension by least squares."""
    gain = surgery.norm_gain(after, inner)
    together, power = torch.zeros_like(gain), torch.zeros_like(gain)
    for pair, rows in zip(pairs, entering, strict=True):
        unit = unit_rms(writer(rows).float(), after).flatten(0, -2)
        together += (unit * pair.missing(half).flatten(0, -2)).sum(0)
        power += unit.square().sum(0)
    pull = 1e-2 * power.mean()
    after.weight.data = ((together + pull * gain) / (power + pull) - inner.gain_offset).to(after.weight.dtype)


class _Known(Exception):
    """Ends a half's forward pass once what its last linear reads is known."""


def _entering(linear: nn.Linear, module: nn.Module, x: torch.Tensor, arguments: dict[str, Any]) -> torch.Tensor:
    """What `linear`, a part of `module`, reads when the module reads `x`."""
    inputs: list[torch.Tensor] = []

    def stop(_: nn.Module, args: tuple) -> None:
        inputs.append(args[0])
        raise _Known

    with linear.register_forward_pre_hook(stop), suppress(_Known):
        module(x, **arguments)
    return inputs[0]


def _refit(linears: list[nn.Linear], gram: torch.Tensor, cross: torch.Tensor, penalty: float) -> None:
    weights = ridge(gram, cross, torch.cat([linear.weight for linear in linears]), penalty)
    for linear, weight in zip(linears, weights.split([linear.out_features for linear in linears]), strict=True):
        linear.weight.data = weight.to(linear.weight.dtype).contiguous()
