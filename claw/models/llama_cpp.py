"""Whether a checkpoint converts with llama.cpp: every tensor has a name there, and the shape that its loader expects.

The names are those of the `gguf` package (`TensorNameMap`), which llama.cpp's own converter uses. The shapes are those that its
loader asks for (`src/llama-model.cpp`, `create_tensor`): widths are read from the configuration, so feed-forward width, number
of layers and key-value groups are free. Not free are

- Qwen2: query and output projections are hidden × hidden, so cutting heads or hidden width alone does not load;
- biases of Llama's query projection, which are of hidden width;
- Gemma 3: every sixth layer attends globally, so dropping layers must keep that rhythm;
- anything per layer: widths are one number for all layers, as in the stock configuration.
"""

from dataclasses import dataclass
from typing import Any

import gguf

ARCHITECTURES = {
    "LlamaForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "MistralForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "Qwen2ForCausalLM": gguf.MODEL_ARCH.QWEN2,
    "Qwen3ForCausalLM": gguf.MODEL_ARCH.QWEN3,
    "Gemma3ForCausalLM": gguf.MODEL_ARCH.GEMMA3,
}
"""llama.cpp's architecture of a stock one."""
RHYTHM = 6  # of Gemma 3: layers 6, 12, ... attend globally


@dataclass(frozen=True)
class Conversion:
    """`names`: llama.cpp's name of each tensor. `problems`: why it does not convert, in sentences; none if it does."""

    architecture: str
    names: dict[str, str]
    problems: tuple[str, ...]

    @property
    def works(self) -> bool:
        """Whether names and shapes are what llama.cpp expects."""
        return not self.problems

    def __str__(self) -> str:
        if self.problems:
            return f"It does not convert with llama.cpp: {' '.join(self.problems)}"
        expected = f"all {len(self.names)} tensors have the names and shapes it expects"
        return f"It converts with llama.cpp as {self.architecture}: {expected}."


def check_conversion(model: Any) -> Conversion:
    """What llama.cpp would make of a model: a name for each tensor, and everything that does not fit."""
    stock = type(model).__name__
    if stock not in ARCHITECTURES:
        return Conversion(stock, {}, (f"{stock} is not among {', '.join(ARCHITECTURES)}, whose rules are known here.",))
    architecture, config = ARCHITECTURES[stock], model.config.get_text_config()
    known = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    shapes = expected_shapes(architecture, config)
    names: dict[str, str] = {}
    problems: dict[str, None] = {}  # ordered, each once
    tied = bool(model.config.tie_word_embeddings)
    for name, tensor in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue  # not stored; llama.cpp takes the embedding
        kind, own_name = known.get_type_and_name(name, try_suffixes=(".weight", ".bias")) or (None, "")
        if kind is None or kind not in gguf.MODEL_TENSORS[architecture]:
            problems[f"{_plain(name)} has no name in {architecture.name}."] = None
            continue
        names[name] = own_name
        wanted = shapes[kind, name.rpartition(".")[2]]
        if tuple(tensor.shape) != wanted:
            problems[f"{_plain(name)} is {_size(tensor.shape)}, where {architecture.name} has {_size(wanted)}."] = None
    if architecture == gguf.MODEL_ARCH.GEMMA3:
        layout = [(i + 1) % RHYTHM == 0 for i in range(config.num_hidden_layers)]
        if [kind == "full_attention" for kind in config.layer_types] != layout:
            problems[f"Its layers do not attend globally at every {RHYTHM}th place, which is fixed in GEMMA3."] = None
    return Conversion(architecture.name, names, tuple(problems))


def expected_shapes(architecture: gguf.MODEL_ARCH, config) -> dict[tuple[gguf.MODEL_TENSOR, str], tuple[int, ...]]:
    """Shape (out, in) of each weight and bias that the loader creates for this configuration."""
    hidden, width = config.hidden_size, config.intermediate_size
    head = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    query = hidden if architecture == gguf.MODEL_ARCH.QWEN2 else config.num_attention_heads * head
    group = config.num_key_value_heads * head
    outputs = {"ATTN_Q": query, "ATTN_K": group, "ATTN_V": group, "ATTN_OUT": hidden}
    outputs |= {"FFN_GATE": width, "FFN_UP": width, "FFN_DOWN": hidden}
    weights: dict[str, tuple[int, ...]] = {name: (size, hidden) for name, size in outputs.items()}
    weights |= {"ATTN_OUT": (hidden, query), "FFN_DOWN": (hidden, width)}
    weights |= dict.fromkeys(("TOKEN_EMBD", "OUTPUT"), (config.vocab_size, hidden))
    weights |= dict.fromkeys("OUTPUT_NORM ATTN_NORM ATTN_POST_NORM FFN_NORM FFN_PRE_NORM FFN_POST_NORM".split(), (hidden,))
    weights |= dict.fromkeys(("ATTN_Q_NORM", "ATTN_K_NORM"), (head,))
    biases = outputs | ({"ATTN_Q": hidden} if architecture == gguf.MODEL_ARCH.LLAMA else {})
    shapes = {(gguf.MODEL_TENSOR[name], "weight"): shape for name, shape in weights.items()}
    return shapes | {(gguf.MODEL_TENSOR[name], "bias"): (size,) for name, size in biases.items()}


def _plain(name: str) -> str:
    """A tensor's name without its layer: what is wrong in one layer is wrong in all."""
    return ".".join(part for part in name.removeprefix("model.").split(".") if not part.isdigit())


def _size(shape) -> str:
    return " × ".join(map(str, shape))
