"""One block of a decoder: its parts by the same names for every family (`claw.models.families`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from claw.models.families import Family, part_at
from claw.models.linears import Part, is_transposed, stored_rows

HEAD_NORMS = (("q_norm", "k_norm"), ("query_layernorm", "key_layernorm"))
ACTIVATIONS = ("act_fn", "activation_fn", "act")
EPSILONS = ("variance_epsilon", "eps")
HEAD_SIZES = ("head_dim", "head_size")


def _linear(letter: str) -> Any:
    """A property that reads this role anew each time, so that it is right after surgery; None where a block has none.

    Its type is `Any`: torch calls every attribute of a module `Tensor | Module`, which is true of none of these.
    """
    return property(lambda layer: layer.linear(letter))


def _norm(name: str) -> Any:
    """A property that reads one of the norms anew each time; None where a block has none."""
    return property(lambda layer: getattr(layer.module, layer.norm_names[name]) if name in layer.norm_names else None)


def _owner(half: str) -> Any:
    """A property that reads the module of a half; the block itself where it has none."""
    return property(lambda layer: part_at(layer.module, getattr(layer.names, half)))


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One decoder block. Linear weights are (out, in).

    `parallel`: both halves read the stream before the block, and not one after the other; they may share a norm.
    """

    index: int
    module: Any
    names: Family
    norm_names: Mapping[str, str]  # of those that there are, in the module
    parallel: bool = False

    q, k, v, o = map(_linear, "qkvo")
    gate, up, down = map(_linear, "gud")
    input_norm = _norm("input_norm")  # before attention
    mlp_norm = _norm("mlp_norm")  # before the feed-forward
    after_attention = _norm("after_attention")  # of what attention writes
    after_mlp = _norm("after_mlp")
    attention = _owner("attention")
    mlp = _owner("mlp")

    def linear(self, letter: str) -> Any:
        """The linear of a role, as rows of a larger one where it is stored so; None where a block has none."""
        if letter not in self.names.linears:
            return None
        owner, letters = self.owner(letter), self.names.stored[self.names.linears[letter]]
        if len(letters) == 1:
            return Part(owner, slice(None)) if is_transposed(owner) else owner
        whole = Part(owner, slice(None)).out_features
        outs = dict.fromkeys(letters, whole // len(letters))
        if "q" in outs:
            outs["q"] = self.o.in_features
            outs["k"] = outs["v"] = (whole - outs["q"]) // 2
        return Part(owner, stored_rows(letters, outs, self.head_size if self.names.by_head else 0)[letter])

    def owner(self, letter: str) -> Any:
        """The layer that stores the linear of a role, perhaps with others."""
        return part_at(self.module, self.names.linears[letter])

    @property
    def linears(self) -> dict[str, Any]:
        """The linears by their letters."""
        return {letter: self.linear(letter) for letter in self.names.linears}

    @property
    def stored(self) -> dict[str, Any]:
        """The layers that store the linears, by the letters of the roles that each holds."""
        return {letters: part_at(self.module, path) for path, letters in self.names.stored.items()}

    @property
    def gated(self) -> bool:
        """Whether the feed-forward multiplies by a gate."""
        return "g" in self.names.linears

    @property
    def first(self) -> Any:
        """The linear that decides which neurons are active: the gate, or the up projection where there is none."""
        return self.gate if self.gated else self.up

    @property
    def norms(self) -> list[Any]:
        """The norms that act on the hidden width, each once."""
        return [getattr(self.module, name) for name in dict.fromkeys(self.norm_names.values())]

    @property
    def head_norms(self) -> tuple[Any, Any] | None:
        """The norms of queries and of keys, over the size of a head or over all heads."""
        attention = self.attention
        names = next((names for names in HEAD_NORMS if getattr(attention, names[0], None) is not None), None)
        return names and (getattr(attention, names[0]), getattr(attention, names[1]))

    @property
    def head_size(self) -> int:
        """h, as the attention states it; 0 where it does not."""
        return next((getattr(self.attention, name) for name in HEAD_SIZES if hasattr(self.attention, name)), 0)

    @property
    def activation(self) -> Any:
        """What acts on the gate, or where there is none on what goes into the feed-forward."""
        owners = [self.mlp, self.module]
        return next(getattr(owner, name) for owner in owners for name in ACTIVATIONS if hasattr(owner, name))

    @property
    def attention_entry(self) -> Any:
        """The module that is given the stream which attention reads: its norm, or its first linear."""
        return self.input_norm if self.input_norm is not None else self.q

    @property
    def mlp_entry(self) -> Any:
        """The module that is given the stream which the feed-forward reads: its norm, or its first linear."""
        return self.mlp_norm if self.mlp_norm is not None else self.up

    def feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the down projection reads, (..., m), when the feed-forward reads `x` (..., d)."""
        return self.activation(self.gate(x)) * self.up(x) if self.gated else self.activation(self.up(x))


def normed(norm: Any, x: torch.Tensor) -> torch.Tensor:
    """What a norm gives, or `x` where there is none."""
    return x if norm is None else norm(x)


def norm_epsilon(norm: Any) -> float:
    """The ε of a norm, whatever the architecture calls it; 0 where it states none."""
    return float(next((getattr(norm, name) for name in EPSILONS if hasattr(norm, name)), 0.0))


def takes_mean(norm: Any) -> bool:
    """Whether a norm subtracts the mean, as LayerNorm does by any name."""
    return isinstance(norm, nn.LayerNorm) or type(norm).__name__.endswith("LayerNorm")


def has_gain(norm: Any) -> bool:
    """Whether a norm has weights to multiply by; OLMo's have none."""
    return getattr(norm, "weight", None) is not None


def has_shift(norm: Any) -> bool:
    """Whether a norm has a bias, as that of LayerNorm."""
    return getattr(norm, "bias", None) is not None
