"""Regress a smaller decoder onto the dense one, block by block, so that what is left says what the whole said.

The dense model and the small one walk through the calibration text side by side. Every linear layer of the small block is
refitted in turn on what the small model itself really reads there, so errors of earlier blocks are seen and corrected:

- q, k, v and gate, up read the normalised small stream and aim at what the dense layers of the same name gave (kept units);
- o and down aim at the difference between the dense stream, brought to the small width, and the small stream before them.

The hidden width is cut by a fixed map T (d' × d): principal directions of the streams in the metric √g of the final norm's gain g,
so that a tied head stays tied: E T' diag(gain) reads what E diag(g) read. Dimensions whose gain is far from the usual
keep an axis of their own. Ridge regression pulls towards the weights that plain projection gives (`fit`).

Blocks that normalise what they write (Gemma 3) cannot be mapped this way; `supports` says so.
"""

from dataclasses import dataclass

import torch
from torch import nn

from claw.models.anatomy import Anatomy, Layer, anatomy
from claw.models.shape import Shape
from claw.progress import tqdm
from claw.prune import surgery
from claw.prune.blockwise import first_inputs, run_block, token_batches
from claw.prune.statistics import Statistics
from claw.prune.surgery import Units
from claw.texts.token_blocks import Blocks

READS, WRITES = 1e-2, 1e-1  # ridge penalties of what reads the stream and of what writes to it
TOKENS = 8192  # what a minute is enough for
OUTLYING = 0.5  # a gain this far from the median, as a fraction of it, gets an axis of its own


def supports(parts: Anatomy) -> bool:
    """Whether the hidden width of this architecture can be regressed."""
    return parts.layers[0].after_attention is None


@dataclass(frozen=True)
class WidthMap:
    """T (d', d): from the dense stream to the small one; `back` (d, d') its inverse on the kept space; `gain` of the final norm (d',)."""

    down: torch.Tensor
    back: torch.Tensor
    gain: torch.Tensor


def width_map(parts: Anatomy, statistics: Statistics, size: int) -> WidthMap:
    """The map onto the `size` directions that carry most of what the blocks and the head read."""
    gain = parts.norm.weight.float() + parts.gain_offset
    if size == parts.hidden:
        whole = torch.eye(size, device=parts.device)
        return WidthMap(whole, whole, gain)
    middle = gain.median()
    outlying = ((gain / middle - 1).abs() > OUTLYING) if parts.tied else torch.zeros_like(gain, dtype=torch.bool)
    if outlying.sum() > size // 2:
        furthest = (gain / middle - 1).abs().topk(size // 2).indices
        outlying = torch.zeros_like(outlying).index_fill_(0, furthest, True)
    metric = (
        torch.where(outlying, torch.ones_like(gain), (gain / middle).clamp_min(1e-3).sqrt())
        if parts.tied
        else torch.ones_like(gain)
    )
    covariance = sum(statistics.gram(layer.index, site) for layer in parts.layers for site in ("attention", "mlp"))
    covariance = covariance.to(parts.device) * metric[:, None] * metric[None, :]
    own, mixed = outlying.nonzero().flatten(), (~outlying).nonzero().flatten()
    basis = torch.linalg.eigh(covariance[mixed][:, mixed].double()).eigenvectors.flip(1)[:, : size - len(own)].float()
    down = torch.zeros(size, parts.hidden, device=parts.device)
    back = torch.zeros(parts.hidden, size, device=parts.device)
    for row, column in enumerate(own.tolist()):
        down[row, column] = back[column, row] = 1.0
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
    factor, failed = torch.linalg.cholesky_ex(gram)
    update = torch.linalg.solve(gram.double(), cross.double()).float() if failed else torch.cholesky_solve(cross, factor)
    return start.float() + update.T


@torch.no_grad()
def regressed(parts: Anatomy, target: Shape, units: Units, statistics: Statistics, blocks: Blocks) -> nn.Module:
    """The stock model of shape `target` that keeps `units`, every linear refitted on `blocks`, at most `TOKENS` of them."""
    mapping = width_map(parts, statistics, target.hidden)
    small = _projected(parts, target, units, mapping)
    inner = anatomy(small)
    ids = blocks.ids[: max(1, TOKENS // blocks.length)]
    walks = [_Walk(parts, inner, mapping, chunk) for chunk in token_batches(parts, ids)]
    places = {layer: place for place, layer in enumerate(units.layers)}
    for layer in tqdm(parts.layers, desc="refitting", unit=" blocks", disable=None, leave=False):
        for walk in walks:
            walk.advance_dense(layer, units)
        if layer.index in places:
            _refit_block(inner.layers[places[layer.index]], walks)
    if parts.tied:
        scale = torch.stack([walk.final_scale() for walk in walks]).mean()
        small.model.norm.weight.data = (mapping.gain * scale - parts.gain_offset).to(parts.dtype)
    return small


def _projected(parts: Anatomy, target: Shape, units: Units, mapping: WidthMap) -> nn.Module:
    """The small model by plain projection: the starting point, and what the ridge pulls towards."""
    state = surgery.plain_state(parts)
    unit = 1.0 - parts.gain_offset
    for layer in parts.layers:
        start = surgery.prefix(layer)
        surgery.rotate_reads(state, parts, layer, mapping.back, mapping.back)
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            surgery.rotate_write(state, f"{start}.{name}", mapping.down.T)
        surgery.slice_neurons(state, start, units.neurons[layer.index])
        surgery.slice_groups(state, start, units.groups[layer.index], parts)
        for name in ("input_layernorm", "post_attention_layernorm"):
            state[f"{start}.{name}.weight"] = torch.full((target.hidden,), unit, dtype=parts.dtype, device=parts.device)
    state["model.embed_tokens.weight"] = (parts.embedding.weight.float() @ mapping.down.T).to(parts.dtype)
    if parts.tied:
        state["model.norm.weight"] = (mapping.gain - parts.gain_offset).to(parts.dtype)
    else:
        final = parts.norm.weight.float() + parts.gain_offset
        state["lm_head.weight"] = ((parts.head.weight.float() * final) @ mapping.back).to(parts.dtype)
        state["model.norm.weight"] = torch.full((target.hidden,), unit, dtype=parts.dtype, device=parts.device)
    return surgery.assemble(parts, state, layers=units.layers, **surgery.sizes_of(target))


class _Walk:
    """One batch of text on its way through both models: the dense stream, the small one, and what the dense block said."""

    def __init__(self, parts: Anatomy, inner: Anatomy, mapping: WidthMap, ids: torch.Tensor):
        self.parts, self.mapping = parts, mapping
        self.dense, self.dense_arguments = first_inputs(parts, ids)
        small, self.small_arguments = first_inputs(inner, ids)
        self.small = small.float()
        self.said: dict[str, torch.Tensor] = {}

    def advance_dense(self, layer: Layer, units: Units) -> None:
        """Run the dense block; remember the outputs of its reading linears (kept units) and the stream after each half."""
        neurons = units.neurons[layer.index]
        keys = surgery.key_columns(units.groups[layer.index], self.parts)
        queries = surgery.query_columns(units.groups[layer.index], self.parts)
        wanted = (("q", queries), ("k", keys), ("v", keys), ("gate", neurons), ("up", neurons))
        handles = [
            getattr(layer, name).register_forward_hook(lambda m, a, out, n=name, k=keep: self.said.update({n: out[..., k]}))
            for name, keep in wanted
        ]
        handles.append(layer.mlp_norm.register_forward_pre_hook(lambda m, a: self.said.update(middle=a[0])))
        self.dense = run_block(layer, self.dense, self.dense_arguments[layer.index])
        for handle in handles:
            handle.remove()

    def mapped(self, dense: torch.Tensor) -> torch.Tensor:
        return dense.float() @ self.mapping.down.T

    def final_scale(self) -> torch.Tensor:
        """E[rms(T x) / rms(x)]: what the small final norm divides by, over what the dense one does."""
        rms = lambda x: x.float().square().mean(-1).sqrt()
        return (rms(self.mapped(self.dense)) / rms(self.dense)).mean()


def _refit_block(block: Layer, walks: list[_Walk]) -> None:
    """Refit the linears of one small block in the order in which the stream meets them, and bring the small stream past it."""
    dtype = block.q.weight.dtype
    attend = [block.input_norm(walk.small.to(dtype)) for walk in walks]
    _refit_reading(block, ("q", "k", "v"), attend, walks)
    heads = [
        _entering(block.o, lambda x=x, w=w: block.attention(x, **w.small_arguments[block.index]))
        for x, w in zip(attend, walks, strict=True)
    ]
    _refit([block.o], heads, [walk.mapped(walk.said["middle"]) - walk.small for walk in walks], WRITES)
    for walk, entering in zip(walks, heads, strict=True):
        walk.small = walk.small + block.o(entering).float()
    feed = [block.mlp_norm(walk.small.to(dtype)) for walk in walks]
    _refit_reading(block, ("gate", "up"), feed, walks)
    inner = [_entering(block.down, lambda x=x: block.mlp(x)) for x in feed]
    _refit([block.down], inner, [walk.mapped(walk.dense) - walk.small for walk in walks], WRITES)
    for walk, entering in zip(walks, inner, strict=True):
        walk.small = walk.small + block.down(entering).float()


def _entering(linear: nn.Linear, run) -> torch.Tensor:
    """What `linear` reads while `run` runs."""
    seen = []
    handle = linear.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    run()
    handle.remove()
    return seen[0]


def _refit_reading(block: Layer, names: tuple[str, ...], inputs: list[torch.Tensor], walks: list[_Walk]) -> None:
    """Refit linears that read the same: each aims at what the dense linear of its name said."""
    targets = [torch.cat([walk.said[name] for name in names], dim=-1) for walk in walks]
    _refit([getattr(block, name) for name in names], inputs, targets, READS)


def _refit(linears: list[nn.Linear], inputs: list[torch.Tensor], targets: list[torch.Tensor], penalty: float) -> None:
    x = torch.cat([part.flatten(0, -2) for part in inputs])
    y = torch.cat([part.flatten(0, -2) for part in targets])
    if linears[0].bias is not None:
        y = y - torch.cat([linear.bias for linear in linears])
    weights = ridge(x, y, torch.cat([linear.weight for linear in linears]), penalty)
    for linear, weight in zip(linears, weights.split([linear.out_features for linear in linears]), strict=True):
        linear.weight.data = weight.to(linear.weight.dtype).contiguous()
