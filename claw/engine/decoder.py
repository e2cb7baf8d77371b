"""A stock decoder's forward pass over trees of tokens, on the model's own weights.

Equal to the stock forward up to rounding, and faster: no padding beyond a few tokens, no copies that plain torch can avoid,
norms and rotations in few passes over memory, and nothing after the last keys and values for tokens that nobody scores.
No weights are copied, so a model may be trained or cut between two passes.

What a model may differ in (biases, norms on q and k, zero-centred gains, norms after blocks, sliding windows, rotary tables
by layer type, embedding scale, softcap on the logits) is read off its modules. Whether all of it was understood is decided
by comparing one small pass with the stock one; where they differ, `build` says so and the stock forward is used.
"""

import inspect
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from claw.anatomy import Anatomy, Layer, anatomy
from claw.errors import InputError

KINDS = (None, "full_attention", "sliding_attention")
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}  # relative difference of hidden states; bfloat16 and float16 below
HALF_TOLERANCE = 0.1
PROBE = (2, 24)  # sequences and tokens of the comparison

KeyValues = list[tuple[torch.Tensor, torch.Tensor]]  # per layer keys and values (1, G, tokens, h)


@dataclass(frozen=True)
class Trees:
    """One batch on the model's device: `tokens`, `depth`, `end` (B, T) as in claw.engine.tree.Batch."""

    tokens: torch.Tensor
    depth: torch.Tensor
    end: torch.Tensor
    chain: bool

    @staticmethod
    def chains(tokens: torch.Tensor) -> "Trees":
        """Ordinary sequences (B, T)."""
        depth = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        return Trees(tokens, depth, torch.full_like(tokens, tokens.shape[1]), chain=True)


class Decoder:
    """Hidden states of a model for trees of tokens."""

    def __init__(self, parts: Anatomy):
        self.parts = parts
        self.windows = [_window(parts, layer) for layer in parts.layers]
        types = getattr(parts.config, "layer_types", None)
        by_type = "layer_type" in inspect.signature(parts.backbone.rotary_emb.forward).parameters
        self.rotary_types = [types[layer.index] if by_type else None for layer in parts.layers]

    @torch.inference_mode()
    def hidden(self, trees: Trees, points: torch.Tensor, stem: KeyValues | None = None) -> torch.Tensor:
        """Hidden states (K, d) after the last norm at places `points` (K,) of the flattened (B, T); `stem` stands before all."""
        return self._run(trees, points, stem, None)

    @torch.inference_mode()
    def stem(self, tokens: torch.Tensor, above: KeyValues | None = None) -> KeyValues:
        """Keys and values of a prefix (n,) that comes after those of `above`; the result includes them."""
        start = above[0][0].shape[2] if above else 0
        trees = Trees.chains(tokens[None])
        found: KeyValues = []
        self._run(Trees(trees.tokens, trees.depth + start, trees.end, chain=True), None, above, found)
        return found

    def _run(self, trees: Trees, points: torch.Tensor | None, stem: KeyValues | None, keep: KeyValues | None):
        parts = self.parts
        rows, length = trees.tokens.shape
        before = stem[0][0].shape[2] if stem else 0
        x = parts.embedding(trees.tokens).flatten(0, 1)
        rotations = {kind: _rotation(parts, x, trees.depth, kind) for kind in dict.fromkeys(self.rotary_types)}
        masks = {window: _mask(trees, before, window, x.dtype) for window in dict.fromkeys(self.windows)}
        for layer in parts.layers:
            last = layer is parts.layers[-1]
            y = normalise(layer.input_norm, x, parts.gain_offset)
            q, k, v = self._heads(layer, y, rotations[self.rotary_types[layer.index]], rows)
            if stem:
                k, v = (_after(old, new) for old, new in zip(stem[layer.index], (k, v), strict=True))
            if keep is not None:
                keep.append((k, v))
                if last:
                    return None
            y = attend(q, k, v, masks[self.windows[layer.index]], layer.attention.scaling)
            if last:  # what follows concerns one token at a time, so only those that are scored
                x, y = x[points], y[points]
            x = self._add(x, layer.o(y), layer.after_attention)
            x = self._add(x, _feed_forward(layer, normalise(layer.mlp_norm, x, parts.gain_offset)), layer.after_mlp)
        return normalise(parts.norm, x, parts.gain_offset)

    def _add(self, x: torch.Tensor, y: torch.Tensor, norm: nn.Module | None) -> torch.Tensor:
        return x.add_(y if norm is None else normalise(norm, y, self.parts.gain_offset))

    def _heads(self, layer: Layer, y: torch.Tensor, rotation: tuple, rows: int) -> tuple[torch.Tensor, ...]:
        """Queries (B, H, T, h), keys and values (B, G, T, h), rotated; views, not copies."""
        size = self.parts.head_size
        q, k, v = (linear(y).view(len(y), -1, size) for linear in (layer.q, layer.k, layer.v))
        if hasattr(layer.attention, "q_norm"):
            q = normalise(layer.attention.q_norm, q, self.parts.gain_offset)
            k = normalise(layer.attention.k_norm, k, self.parts.gain_offset)
        q, k = rotate(q, *rotation), rotate(k, *rotation)
        return tuple(t.view(rows, -1, t.shape[1], size).transpose(1, 2) for t in (q, k, v))


def build(model: nn.Module) -> tuple[Decoder | None, str]:
    """The fast decoder of a model, or None and the reason why the stock forward must be used."""
    try:
        parts = anatomy(model)
    except InputError as error:
        return None, str(error)
    reason = _obstacle(parts)
    if reason:
        return None, reason
    decoder = Decoder(parts)
    try:
        difference = _difference(decoder)
    except (RuntimeError, AttributeError, TypeError) as error:
        return None, f"its blocks do not compute as expected ({error})"
    if difference > TOLERANCE.get(parts.dtype, HALF_TOLERANCE):
        return None, f"its hidden states differ by {difference:.1%} from those of the blocks that are understood"
    return decoder, ""


def _obstacle(parts: Anatomy) -> str:
    """What is known to be beyond the fast pass, or nothing."""
    config = parts.config
    rotary = getattr(parts.backbone, "rotary_emb", None)
    if rotary is None:
        return "it has no rotary position embedding"
    kinds = getattr(rotary, "rope_type", "default")
    kinds = set(kinds.values()) if isinstance(kinds, dict) else {kinds}
    if any("dynamic" in kind or "longrope" in kind for kind in kinds):
        return "its rotary table depends on the length of the longest sequence in a batch"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "it caps attention scores"
    if getattr(config, "use_bidirectional_attention", False):
        return "its attention is not causal"
    if any(kind not in KINDS for kind in getattr(config, "layer_types", None) or ()):
        return "it has layers with another kind of attention"
    for layer in parts.layers:
        norm = getattr(layer.attention, "q_norm", None)
        if norm is not None and tuple(norm.weight.shape) != (parts.head_size,):
            return "it normalises queries over all heads together"
    return ""


@torch.inference_mode()
def _difference(decoder: Decoder) -> float:
    """Relative root mean square difference of the hidden states of a few sequences from the stock ones."""
    parts = decoder.parts
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(parts.vocabulary, PROBE, generator=generator).to(parts.device)
    stock = parts.backbone(input_ids=tokens, use_cache=False).last_hidden_state.flatten(0, 1).float()
    ours = decoder.hidden(Trees.chains(tokens), torch.arange(tokens.numel(), device=tokens.device)).float()
    if not stock.isfinite().all():  # a model that gives NaN gives NaN either way
        return 0.0
    return float((ours - stock).norm() / stock.norm().clamp(min=1e-30))


def _window(parts: Anatomy, layer: Layer) -> int | None:
    """How many tokens back, itself included, this layer looks; None for all."""
    types = getattr(parts.config, "layer_types", None)
    if types is not None and types[layer.index] != "sliding_attention":
        return None
    return getattr(parts.config, "sliding_window", None)


def _rotation(parts: Anatomy, x: torch.Tensor, depth: torch.Tensor, kind: str | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines (B·T, 1, h) from the model's own table."""
    typed = () if kind is None else (kind,)
    cos, sin = parts.backbone.rotary_emb(x, depth, *typed)
    return cos.flatten(0, 1)[:, None], sin.flatten(0, 1)[:, None]


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of heads (N, H, h): x cos + (-x₂, x₁) sin, in three passes."""
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out


def normalise(norm: nn.Module, x: torch.Tensor, offset: float) -> torch.Tensor:
    """RMSNorm over the last axis: x / √(mean x² + eps), times the gain. Statistics are in float32.

    Rounded where the stock module rounds: to the model's type before a gain, after a zero-centred gain (offset 1).
    """
    eps = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
    size = x.shape[-1]
    if offset:
        wide = x.float()
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(size).add_(eps).rsqrt_()
        return (wide * scale).mul_(norm.weight.float() + offset).to(x.dtype)
    if x.is_cuda:
        return F.rms_norm(x, (size,), norm.weight, eps)
    rows = x.reshape(1, -1, size)  # batch norm with tokens for channels is one fused pass, which rms_norm is not on a CPU
    square = torch.linalg.vector_norm(rows[0], dim=-1, dtype=torch.float32).square_().div_(size)
    return F.batch_norm(rows, torch.zeros_like(square), square, eps=eps).view(x.shape).mul_(norm.weight)


def _feed_forward(layer: Layer, y: torch.Tensor) -> torch.Tensor:
    gate = layer.gate(y)
    activation = layer.mlp.act_fn
    gate = F.silu(gate, inplace=True) if isinstance(activation, nn.SiLU) else activation(gate)
    return layer.down(gate.mul_(layer.up(y)))


def _after(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Keys or values (B, G, T, h) with those of the stem (1, G, P, h) before them."""
    return torch.cat([old.expand(len(new), -1, -1, -1), new], dim=2)


def _mask(trees: Trees, before: int, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
    """Additive mask (B, 1, T, P + T), or None where plain causal attention is meant."""
    rows, length = trees.tokens.shape
    near = window is None or before + length <= window
    if trees.chain and not before and near:
        return None
    place = torch.arange(length, device=trees.tokens.device)
    seen = (place[:, None] >= place) & (place[:, None] < trees.end[:, None, :])
    if before:
        seen = torch.cat([seen.new_ones(rows, length, before), seen], dim=2)
    if not near:
        depth = torch.cat([torch.arange(before, device=place.device).expand(rows, -1), trees.depth], dim=1)
        seen &= trees.depth[:, :, None] - depth[:, None, :] < window
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)[:, None]


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scaling: float) -> torch.Tensor:
    """Attention of queries (B, H, T, h) to keys and values (B, G, S, h), as (B·T, H·h)."""
    repeat = q.shape[1] // k.shape[1]
    grouped = repeat > 1
    if grouped and mask is not None and q.is_cuda:  # no fused CUDA kernel takes a mask and grouped heads together
        k, v = (t.repeat_interleave(repeat, dim=1) for t in (k, v))
        grouped = False
    out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped)
    return out.transpose(1, 2).flatten(2).flatten(0, 1)
