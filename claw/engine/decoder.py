"""A stock decoder's forward pass with prefix sharing, over packed rows of tokens, on the model's own weights.

Equal to the stock forward up to rounding, and faster: no padding beyond a few tokens, no copies that plain torch can avoid,
norms and rotations in few passes over memory, and nothing after the last keys and values for tokens that nobody scores.
No weights are copied, so a model may be trained or cut between two passes.

What a model may differ in (fused weights, biases, LayerNorm, norms on q and k, zero-centred gains, norms after blocks, both
halves side by side, no gate, learned positions, sliding windows, rotary tables by layer type or of some dimensions,
multipliers, softcap on the logits) is read off its modules. Which models it is meant for stands in
`claw.engine.architectures`, and `claw.engine.choice` decides whether it is taken.
"""

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from claw.engine import products
from claw.engine.prefix_tree import Batch, Group
from claw.models.anatomy import Anatomy, spans_heads
from claw.models.blocks import Layer, has_gain, norm_epsilon, takes_mean
from claw.models.linears import columns_of

KeyValues = list[tuple[Tensor, Tensor]]  # per layer keys and values (1, G, tokens, h)


class Rotation(NamedTuple):
    """Cosines and sines (N, 1, r) of the first r dimensions of a head, or of their r/2 neighbours turned in `pairs`."""

    cos: Tensor
    sin: Tensor
    pairs: bool = False


class Rows(Group):
    """A group on the model's device: rows that attend together, padded to (B, T)."""

    def take(self, x: Tensor) -> Tensor:
        """Heads (B, heads, T, h) of this group from packed ones (N, heads, h); a view where nothing is padded."""
        taken = x[self.span] if self.index is None else x.index_select(0, self.index.flatten())
        return taken.view(*self.end.shape, *x.shape[1:]).transpose(1, 2)

    def put(self, x: Tensor, out: Tensor) -> None:
        """Write what belongs to this group's tokens from (B·T, d) into packed (N, d)."""
        if self.back is None:
            out[self.span] = x
        else:
            torch.index_select(x, 0, self.back, out=out[self.span])


@dataclass(frozen=True)
class Packed:
    """A batch on the model's device: `tokens` and `positions` (N,) packed, and the groups of rows that attend together."""

    tokens: Tensor
    positions: Tensor
    groups: tuple[Rows, ...]

    @staticmethod
    def of(batch: Batch, device: torch.device) -> "Packed":
        """A batch moved to `device`."""
        send: Any = lambda value: torch.from_numpy(value).to(device) if isinstance(value, np.ndarray) else value
        groups = (Rows(**{name: send(value) for name, value in vars(group).items()}) for group in batch.groups)
        return Packed(send(batch.tokens), send(batch.positions), tuple(groups))

    @staticmethod
    def sequences(tokens: Tensor, start: int = 0) -> "Packed":
        """Ordinary sequences (B, T) whose first token has position `start`."""
        length = tokens.shape[1]
        positions = torch.arange(start, start + length, device=tokens.device).expand(tokens.shape)
        rows = Rows(span=slice(tokens.numel()), end=torch.full_like(tokens, length), positions=positions, causal=True)
        return Packed(tokens.flatten(), positions.flatten(), (rows,))


class Decoder:
    """Hidden states of a model for packed tokens, and keys and values of the prefixes that they share."""

    def __init__(self, parts: Anatomy):
        self.parts = parts
        self.multiply: Callable[[Any, Tensor], Tensor] = products.product
        self.windows = [_window(parts, layer) for layer in parts.layers]
        table = getattr(parts.backbone, "rotary_emb", None)
        by_type = table is not None and "layer_type" in inspect.signature(table.forward).parameters
        self.rotary_types = [_layer_types(parts)[layer.index] if by_type else None for layer in parts.layers]
        self.residual = getattr(parts.config, "residual_multiplier", 1.0)
        self.cap = getattr(parts.config, "attn_logit_softcapping", None)  # of attention scores

    @torch.inference_mode()
    def stem(self, tokens: Tensor, above: KeyValues | None = None) -> KeyValues:
        """Keys and values of a prefix (n,) that comes after those of `above`; the result includes them."""
        kept: KeyValues = []
        self.hidden(Packed.sequences(tokens[None], _length(above)), tokens, above, kept)
        return kept

    @torch.inference_mode()
    def hidden(self, packed: Packed, places: Tensor, stem: KeyValues | None = None, keep: KeyValues | None = None) -> Tensor:
        """Hidden states (K, d) after the last norm at `places` (K,); all tokens come after those of `stem`.

        With `keep`, the pass fills it with keys and values and ends at the last ones: its result means nothing.
        """
        parts, before = self.parts, _length(stem)
        x = self.embed(packed.tokens, packed.positions)
        rotations = {kind: rotation(parts, x, packed.positions, kind) for kind in dict.fromkeys(self.rotary_types)}
        masks = {w: [_mask(rows, before, w, x.dtype) for rows in packed.groups] for w in dict.fromkeys(self.windows)}
        for layer in parts.layers:
            last = layer is parts.layers[-1]
            q, k, v = self.heads(layer, x, rotations[self.rotary_types[layer.index]])
            y = torch.empty(len(x), q[0].numel(), dtype=x.dtype, device=x.device)
            for rows, mask in zip(packed.groups, masks[self.windows[layer.index]], strict=True):
                keys, values = rows.take(k), rows.take(v)
                if stem:
                    keys, values = (_after(old, new) for old, new in zip(stem[layer.index], (keys, values), strict=True))
                if keep is not None:
                    keep.append((keys, values))
                if not (last and keep is not None):
                    rows.put(attend(rows.take(q), keys, values, mask, layer.attention.scaling, self.cap), y)
            if last:  # what follows concerns one token at a time, so only those that are scored
                if keep is not None:
                    return x
                x, y = x[places], y[places]
            x = self.after_attention(layer, x, y)
        return normalise(parts.norm, x, parts.gain_offset)

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """What enters the first block, (N, d), for tokens (N,) at `positions` (N,)."""
        parts = self.parts
        x = parts.embedding(tokens) * getattr(parts.config, "embedding_multiplier", 1.0)
        table = parts.positions
        return x if table is None else x + F.embedding(positions + getattr(table, "offset", 0), table.weight)

    def heads(self, layer: Layer, x: Tensor, rotation: Rotation | None) -> list[Tensor]:
        """Queries (N, H, h), keys and values (N, G, h) of the stream (N, d) before a block, rotated."""
        offset, size = self.parts.gain_offset, self.parts.head_size
        y = normalise(layer.input_norm, x, offset)
        q, k, v = self._products(layer, "qkv", y)
        if norms := layer.head_norms:  # over all heads together, or over each
            q, k = (
                normalise(norm, t if spans_heads(layer) and norm.weight.ndim == 1 else t.reshape(len(t), -1, size), offset)
                for norm, t in zip(norms, (q, k), strict=True)
            )
        q, k, v = (t.reshape(len(t), -1, size) for t in (q, k, v))
        if rotation is None or not getattr(layer.attention, "use_rope", True):
            return [q, k, v]
        return [rotate(q, *rotation), rotate(k, *rotation), v]

    def after_attention(self, layer: Layer, x: Tensor, y: Tensor) -> Tensor:
        """The stream (N, d) behind a block, from that before it and what its heads attended to (N, H·h)."""
        offset = self.parts.gain_offset
        before = normalise(layer.mlp_norm, x, offset) if layer.parallel else None
        x = self._add(x, self.multiply(layer.o, y), layer.after_attention)
        inner, activation = normalise(layer.mlp_norm, x, offset) if before is None else before, layer.activation
        first, *up = self._products(layer, "gu" if layer.gated else "u", inner)
        first = F.silu(first, inplace=True) if isinstance(activation, nn.SiLU) else activation(first)
        return self._add(x, self.multiply(layer.down, first.mul_(up[0]) if up else first), layer.after_mlp)

    def _add(self, x: Tensor, y: Tensor, norm: Any) -> Tensor:
        return x.add_(normalise(norm, y, self.parts.gain_offset), alpha=self.residual)

    def _products(self, layer: Layer, letters: str, x: Tensor) -> list[Tensor]:
        """What linears that read the same give, each stored layer multiplied once."""
        paths = [layer.names.linears[letter] for letter in letters]
        given = {path: self.multiply(layer.owner(letter), x) for path, letter in dict(zip(paths, letters, strict=True)).items()}
        return [columns_of(layer.linear(letter), given[path]) for path, letter in zip(paths, letters, strict=True)]


def _window(parts: Anatomy, layer: Layer) -> int | None:
    """How many tokens back, itself included, this layer looks; None for all."""
    slides = _layer_types(parts)[layer.index] in (None, "sliding_attention")
    return getattr(parts.config, "sliding_window", None) if slides else None


def _layer_types(parts: Anatomy) -> list[str | None]:
    """The kind of attention of each layer; None where the configuration does not tell them apart."""
    return getattr(parts.config, "layer_types", None) or [None] * parts.depth


def rotation(parts: Anatomy, x: Tensor, positions: Tensor, kind: str | None) -> Rotation | None:
    """Cosines and sines (N, 1, h) from the model's own table, or of fewer dimensions; None where there is no table."""
    if not hasattr(parts.backbone, "rotary_emb"):
        return None
    typed = () if kind is None else (kind,)
    cos, sin = (table[0][:, None] for table in parts.backbone.rotary_emb(x, positions[None], *typed))
    if not turns_pairs(type(parts.layers[0].attention).__module__):
        return Rotation(cos, sin)
    doubled = bool((cos[..., ::2] == cos[..., 1::2]).all())  # each angle twice in a row, or all of them twice
    cos, sin = (table[..., ::2] if doubled else table[..., : table.shape[-1] // 2] for table in (cos, sin))
    return Rotation(cos, sin, pairs=True)


@cache
def turns_pairs(module: str) -> bool:
    """Whether the attention of this module of transformers turns neighbours together (Cohere, GLM), not halves of a head."""
    swap = getattr(sys.modules[module], "rotate_half", None)
    return swap is not None and swap(torch.arange(4.0)).tolist() == [-1, 0, -3, 2]


def rotate(x: Tensor, cos: Tensor, sin: Tensor, pairs: bool = False) -> Tensor:
    """Rotary embedding of heads (N, H, h): x cos + (-x₂, x₁) sin, in three passes; of the first dimensions, if fewer turn."""
    if x.dtype != cos.dtype:  # some tables are in float32 (OLMo 2): turned in that, and rounded after it
        return rotate(x.to(cos.dtype), cos, sin, pairs).to(x.dtype)
    size = cos.shape[-1] * (2 if pairs else 1)
    if size < x.shape[-1]:
        return torch.cat([rotate(x[..., :size], cos, sin, pairs), x[..., size:]], dim=-1)
    if pairs:
        first, second = x[..., ::2], x[..., 1::2]
        return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)
    half = size // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out


def normalise(norm: Any, x: Tensor, offset: float) -> Tensor:
    """RMSNorm over the last axis: x / √(mean x² + eps), times the gain. Statistics are in float32. Without a norm x itself.

    LayerNorm, and norms without weights, are called as they are.

    Rounded where the stock module rounds: to the model's type before a gain, after a zero-centred gain (offset 1).
    """
    if norm is None:
        return x
    if takes_mean(norm) or not has_gain(norm):
        return norm(x)
    eps, size = norm_epsilon(norm), x.shape[-1]
    if offset:
        wide = x.float()
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(size).add_(eps).rsqrt_()
        return (wide * scale).mul_(norm.weight.float() + offset).to(x.dtype)
    if x.is_cuda:
        return F.rms_norm(x, (size,), norm.weight, eps)
    rows = x.reshape(1, -1, size)  # batch norm with tokens for channels is one fused pass, which rms_norm is not on a CPU
    square = torch.linalg.vector_norm(rows[0], dim=-1, dtype=torch.float32).square_().div_(size)
    return F.batch_norm(rows, torch.zeros_like(square), square, eps=eps).view(x.shape).mul_(norm.weight)


def _after(old: Tensor, new: Tensor) -> Tensor:
    """Keys or values (B, G, T, h) with those of the stem (1, G, P, h) before them."""
    return torch.cat([old.expand(len(new), -1, -1, -1), new], dim=2)


def _length(stem: KeyValues | None) -> int:
    """Number of tokens in a stem."""
    return stem[0][0].shape[2] if stem else 0


def _mask(rows: Rows, before: int, window: int | None, dtype: torch.dtype) -> Tensor | None:
    """Additive mask (B, 1, T, P + T), or None where plain causal attention is meant."""
    count, length = rows.end.shape
    if window is not None and before + length <= window:
        window = None
    if rows.causal and not before and window is None:
        return None
    place = torch.arange(length, device=rows.end.device)
    seen = (place[:, None] >= place) & (place[:, None] < rows.end[:, None, :])
    if before:
        seen = torch.cat([seen.new_ones(count, length, before), seen], dim=2)
    if window is not None:
        positions = torch.cat([torch.arange(before, device=place.device).expand(count, -1), rows.positions], dim=1)
        seen &= rows.positions[:, :, None] - positions[:, None, :] < window
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)[:, None]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float, cap: float | None = None) -> Tensor:
    """Attention of queries (B, H, T, h) to keys and values (B, G, S, h), as (B·T, H·h); scores are capped where asked for."""
    repeat = q.shape[1] // k.shape[1]
    if cap is not None:  # no fused kernel knows it
        k, v = (t.repeat_interleave(repeat, dim=1) for t in (k, v))
        scores = (q @ k.transpose(2, 3)).mul_(scaling / cap).tanh_().mul_(cap)
        if mask is None:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu_(1 + k.shape[2] - q.shape[2])
            scores.masked_fill_(later, -torch.inf)
        else:
            scores += mask
        return (scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v).transpose(1, 2).flatten(2).flatten(0, 1)
    grouped = repeat > 1
    if grouped and mask is not None and q.is_cuda:  # no fused CUDA kernel takes a mask and grouped heads together
        k, v = (t.repeat_interleave(repeat, dim=1) for t in (k, v))
        grouped = False
    out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped)
    return out.transpose(1, 2).flatten(2).flatten(0, 1)
