"""The linear layers of a block by their roles, also where a checkpoint stores several as one, or transposed.

A role is read and written as a weight (out, in) and a bias (out,). Plain linears are their own view.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Rows = slice | Tensor  # of a stored weight


def is_transposed(owner: Any) -> bool:
    """Whether a layer stores its weight as (in, out), as GPT-2's do."""
    return type(owner).__name__ == "Conv1D"


def out_in(tensor: Tensor, transposed: bool) -> Tensor:
    """A stored weight as (out, in), or one of (out, in) as it is stored; a bias as it is."""
    return tensor.T if transposed and tensor.ndim == 2 else tensor


def stored_rows(letters: Sequence[str], outs: Mapping[str, int], by_head: int = 0) -> dict[str, Rows]:
    """Which rows of one stored weight belong to each of `letters`, with `outs` rows each.

    They lie below each other, or, with `by_head` the size of a head, in turn for every head (GPT-NeoX).
    """
    if by_head:
        heads, count = outs[letters[0]] // by_head, len(letters)
        places = torch.arange(heads * count * by_head).view(heads, count, by_head)
        return {letter: places[:, i].flatten() for i, letter in enumerate(letters)}
    ends = [sum(outs[letter] for letter in letters[: i + 1]) for i in range(len(letters))]
    return {letter: slice(end - outs[letter], end) for letter, end in zip(letters, ends, strict=True)}


class Part:
    """One role's rows of a layer that stores several roles, or stores its weight transposed."""

    def __init__(self, owner: Any, rows: Rows):
        self.owner, self.rows, self.transposed = owner, rows, is_transposed(owner)

    @property
    def weight(self) -> Tensor:
        """(out, in); what is written into it does not always reach the model: see `set_linear`."""
        return out_in(self.owner.weight, self.transposed)[self.rows]

    @property
    def bias(self) -> Tensor | None:
        return None if self.owner.bias is None else self.owner.bias[self.rows]

    @property
    def in_features(self) -> int:
        return out_in(self.owner.weight, self.transposed).shape[1]

    @property
    def out_features(self) -> int:
        stored = out_in(self.owner.weight, self.transposed).shape[0]
        return len(range(stored)[self.rows]) if isinstance(self.rows, slice) else len(self.rows)

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def register_forward_pre_hook(self, *args: Any, **choices: Any) -> Any:
        """A hook on the layer that this is a part of, which reads what it reads."""
        return self.owner.register_forward_pre_hook(*args, **choices)

    def register_forward_hook(self, *args: Any, **choices: Any) -> Any:
        """The same after it; gives what all of its roles give."""
        return self.owner.register_forward_hook(*args, **choices)


def set_linear(linear: Any, weight: Tensor | None = None, bias: Tensor | None = None) -> None:
    """Give a role another weight (out, in) or bias (out,), in the model's type, without writing into memory that is shared."""
    for name, value in (("weight", weight), ("bias", bias)):
        if value is None:
            continue
        owner = linear.owner if isinstance(linear, Part) else linear
        parameter = getattr(owner, name)
        value = value.to(parameter.dtype)
        if isinstance(linear, Part):
            whole = out_in(parameter.data, linear.transposed).clone()
            whole[linear.rows] = value
            value = out_in(whole, linear.transposed)
        parameter.data = value.contiguous()


def part_of(linear: Any, whole: Tensor) -> Tensor:
    """The rows of a role in a tensor (out, in) that belongs to the layer which stores it."""
    return whole[linear.rows] if isinstance(linear, Part) else whole


def columns_of(linear: Any, given: Tensor) -> Tensor:
    """What a role gives of what the layer that stores it gives, (..., out)."""
    return given[..., linear.rows] if isinstance(linear, Part) else given


def is_linear(module: Any) -> bool:
    """Whether a module multiplies by a matrix and adds a bias, and does nothing else."""
    return isinstance(module, nn.Linear) or is_transposed(module)
