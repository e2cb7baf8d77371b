"""The model in other coordinates of its residual stream, fewer ones too: what reads the stream and what writes to it follows.

RMSNorm commutes with an orthonormal basis once its gain is folded into what reads it. LayerNorm also takes the mean away, which
is the part along u = (1, ..., 1)/√d, and adds a bias. So for it the basis Q (d, d') is turned until Q u' = u with u' the same
in d' dimensions: then centring the small stream is centring the dense one, Qᵀ(x - mean x) = Qᵀx - mean Qᵀx. The norm's bias
goes into the biases of what reads it; where these have none it stays in the norm, as far as the kept directions hold it.
"""

from typing import Any

import torch

from claw.allocator import give_back_freed
from claw.models.anatomy import Anatomy
from claw.models.blocks import Layer, has_shift, norm_epsilon
from claw.models.common_names import State, common_state
from claw.prune.surgery import assemble, norm_gain, prefix, sizes_of

EPSILON_NAMES = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps")  # in configurations
READERS = {
    "input_norm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp_norm": ("mlp.gate_proj", "mlp.up_proj"),
}
TINY = 1e-6  # a smaller gain hides the bias behind it
ROWS = 1 << 14  # of a vocabulary that are turned at a time


def rotated(parts: Anatomy, basis: torch.Tensor) -> Any:
    """The stock model in the coordinates of an orthonormal basis (d, d') of its residual stream, head untied."""
    basis, size = suited(parts, basis), basis.shape[1]
    state = rebased(parts, basis, basis, (parts.hidden / size) ** 0.5)
    name = next((name for name in EPSILON_NAMES if hasattr(parts.config, name)), None)
    changed = {} if name is None else {name: norm_epsilon(parts.norm) * parts.hidden / size}
    sizes = sizes_of(parts, parts.shape.with_(hidden=size)) | changed
    return assemble(parts, state, range(parts.depth), **sizes, tie_word_embeddings=False)


def suited(parts: Anatomy, basis: torch.Tensor) -> torch.Tensor:
    """The basis itself, or where the model's norms take the mean away one of the same size that holds the mean, and turned."""
    if not parts.centres:
        return basis
    d, size = basis.shape
    mean = torch.full((d, 1), d**-0.5, dtype=basis.dtype, device=basis.device)
    rest = torch.linalg.qr(basis - mean @ (mean.T @ basis)).Q
    whole = torch.cat([mean, rest[:, : size - 1]], dim=1)
    mirror = torch.full((size,), -(size**-0.5), dtype=basis.dtype, device=basis.device)  # e₁ - u'
    mirror[0] += 1
    if float(mirror.norm()) > 0:
        mirror = mirror / mirror.norm()
        whole = whole - 2 * (whole @ mirror)[:, None] * mirror
    return whole


def rebased(
    parts: Anatomy, read: torch.Tensor, write: torch.Tensor, gain: float, *, tied: bool = False, state: State | None = None
) -> State:
    """The weights, or those of `state`, by their common names in other coordinates of the stream.

    What reads it is multiplied by `read`, what writes it by `write`, both (d, d'). Gains are folded into what reads the norm,
    and every norm multiplies by `gain` instead. That unties the head; with `tied` head and final norm are left to the caller.
    """
    state = dict(state or common_state(parts))
    for layer in parts.layers:
        start = prefix(layer)
        for name in dict.fromkeys(layer.norm_names[norm] for norm in READERS):
            norms = [norm for norm in READERS if layer.norm_names[norm] == name]  # both, where the halves share one
            readers = [f"{start}.{reader}" for norm in norms for reader in READERS[norm] if f"{start}.{reader}.weight" in state]
            _set_norm(state, parts, f"{start}.{name}", getattr(layer, norms[0]), readers, read, gain)
        rotate_reads(state, parts, layer, read, read)
        rotate_write(state, f"{start}.self_attn.o_proj", write)
        rotate_write(state, f"{start}.mlp.down_proj", write)
        give_back_freed()  # weights that stay lie between copies that do not: at 1.5 B as many holes as weights
    state["model.embed_tokens.weight"] = rotated_embedding(parts, write)
    if parts.positions is not None:
        table = state["model.positions.weight"]
        state["model.positions.weight"] = (table.to(write.dtype) @ write).to(parts.dtype)
    if not tied:
        state.setdefault("lm_head.weight", parts.head.weight)
        _set_norm(state, parts, "model.norm", parts.norm, ["lm_head"], read, gain)
        state["lm_head.weight"] = rotated_head(parts, read)
    return state


def _set_norm(state: State, parts: Anatomy, name: str, norm: Any, readers: list[str], read: torch.Tensor, gain: float) -> None:
    """Let a norm multiply by `gain` alone; its bias goes where it can (see above)."""
    fresh = parts.embedding.weight.new_zeros(read.shape[1])
    if has_shift(norm):
        shift, kept = state[f"{name}.bias"].to(read.dtype), fresh.to(read.dtype)
        if all(f"{reader}.bias" in state for reader in readers):
            for reader in readers:
                added = state[f"{reader}.weight"].to(read.dtype) @ shift
                state[f"{reader}.bias"] = (state[f"{reader}.bias"].to(read.dtype) + added).to(parts.dtype)
        else:
            kept = held_shift(parts, norm) @ read
        state[f"{name}.bias"] = kept.to(parts.dtype)
    state[f"{name}.weight"] = fresh + (gain - parts.gain_offset)


def held_shift(parts: Anatomy, norm: Any) -> torch.Tensor:
    """A norm's bias over its gain, (d,) in float64, where it has a gain worth the name."""
    gain = norm_gain(norm, parts, torch.float64)
    return torch.where(gain.abs() > TINY, norm.bias.double() / gain, 0.0)


def rotated_embedding(parts: Anatomy, basis: torch.Tensor) -> torch.Tensor:
    """E Q for a basis Q (d, d'), in the type of Q."""
    return _turned(parts.embedding.weight, basis)


def rotated_head(parts: Anatomy, basis: torch.Tensor) -> torch.Tensor:
    """W diag(gain of the final norm) Q for a basis Q (d, d'), in the type of Q: a head that is not tied."""
    return _turned(parts.head.weight, basis, norm_gain(parts.norm, parts, basis.dtype))


def _turned(weight: torch.Tensor, basis: torch.Tensor, gain: torch.Tensor | float = 1.0) -> torch.Tensor:
    """W diag(gain) Q, some rows at a time: in the type of Q a vocabulary may be larger than the rest of the model."""
    turned = weight.new_empty(len(weight), basis.shape[1])
    for first in range(0, len(weight), ROWS):
        some = slice(first, first + ROWS)
        turned[some] = (weight[some].to(basis.dtype) * gain) @ basis
    return turned


def rotate_reads(state: State, parts: Anatomy, layer: Layer, attention: torch.Tensor, mlp: torch.Tensor) -> None:
    """W diag(gain) Q for everything that reads the block's two norms, with a basis Q (d, d') for each, in the type of Q."""
    for norm, basis in (("input_norm", attention), ("mlp_norm", mlp)):
        gain = norm_gain(getattr(layer, norm), parts, basis.dtype)
        for key in (f"{prefix(layer)}.{name}.weight" for name in READERS[norm]):
            if key in state:
                state[key] = ((state[key].to(basis.dtype) * gain) @ basis).to(parts.dtype)


def rotate_write(state: State, name: str, basis: torch.Tensor) -> None:
    """Qᵀ W, and Qᵀ b where there is a bias, in the type of Q (d, d')."""
    for key in (f"{name}.weight", f"{name}.bias"):
        if key in state:
            state[key] = (basis.T @ state[key].to(basis.dtype)).to(state[key].dtype)
