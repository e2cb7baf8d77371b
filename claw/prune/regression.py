"""Regress a smaller decoder onto the dense one, block by block, so that it gives what the dense one gave.

The dense model and the small one walk through the calibration text side by side. Every linear layer of the small block is
refitted in turn on what the small model itself reads there, so errors of earlier blocks are seen and corrected:

- q, k, v and gate, up read the normalised small stream and aim at what the dense layers of the same name gave (kept units);
- o and down aim at the difference between the dense stream, brought to the small width, and the small stream before them.

Where blocks after one that stays are removed, it stands for all of them: its attention aims at what theirs wrote together, its
feed-forward, which may hold neurons of theirs, at the stream after the last of them.

Each is one ridge regression on moments that are added up batch by batch, so more text costs time and no more memory than the
two streams; the ridge pulls towards the weights that plain projection gives. The hidden width is cut by a fixed map
(`claw.prune.width_map`).

Where a block adds a multiple of what it writes (Granite), o and down aim at that difference divided by it. Where it normalises
what it writes (Gemma 3), they aim at what the dense layer wrote before its norm, corrected by what the streams differ by, and
the gain of that norm is refitted after them.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from claw.allocator import give_back_freed
from claw.models.anatomy import Anatomy, anatomy
from claw.models.arithmetic import arithmetic_of
from claw.models.blocks import Layer, has_gain, normed
from claw.models.linears import set_linear
from claw.models.shape import Shape
from claw.progress import tqdm
from claw.prune import surgery, trial_cut
from claw.prune.blockwise import first_inputs, run_block, unit_rms
from claw.prune.dense_walk import DenseWalk, dense_walks
from claw.prune.moments import Cross, Gram
from claw.prune.statistics import Statistics
from claw.prune.surgery import Units
from claw.prune.width_map import WidthMap, normalises_writes, projected, width_map
from claw.texts.token_blocks import Blocks

SMALL_GAIN = 0.1  # of the median: smaller gains of a norm after a half are not divided by
HALVES = ("attention", "mlp")


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
    turns = not parts.centres and not trial_cut.why_not(parts, "hidden")  # the map of `width_map` does not keep the mean
    return supports(parts) and (normalises_writes(parts) or turns)


def ridge(gram: torch.Tensor, cross: torch.Tensor, start: torch.Tensor, penalty: float) -> torch.Tensor:
    """W (out, in) by ridge regression pulled towards `start`: W₀ + (C - W₀ G)(G + λI)⁻¹, with G = Σ x xᵀ and C = Σ y xᵀ.

    λ is `penalty` times the mean diagonal of G (in, in). Linears that read the same are fitted together, with their rows of C
    and their starts below each other, because G is most of the work. G is changed: a copy of the widest is a tenth of a model.
    """
    start = start.float()
    missing = cross - start @ gram
    gram.diagonal().add_(penalty * gram.diagonal().mean())
    return start + surgery.solve_positive(gram, missing.T).T


@torch.no_grad()
def regressed(
    parts: Anatomy,
    target: Shape,
    units: Units,
    statistics: Statistics,
    text: Blocks | Sequence[DenseWalk],
    penalties: Penalties | None = None,
) -> nn.Module:
    """The stock model of shape `target` that keeps `units`, every linear refitted on a text, or on the dense model's way
    through it."""
    walks = dense_walks(parts, text) if isinstance(text, Blocks) else text
    mapping = width_map(parts, statistics, target.hidden)
    small = projected(parts, target, units, mapping, statistics)
    penalties = penalties or Penalties.best_for(sum(walk.ids.numel() for walk in walks))
    inner = anatomy(small)
    pairs = [_Pair(walk, inner, mapping) for walk in walks]
    small_layers = dict(zip(units.layers, inner.layers, strict=True))
    run: Sequence[int] = ()
    for layer in tqdm(parts.layers, desc="refitting", unit=" blocks", leave=False):
        if layer.index in small_layers:
            run = units.run(layer.index)
        for pair in pairs:
            pair.advance_dense(layer, run, gives=len(units.of("ffn", layer.index)) > 0)
        if run and layer.index == run[-1]:
            kept = _kept_weights(parts, run, units)
            for half in range(len(HALVES)):
                _refit_half(half, inner, small_layers[run[0]], kept, pairs, penalties)
            give_back_freed()  # runs of other lengths want other sizes: what is kept of each adds up to more than a model
    if has_gain(inner.norm) and (parts.tied or mapping.kept is not None):
        rms = lambda x: x.float().square().mean(-1).sqrt()
        # E[rms(T x) / rms(x)]: what the small final norm divides by, over what the dense one does
        scale = torch.stack(
            [(rms(mapping(pair.walk.stream)) / rms(pair.walk.stream).clamp_min(1e-30)).mean() for pair in pairs]
        ).mean()
        inner.norm.weight.data = (mapping.gain * scale - parts.gain_offset).to(parts.dtype)
    return small


def _kept_weights(parts: Anatomy, run: Sequence[int], units: Units) -> dict[str, torch.Tensor]:
    """The rows of a run's linears that write the units kept, by the linear's letter.

    Those of neurons read what the blocks that give some read, side by side.
    """
    first = parts.layers[run[0]]
    keys, queries = surgery.group_channels(units.of("heads", first.index), parts)
    weights = {letter: first.linear(letter).weight[kept] for letter, kept in (("q", queries), ("k", keys), ("v", keys))}
    giving = [(parts.layers[index], kept) for index in run if len(kept := units.of("ffn", index))]
    for letter in "gu" if first.gated else "u":
        weights[letter] = torch.block_diag(*(layer.linear(letter).weight[kept] for layer, kept in giving))
    return weights


class _Pair:
    """One batch of text on its way through both models: what the dense block read and gave, and the small stream."""

    def __init__(self, walk: DenseWalk, inner: Anatomy, mapping: WidthMap):
        self.walk, self.mapping, self.residual = walk, mapping, arithmetic_of(walk.parts).residual
        walk.restart()
        small, self.small_arguments = first_inputs(inner, walk.ids)
        self.small = self.entering = small.float()
        self.read: list[list[torch.Tensor]] = []  # what the norms before each half gave in the dense blocks
        self.after: list[torch.Tensor] = []  # the dense stream after each half
        self.written: tuple[torch.Tensor, ...] = ()  # what each half wrote before a norm of its own, where it has one

    def advance_dense(self, layer: Layer, run: Sequence[int], *, gives: bool) -> None:
        """Run the dense block, and remember what its halves read and gave where a small block is to be fitted to `run`.

        Of the later blocks of a run what their attention wrote is added to what the first one's wrote. What the feed-forward of
        a block read is wanted where it `gives` neurons.
        """
        entering = self.walk.stream
        passage = self.walk.pass_block(layer, watched=layer.index in run)
        if passage is None:
            return
        if layer.index == run[0]:
            self.read, self.after = [[passage.read[0]], []], [passage.middle, passage.after]
            self.written, self.entering = passage.written, self.small
        else:
            self.after = [self.after[0].float() + (passage.middle.float() - entering.float()), passage.after]
        if gives:
            self.read[1].append(passage.read[-1])  # the first one, too, where both halves share a norm, which is called once

    def before(self, half: int, layer: Layer) -> torch.Tensor:
        """The small stream that a half reads: after the first one has written, but where both read the same."""
        return self.entering if layer.parallel else self.small

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
    norm, after = ((block.input_norm, block.after_attention), (block.mlp_norm, block.after_mlp))[half]
    letters = "qkv" if half == 0 else "gu" if block.gated else "u"
    linears, writer = [block.linear(letter) for letter in letters], block.linear("od"[half])
    dtype = writer.weight.dtype
    fit = _Fit(kept[letters[0]].shape[1], linears[0])
    for pair in pairs:
        fit.add(torch.cat(pair.read[half], -1).flatten(0, -2), normed(norm, pair.before(half, block).to(dtype)).flatten(0, -2))
    wanted = torch.cat([kept[letter] for letter in letters]).float()
    biases = [linear.bias for linear in linears]
    _refit(linears, fit.through(wanted, None if biases[0] is None else torch.cat(biases)), penalties.reads)

    fit, entering = _Fit(writer.out_features, writer), []
    for pair in pairs:
        entering.append(_entering(half, block, pair))
        wanted = pair.missing(half) if after is None else _before_norm(pair, half, surgery.norm_gain(after, inner))
        fit.add(wanted.flatten(0, -2), entering[-1].flatten(0, -2))
    _refit([writer], fit, penalties.writes)
    if after is not None:
        _refit_gain(half, inner, after, writer, entering, pairs)
    for pair, rows in zip(pairs, entering, strict=True):
        pair.small = pair.small + normed(after, writer(rows)).float().view_as(pair.small) * pair.residual


class _Fit:
    """What a linear is fitted on: moments of what it reads, x (n,), and of what it is to give, y (m,).

    Their sums are wanted only for one with a bias, which is fitted about the means.
    """

    def __init__(self, outs: int, linear: nn.Linear):
        ins, device, dtype = linear.in_features, linear.weight.device, linear.weight.dtype
        self.gram, self.cross = Gram(ins, device, dtype), Cross(outs, ins, device, dtype)
        self.biased, self.count = linear.bias is not None, 0
        self.ins, self.outs = torch.zeros(ins, device=device), torch.zeros(outs, device=device)

    def add(self, targets: torch.Tensor, rows: torch.Tensor) -> None:
        """Add the rows of y (N, m) and x (N, n)."""
        targets, rows = targets.float(), rows.float()
        self.gram.add(rows)
        self.cross.add(targets, rows)
        self.count += len(rows)
        if self.biased:
            self.ins += rows.sum(0)
            self.outs += targets.sum(0)

    def through(self, weight: torch.Tensor, bias: torch.Tensor | None) -> "_Fit":
        """The same for W y + b instead of y."""
        self.cross.sum, self.outs = weight @ self.cross.sum, weight @ self.outs
        if bias is not None:
            self.outs += self.count * bias
            self.cross.sum += torch.outer(bias.float(), self.ins)
        return self


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
    """Ends a block's forward pass once what is asked for is known."""


def _entering(half: int, block: Layer, pair: _Pair) -> torch.Tensor:
    """What the last linear of a half of a small block reads, (B, T, n)."""
    dtype = block.o.weight.dtype
    if half == 1:
        return block.feed_forward(normed(block.mlp_norm, pair.before(half, block).to(dtype)))
    inputs: list[torch.Tensor] = []

    def stop(_: nn.Module, args: tuple) -> None:
        inputs.append(args[0])
        raise _Known

    with block.o.register_forward_pre_hook(stop), suppress(_Known):
        run_block(block, pair.small.to(dtype), pair.small_arguments[block.index])
    return inputs[0].view(*pair.small.shape[:-1], -1)


def _refit(linears: list[Any], fit: _Fit, penalty: float) -> None:
    """Weights by ridge regression; with biases about the means, and each bias to what is then missing on average."""
    gram, cross = fit.gram.total(), fit.cross.sum
    biases = [linear.bias for linear in linears]
    ins, outs = fit.ins / fit.count, fit.outs / fit.count
    weights = [linear.weight for linear in linears]
    if biases[0] is not None:
        gram, cross = gram - fit.count * ins[:, None] * ins, cross - fit.count * outs[:, None] * ins
    refitted = ridge(gram, cross, torch.cat(weights), penalty)
    sizes = [len(weight) for weight in weights]
    for linear, weight, mean in zip(linears, refitted.split(sizes), outs.split(sizes), strict=True):
        set_linear(linear, weight)
        if linear.bias is not None:
            set_linear(linear, bias=mean - weight @ ins)
