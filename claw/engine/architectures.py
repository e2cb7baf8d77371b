"""The architectures that the fast pass computes: each with all fields of its configuration and what the pass does about them.

A model is taken only if its class is listed and no field that is not listed has another value than the class's default: what is
not known may compute something that the fast pass does not. Everything else goes through the stock forward.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any

STATIC_ROPE = ("default", "linear", "llama3", "yarn", "proportional")
"""Rotary tables that depend on the position alone, not on the longest sequence of a batch."""
ATTENTION_KERNELS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention")


def _anything(_value: Any) -> bool:
    return True


def _is_static(rope: Any) -> bool:
    """Whether rotary parameters, of all layers or by layer type, ask for known tables of positions alone."""
    if not isinstance(rope, Mapping):
        return rope is None
    inner = [value for value in rope.values() if isinstance(value, Mapping)]
    return all(map(_is_static, inner)) if inner else rope.get("rope_type", "default") in STATIC_ROPE


def _known_types(types: Any) -> bool:
    return types is None or all(kind in ("full_attention", "sliding_attention") for kind in types)


@dataclass(frozen=True)
class Knowledge:
    """What the fast pass does about a field, the values for which that is true, and why not for others."""

    does: str
    accepts: Callable[[Any], bool] = _anything
    otherwise: str = ""


SIZES = Knowledge("read off the weights")
CALLED = Knowledge("the model's own module is called")
MASK = Knowledge("makes the mask")
NOTHING = Knowledge("decides nothing in evaluation mode")

COMMON: dict[str, Knowledge] = {
    **dict.fromkeys("vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads".split(), SIZES),
    **dict.fromkeys(("num_key_value_heads", "head_dim", "tie_word_embeddings", "attention_bias"), SIZES),
    "hidden_act": CALLED,
    "rms_norm_eps": Knowledge("read off each norm"),
    "rope_parameters": Knowledge(
        "the model's own table is called",
        _is_static,
        "its rotary table depends on the length of the longest sequence in a batch",
    ),
    "attention_dropout": NOTHING,  # recovery, which trains, asks for 0: see `why_not_known`
}
SLIDING: dict[str, Knowledge] = {
    "sliding_window": MASK,
    "layer_types": Knowledge("makes the mask", _known_types, "it has layers with another kind of attention"),
}
WINDOWS = {**SLIDING, "use_sliding_window": NOTHING, "max_window_layers": NOTHING}  # layer_types is made from these two


CAUSAL = Knowledge("none", lambda value: not value, "its attention is not causal")
ORDER = Knowledge("read off each layer")
LAYER_NORM = dict.fromkeys(
    ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"), Knowledge("the norm itself is called")
)
DROPOUT = dict.fromkeys(
    "attention_dropout hidden_dropout residual_dropout embedding_dropout resid_pdrop embd_pdrop attn_pdrop dropout layerdrop "
    "classifier_dropout".split(),
    NOTHING,
)
GEMMA = {
    **COMMON,
    **SLIDING,
    "hidden_activation": CALLED,
    "query_pre_attn_scalar": Knowledge("read off the attention's scaling"),
    "final_logit_softcapping": Knowledge("caps the logits"),
    "attn_logit_softcapping": Knowledge("none", lambda cap: cap is None, "it caps attention scores"),
    "use_bidirectional_attention": CAUSAL,
    "_sliding_window_pattern": NOTHING,  # layer_types is made from it
    "sliding_window_pattern": NOTHING,
}


@dataclass(frozen=True)
class Architecture:
    """A class of transformers, and the fields of its configuration that compute."""

    module: str
    fields: Mapping[str, Knowledge] = field(default_factory=dict)
    trained: bool = False  # by recovery's own forward, too


ARCHITECTURES = {
    "LlamaForCausalLM": Architecture("llama", {**COMMON, "mlp_bias": SIZES}, trained=True),
    "MistralForCausalLM": Architecture("mistral", {**COMMON, "sliding_window": MASK}, trained=True),
    "Qwen2ForCausalLM": Architecture("qwen2", {**COMMON, **WINDOWS}, trained=True),
    "Qwen3ForCausalLM": Architecture("qwen3", {**COMMON, **WINDOWS}, trained=True),
    "Gemma3ForCausalLM": Architecture("gemma3", GEMMA, trained=True),
    "Gemma2ForCausalLM": Architecture("gemma2", {**GEMMA, "attn_logit_softcapping": Knowledge("caps the scores")}),
    "GemmaForCausalLM": Architecture("gemma", {**COMMON, "use_bidirectional_attention": CAUSAL}),
    "OlmoForCausalLM": Architecture(
        "olmo", {**COMMON, "clip_qkv": Knowledge("none", lambda value: value is None, "it clips queries, keys and values")}
    ),
    "ArceeForCausalLM": Architecture("arcee", {**COMMON, "mlp_bias": SIZES}),
    "NemotronForCausalLM": Architecture("nemotron", {**COMMON, **LAYER_NORM, "mlp_bias": SIZES}),
    "Olmo2ForCausalLM": Architecture("olmo2", COMMON),
    "Olmo3ForCausalLM": Architecture("olmo3", {**COMMON, **SLIDING}),
    "CohereForCausalLM": Architecture(
        "cohere", {**COMMON, **LAYER_NORM, "use_qk_norm": SIZES, "logit_scale": Knowledge("measured as what follows the head")}
    ),
    "GlmForCausalLM": Architecture("glm", COMMON),
    "Glm4ForCausalLM": Architecture("glm4", COMMON),
    "HeliumForCausalLM": Architecture("helium", {**COMMON, "mlp_bias": SIZES}),
    "Ernie4_5ForCausalLM": Architecture("ernie4_5", {**COMMON, "use_bias": SIZES}),
    "SeedOssForCausalLM": Architecture("seed_oss", {**COMMON, **DROPOUT, "attention_out_bias": SIZES, "mlp_bias": SIZES}),
    "PhiForCausalLM": Architecture("phi", {**COMMON, **LAYER_NORM, **DROPOUT}),
    "Phi3ForCausalLM": Architecture("phi3", {**COMMON, **DROPOUT, "sliding_window": MASK}),
    "GraniteForCausalLM": Architecture(
        "granite",
        {
            **COMMON,
            "mlp_bias": SIZES,
            "embedding_multiplier": Knowledge("multiplies what is embedded"),
            "residual_multiplier": Knowledge("multiplies what is written"),
            "attention_multiplier": Knowledge("read off the attention's scaling"),
            "logits_scaling": Knowledge("measured as what follows the head"),
        },
    ),
    "SmolLM3ForCausalLM": Architecture(
        "smollm3",
        {
            **COMMON,
            **WINDOWS,
            "mlp_bias": SIZES,
            "no_rope_layers": Knowledge("read off each layer"),
            "no_rope_layer_interval": NOTHING,  # no_rope_layers is made from it
        },
    ),
    "StableLmForCausalLM": Architecture(
        "stablelm", {**COMMON, **LAYER_NORM, **DROPOUT, "use_qkv_bias": SIZES, "use_parallel_residual": ORDER}
    ),
    "GPTNeoXForCausalLM": Architecture("gpt_neox", {**COMMON, **LAYER_NORM, **DROPOUT, "use_parallel_residual": ORDER}),
    "Starcoder2ForCausalLM": Architecture(
        "starcoder2", {**COMMON, **LAYER_NORM, **DROPOUT, "use_bias": SIZES, "sliding_window": MASK}
    ),
    "GPT2LMHeadModel": Architecture(
        "gpt2",
        {
            **dict.fromkeys("vocab_size n_positions n_embd n_layer n_head n_inner tie_word_embeddings".split(), SIZES),
            **LAYER_NORM,
            **DROPOUT,
            "activation_function": CALLED,
            "scale_attn_weights": Knowledge("read off the attention's scaling"),
            "scale_attn_by_inverse_layer_idx": Knowledge("read off the attention's scaling"),
            "reorder_and_upcast_attn": Knowledge("none", lambda value: not value, "it computes attention in float32"),
            "add_cross_attention": Knowledge("none", lambda value: not value, "it has cross-attention"),
        },
    ),
    "OPTForCausalLM": Architecture(
        "opt",
        {
            **dict.fromkeys("vocab_size hidden_size num_hidden_layers ffn_dim num_attention_heads".split(), SIZES),
            **dict.fromkeys(("word_embed_proj_dim", "enable_bias", "tie_word_embeddings"), SIZES),
            **DROPOUT,
            "activation_function": CALLED,
            "do_layer_norm_before": Knowledge("read off the blocks", bool, "its norms come after its halves"),
            "_remove_final_layer_norm": SIZES,
            "layer_norm_elementwise_affine": SIZES,
        },
    ),
}

PLANS = "base_model_"  # how a model is spread over devices; transformers 5.17 keeps that with each configuration
BOOKKEEPING = frozenset(
    # of every configuration of transformers
    "transformers_version architectures output_hidden_states return_dict dtype torch_dtype chunk_size_feed_forward "
    "is_encoder_decoder id2label label2id problem_type _name_or_path model_type output_attentions _output_attentions "
    "_attn_implementation_internal _experts_implementation_internal _post_init_done _attn_implementation_autoset _commit_hash "
    # starting values, limits and caches
    "initializer_range init_std use_cache max_position_embeddings pretraining_tp keys_to_ignore_at_inference "
    "bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id decoder_start_token_id "
    # what checkpoints of these families carry and no code of theirs reads
    "_model_name_or_path is_llama_config rope_interleaved rope_scaling rope_theta use_mrope cache_implementation "
    "transformers.js_config unsloth_version unsloth_fixed original_max_position_embeddings ignore_keys_at_rope_validation "
    "is_decoder summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout n_ctx "
    "task_specific_params rotary_pct rotary_emb_base".split()
)


def why_not_known(model: Any, *, training: bool = False) -> str:
    """Why the fast pass is not known to compute what this model does; empty if it is.

    Goes by the model's class and the fields of its configuration, each with its value. `training` asks for a pass in training
    mode, where dropout acts. The sentence goes on from "because ...".
    """
    kind, config = type(model), model.config
    known = ARCHITECTURES.get(kind.__name__)
    if known is None or kind.__module__ != f"transformers.models.{known.module}.modeling_{known.module}":
        return "the fast pass does not know its architecture"
    if (kernel := getattr(config, "_attn_implementation", "sdpa")) not in ATTENTION_KERNELS:
        return f"its attention is computed by {kernel!r}, which the fast pass does not know"
    defaults = _defaults(type(config))
    for name, value in vars(config).items():
        if knowledge := known.fields.get(name):
            if not knowledge.accepts(value):
                return knowledge.otherwise
        elif name not in BOOKKEEPING and not name.startswith(PLANS) and not _is_idle(name, value, defaults):
            return f"its configuration has the field {name} = {value!r}, which the fast pass does not know"
    if training and not known.trained:
        return "its architecture is not one that recovery's own forward knows"
    dropout: Any = getattr(config, "attention_dropout", None)
    if training and dropout:
        return f"its attention drops out with probability {dropout}"
    return ""


def _defaults(kind: type) -> dict[str, Any]:
    """The default of every field that a class of configurations declares."""
    if not is_dataclass(kind):
        return {}
    made = {each.name: each.default if each.default_factory is MISSING else each.default_factory() for each in fields(kind)}
    return {name: value for name, value in made.items() if value is not MISSING}


def _is_idle(name: str, value: Any, defaults: Mapping[str, Any]) -> bool:
    """Whether a field that is not known has the value that its class gives it, or none where its class has no such field."""
    return bool(value == defaults[name]) if name in defaults else value is None or value is False
