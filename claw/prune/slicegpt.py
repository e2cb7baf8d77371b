"""SliceGPT: rotate the residual stream onto its principal directions and cut the last ones (Ashkboos et al. 2024, arXiv 2401.15024).

`slicegpt` is the plain form: one rotation Q for the whole model, so nothing has to be added and a stock architecture holds
the result: hidden size d', norm weights √(d/d'), ε·d/d', and an untied head (it carries the final norm's gain), which is
counted. Q comes from the covariance of the normalised inputs of all blocks.

`slicegpt-perlayer` is the published form: a rotation of its own before every attention and every feed-forward, found on the
already sliced signal, with d'×d' shortcuts Q_prevᵀ Q_next on the residual path. No stock architecture has those, so the
result lives in memory (hooks add the shortcuts); it is measured, and `claw.save` refuses it.

Norm gains are folded into the linears that read the norm; embeddings are not mean-centred, which would break the
invariance of RMSNorm models. At full width both forms give the dense model's logits.
"""

import torch
from torch import nn

from claw.errors import InputError
from claw.models.anatomy import Anatomy, Layer, anatomy, norm_epsilon
from claw.models.shape import Shape
from claw.progress import tqdm
from claw.prune import surgery
from claw.prune.blockwise import first_inputs, run_block, token_batches, unit_rms
from claw.prune.statistics import Statistics
from claw.texts.token_blocks import Blocks

DAMPING = 0.01  # of the mean diagonal, added to every covariance


def check_rotatable(parts: Anatomy) -> None:
    """Refuse architectures whose blocks normalise what they write: that norm's gain does not commute with a rotation."""
    if parts.layers[0].after_attention is not None:
        raise InputError(
            f"slicegpt cannot rotate {type(parts.model).__name__}: its blocks normalise what they write, and that gain does not "
            "commute with a rotation. Use a method that cuts ffn, heads or layers."
        )


def principal_directions(covariance: torch.Tensor) -> torch.Tensor:
    """Orthonormal eigenvectors (d, d), the largest first, in float64 with 1 % damping."""
    damped = covariance.double()
    damped = damped + DAMPING * damped.diagonal().mean() * torch.eye(len(damped), dtype=torch.float64, device=damped.device)
    return torch.linalg.eigh(damped).eigenvectors.flip(1)


def sliced(parts: Anatomy, target: Shape, statistics: Statistics) -> nn.Module:
    """The stock model of hidden width d' = target.hidden under one global rotation."""
    check_rotatable(parts)
    covariance = sum(statistics.gram(layer.index, site) for layer in parts.layers for site in ("attention", "mlp"))
    rotation = principal_directions(covariance.to(parts.device))[:, : target.hidden]
    return rotated(parts, rotation)


def rotated(parts: Anatomy, rotation: torch.Tensor) -> nn.Module:
    """The model in the coordinates of an orthonormal basis (d, d') of its residual stream, head untied."""
    state = surgery.plain_state(parts)
    size = rotation.shape[1]
    gain = (parts.hidden / size) ** 0.5 - parts.gain_offset
    for layer in parts.layers:
        start = surgery.prefix(layer)
        surgery.rotate_reads(state, parts, layer, rotation, rotation)
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            surgery.rotate_write(state, f"{start}.{name}", rotation)
        for name in ("input_layernorm", "post_attention_layernorm"):
            state[f"{start}.{name}.weight"] = torch.full((size,), gain, dtype=parts.dtype, device=parts.device)
    final = parts.norm.weight.double() + parts.gain_offset
    state["model.norm.weight"] = torch.full((size,), gain, dtype=parts.dtype, device=parts.device)
    state["model.embed_tokens.weight"] = (parts.embedding.weight.double() @ rotation).to(parts.dtype)
    state["lm_head.weight"] = ((parts.head.weight.double() * final) @ rotation).to(parts.dtype)
    return surgery.assemble(
        parts, state, hidden_size=size, head_dim=parts.head_size, tie_word_embeddings=False,
        rms_norm_eps=norm_epsilon(parts.norm) * parts.hidden / size,
    )  # fmt: skip


def per_layer(parts: Anatomy, target: Shape, blocks: Blocks) -> nn.Module:
    """The published form on calibration blocks: rotations per norm, found on the sliced signal, with shortcuts."""
    check_rotatable(parts)
    size = target.hidden
    small = rotated(parts, torch.eye(parts.hidden, size, dtype=torch.float64, device=parts.device))  # the right shapes
    inner = anatomy(small)
    batches = token_batches(parts, blocks.ids)
    states = [first_inputs(parts, ids)[0].double() for ids in batches]  # in the dense coordinates of the sliced stream
    arguments = [first_inputs(inner, ids)[1] for ids in batches]
    basis = _directions(parts, states, parts.layers[0].input_norm)[:, :size]
    weights = surgery.plain_state(parts)
    small.model.embed_tokens.weight.data = (parts.embedding.weight.double() @ basis).to(parts.dtype)
    states = [s @ basis for s in states]
    for layer, cut in tqdm(
        list(zip(parts.layers, inner.layers, strict=True)), desc="slicing", unit=" blocks", disable=None, leave=False
    ):
        states, basis = _slice_block(parts, layer, cut, weights, states, basis, arguments, size)
    final = parts.norm.weight.double() + parts.gain_offset
    small.lm_head.weight.data = ((parts.head.weight.double() * final) @ basis).to(parts.dtype)
    return small


def _slice_block(parts, layer, cut, weights, states, basis, arguments, size):
    """Slice one block; returns the stream after it and the basis that the stream is now in."""
    last = layer.index == parts.depth - 1
    state = {name: tensor for name, tensor in weights.items() if name.startswith(surgery.prefix(layer) + ".")}
    dense = [s @ basis.T for s in states]  # what the sliced stream says in dense coordinates
    after = [d + a for d, a in zip(dense, _attend(parts, layer, cut, dense, arguments), strict=True)]
    middle = _directions(parts, after, layer.mlp_norm)[:, :size]
    out = [a + m for a, m in zip(after, _feed(parts, layer, after), strict=True)]
    following = parts.norm if last else parts.layers[layer.index + 1].input_norm
    end = _directions(parts, out, following)[:, :size]
    surgery.rotate_reads(state, parts, layer, basis, middle)
    surgery.rotate_write(state, f"{surgery.prefix(layer)}.self_attn.o_proj", middle)
    surgery.rotate_write(state, f"{surgery.prefix(layer)}.mlp.down_proj", end)
    _load_linears(cut, state, surgery.prefix(layer))
    add_shortcut(cut.module, "attention", cut.input_norm, cut.attention, (basis.T @ middle).to(parts.dtype))
    add_shortcut(cut.module, "mlp", cut.mlp_norm, cut.mlp, (middle.T @ end).to(parts.dtype))
    with torch.no_grad():
        states = [
            run_block(cut, s.to(parts.dtype), kwargs[layer.index]).double() for s, kwargs in zip(states, arguments, strict=True)
        ]
    return states, end


def _directions(parts: Anatomy, states: list[torch.Tensor], norm: nn.Module) -> torch.Tensor:
    """Principal directions of the stream as a norm sees it."""
    epsilon = norm_epsilon(norm)
    flat = torch.cat([unit_rms(s, epsilon).flatten(0, 1) for s in states])
    return principal_directions(flat.T @ flat / len(flat))


def _attend(parts, layer, cut, states, arguments):
    """What attention writes for streams in dense coordinates."""
    with torch.no_grad():
        out = []
        for s, kwargs in zip(states, arguments, strict=True):
            found = layer.attention(layer.input_norm(s.to(parts.dtype)), **kwargs[layer.index])
            out.append(found[0].double())
    return out


def _feed(parts, layer, states):
    """What the feed-forward writes for streams in dense coordinates."""
    with torch.no_grad():
        return [layer.mlp(layer.mlp_norm(s.to(parts.dtype))).double() for s in states]


def _load_linears(cut: Layer, state: surgery.State, start: str) -> None:
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        _load(getattr(cut.attention, name), state, f"{start}.self_attn.{name}")
    for name in ("gate_proj", "up_proj", "down_proj"):
        _load(getattr(cut.mlp, name), state, f"{start}.mlp.{name}")


def _load(linear: nn.Linear, state: surgery.State, name: str) -> None:
    linear.weight.data = state[f"{name}.weight"].contiguous()
    if linear.bias is not None:
        linear.bias.data = state[f"{name}.bias"]


def add_shortcut(block: nn.Module, name: str, norm: nn.Module, writer: nn.Module, matrix: torch.Tensor) -> None:
    """Turn the residual step x + f(x) of a stock block into x S + f(x), with S (d', d') a parameter of the block."""
    block.register_parameter(f"shortcut_{name}", nn.Parameter(matrix, requires_grad=False))
    entering = []

    def remember(module, args):
        entering.append(args[0])

    def add(module, args, kwargs, output):
        x = entering.pop()
        extra = x @ getattr(block, f"shortcut_{name}") - x
        return (output[0] + extra, *output[1:]) if isinstance(output, tuple) else output + extra

    norm.register_forward_pre_hook(remember)
    writer.register_forward_hook(add, with_kwargs=True)


def is_plain(model: nn.Module) -> bool:
    """Whether a model is a stock one, without shortcuts."""
    return not any("shortcut_" in name for name, _ in model.named_parameters())
