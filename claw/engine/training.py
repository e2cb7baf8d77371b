"""A decoder's forward pass for training, equal to the stock one up to rounding and with few passes over memory.

On a CPU a stock training step spends most of its time outside matrix products. Here norms, gates and rotations have their
gradients written out, so that nothing is widened, copied or kept that they do not need; LoRA's two thin products are added
inside the product they belong to; and attention is plain products over blocks of queries, keys shared by a group of query
heads without being repeated. It is taken for the models that `claw.engine` computes itself, after a comparison of its own with
the stock pass; other models, those that drop out, and long blocks go through the stock forward.
"""

from typing import Any
from weakref import WeakKeyDictionary

import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from claw.engine.agreement import trial_copies, why_not_near
from claw.engine.choice import build_decoder
from claw.engine.decoder import Decoder, rotate, rotation
from claw.models.anatomy import anatomy
from claw.models.arithmetic import once
from claw.models.blocks import Layer, norm_epsilon
from claw.models.families import width_in

LONGEST = 1024  # tokens; above this the probabilities of attention would fill memory
TRIAL = 24  # tokens of a sequence in the comparison
QUERIES = 128  # queries whose scores are made at one time; keys after the last of them are left out


_DIFFERENCES: WeakKeyDictionary[nn.Module, tuple[tuple, str]] = WeakKeyDictionary()


class Forward:
    """Hidden states after the last norm, (B, T, d), with gradients. `reason` says why they are the stock forward's."""

    def __init__(self, model: Any):
        self.model = model
        self.decoder: Decoder | None = None
        self.recomputes = False
        if next(model.parameters()).device.type != "cpu":
            self.reason = "its own forward is for a CPU"
            return
        decoder, self.reason = build_decoder(model, training=True)
        self.reason = self.reason or once(_DIFFERENCES, model, lambda: _difference(model))
        self.decoder = None if self.reason else decoder

    @property
    def parts(self) -> Any:
        return self.decoder and self.decoder.parts

    def __call__(self, ids: Tensor, inputs: list[Tensor] | None = None) -> Tensor:
        """The states of blocks of ids (B, T); a list that is given is filled with what each block was given, (B·T, d)."""
        if self.decoder is None or ids.shape[1] > LONGEST:
            seen = self.model.base_model(input_ids=ids, use_cache=False, output_hidden_states=inputs is not None)
            if inputs is not None:
                inputs += [states.flatten(0, 1) for states in seen.hidden_states[:-1]]
            return seen.last_hidden_state
        decoder, parts = self.decoder, self.parts
        batch, length = ids.shape
        x = parts.embedding(ids).flatten(0, 1)
        positions = torch.arange(length, device=ids.device).repeat(batch)
        rotations = {kind: rotation(parts, x, positions, kind) for kind in dict.fromkeys(decoder.rotary_types)}
        masks = {window: _masks(length, window, x) for window in dict.fromkeys(decoder.windows)}
        for layer in parts.layers:
            if inputs is not None:
                inputs.append(x)
            given = (layer, x, batch, rotations[decoder.rotary_types[layer.index]], masks[decoder.windows[layer.index]])
            x = checkpoint(self._block, *given, use_reentrant=False) if self.recomputes else self._block(*given)
        return self._norm(parts.norm, x).view(batch, length, -1)

    def scored_states(self, ids: Tensor, scored: Tensor, inputs: list[Tensor] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """States (N, d) before the scored tokens of blocks (B, T), the ids of these (N,), and their places among B·(T-1)."""
        places = scored[:, 1:].flatten().nonzero()[:, 0]
        return self(ids, inputs)[:, :-1].flatten(0, 1)[places], ids[:, 1:].flatten()[places], places

    def _block(self, layer: Layer, x: Tensor, batch: int, rotation, masks: list[Tensor]) -> Tensor:
        y = self._norm(layer.input_norm, x)
        q, k, v = (linear(y, module) for module in (layer.q, layer.k, layer.v))
        q, k = (part.view(len(part), -1, self.parts.head_size) for part in (q, k))
        if norms := layer.head_norms:
            q, k = norms[0](q), norms[1](k)
        q, k = Rotated.apply(q, *rotation[:2]), Rotated.apply(k, *rotation[:2])
        y = training_attention(q, k, v, batch=batch, scale=layer.attention.scaling, masks=masks)
        x = x + self._after(layer.after_attention, linear(y, layer.o))
        y = self._norm(layer.mlp_norm, x)
        gate, up = linear(y, layer.gate), linear(y, layer.up)
        y = Gated.apply(gate, up) if isinstance(layer.mlp.act_fn, nn.SiLU) else layer.mlp.act_fn(gate) * up
        return x + self._after(layer.after_mlp, linear(y, layer.down))

    def _norm(self, norm: Any, x: Tensor) -> Tensor:
        return norm(x) if self.parts.gain_offset else Normalised.apply(x, norm.weight, norm_epsilon(norm))

    def _after(self, norm: Any, y: Tensor) -> Tensor:
        return y if norm is None else self._norm(norm, y)


def activation_bytes(model: Any, rows: int, length: int, *, lean: bool) -> int:
    """What the activations of so many blocks take until the backward pass, about.

    A block of layers keeps about 16 states and 8 inner ones of a token, or half of that in a `lean` forward of our own, and at
    worst the probabilities of attention.
    """
    config, weight = model.config.get_text_config(), next(model.parameters())
    states = 16 * config.hidden_size + 8 * width_in(config)
    numbers = states // (2 if lean else 1) + config.num_attention_heads * length
    return config.num_hidden_layers * numbers * max(2, weight.element_size()) * rows * length


def needs_checkpointing(model: Any, rows: int, length: int, *, lean: bool) -> bool:
    """Whether the activations of so many blocks would take more than half of the memory that is free."""
    need, device = activation_bytes(model, rows, length, lean=lean), next(model.parameters()).device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return need > free / 2


@torch.no_grad()
def _difference(model: Any) -> str:
    """How this forward differs from the stock one on copies of a few layers; empty if it does not."""
    for few in trial_copies(model):
        own = Forward.__new__(Forward)
        own.model, own.decoder, own.recomputes = few, Decoder(anatomy(few)), False
        tokens = torch.arange(2 * TRIAL).view(2, TRIAL) * 7 % own.parts.vocabulary
        stock = few.model(input_ids=tokens, use_cache=False).last_hidden_state
        if why := why_not_near(own(tokens).flatten(0, 1), stock.flatten(0, 1)):
            return f"its hidden states {why}"
    return ""


def linear(x: Tensor, module: Any) -> Tensor:
    """What the module does to (N, in); with an adapter, its products go into the same result."""
    if not hasattr(module, "lora_A"):
        return module(x)
    (name,) = module.active_adapters
    base, down, up = module.get_base_layer(), module.lora_A[name], module.lora_B[name]
    return Adapted.apply(x, base.weight, base.bias, down.weight, up.weight, module.scaling[name])


class Adapted(torch.autograd.Function):
    """W x + b + s B A x for frozen W and b, with gradients for A, B and x."""

    @staticmethod
    def forward(ctx, x, weight, bias, down, up, scale):
        thin = F.linear(x, down).mul_(scale)
        ctx.save_for_backward(x, weight, down, up, thin)
        ctx.scale = scale
        return F.linear(x, weight, bias).addmm_(thin, up.t())

    @staticmethod
    def backward(ctx, grad):
        x, weight, down, up, thin = ctx.saved_tensors
        back = (grad @ up).mul_(ctx.scale)
        grad_x = (grad @ weight).addmm_(back, down) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, back.t() @ x, grad.t() @ thin, None


class Normalised(torch.autograd.Function):
    """RMSNorm of (N, d): n = x / √(mean x² + eps), times the gain."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        square = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32).square_().div_(x.shape[-1])
        ctx.save_for_backward(x, weight, square)
        ctx.eps = eps
        return _scaled(x, square, eps).mul_(weight)

    @staticmethod
    def backward(ctx, grad):
        x, weight, square = ctx.saved_tensors
        normal = _scaled(x, square, ctx.eps)
        product = grad * normal
        grad_weight = product.sum(0, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        share = (product @ weight).float().div_(-x.shape[-1])[:, None]
        inner = (grad * weight).addcmul_(normal, share.to(x.dtype))
        return inner.mul_((square + ctx.eps).rsqrt_()[:, None].to(x.dtype)), grad_weight, None


def _scaled(x: Tensor, square: Tensor, eps: float) -> Tensor:
    """x / √(square + eps): batch norm with tokens for channels is one fused pass on a CPU."""
    return F.batch_norm(x[None], torch.zeros_like(square), square, eps=eps)[0]


class Gated(torch.autograd.Function):
    """silu(gate) · up, keeping its two inputs only."""

    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, grad):
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)


class Rotated(torch.autograd.Function):
    """Rotary embedding of heads (N, H, h); its gradient is the rotation back."""

    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save_for_backward(cos, sin)
        return rotate(x, cos, sin)

    @staticmethod
    def backward(ctx, grad):
        cos, sin = ctx.saved_tensors
        return rotate(grad, cos, -sin), None, None


def _masks(length: int, window: int | None, x: Tensor) -> list[Tensor]:
    """Additive masks (queries, keys) of each block of queries."""
    places = torch.arange(length, device=x.device)
    masks = []
    for first in range(0, length, QUERIES):
        back = places[first : first + QUERIES, None] - places[: first + QUERIES]
        hidden = (back < 0) if window is None else (back < 0) | (back >= window)
        masks.append(torch.zeros(hidden.shape, dtype=x.dtype, device=x.device).masked_fill_(hidden, -torch.inf))
    return masks


def training_attention(q: Tensor, k: Tensor, v: Tensor, *, batch: int, scale: float, masks: list[Tensor]) -> Tensor:
    """Causal attention of queries (N, H, h) to keys (N, G, h) and values (N, G·h), as (N, H·h).

    The query heads of a group are rows of one product with the group's keys.
    """
    length, (groups, size) = len(q) // batch, k.shape[1:]
    repeat = q.shape[1] // groups
    q = q.view(batch, length, groups, repeat, size).permute(0, 2, 3, 1, 4)  # B G R T h
    k, v = (x.reshape(batch, length, groups, size).transpose(1, 2).flatten(0, 1) for x in (k, v))  # BG T h
    outputs = []
    for first, mask in zip(range(0, length, QUERIES), masks, strict=True):
        rows, keys = mask.shape
        part = q[:, :, :, first : first + rows].reshape(batch * groups, repeat * rows, size)
        scores = torch.baddbmm(mask.repeat(repeat, 1), part, k[:, :keys].transpose(1, 2), alpha=scale)
        out = torch.bmm(scores.softmax(-1), v[:, :keys])
        outputs.append(out.view(batch, groups, repeat, rows, size))
    return torch.cat(outputs, dim=3).permute(0, 3, 1, 2, 4).reshape(batch * length, -1)
