"""Compressed checkpoints have the names and shapes that llama.cpp expects; what does not convert says why."""

import gguf
import pytest
from conftest import FAMILIES, tiny_model

import claw
from claw.models import llama_cpp
from claw.texts.token_blocks import blocks

EVERY_SIXTH = ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(6)]


def plain(family):
    """A tiny model of a shape that llama.cpp takes."""
    own = {
        "gemma3": {"num_hidden_layers": 6, "layer_types": EVERY_SIXTH},
        "qwen2": {"hidden_size": 32, "num_attention_heads": 4},
    }
    return tiny_model(family, **own.get(family, {}))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_has_a_name_of_its_own(family):
    model = plain(family)
    conversion = llama_cpp.check_conversion(model)
    assert conversion.works, conversion.problems
    stored = [name for name in model.state_dict() if not (model.config.tie_word_embeddings and name == "lm_head.weight")]
    assert list(conversion.names) == stored and len(set(conversion.names.values())) == len(stored)
    assert {"token_embd.weight", "output_norm.weight", "blk.0.ffn_down.weight"} <= set(conversion.names.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_fewer_neurons_always_convert(family):
    small, _ = claw.compress(plain(family), "magnitude", 0.5)
    conversion = llama_cpp.check_conversion(small)
    assert conversion.works and "converts with llama.cpp" in str(conversion)


@pytest.mark.parametrize(
    ("family", "works"), [("llama", True), ("qwen3", True), ("gemma3", True), ("mistral", True), ("qwen2", False)]
)
def test_fewer_groups_convert_where_queries_need_not_be_as_wide_as_the_hidden_state(family, works):
    small, _ = claw.compress(plain(family), "magnitude", 0.5, ratio_of="heads")
    conversion = llama_cpp.check_conversion(small)
    assert conversion.works == works
    if not works:
        assert "self_attn.q_proj.weight is 16 × 32, where QWEN2 has 32 × 32" in str(conversion)


@pytest.mark.parametrize(("family", "works"), [("llama", True), ("qwen2", False)])
def test_a_narrower_hidden_state(family, works, tokenizer, train_text):
    model = plain(family)
    statistics = claw.calibrate(model, blocks(tokenizer, train_text, length=32, count=4))
    small, _ = claw.compress(model, "slicegpt", 0.25, statistics=statistics)
    assert llama_cpp.check_conversion(small).works == works


def test_layers_may_go_but_gemma_must_keep_its_rhythm(tokenizer, train_text):
    assert "6th place" in str(llama_cpp.check_conversion(tiny_model("gemma3")))  # the second of three layers attends globally
    model = plain("llama")
    statistics = claw.calibrate(model, blocks(tokenizer, train_text, length=32, count=4))
    small, _ = claw.compress(model, "shortgpt", 0.34, statistics=statistics)
    assert small.config.num_hidden_layers == 2 and llama_cpp.check_conversion(small).works


def test_an_unknown_architecture_is_named():
    import torch

    conversion = llama_cpp.check_conversion(torch.nn.Linear(2, 2))
    assert not conversion.works and "Linear is not among LlamaForCausalLM" in str(conversion)


def test_a_converted_file_reads_back(tmp_path):
    """The names and shapes, written with llama.cpp's own writer, are read back by its reader."""
    small, _ = claw.compress(plain("llama"), "magnitude", 0.5)
    conversion = llama_cpp.check_conversion(small)
    writer = gguf.GGUFWriter(tmp_path / "small.gguf", "llama")
    writer.add_block_count(small.config.num_hidden_layers)
    writer.add_feed_forward_length(small.config.intermediate_size)
    for name, tensor in small.state_dict().items():
        if name in conversion.names:
            writer.add_tensor(conversion.names[name], tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    shapes = {tensor.name: tuple(map(int, tensor.shape)) for tensor in gguf.GGUFReader(tmp_path / "small.gguf").tensors}
    assert shapes["blk.0.ffn_down.weight"] == (32, 32) and len(shapes) == len(conversion.names)
