"""The parts of a decoder that compression works on: those of every family by the same names (`claw.models.families`).

Symbols: hidden d, feed-forward width m, query heads H, key-value groups G, head size h, vocabulary V.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import nn

from claw.errors import InputError
from claw.models.blocks import HEAD_NORMS, HEAD_SIZES, Layer, has_gain, has_shift, takes_mean
from claw.models.families import LLAMA, Family, family_of, known_families, part_at
from claw.models.shape import Shape


def _part(read: Callable[[Any], Any]) -> Any:
    """A property whose type is `Any`: torch calls every attribute of a module `Tensor | Module`, which these are not."""
    return property(read)


@dataclass(frozen=True)
class Anatomy:
    """A decoder seen as its parts; reading it changes nothing."""

    model: Any
    layers: tuple[Layer, ...]
    names: Family

    config = _part(lambda self: self.model.config)
    backbone = _part(lambda self: part_at(self.model, self.names.backbone))
    embedding = _part(lambda self: part_at(self.backbone, self.names.embedding))
    norm = _part(lambda self: part_at(self.backbone, self.names.norm))
    head = _part(lambda self: part_at(self.model, self.names.head))
    device = _part(lambda self: self.embedding.weight.device)
    dtype = _part(lambda self: self.embedding.weight.dtype)
    depth = property(lambda self: len(self.layers))
    hidden = property(lambda self: self.embedding.weight.shape[1])
    vocabulary = property(lambda self: self.embedding.weight.shape[0])
    width = property(lambda self: self.layers[0].down.in_features)
    head_size = property(lambda self: self.layers[0].head_size)
    heads = property(lambda self: self.layers[0].q.out_features // self.head_size)
    groups = property(lambda self: self.layers[0].k.out_features // self.head_size)
    tied = property(lambda self: self.head.weight is self.embedding.weight)

    @property
    def family(self) -> str:
        """The architecture's name without its task, e.g. "Llama": for records and colours only."""
        return re.sub("(ForCausalLM|LMHeadModel)$", "", type(self.model).__name__)

    @property
    def positions(self) -> Any:
        """The learned table of positions; None where there is none."""
        return part_at(self.backbone, self.names.positions) if self.names.positions else None

    @property
    def centres(self) -> bool:
        """Whether its norms subtract the mean."""
        return takes_mean(self.norm)

    @cached_property
    def gain_offset(self) -> float:
        """What a norm adds to its weight before multiplying: 0 for most, 1 for Gemma's and Nemotron's zero-centred gains."""
        norm = self.norm
        if not has_gain(norm):
            return 0.0
        with torch.no_grad():
            probe = torch.ones(1, self.hidden, device=norm.weight.device, dtype=torch.float32)
            probe[:, ::2] = -1  # LayerNorm takes the mean away
            zeroed = {name: torch.zeros_like(each, dtype=torch.float32) for name, each in norm.named_parameters()}
            return float((torch.func.functional_call(norm, zeroed, probe).float() * probe).mean().round())

    @property
    def shape(self) -> Shape:
        """All sizes, for arithmetic without tensors."""
        layer = self.layers[0]
        sizes = "vocabulary hidden depth width heads groups head_size tied".split()
        norms = layer.head_norms
        return Shape(
            **{name: getattr(self, name) for name in sizes},
            gated=layer.gated,
            biases="".join(letter for letter, linear in layer.linears.items() if linear.bias is not None),
            block_norms=sum(has_gain(norm) for norm in layer.norms),
            block_shifts=sum(has_shift(norm) for norm in layer.norms),
            head_norms=norms is not None and all(map(has_gain, norms)),
            all_heads_norm=spans_heads(layer),
            last_norm=has_gain(self.norm),
            last_shift=has_shift(self.norm),
            head_bias=self.head.bias is not None,
            positions=0 if self.positions is None else len(self.positions.weight),
            shortcuts=sum("shortcut_" in name for name, _ in layer.module.named_parameters(recurse=False)),
            whole_heads=_refuses_odd_widths(self.config.__class__),
        )


def spans_heads(layer: Layer) -> bool:
    """Whether queries are normalised over all heads together, as in OLMo 2."""
    norms = layer.head_norms
    return norms is not None and has_gain(norms[0]) and norms[0].weight.numel() > layer.head_size


@cache
def _refuses_odd_widths(kind: type) -> bool:
    """Whether this kind of configuration refuses a hidden width that is no multiple of the heads, by trying one."""

    def accepts(hidden: int) -> bool:
        try:
            kind(hidden_size=hidden, num_attention_heads=2, num_key_value_heads=2, head_dim=2)
        except Exception:  # each version of the library has an error of its own
            return False
        return True

    return accepts(4) and not accepts(5)  # a kind that takes neither tells nothing


def describe(model: nn.Module) -> Shape:
    """The sizes of a model, which a notebook shows as a table."""
    return anatomy(model).shape


def anatomy(model: Any) -> Anatomy:
    """The anatomy of a causal language model, or an InputError that says what is missing and what is supported."""
    _refuse_unusable(model)
    return parts_of(model)


def parts_of(model: Any) -> Anatomy:
    """The anatomy of a model whose weights need not be here."""
    names = family_of(model)
    if names is None:
        raise _unsupported(model, _why_no_family(model))
    blocks = part_at(part_at(model, names.backbone), names.layers)
    parts = Anatomy(model, tuple(_layer(model, names, index, block) for index, block in enumerate(blocks)), names)
    if len({tuple(linear.weight.shape for linear in layer.linears.values()) for layer in parts.layers}) > 1:
        raise _unsupported(model, "its layers differ in width, which a stock checkpoint cannot express")
    if parts.heads % parts.groups:
        raise _unsupported(model, f"its {parts.heads} query heads do not divide into {parts.groups} key-value groups")
    _check_count(parts)
    return parts


def _why_no_family(model: Any) -> str:
    """What kind of model it is instead of a decoder that can be taken apart, or what it lacks to be like Llama."""
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if last in ("experts", "router") or hasattr(module, "experts"):
            return f"it is a mixture of experts ({name})"
        if last in ("encoder_attn", "cross_attn", "cross_attention", "crossattention", "encoder"):
            return f"it has an encoder or cross-attention ({name})"
    return LLAMA.missing(model)


def _check_count(parts: Anatomy) -> None:
    """Refuse a model that has a weight of unknown role, or another number of weights than its sizes say."""
    names = parts.names
    backbone = f"{names.backbone}."
    outer = [f"{backbone}{each}" for each in (names.embedding, names.norm, names.positions) if each]
    roles = {f"{each}.{kind}" for each in (*outer, names.head) for kind in ("weight", "bias")}
    for layer in parts.layers:
        start = f"{backbone}{names.layers}.{layer.index}"
        inner = [*names.stored, *layer.norm_names.values()]
        inner += [f"{names.attention}.{name}" for pair in HEAD_NORMS for name in pair]
        roles |= {f"{start}.{name}.{kind}" for name in inner for kind in ("weight", "bias")}
        roles |= {f"{start}.shortcut_{half}" for half in ("attention", "mlp")}
    weights = dict(parts.model.named_parameters())
    if unknown_roles := [name for name in weights if name not in roles]:
        kinds = list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "N", name) for name in unknown_roles))
        raise _unsupported(parts.model, f"it has weights whose role claw does not know ({', '.join(kinds[:6])})")
    counted, true = parts.shape.parameters, sum(weight.numel() for weight in weights.values())
    if counted != true:
        raise _unsupported(parts.model, f"its sizes come to {counted:,} parameters, but it has {true:,}")


def _refuse_unusable(model: nn.Module) -> None:
    config = getattr(model, "config", None)
    if getattr(model, "is_quantized", False) or getattr(config, "quantization_config", None) is not None:
        raise InputError(
            f"{type(model).__name__} is quantised ({getattr(config, 'quantization_config', 'packed weights')}), and packed "
            "weights cannot be cut. Load the unquantised checkpoint, or a GGUF file, which is dequantised on loading."
        )
    devices = {str(p.device) for p in model.parameters()}
    if "meta" in devices:
        raise InputError("The model's weights are on the meta device or offloaded to disk. Load it into memory first.")
    if len(devices) > 1:
        raise InputError(
            f"The model is spread over several devices ({', '.join(sorted(devices))}). Compression needs it on one: load it "
            'with device="cpu" or one GPU; inference and recovery of the result can use several again.'
        )


def _layer(model: nn.Module, names: Family, index: int, module: Any) -> Layer:
    for name in ("encoder_attn", "cross_attn", "cross_attention", "crossattention"):
        if hasattr(module, name):
            raise _unsupported(model, f"layer {index} has cross-attention ({name})")
    if not any(hasattr(part_at(module, names.attention), name) for name in HEAD_SIZES):
        raise _unsupported(model, f"layer {index}'s attention does not state head_dim")
    norms = next((each for each in names.norms if all(part_at(module, name) is not None for name in each.values())), None)
    if norms is None:
        raise _unsupported(model, f"layer {index} has no norms that are known")
    shared = "input_norm" in norms and "mlp_norm" not in norms
    if shared:
        norms = {**norms, "mlp_norm": norms["input_norm"]}
    parallel = shared or getattr(module, "use_parallel_residual", False)
    return Layer(index=index, module=module, names=names, norm_names=norms, parallel=parallel)


def _unsupported(model: nn.Module, why: str) -> InputError:
    return InputError(
        f"{type(model).__name__} cannot be taken apart: {why}. Supported are dense decoders of these families and others with "
        f"the same parts: {known_families()}."
    )
