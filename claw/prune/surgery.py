"""Cut a decoder to a smaller shape: which rows and columns stay, and the best weights for what is left.

A cut never changes the model it is given. The result is a stock model of the same class with smaller sizes in its
configuration; tensors that no cut touches share memory with the dense model, as views do (`claw.recover` copies first).
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from claw.models.anatomy import Anatomy, Layer
from claw.models.shape import Shape
from claw.progress import of_transformers

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Units:
    """Which blocks stay, and which neurons (m',) and key-value groups (G',) of each dense block by its index."""

    layers: tuple[int, ...]
    neurons: dict[int, torch.Tensor]
    groups: dict[int, torch.Tensor]


def kept(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the `count` highest scores, ascending; equal scores keep the lower index."""
    order = torch.sort(scores, descending=True, stable=True).indices
    return order[:count].sort().values


def prefix(layer: Layer) -> str:
    """What the names of a block's weights begin with."""
    return f"model.layers.{layer.index}"


def slice_neurons(state: State, start: str, keep: torch.Tensor) -> None:
    """Keep the feed-forward neurons `keep` of the block whose names begin with `start`."""
    for name in ("gate_proj", "up_proj"):
        _take(state, f"{start}.mlp.{name}", rows=keep)
    _take(state, f"{start}.mlp.down_proj", columns=keep)


def slice_groups(state: State, start: str, keep: torch.Tensor, parts: Anatomy) -> None:
    """Keep the key-value groups `keep`, each with all of its query heads, so grouped-query attention stays valid."""
    keys = key_columns(keep, parts)
    queries = query_columns(keep, parts)
    _take(state, f"{start}.self_attn.q_proj", rows=queries)
    _take(state, f"{start}.self_attn.k_proj", rows=keys)
    _take(state, f"{start}.self_attn.v_proj", rows=keys)
    _take(state, f"{start}.self_attn.o_proj", columns=queries)


def query_columns(groups: torch.Tensor, parts: Anatomy) -> torch.Tensor:
    """Indices into the (H·h,) attention output that belong to these key-value groups."""
    return _spread(groups, parts.head_size * (parts.heads // parts.groups))


def key_columns(groups: torch.Tensor, parts: Anatomy) -> torch.Tensor:
    """Indices into the (G·h,) keys or values that belong to these key-value groups."""
    return _spread(groups, parts.head_size)


def _spread(index: torch.Tensor, size: int) -> torch.Tensor:
    return (index[:, None] * size + torch.arange(size)).flatten()


def _take(state: State, linear: str, rows: torch.Tensor | None = None, columns: torch.Tensor | None = None) -> None:
    weight = state[f"{linear}.weight"]
    if rows is not None:
        weight = weight[rows.to(weight.device)]
        if f"{linear}.bias" in state:
            state[f"{linear}.bias"] = state[f"{linear}.bias"][rows.to(weight.device)]
    if columns is not None:
        weight = weight[:, columns.to(weight.device)].contiguous()
    state[f"{linear}.weight"] = weight


def rotate_reads(state: State, parts: Anatomy, layer: Layer, attention: torch.Tensor, mlp: torch.Tensor) -> None:
    """W diag(gain) Q for everything that reads the block's two norms, with a basis Q (d, d') for each, in the type of Q."""
    start = prefix(layer)
    for norm, names, basis in (
        (layer.input_norm, ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), attention),
        (layer.mlp_norm, ("mlp.gate_proj", "mlp.up_proj"), mlp),
    ):
        gain = norm.weight.to(basis.dtype) + parts.gain_offset
        for name in names:
            weight = state[f"{start}.{name}.weight"].to(basis.dtype) * gain
            state[f"{start}.{name}.weight"] = (weight @ basis).to(parts.dtype)


def rotate_write(state: State, name: str, basis: torch.Tensor) -> None:
    """Qᵀ W, and Qᵀ b where there is a bias, in the type of Q (d, d')."""
    weight = state[f"{name}.weight"]
    state[f"{name}.weight"] = (basis.T @ weight.to(basis.dtype)).to(weight.dtype)
    if f"{name}.bias" in state:
        state[f"{name}.bias"] = (basis.T @ state[f"{name}.bias"].to(basis.dtype)).to(weight.dtype)


def compensated(weight: torch.Tensor, gram: torch.Tensor, keep: torch.Tensor, penalty: float) -> torch.Tensor:
    """Columns `keep` of W, refitted to write what the whole of W wrote: W' = W G_:S (G_SS + λI)⁻¹.

    Ridge regression on the inputs' second moments G = E[x xᵀ]; λ = `penalty` · mean diag G. `weight` (out, in), `gram`
    (in, in), result (out, |S|) in the weight's type. The penalty pulls towards the plain columns, not towards zero, so a
    large λ gives back the uncompensated cut: W' = W_:S + (W_:R G_RS)(G_SS + λI)⁻¹ with R the removed inputs.
    """
    gram = gram.to(weight.device, torch.float32)
    keep = keep.to(weight.device)
    removed = torch.ones(gram.shape[0], dtype=torch.bool, device=weight.device)
    removed[keep] = False
    inner = gram[keep][:, keep]
    inner.diagonal().add_(max(float(penalty), 1e-6) * float(gram.diagonal().mean()))
    full = weight.float()
    cross = full[:, removed] @ gram[removed][:, keep]
    factor, failed = torch.linalg.cholesky_ex(inner)
    if failed:  # not positive definite in float32: few tokens and a tiny penalty
        update = torch.linalg.solve(inner.double(), cross.double().T).T.float()
    else:
        update = torch.cholesky_solve(cross.T, factor).T
    return (full[:, keep] + update).to(weight.dtype)


def assemble(parts: Anatomy, state: State, *, layers: Iterable[int] | None = None, **sizes):
    """A stock model of the same class with `state` for weights and `sizes` in its configuration.

    `layers` selects blocks by index (default all): keys are renumbered and every list in the configuration that has one
    entry per layer is cut with them.
    """
    keep = list(range(parts.depth)) if layers is None else list(layers)
    if len(keep) != parts.depth:
        state = renumbered(state, keep)
    config = configured(parts, keep, sizes)
    with of_transformers():
        model = type(parts.model).from_pretrained(
            None, config=config, state_dict=state, dtype=parts.dtype, attn_implementation=parts.config._attn_implementation
        )
    if parts.model.generation_config is not None:
        model.generation_config = copy.deepcopy(parts.model.generation_config)
    return model.to(parts.device).eval()


def configured(parts: Anatomy, layers: list[int], sizes: Mapping[str, Any]):
    """A copy of the model's configuration with `sizes` in it and every list per block cut to `layers`."""
    config = copy.deepcopy(parts.config)
    for name, value in sizes.items():
        setattr(config, name, value)
    if len(layers) != parts.depth:
        cut_layer_lists(config, layers, parts.depth)
    return config


def sizes_of(shape: Shape) -> dict[str, Any]:
    """What a stock configuration calls the sizes of a shape."""
    return {
        "hidden_size": shape.hidden, "intermediate_size": shape.width, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.groups, "head_dim": shape.head_size,
    }  # fmt: skip


def renumbered(state: State, keep: list[int]) -> State:
    """State of the blocks `keep`, numbered from 0."""
    number = {str(old): str(new) for new, old in enumerate(keep)}
    out = {}
    for name, tensor in state.items():
        pieces = name.split(".")
        if pieces[:2] == ["model", "layers"]:
            if pieces[2] not in number:
                continue
            pieces[2] = number[pieces[2]]
        out[".".join(pieces)] = tensor
    return out


def cut_layer_lists(config, keep: list[int], depth: int) -> None:
    """Bring the configuration to the kept blocks: the count, and every list with one entry per layer."""
    for name, value in list(vars(config).items()):
        if isinstance(value, (list, tuple)) and len(value) == depth:
            setattr(config, name, [value[i] for i in keep])
    config.num_hidden_layers = len(keep)


def plain_state(parts: Anatomy) -> State:
    """The model's weights by name, without a tied head's duplicate; the tensors are the model's own."""
    state: Mapping[str, torch.Tensor] = parts.model.state_dict()
    return {name: tensor for name, tensor in state.items() if not (parts.tied and name == "lm_head.weight")}
