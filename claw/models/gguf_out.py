"""A plain checkpoint as one GGUF file, for llama.cpp and what is built on it: bf16, f16 or q8_0.

Names of tensors and metadata are those that llama.cpp's own converter writes (`convert_hf_to_gguf.py`), through its `gguf`
package. Norms and other vectors stay in float32; a matrix whose rows are no multiple of 32 stays in f16 under q8_0. Whether the
architecture there can hold the model's shape is checked before anything is written (`claw.models.llama_cpp`), and after
writing every tensor is read back and compared. Other types come from llama.cpp's `llama-quantize`, run on a bf16 file.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from claw import files
from claw.errors import InputError
from claw.models.gguf_vocabulary import vocabulary_of
from claw.models.llama_cpp import ARCHITECTURES, Conversion, check_conversion

KINDS = {
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
BLOCK = 32  # weights of a row that share a scale in q8_0
LOCAL_THETA = 10_000.0  # of Gemma 3's local layers, fixed in llama.cpp
HALF = 65504.0  # largest number in f16


@dataclass(frozen=True, kw_only=True)
class Written:
    """A GGUF file: where it is, its size, and what differs from the checkpoint, in sentences."""

    path: Path
    kind: str
    bytes: int
    notes: tuple[str, ...] = ()


def check_gguf(model: Any, tokenizer: Any, kind: str) -> Conversion:
    """The conversion, or InputError where no GGUF file of this kind can hold the model. Nothing is written."""
    if kind not in KINDS:
        raise InputError(f"GGUF type {kind!r} is not written here. Accepted: {', '.join(KINDS)}; others by llama-quantize.")
    conversion = check_conversion(model)
    problems = [*conversion.problems, *(_settings(model) if conversion.works else ())]
    if problems:
        raise InputError(
            f"llama.cpp cannot hold this model, so no GGUF file is written: {' '.join(problems)} Cut feed-forward width (as "
            "flap+ridge does), which fits everywhere, or use the checkpoint with transformers."
        )
    vocabulary_of(tokenizer, model.get_input_embeddings().weight.shape[0])
    return conversion


def _settings(model: Any) -> list[str]:
    """What a model's configuration computes that llama.cpp's architecture does not."""
    config, kind = model.config.get_text_config(), ARCHITECTURES[type(model).__name__]
    problems = []
    rope = dict(config.rope_parameters)
    parts = [rope[name] for name in ("full_attention", "sliding_attention") if name in rope] or [rope]
    strange = {str(part.get("rope_type", "default")) for part in parts} - {"default", "llama3"}
    if strange:
        problems.append(f"Its rotary embedding is scaled by {', '.join(sorted(strange))}, which is not written here.")
    if kind == gguf.MODEL_ARCH.GEMMA3:
        if config.query_pre_attn_scalar != config.head_dim:
            problems.append("Its attention is not scaled by the size of its heads, which is fixed in GEMMA3.")
        if len(parts) == 2 and parts[1]["rope_theta"] != LOCAL_THETA:
            problems.append(f"Its local layers do not turn with base {LOCAL_THETA:g}, which is fixed in GEMMA3.")
        if config.final_logit_softcapping or config.attn_logit_softcapping:
            problems.append("It caps logits, which GEMMA3 does not.")
    activation = {"gelu_pytorch_tanh"} if kind == gguf.MODEL_ARCH.GEMMA3 else {"silu"}
    used = getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", "")
    used = getattr(config, "hidden_activation", used) if kind == gguf.MODEL_ARCH.GEMMA3 else used
    if used not in activation:
        problems.append(f"Its activation is {used}, where {kind.name} has {activation.pop()}.")
    return problems


@torch.no_grad()
def write_gguf(
    model: Any, tokenizer: Any, path: str | Path, kind: str = "q8_0", *, name: str = "", licence: str | None = None
) -> Written:
    """Write `path` as GGUF of a kind in KINDS and read every tensor back; what was written.

    `path` is new, or a file that claw wrote and nobody changed since. InputError before writing for a model or a tokenizer that
    a GGUF file cannot hold.
    """
    path = Path(path).expanduser().absolute()
    conversion = check_gguf(model, tokenizer, kind)
    files.check_own([path])
    vocabulary = vocabulary_of(tokenizer, model.get_input_embeddings().weight.shape[0])
    notes: dict[str, None] = {}
    with files.own_file(path) as scratch:
        writer = gguf.GGUFWriter(scratch, gguf.MODEL_ARCH_NAMES[ARCHITECTURES[type(model).__name__]])
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_name(name or Path(model.config._name_or_path).name or "model")
        if licence:
            writer.add_license(licence)
        _add_sizes(writer, model)
        writer.add_file_type(KINDS[kind][1])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        vocabulary.write(writer)
        if (divisors := _rope_divisors(model)) is not None:
            writer.add_tensor("rope_freqs.weight", divisors)
        state = model.state_dict()
        for own, theirs in conversion.names.items():
            data, stored = _encoded(own, state[own], model, kind, notes)
            writer.add_tensor(theirs, data, raw_shape=data.shape if stored is not None else None, raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        read_into(scratch, model)  # names, shapes, and values where the kind keeps them
    if kind == "bf16" and model.dtype != torch.bfloat16:
        notes[f"The weights were rounded from {str(model.dtype).removeprefix('torch.')} to bf16."] = None
    window = getattr(model.config, "sliding_window", None)
    if type(model).__name__ == "MistralForCausalLM" and window:
        notes[f"llama.cpp attends to all tokens, the checkpoint to the last {window:,}: equal up to that length."] = None
    return Written(path=path, kind=kind, bytes=path.stat().st_size, notes=tuple(notes))


def _add_sizes(writer: gguf.GGUFWriter, model: Any) -> None:
    """The architecture's settings, as the converter names them."""
    config = model.config.get_text_config()
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = dict(config.rope_parameters)
    gemma = ARCHITECTURES[type(model).__name__] == gguf.MODEL_ARCH.GEMMA3
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(float(rope.get("full_attention", rope)["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(head)
    writer.add_value_length(head)
    if gemma:
        writer.add_sliding_window(config.sliding_window)
    else:
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(head)


def _rope_divisors(model: Any) -> np.ndarray | None:
    """What Llama 3's scaling divides the rotary frequencies by; None where there is no scaling."""
    config = model.config.get_text_config()
    if dict(config.rope_parameters).get("rope_type", "default") != "llama3":
        return None
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0].double().numpy()
    plain = config.rope_parameters["rope_theta"] ** -(np.arange(len(scaled)) / len(scaled))
    return (plain / scaled).astype(np.float32)


def _permuted(name: str, tensor: torch.Tensor, model: Any, *, back: bool = False) -> torch.Tensor:
    """A weight as llama.cpp stores it; `back` undoes it.

    Of Llama's queries and keys, what is rotated together stands side by side; gains of Gemma's norms include the one that is
    added to them.
    """
    config, kind = model.config.get_text_config(), ARCHITECTURES[type(model).__name__]
    if kind == gguf.MODEL_ARCH.GEMMA3 and name.endswith("norm.weight"):
        return tensor.float() + (-1.0 if back else 1.0)
    if kind == gguf.MODEL_ARCH.LLAMA and (".q_proj." in name or ".k_proj." in name):
        heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
        halves = (-1, 2) if back else (2, -1)
        return tensor.reshape(heads, *halves, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
    return tensor


def _encoded(
    name: str, tensor: torch.Tensor, model: Any, kind: str, notes: dict[str, None]
) -> tuple[np.ndarray, gguf.GGMLQuantizationType | None]:
    """A tensor's bytes and how they are coded; None for plain float32."""
    array = _permuted(name, tensor, model).float().cpu().contiguous().numpy()
    if array.ndim == 1:
        return array, None
    stored = KINDS[kind][0]
    if kind == "q8_0" and array.shape[-1] % BLOCK:
        stored = gguf.GGMLQuantizationType.F16
        notes[f"Matrices with rows of {array.shape[-1]} weights, no multiple of {BLOCK}, are kept in f16."] = None
    if stored == gguf.GGMLQuantizationType.F16 and np.abs(array).max() > HALF:
        raise InputError(f"{name} has weights beyond {HALF:,.0f}, which f16 cannot hold. Write bf16.")
    return gguf.quants.quantize(array, stored), stored


@torch.no_grad()
def read_into(path: str | Path, model: Any) -> Any:
    """A copy of `model` with the weights that a GGUF file holds, dequantised: what the file is worth, measured in seconds.

    InputError where a tensor is missing, has another shape, or differs from the model's by more than its type explains.
    """
    conversion = check_conversion(model)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    copied = copy.deepcopy(model)
    state = copied.state_dict()
    for own, theirs in conversion.names.items():
        if theirs not in stored:
            raise InputError(f"{path} has no tensor {theirs}. Write the file again.")
        tensor = stored[theirs]
        values = torch.from_numpy(np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32))
        if values.shape != state[own].shape:
            raise InputError(f"{theirs} in {path} is {tuple(values.shape)}, where the model has {tuple(state[own].shape)}.")
        before = state[own].float().cpu()
        state[own].copy_(_permuted(own, values, model, back=True).to(state[own].dtype))
        off = (state[own].float().cpu() - before).abs().max()
        if not off <= before.abs().max() / 100:  # q8_0 is off by half of a 127th of the largest weight of a block
            raise InputError(f"{theirs} in {path} is not the model's: it differs by up to {off:.3g}. Please report this.")
    return copied.eval()
