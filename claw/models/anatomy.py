"""The parts of a decoder that compression works on, found by module shape and never by model name.

A supported model is a causal language model whose backbone has `embed_tokens`, `layers` and `norm`, each layer with
`self_attn` (q, k, v, o projections; optional norms on q and k) and a gated `mlp` (gate, up, down projections). Llama,
Qwen2, Qwen3, Mistral and Gemma3 are built like this, and so are many that share their blocks.

Symbols: hidden d, feed-forward width m, query heads H, key-value groups G, head size h, vocabulary V.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import nn

from claw.errors import InputError
from claw.models.shape import Shape

SUPPORTED = "Llama, Qwen2, Qwen3, Mistral and Gemma3 text models, and others built of the same blocks"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Layer:
    """One decoder block. Linear weights are (out, in)."""

    index: int
    module: nn.Module
    input_norm: nn.Module  # before attention
    mlp_norm: nn.Module  # before the feed-forward
    after_attention: nn.Module | None  # Gemma3 normalises what a block writes, too
    after_mlp: nn.Module | None

    @property
    def attention(self) -> nn.Module:
        return self.module.self_attn

    @property
    def mlp(self) -> nn.Module:
        return self.module.mlp

    @property
    def q(self) -> nn.Linear:
        return self.attention.q_proj

    @property
    def k(self) -> nn.Linear:
        return self.attention.k_proj

    @property
    def v(self) -> nn.Linear:
        return self.attention.v_proj

    @property
    def o(self) -> nn.Linear:
        return self.attention.o_proj

    @property
    def gate(self) -> nn.Linear:
        return self.mlp.gate_proj

    @property
    def up(self) -> nn.Linear:
        return self.mlp.up_proj

    @property
    def down(self) -> nn.Linear:
        return self.mlp.down_proj


@dataclass(frozen=True)
class Anatomy:
    """A decoder seen as its parts; reading it changes nothing."""

    model: nn.Module
    layers: tuple[Layer, ...]

    @property
    def config(self):
        return self.model.config

    @property
    def backbone(self) -> nn.Module:
        return self.model.model

    @property
    def embedding(self) -> nn.Embedding:
        return self.backbone.embed_tokens

    @property
    def norm(self) -> nn.Module:
        return self.backbone.norm

    @property
    def head(self) -> nn.Linear:
        return self.model.lm_head

    @property
    def depth(self) -> int:
        return len(self.layers)

    @property
    def hidden(self) -> int:
        return self.embedding.weight.shape[1]

    @property
    def vocabulary(self) -> int:
        return self.embedding.weight.shape[0]

    @property
    def width(self) -> int:
        return self.layers[0].gate.out_features

    @property
    def head_size(self) -> int:
        return self.layers[0].attention.head_dim

    @property
    def heads(self) -> int:
        return self.layers[0].q.out_features // self.head_size

    @property
    def groups(self) -> int:
        return self.layers[0].k.out_features // self.head_size

    @property
    def tied(self) -> bool:
        return self.head.weight is self.embedding.weight

    @property
    def family(self) -> str:
        """The architecture's name without its task, e.g. "Llama": for records and colours only."""
        return type(self.model).__name__.removesuffix("ForCausalLM")

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.weight.dtype

    @cached_property
    def gain_offset(self) -> float:
        """What a norm adds to its weight before multiplying: 0 for RMSNorm, 1 for Gemma's zero-centred gain."""
        norm = self.norm
        with torch.no_grad():
            probe = torch.ones(1, self.hidden, device=norm.weight.device, dtype=torch.float32)
            zeroed = {"weight": torch.zeros_like(norm.weight, dtype=torch.float32)}
            return float(torch.func.functional_call(norm, zeroed, probe).float().mean().round())

    @cached_property
    def embedding_scale(self) -> float:
        """Factor between an embedding row and what enters the first block (Gemma: √d, else 1)."""
        scale = getattr(self.embedding, "embed_scale", 1.0)
        return float(scale)

    @property
    def shape(self) -> Shape:
        """All sizes, for arithmetic without tensors."""
        layer = self.layers[0]
        linears = zip("qkvogud", (layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down), strict=True)
        return Shape(
            vocabulary=self.vocabulary, hidden=self.hidden, depth=self.depth, width=self.width, heads=self.heads,
            groups=self.groups, head_size=self.head_size, tied=self.tied,
            biases="".join(letter for letter, linear in linears if linear.bias is not None),
            block_norms=len(list(self.norms(layer))), head_norms=hasattr(layer.attention, "q_norm"),
            shortcuts=sum("shortcut_" in name for name, _ in layer.module.named_parameters(recurse=False)),
            whole_heads=_refuses_odd_widths(type(self.config)),
        )  # fmt: skip

    def norms(self, layer: Layer) -> Iterator[nn.Module]:
        """The norms of a block that act on the hidden width."""
        optional = (layer.after_attention, layer.after_mlp)
        yield from (layer.input_norm, layer.mlp_norm, *(n for n in optional if n is not None))


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


def anatomy(model: nn.Module) -> Anatomy:
    """The anatomy of a causal language model, or an InputError that says what is missing and what is supported."""
    _refuse_unusable(model)
    backbone = getattr(model, "model", None)
    missing = [n for n in ("embed_tokens", "layers", "norm") if not hasattr(backbone, n)]
    if missing or not hasattr(model, "lm_head"):
        missing += [] if hasattr(model, "lm_head") else ["lm_head"]
        raise _unsupported(model, f"it has no {', '.join(missing)}")
    found = tuple(_layer(model, index, module) for index, module in enumerate(backbone.layers))
    if not found:
        raise _unsupported(model, "it has no layers")
    shapes = {tuple(linear.weight.shape for linear in (x.q, x.k, x.v, x.o, x.gate, x.up, x.down)) for x in found}
    if len(shapes) > 1:
        raise _unsupported(model, "its layers differ in width, which a stock checkpoint cannot express")
    result = Anatomy(model, found)
    if result.heads % result.groups:
        raise _unsupported(model, f"its {result.heads} query heads do not divide into {result.groups} key-value groups")
    return result


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


def _layer(model: nn.Module, index: int, module: nn.Module) -> Layer:
    attention, mlp = getattr(module, "self_attn", None), getattr(module, "mlp", None)
    for name in ("encoder_attn", "cross_attn", "cross_attention"):
        if hasattr(module, name):
            raise _unsupported(model, f"layer {index} has cross-attention ({name})")
    if mlp is not None and (hasattr(mlp, "experts") or hasattr(mlp, "router")):
        raise _unsupported(model, f"layer {index} is a mixture of experts")
    for part, kind, names in ((attention, "self_attn", ATTENTION), (mlp, "mlp", FEED_FORWARD)):
        for name in names:
            if not isinstance(getattr(part, name, None), nn.Linear):
                have = ", ".join(n for n, _ in part.named_children()) if part is not None else "nothing"
                raise _unsupported(model, f"layer {index} has no linear {kind}.{name} (found: {have})")
    if not hasattr(attention, "head_dim"):
        raise _unsupported(model, f"layer {index}'s attention does not state head_dim")
    if hasattr(module, "pre_feedforward_layernorm"):  # the Gemma block: norms before and after both halves
        norms = (
            module.input_layernorm,
            module.pre_feedforward_layernorm,
            module.post_attention_layernorm,
            module.post_feedforward_layernorm,
        )
    elif hasattr(module, "input_layernorm") and hasattr(module, "post_attention_layernorm"):
        norms = (module.input_layernorm, module.post_attention_layernorm, None, None)
    else:
        raise _unsupported(model, f"layer {index} has no norm before attention and feed-forward")
    for norm in norms:
        if norm is not None and getattr(norm, "bias", None) is not None:
            raise _unsupported(model, f"layer {index} uses LayerNorm with bias, not RMSNorm")
    return Layer(index, module, *norms)


def _unsupported(model: nn.Module, why: str) -> InputError:
    return InputError(
        f"{type(model).__name__} cannot be taken apart: {why}. Supported are {SUPPORTED}: a backbone `model` with "
        f"embed_tokens, layers, norm; per layer self_attn with {', '.join(ATTENTION)} and mlp with {', '.join(FEED_FORWARD)}."
    )


def norm_epsilon(norm: nn.Module) -> float:
    """The ε of an RMSNorm module, whatever the architecture calls it."""
    return float(next(getattr(norm, name) for name in ("variance_epsilon", "eps") if hasattr(norm, name)))
