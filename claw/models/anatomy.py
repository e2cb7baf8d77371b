"""The parts of a decoder that compression works on, recognised by module shape and never by model name.

A supported model is a causal language model whose backbone has `embed_tokens`, `layers` and `norm`, each layer with
`self_attn` (q, k, v, o projections; optional norms on q and k) and a gated `mlp` (gate, up, down projections). Llama,
Qwen2, Qwen3, Mistral and Gemma3 are built like this, and so are many that share their blocks.

Symbols: hidden d, feed-forward width m, query heads H, key-value groups G, head size h, vocabulary V.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from claw.errors import InputError
from claw.models.shape import LINEARS, Shape

SUPPORTED = "Llama, Qwen2, Qwen3, Mistral and Gemma3 text models, and others built of the same blocks"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
HEAD_NORMS = (("q_norm", "k_norm"), ("query_layernorm", "key_layernorm"))
BLOCK_NORMS = {  # by what a block has, the names of its norms; those after a half are there or not
    "pre_feedforward_layernorm": {
        "input_norm": "input_layernorm",
        "mlp_norm": "pre_feedforward_layernorm",
        "after_attention": "post_attention_layernorm",
        "after_mlp": "post_feedforward_layernorm",
    },
    "post_attention_layernorm": {"input_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"},
}


def _part(path: str) -> Any:
    """A property that reads this attribute anew each time, so that it is right after surgery.

    Its type is `Any`: torch calls every attribute of a module `Tensor | Module`, which is true of none of these.
    """
    return property(attrgetter(path))


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One decoder block. Linear weights are (out, in)."""

    index: int
    module: Any
    input_norm: Any  # before attention
    mlp_norm: Any  # before the feed-forward
    after_attention: Any = None  # Gemma3 normalises what a block writes, too
    after_mlp: Any = None
    norm_names: Mapping[str, str]  # of the four, in the module

    attention = _part("module.self_attn")
    q = _part("module.self_attn.q_proj")
    k = _part("module.self_attn.k_proj")
    v = _part("module.self_attn.v_proj")
    o = _part("module.self_attn.o_proj")
    mlp = _part("module.mlp")
    gate = _part("module.mlp.gate_proj")
    up = _part("module.mlp.up_proj")
    down = _part("module.mlp.down_proj")

    @property
    def linears(self) -> dict[str, nn.Linear]:
        """The seven linears by their letters."""
        return dict(zip(LINEARS, (self.q, self.k, self.v, self.o, self.gate, self.up, self.down), strict=True))

    @property
    def norms(self) -> list[nn.Module]:
        """The norms that act on the hidden width."""
        norms = (self.input_norm, self.mlp_norm, self.after_attention, self.after_mlp)
        return [norm for norm in norms if norm is not None]

    @property
    def head_norms(self) -> tuple[Any, Any] | None:
        """The norms of queries and of keys, over the size of a head."""
        names = next((names for names in HEAD_NORMS if getattr(self.attention, names[0], None) is not None), None)
        return names and (getattr(self.attention, names[0]), getattr(self.attention, names[1]))


@dataclass(frozen=True)
class Anatomy:
    """A decoder seen as its parts; reading it changes nothing."""

    model: Any
    layers: tuple[Layer, ...]

    config = _part("model.config")
    backbone = _part("model.model")
    embedding = _part("model.model.embed_tokens")
    norm = _part("model.model.norm")
    head = _part("model.lm_head")
    device = _part("embedding.weight.device")
    dtype = _part("embedding.weight.dtype")
    depth = property(lambda self: len(self.layers))
    hidden = property(lambda self: self.embedding.weight.shape[1])
    vocabulary = property(lambda self: self.embedding.weight.shape[0])
    width = property(lambda self: self.layers[0].gate.out_features)
    head_size = property(lambda self: self.layers[0].attention.head_dim)
    heads = property(lambda self: self.layers[0].q.out_features // self.head_size)
    groups = property(lambda self: self.layers[0].k.out_features // self.head_size)
    tied = property(lambda self: self.head.weight is self.embedding.weight)

    @property
    def family(self) -> str:
        """The architecture's name without its task, e.g. "Llama": for records and colours only."""
        return type(self.model).__name__.removesuffix("ForCausalLM")

    @cached_property
    def gain_offset(self) -> float:
        """What a norm adds to its weight before multiplying: 0 for RMSNorm, 1 for Gemma's zero-centred gain."""
        norm = self.norm
        if not has_gain(norm):
            return 0.0
        with torch.no_grad():
            probe = torch.ones(1, self.hidden, device=norm.weight.device, dtype=torch.float32)
            zeroed = {"weight": torch.zeros_like(norm.weight, dtype=torch.float32)}
            return float(torch.func.functional_call(norm, zeroed, probe).float().mean().round())

    @property
    def shape(self) -> Shape:
        """All sizes, for arithmetic without tensors."""
        layer = self.layers[0]
        sizes = "vocabulary hidden depth width heads groups head_size tied".split()
        return Shape(
            **{name: getattr(self, name) for name in sizes},
            biases="".join(letter for letter, linear in layer.linears.items() if linear.bias is not None),
            block_norms=sum(has_gain(norm) for norm in layer.norms),
            head_norms=layer.head_norms is not None and all(map(has_gain, layer.head_norms)),
            last_norm=has_gain(self.norm),
            shortcuts=sum("shortcut_" in name for name, _ in layer.module.named_parameters(recurse=False)),
            whole_heads=_refuses_odd_widths(self.config.__class__),
        )


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
    backbone = getattr(model, "model", None)
    needed = {"embed_tokens": backbone, "layers": backbone, "norm": backbone, "lm_head": model}
    missing = [name for name, owner in needed.items() if not hasattr(owner, name)]
    if missing:
        raise _unsupported(model, f"it has no {', '.join(missing)}")
    parts = Anatomy(model, tuple(_layer(model, index, module) for index, module in enumerate(model.model.layers)))
    if not parts.layers:
        raise _unsupported(model, "it has no layers")
    if len({tuple(linear.weight.shape for linear in layer.linears.values()) for layer in parts.layers}) > 1:
        raise _unsupported(model, "its layers differ in width, which a stock checkpoint cannot express")
    if parts.heads % parts.groups:
        raise _unsupported(model, f"its {parts.heads} query heads do not divide into {parts.groups} key-value groups")
    _check_count(parts)
    return parts


def _check_count(parts: Anatomy) -> None:
    """Refuse a model that has a weight of unknown role, or another number of weights than its sizes say."""
    roles = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    for layer in parts.layers:
        start = f"model.layers.{layer.index}"
        halves = {"self_attn": ATTENTION, "mlp": FEED_FORWARD}
        linears = [f"{start}.{half}.{name}" for half, names in halves.items() for name in names]
        norms = [f"{start}.{name}" for name in layer.norm_names.values()]
        norms += [f"{start}.self_attn.{name}" for names in HEAD_NORMS for name in names]
        roles |= {f"{name}.weight" for name in (*linears, *norms)} | {f"{name}.bias" for name in linears}
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


def _layer(model: nn.Module, index: int, module: Any) -> Layer:
    attention, mlp = getattr(module, "self_attn", None), getattr(module, "mlp", None)
    for name in ("encoder_attn", "cross_attn", "cross_attention"):
        if hasattr(module, name):
            raise _unsupported(model, f"layer {index} has cross-attention ({name})")
    if mlp is not None and (hasattr(mlp, "experts") or hasattr(mlp, "router")):
        raise _unsupported(model, f"layer {index} is a mixture of experts")
    for part, kind, names in ((attention, "self_attn", ATTENTION), (mlp, "mlp", FEED_FORWARD)):
        for name in names:
            if not isinstance(getattr(part, name, None), nn.Linear):
                present = ", ".join(child for child, _ in part.named_children()) if part is not None else "nothing"
                raise _unsupported(model, f"layer {index} has no linear {kind}.{name} (found: {present})")
    if not hasattr(attention, "head_dim"):
        raise _unsupported(model, f"layer {index}'s attention does not state head_dim")
    kinds = next((kinds for mark, kinds in BLOCK_NORMS.items() if hasattr(module, mark)), {})
    norm_names = {part: name for part, name in kinds.items() if hasattr(module, name)}
    if not {"input_norm", "mlp_norm"} <= set(norm_names):
        raise _unsupported(model, f"layer {index} has no norm before attention and feed-forward")
    norms = {part: getattr(module, name) for part, name in norm_names.items()}
    layer = Layer(index=index, module=module, norm_names=norm_names, **norms)
    if any(getattr(norm, "bias", None) is not None for norm in layer.norms):
        raise _unsupported(model, f"layer {index} uses LayerNorm with bias, not RMSNorm")
    return layer


def _unsupported(model: nn.Module, why: str) -> InputError:
    return InputError(
        f"{type(model).__name__} cannot be taken apart: {why}. Supported are {SUPPORTED}: a backbone `model` with "
        f"embed_tokens, layers, norm; per layer self_attn with {', '.join(ATTENTION)} and mlp with {', '.join(FEED_FORWARD)}."
    )


def norm_epsilon(norm: Any) -> float:
    """The ε of a norm, whatever the architecture calls it; 0 where it states none."""
    return float(next((getattr(norm, name) for name in ("variance_epsilon", "eps") if hasattr(norm, name)), 0.0))


def has_gain(norm: Any) -> bool:
    """Whether a norm has weights to multiply by; OLMo's have none."""
    return getattr(norm, "weight", None) is not None
