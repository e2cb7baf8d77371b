"""How the families of decoders call their parts: data, one entry a family.

A family is recognised by the parts that a model has, never by its name, and what its blocks compute between them is measured
(`claw.models.arithmetic`, `claw.prune.trial_cut`). All paths are dotted attribute names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from typing import Any

from claw.models.linears import is_linear
from claw.models.shape import LINEARS

GATED = {
    **{letter: f"self_attn.{letter}_proj" for letter in "qkvo"},
    **{"g": "mlp.gate_proj", "u": "mlp.up_proj", "d": "mlp.down_proj"},
}
PROJECTIONS = {letter: f"self_attn.{letter}_proj" for letter in "qkvo"}
FUSED_GATE = {"g": "mlp.gate_up_proj", "u": "mlp.gate_up_proj", "d": "mlp.down_proj"}
BEFORE = {"input_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
BEFORE_TOO = {"input_norm": "input_layernorm", "mlp_norm": "pre_feedforward_layernorm"}
AFTER = {"after_attention": "post_attention_layernorm", "after_mlp": "post_feedforward_layernorm"}
NORM_NAMES = (  # of those before attention and feed-forward, and after each; the first set that is there
    BEFORE | {"after_attention": "post_self_attn_layernorm", "after_mlp": "post_mlp_layernorm"},
    BEFORE_TOO | AFTER,
    BEFORE_TOO,
    AFTER,
    BEFORE,
    {"input_norm": "input_layernorm"},  # both halves read the same
)


@dataclass(frozen=True, kw_only=True)
class Family:
    """Where the parts of a model are, and what its configuration calls their sizes.

    `linears` gives the layer of each role of a block (`LINEARS`; without "g" the feed-forward has no gate). Roles with the same
    layer are stored in one weight, below each other, or with `by_head` in turn for every head.
    """

    known: str  # models of this kind, for messages
    backbone: str = "model"
    embedding: str = "embed_tokens"  # this and the next three are in the backbone
    positions: str = ""  # a learned table
    layers: str = "layers"
    norm: str = "norm"
    head: str = "lm_head"
    attention: str = "self_attn"  # this and what follows is in a block
    mlp: str = "mlp"
    linears: Mapping[str, str] = field(default_factory=lambda: GATED)
    by_head: bool = False
    norms: tuple[Mapping[str, str], ...] = NORM_NAMES
    width: str = "intermediate_size"  # in the configuration

    @cached_property
    def stored(self) -> dict[str, str]:
        """The letters of the roles that each layer stores, by the layer's path."""
        letters: dict[str, str] = {}
        for letter in filter(self.linears.get, LINEARS):
            letters[self.linears[letter]] = letters.get(self.linears[letter], "") + letter
        return letters

    def missing(self, model: Any) -> str:
        """What a model lacks to be of this family; empty if it is."""
        backbone = part_at(model, self.backbone)
        names = [self.embedding, self.layers, self.norm, *([self.positions] if self.positions else [])]
        absent = [name for name in names if part_at(backbone, name) is None] + [self.head] * (part_at(model, self.head) is None)
        if absent:
            return f"it has no {', '.join(absent)}"
        if not len(part_at(backbone, self.layers)):
            return "it has no layers"
        for index, block in enumerate(part_at(backbone, self.layers)):
            for path in dict.fromkeys(self.linears.values()):
                if not is_linear(part_at(block, path)):
                    owner = part_at(block, path.rpartition(".")[0])
                    there = ", ".join(name for name, _ in owner.named_children()) if owner is not None else "nothing"
                    return f"layer {index} has no linear {path} (there: {there})"
        return ""


LLAMA = Family(known="Llama, Qwen, Mistral, Gemma, Granite, SmolLM3, OLMo, StableLM, Cohere")
FAMILIES = (
    LLAMA,
    Family(known="Phi-3", linears=dict.fromkeys("qkv", "self_attn.qkv_proj") | {"o": "self_attn.o_proj"} | FUSED_GATE),
    Family(known="GLM", linears=PROJECTIONS | FUSED_GATE),
    Family(known="Nemotron", linears=PROJECTIONS | {"u": "mlp.up_proj", "d": "mlp.down_proj"}),
    Family(known="Starcoder2", linears=PROJECTIONS | {"u": "mlp.c_fc", "d": "mlp.c_proj"}),
    Family(
        known="Phi-2", norm="final_layernorm", linears=PROJECTIONS | {"o": "self_attn.dense", "u": "mlp.fc1", "d": "mlp.fc2"}
    ),
    Family(
        known="Pythia (GPT-NeoX)",
        backbone="gpt_neox",
        embedding="embed_in",
        norm="final_layer_norm",
        attention="attention",
        linears=dict.fromkeys("qkv", "attention.query_key_value")
        | {"o": "attention.dense", "u": "mlp.dense_h_to_4h", "d": "mlp.dense_4h_to_h"},
        by_head=True,
    ),
    Family(
        known="GPT-2",
        backbone="transformer",
        embedding="wte",
        positions="wpe",
        layers="h",
        norm="ln_f",
        attention="attn",
        linears=dict.fromkeys("qkv", "attn.c_attn") | {"o": "attn.c_proj", "u": "mlp.c_fc", "d": "mlp.c_proj"},
        norms=({"input_norm": "ln_1", "mlp_norm": "ln_2"},),
        width="n_inner",
    ),
    Family(
        known="OPT",
        backbone="model.decoder",
        positions="embed_positions",
        norm="final_layer_norm",
        mlp="",
        linears=PROJECTIONS | {"o": "self_attn.out_proj", "u": "fc1", "d": "fc2"},
        norms=({"input_norm": "self_attn_layer_norm", "mlp_norm": "final_layer_norm"},),
        width="ffn_dim",
    ),
)


def width_in(config: Any) -> int:
    """The feed-forward width that a configuration states, by whichever family's name; four times the hidden width if none."""
    stated = (getattr(config, name, None) for name in dict.fromkeys(family.width for family in FAMILIES))
    return next((value for value in stated if value), 4 * config.hidden_size)


def part_at(owner: Any, path: str) -> Any:
    """The part of a module at a path; the module itself at an empty one; None where there is none."""
    try:
        return attrgetter(path)(owner) if path else owner
    except AttributeError:
        return None


def family_of(model: Any) -> Family | None:
    """The family whose parts a model has; None for one of no known family."""
    return next((family for family in FAMILIES if not family.missing(model)), None)


def known_families() -> str:
    """All of them, for messages."""
    return "; ".join(family.known for family in FAMILIES)
