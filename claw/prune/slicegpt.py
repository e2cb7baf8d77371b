"""SliceGPT: rotate the residual stream onto its principal directions, cut the last (Ashkboos et al. 2024, arXiv 2401.15024).

`slicegpt` is the plain form: one rotation Q for the whole model, so nothing has to be added and a stock architecture holds
the result: hidden size d', norm weights √(d/d'), ε·d/d', and an untied head (it carries the final norm's gain), which is
counted. Q comes from the covariance of the normalised inputs of all blocks.

`slicegpt-perlayer` is the published form: a rotation of its own before every attention and every feed-forward, found on the
already sliced signal, with d'×d' shortcuts Q_prevᵀ Q_next on the residual path. No stock architecture has those, so the
result lives in memory (hooks add the shortcuts); it is measured, and `claw.save` refuses it.

Norm gains are folded into the linears that read the norm; embeddings are not mean-centred, which would break the
invariance of RMSNorm models; what is done for LayerNorm stands in `claw.prune.rotation`. At full width both forms give the
dense model's logits.
"""

import torch
from torch import nn

from claw.errors import InputError
from claw.models.anatomy import Anatomy, anatomy
from claw.models.arithmetic import arithmetic_of
from claw.models.blocks import Layer
from claw.models.common_names import State, common_state
from claw.models.shape import Shape
from claw.progress import tqdm
from claw.prune import rotation, surgery, trial_cut
from claw.prune.blockwise import first_inputs, run_block, token_batches, unit_rms
from claw.prune.statistics import Statistics
from claw.texts.token_blocks import Blocks

DAMPING = 0.01  # of the mean diagonal, added to every covariance


def principal_directions(covariance: torch.Tensor) -> torch.Tensor:
    """Orthonormal eigenvectors (d, d), the largest first, in float64 with 1 % damping."""
    damped = covariance.double()
    damped = damped + DAMPING * damped.diagonal().mean() * torch.eye(len(damped), dtype=torch.float64, device=damped.device)
    return torch.linalg.eigh(damped).eigenvectors.flip(1)


def sliced(parts: Anatomy, target: Shape, statistics: Statistics) -> nn.Module:
    """The stock model of hidden width d' = target.hidden under one global rotation."""
    trial_cut.check_cut(parts, "hidden")
    directions = principal_directions(statistics.stream_gram().to(parts.device))[:, : target.hidden]
    half = torch.finfo(parts.dtype).bits == 16  # then float32 products round to the same weights, but for ties
    return rotation.rotated(parts, directions.float() if half else directions)


def check_rotatable(parts: Anatomy) -> None:
    """Refuse blocks that normalise what they write: known from the shape alone, before weights can be tried (`trial_cut`)."""
    if parts.layers[0].after_attention is not None:
        raise InputError(
            f"slicegpt cannot rotate {type(parts.model).__name__}: its blocks normalise what they write, and that gain does "
            "not commute with a rotation. Use a method that cuts ffn, heads or layers."
        )


@torch.no_grad()
def per_layer(parts: Anatomy, target: Shape, blocks: Blocks) -> nn.Module:
    """The published form on calibration blocks: rotations per norm, found on the sliced signal, with shortcuts."""
    trial_cut.check_cut(parts, "hidden")
    if parts.centres or parts.layers[0].parallel:
        raise InputError(
            f"slicegpt-perlayer cannot slice {type(parts.model).__name__}: its norms take the mean away, or its halves act "
            "side by side, which this form does not know. Use slicegpt, which turns the whole stream at once."
        )
    size, residual = target.hidden, arithmetic_of(parts).residual
    small = rotation.rotated(parts, torch.eye(parts.hidden, size, dtype=torch.float64, device=parts.device))  # the right shapes
    inner = anatomy(small)
    batches = token_batches(parts, blocks.ids)
    dense = [first_inputs(parts, ids)[0].double() for ids in batches]  # the sliced stream in the dense model's coordinates
    arguments = [first_inputs(inner, ids)[1] for ids in batches]
    basis = _directions(dense, parts.layers[0].input_norm, size)
    weights = common_state(parts)
    inner.embedding.weight.data = rotation.rotated_embedding(parts, basis)
    states = [stream @ basis for stream in dense]
    following = [*(layer.input_norm for layer in parts.layers[1:]), parts.norm]
    pairs = list(zip(parts.layers, inner.layers, following, strict=True))
    for layer, cut, norm in tqdm(pairs, desc="slicing", unit=" blocks", leave=False):
        inputs = [kwargs[layer.index] for kwargs in arguments]
        dense = [stream @ basis.T for stream in states]
        after = [
            stream + residual * layer.attention(layer.input_norm(stream.to(parts.dtype)), **kwargs)[0].double()
            for stream, kwargs in zip(dense, inputs, strict=True)
        ]
        middle = _directions(after, layer.mlp_norm, size)
        written = (layer.mlp(layer.mlp_norm(stream.to(parts.dtype))).double() for stream in after)
        end = _directions([stream + residual * out for stream, out in zip(after, written, strict=True)], norm, size)
        _slice_block(parts, layer, cut, weights, (basis, middle, end))
        states = [run_block(cut, s.to(parts.dtype), kwargs).double() for s, kwargs in zip(states, inputs, strict=True)]
        basis = end
    inner.head.weight.data = rotation.rotated_head(parts, basis)
    return small


def _directions(streams: list[torch.Tensor], norm: nn.Module, size: int) -> torch.Tensor:
    """The first `size` principal directions of the stream as a norm sees it, (d, d')."""
    flat = torch.cat([unit_rms(stream, norm).flatten(0, 1) for stream in streams])
    return principal_directions(flat.T @ flat / len(flat))[:, :size]


def _slice_block(parts: Anatomy, layer: Layer, cut: Layer, weights: State, bases: tuple[torch.Tensor, ...]) -> None:
    """Give the small block `cut` the weights of `layer`, in the bases of the stream before it, in its middle and after it."""
    start, (basis, middle, end) = surgery.prefix(layer), bases
    state = {name: tensor for name, tensor in weights.items() if name.startswith(f"{start}.")}
    rotation.rotate_reads(state, parts, layer, basis, middle)
    rotation.rotate_write(state, f"{start}.self_attn.o_proj", middle)
    rotation.rotate_write(state, f"{start}.mlp.down_proj", end)
    linears = {name.removeprefix(f"{start}."): tensor for name, tensor in state.items() if "_proj." in name}
    cut.module.load_state_dict(linears, strict=False, assign=True)
    residual = arithmetic_of(parts).residual
    add_shortcut(cut.module, "attention", cut.input_norm, cut.attention, (basis.T @ middle).to(parts.dtype), residual)
    add_shortcut(cut.module, "mlp", cut.mlp_norm, cut.mlp, (middle.T @ end).to(parts.dtype), residual)


def add_shortcut(
    block: nn.Module, name: str, norm: nn.Module, writer: nn.Module, matrix: torch.Tensor, residual: float = 1.0
) -> None:
    """Turn the step x + r f(x) of a stock block into x S + r f(x), with S (d', d') a parameter of the block, r `residual`."""
    block.register_parameter(f"shortcut_{name}", nn.Parameter(matrix, requires_grad=False))
    entering: list[torch.Tensor] = []

    def add(module, args, output):
        x = entering.pop()
        extra = (x @ getattr(block, f"shortcut_{name}") - x) / residual
        return (output[0] + extra, *output[1:]) if isinstance(output, tuple) else output + extra

    norm.register_forward_pre_hook(lambda module, args: entering.append(args[0]))
    writer.register_forward_hook(add)


def is_plain(model: nn.Module) -> bool:
    """Whether a model is a stock one, without shortcuts."""
    return not any("shortcut_" in name for name, _ in model.named_parameters())
