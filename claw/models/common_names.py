"""A model's weights under the same names for every family, one tensor a role, and back as its checkpoint stores them.

The common names are those of Llama: `model.embed_tokens`, `model.norm`, `lm_head`, `model.layers.N.self_attn.q_proj` and so on;
a learned table of positions is `model.positions`. What else a block has, such as its norms, keeps its own name there. Weights
are (out, in) whatever the checkpoint does; fused ones come apart and are joined again.
"""

from collections.abc import Mapping, Sequence

import torch

from claw.models.anatomy import Anatomy
from claw.models.families import GATED, LLAMA
from claw.models.linears import is_transposed, out_in, part_of, stored_rows

State = dict[str, torch.Tensor]  # weights by their names


def common_state(parts: Anatomy) -> State:
    """The weights by their common names, without a tied head's duplicate; the tensors are the model's own, or views of them."""
    state: Mapping[str, torch.Tensor] = parts.model.state_dict()
    stock = {name: tensor for name, tensor in state.items() if not (parts.tied and name == f"{parts.names.head}.weight")}
    if parts.names is LLAMA:
        return stock
    common = {_outer(parts, name): tensor for name, tensor in stock.items()}
    for layer in parts.layers:
        start = f"model.layers.{layer.index}."
        for path, letters in parts.names.stored.items():
            whole = {kind: common.pop(f"{start}{path}.{kind}", None) for kind in ("weight", "bias")}
            for kind, tensor in whole.items():
                if tensor is not None:
                    oriented = out_in(tensor, is_transposed(layer.owner(letters[0])))
                    names = {letter: f"{start}{GATED[letter]}.{kind}" for letter in letters}
                    common |= {names[letter]: part_of(layer.linear(letter), oriented) for letter in letters}
    return common


def stock_state(parts: Anatomy, common: State, layers: Sequence[int]) -> State:
    """The weights `common`, of any sizes, as a checkpoint of the family of `parts` stores those of the blocks `layers`.

    Blocks are numbered from 0 in the order of `layers`.
    """
    renumbered = _renumbered(common, layers)
    if parts.names is LLAMA:
        return renumbered
    for index in range(len(layers)):
        start = f"model.layers.{index}."
        for path, letters in parts.names.stored.items():
            for kind in ("weight", "bias"):
                roles = {letter: renumbered.pop(f"{start}{GATED[letter]}.{kind}", None) for letter in letters}
                there = {letter: tensor for letter, tensor in roles.items() if tensor is not None}
                if there:
                    whole = _joined(there, parts.head_size if parts.names.by_head else 0)
                    transposed = is_transposed(parts.layers[0].owner(letters[0]))
                    renumbered[f"{start}{path}.{kind}"] = out_in(whole, transposed).contiguous()
    return {_outer(parts, name, back=True): tensor for name, tensor in renumbered.items()}


def _joined(roles: State, by_head: int) -> torch.Tensor:
    """One tensor with the rows of several roles."""
    if len(roles) == 1:
        return next(iter(roles.values()))
    rows = stored_rows(list(roles), {letter: len(tensor) for letter, tensor in roles.items()}, by_head)
    first = next(iter(roles.values()))
    whole = first.new_empty(sum(map(len, roles.values())), *first.shape[1:])
    for letter, tensor in roles.items():
        whole[rows[letter]] = tensor
    return whole


def _outer(parts: Anatomy, name: str, *, back: bool = False) -> str:
    """A name with what stands outside a block's own renamed, to the common name or back."""
    names = parts.names
    pairs = {
        f"{names.backbone}.{names.embedding}.": "model.embed_tokens.",
        f"{names.backbone}.{names.layers}.": "model.layers.",
        f"{names.backbone}.{names.norm}.": "model.norm.",
        f"{names.head}.": "lm_head.",
    }
    if names.positions:
        pairs[f"{names.backbone}.{names.positions}."] = "model.positions."
    for own, common in pairs.items():
        old, new = (common, own) if back else (own, common)
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _renumbered(state: State, keep: Sequence[int]) -> State:
    """State of the blocks `keep`, numbered from 0."""
    number = {str(old): str(new) for new, old in enumerate(keep)}
    renumbered = {}
    for name, tensor in state.items():
        pieces = name.split(".")
        if pieces[:2] == ["model", "layers"]:
            if pieces[2] not in number:
                continue
            pieces[2] = number[pieces[2]]
        renumbered[".".join(pieces)] = tensor
    return renumbered
