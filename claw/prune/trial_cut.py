"""Whether an axis of a model can be cut as the methods do it, tried out on a float32 copy of a few layers.

Each cut is compared with the dense copy changed to the same effect without changing a size: weights that read the removed units
are zero, removed blocks write nothing, the stream is projected onto the kept directions. So whatever an architecture computes
between its parts, a cut that it does not allow is seen before any work, for every architecture alike.
"""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from claw.errors import InputError
from claw.models.anatomy import Anatomy, anatomy, parts_of, spans_heads
from claw.models.arithmetic import error_line, once
from claw.models.blocks import EPSILONS, has_gain, has_shift
from claw.models.common_names import common_state
from claw.models.few_layers import few_layers
from claw.models.linears import set_linear
from claw.models.shape import Shape
from claw.prune import rotation, surgery, targets
from claw.specs.methods import AXES

TOLERANCE = 3e-4  # of the logits, relative root mean square
LENGTH = 24  # tokens
WORDS = {"ffn": "neurons", "heads": "key-value groups", "hidden": "the hidden width", "layers": "blocks"}

_TRIALS: dict[str, WeakKeyDictionary[nn.Module, tuple[tuple, str]]] = {axis: WeakKeyDictionary() for axis in AXES}


def check_cut(parts: Anatomy, axis: str) -> None:
    """InputError if this model does not allow `axis` to be cut, with the other axes that it allows."""
    if not (why := why_not(parts, axis)):
        return
    others = [other for other in AXES if other != axis and not why_not(parts, other)]
    instead = f"Use a method that cuts {', '.join(others)}." if others else "No other axis of it can be cut either."
    raise InputError(f"{type(parts.model).__name__} cannot have {WORDS[axis]} cut: {why}. {instead}")


def why_not(parts: Anatomy, axis: str) -> str:
    """Why `axis` of this model cannot be cut; empty if it can. Tried once per model."""
    return once(_TRIALS[axis], parts.model, lambda: _tried(parts, axis))


@torch.no_grad()
def _tried(parts: Anatomy, axis: str) -> str:
    trial = {"ffn": _neurons, "heads": _groups, "hidden": _width, "layers": _blocks}[axis]
    try:
        few = anatomy(few_layers(parts.model, at_least=3))
        if few.shape.shortcuts:
            return "it has shortcuts already, which no stock checkpoint holds"
        if axis == "hidden" and few.layers[0].after_mlp is not None:
            return "its blocks normalise what they write, and that gain does not commute with a rotation"
        if axis == "hidden" and not has_gain(few.norm):
            return "its norms have no gain, which a narrower stream needs another one of"
        if axis in ("heads", "hidden") and (why := _why_not_held(few, axis)):
            return why
        _restore_rounded(few, parts.model.dtype)
        small = trial(few)
        if small is None:
            return ""
        ours, wanted = (_logits(model, few) for model in (small, few.model))
    except Exception as error:  # any architecture, each with errors of its own
        return f"a cut of a few layers fails ({error_line(error)})"
    difference = float((ours - wanted).norm() / wanted.norm().clamp(min=1e-30))
    if difference <= TOLERANCE or not wanted.isfinite().all():
        return ""
    return f"in a few layers of it, what is left gives logits that are off by {difference:.2%}, so it computes more than that"


def _restore_rounded(few: Anatomy, dtype: torch.dtype) -> None:
    """Give tables that are derived from the configuration (scales, frequencies) the digits that `dtype` took from them.

    A float32 copy of a model in half precision has them rounded, and the model that is cut from it has them anew.
    """
    if dtype == torch.float32:
        return
    own = dict(few.model.named_buffers())
    fresh = surgery.assemble(few, common_state(few), range(few.depth))
    for name, table in fresh.named_buffers():
        if name in own and torch.equal(table.to(dtype).to(own[name].dtype), own[name]):
            own[name].copy_(table)


def _why_not_held(few: Anatomy, axis: str) -> str:
    """Why no stock model has fewer heads, or a narrower stream with as many; empty if one does."""
    dense = few.shape
    target = (
        dense.with_(heads=2 * dense.heads, groups=2 * dense.groups) if axis == "heads" else dense.with_(hidden=2 * dense.hidden)
    )
    config = surgery.configured(few, range(few.depth), surgery.sizes_of(few, target))
    with torch.device("meta"):
        shape = parts_of(type(few.model)(config)).shape
    if (shape.heads, shape.groups, shape.head_size) == (target.heads, target.groups, target.head_size):
        return ""
    return "its configuration derives the size of a head from the hidden width, so that a stock checkpoint cannot hold it"


def _logits(model: Any, few: Anatomy) -> torch.Tensor:
    tokens = torch.randint(few.vocabulary, (2, LENGTH), generator=torch.Generator().manual_seed(0)).to(few.device)
    return model(input_ids=tokens, use_cache=False).logits.double()


def _half(size: int) -> torch.Tensor:
    """Half of the indices of an axis, at random and in order."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(0))[: max(1, size // 2)].sort().values


def _neurons(few: Anatomy) -> Any:
    keep = _half(few.width)
    small = _cut_units(few, few.shape.with_(width=len(keep)), "ffn", keep)
    for layer in few.layers:
        set_linear(layer.down, _only(layer.down.weight, keep))
    return small


def _groups(few: Anatomy) -> Any:
    if few.groups == 1:
        return None
    keep = _half(few.groups)
    small = _cut_units(few, targets.resize(few.shape, "heads", len(keep)), "heads", keep)
    keys, columns = surgery.group_channels(keep, few)
    for layer in few.layers:
        set_linear(layer.o, _only(layer.o.weight, columns))
        if (
            (norms := layer.head_norms) and spans_heads(layer) and norms[0].weight.ndim == 1
        ):  # the rest then shares the mean square
            for linear, rows, norm in zip((layer.q, layer.k), (columns, keys), norms, strict=True):
                bias = linear.bias
                set_linear(linear, _only(linear.weight.T, rows).T, None if bias is None else _only(bias[None], rows)[0])
                share = len(rows) / linear.out_features
                norm.weight.data = norm.weight * share**0.5
                vars(norm).update({name: value * share for name, value in vars(norm).items() if name in EPSILONS})
    return small


def _cut_units(few: Anatomy, target: Shape, axis: str, keep: torch.Tensor) -> Any:
    kept = {axis: dict.fromkeys(range(few.depth), keep)}
    return surgery.cut(few, target, surgery.Units(range(few.depth), kept))


def _only(weight: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """A weight (out, in) with all but these columns zero."""
    kept = torch.zeros_like(weight)
    kept[:, columns] = weight[:, columns]
    return kept


def _blocks(few: Anatomy) -> Any:
    """Without the first block every other one gets another number."""
    if few.depth == 1:
        return None
    small = surgery.cut(few, few.shape.with_(depth=few.depth - 1), surgery.Units(range(1, few.depth)))
    for linear in (few.layers[0].o, few.layers[0].down):
        bias = linear.bias
        set_linear(linear, torch.zeros_like(linear.weight), None if bias is None else torch.zeros_like(bias))
    return small


def _projected_shift(few: Anatomy, norm: Any, projection: torch.Tensor) -> torch.Tensor:
    """A norm's bias as far as kept directions hold it, (d,)."""
    gain = surgery.norm_gain(norm, few, torch.float64)
    return (gain * (projection @ rotation.held_shift(few, norm))).to(norm.bias.dtype)


def _width(few: Anatomy) -> Any:
    """The stream on random directions, about half of them, against the stream projected onto them."""
    shapes = targets.reachable(few.shape, "hidden", tied=False)
    size = shapes[(len(shapes) - 1) // 2].hidden
    random = torch.randn(few.hidden, few.hidden, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    basis = rotation.suited(few, torch.linalg.qr(random).Q[:, :size].to(few.device))
    small = rotation.rotated(few, basis)
    wide = basis @ basis.T
    projection = wide.float()
    few.head.weight = nn.Parameter(few.head.weight.detach().clone(), requires_grad=False)
    few.embedding.weight.data = few.embedding.weight @ projection
    if few.positions is not None:
        few.positions.weight.data = few.positions.weight @ projection
    if has_shift(few.norm) and few.head.bias is None:
        few.norm.bias.data = _projected_shift(few, few.norm, wide)
    for layer in few.layers:
        for norm, readers in ((layer.input_norm, "qkv"), (layer.mlp_norm, "gu")):
            if has_shift(norm) and any(linear is not None and linear.bias is None for linear in map(layer.linear, readers)):
                norm.bias.data = _projected_shift(few, norm, wide)
        for linear in (layer.o, layer.down):
            bias = linear.bias
            set_linear(linear, projection @ linear.weight, None if bias is None else projection @ bias)
    return small
