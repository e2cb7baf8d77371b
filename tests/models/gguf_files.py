"""Writes tiny GGUF files of a random model, with llama.cpp's own writer, whole or with faults."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

from claw.models.llama_cpp import ARCHITECTURES


def write_gguf(
    path: Path,
    model,
    tokenizer,
    *,
    change: Callable[[dict[str, np.ndarray]], object] = lambda tensors: None,
    settings: Callable[[gguf.GGUFWriter], object] = lambda writer: None,
    blocks: int | None = None,
) -> Path:
    """A GGUF file of a model; `change` edits its tensors by llama.cpp's names, `settings` adds metadata."""
    config, kind = model.config, ARCHITECTURES[type(model).__name__]
    name = gguf.MODEL_ARCH_NAMES[kind]
    known = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    tensors = {}
    for key, tensor in model.state_dict().items():
        if config.tie_word_embeddings and key == "lm_head.weight":
            continue
        stem, _, suffix = key.rpartition(".")
        array = tensor.float().numpy()
        if name == "llama" and ("q_proj" in key or "k_proj" in key):  # llama.cpp turns pairs of neighbours
            heads = config.num_attention_heads if "q_proj" in key else config.num_key_value_heads
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        tensors[f"{known.get_name(stem)}.{suffix}"] = np.ascontiguousarray(array)
    change(tensors)
    writer = gguf.GGUFWriter(path, name)
    writer.add_block_count(config.num_hidden_layers if blocks is None else blocks)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<") and len(token) > 1 else 1 for token in tokens])
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    settings(writer)
    for key, array in tensors.items():
        writer.add_tensor(key, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
