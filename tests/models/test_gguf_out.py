"""A checkpoint as GGUF: what is written is what was there, read back by claw's own loader and by the gguf package."""

import itertools
import json

import gguf
import pytest
import torch
from conftest import FAMILIES, sentences, tiny_model

import claw
from claw.errors import InputError
from claw.models import gguf_out, gguf_vocabulary

EVERY_SIXTH = ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(6)]
IDS = torch.arange(3, 17).view(2, 7)


def trained(byte_level: bool = True, **settings):
    """A tokenizer of 259 tokens with merges, of either kind."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<unk>"]
    if byte_level:
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = settings.get("split") or pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        letters = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=letters)
    else:
        made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        made.normalizer = normalizers.Replace(" ", "▁")
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        bytes_of = [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[*special, *bytes_of])
    made.train_from_iterator([sentences(3, 400)], trainer)
    if not byte_level:  # bytes are no special tokens
        rules = json.loads(made.to_str())
        rules["added_tokens"] = [token for token in rules["added_tokens"] if not token["content"].startswith("<0x")]
        made = Tokenizer.from_str(json.dumps(rules))
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **names, chat_template="{{ messages[0].content }}")


def plain(family, rows=320, **changes):
    """A tiny model of a shape that llama.cpp takes."""
    own = {
        "gemma3": {"num_hidden_layers": 6, "layer_types": EVERY_SIXTH},
        "qwen2": {"hidden_size": 32, "num_attention_heads": 4},
    }
    model = tiny_model(family, vocab_size=rows, **own.get(family, {}) | changes)
    for parameter in model.parameters():  # not the rotary frequencies, which stay exact when a model is loaded as bf16
        parameter.data = parameter.data.bfloat16()
    return model


@torch.no_grad()
def logits(model):
    return model(IDS.to(model.device), use_cache=False).logits.float()


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_reads_back_with_equal_logits(family, tmp_path, own_cache):
    model, tokenizer = plain(family), trained()
    path = gguf_out.write_gguf(model, tokenizer, tmp_path / "m.gguf", "bf16").path
    again, tokens = claw.load(str(path), dtype="bfloat16")
    assert torch.equal(logits(again), logits(model))
    if family == "gemma3":  # transformers reads sentencepiece alone there
        return
    text = "the cat is not 12,345 naïve…\n\n it's"
    assert tokens(text)["input_ids"] == tokenizer(text)["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method, ratio_of", [("magnitude", "ffn"), ("magnitude", "heads")])
def test_a_cut_model_reads_back_or_is_refused_before_writing(family, method, ratio_of, tmp_path, own_cache):
    model, tokenizer = plain(family), trained()
    small, _ = claw.compress(model, method, 0.5, ratio_of=ratio_of)
    path = tmp_path / "m.gguf"
    if family == "qwen2" and ratio_of == "heads":
        with pytest.raises(InputError, match="QWEN2 has 32 × 32"):
            gguf_out.write_gguf(small, tokenizer, path, "bf16")
        assert not path.exists()
        return
    gguf_out.write_gguf(small, tokenizer, path, "bf16")
    assert torch.equal(logits(claw.load(str(path), dtype="bfloat16")[0]), logits(small))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind, near", [("f16", 0.05), ("q8_0", 0.2)])
def test_smaller_kinds_are_near_and_what_they_hold_can_be_measured(family, kind, near, tmp_path, own_cache):
    model = plain(family)
    written = gguf_out.write_gguf(model, trained(), tmp_path / "m.gguf", kind)
    held, own = gguf_out.read_into(written.path, model), claw.load(str(written.path), dtype="bfloat16")[0]
    assert torch.equal(logits(held), logits(own))  # both ways of reading agree
    assert (logits(held) - logits(model)).abs().max() < near * logits(model).abs().max()
    assert written.bytes == written.path.stat().st_size


def test_names_and_settings_are_those_of_the_converter(tmp_path):
    model = plain("llama")
    path = gguf_out.write_gguf(model, trained(), tmp_path / "m.gguf", "q8_0", name="tiny", licence="mit").path
    reader = gguf.GGUFReader(path)
    fields = {key: field.contents() for key, field in reader.fields.items()}
    wanted = {
        "general.architecture": "llama", "general.type": "model", "general.name": "tiny", "general.license": "mit",
        "general.file_type": 7, "general.quantization_version": 2, "llama.block_count": 3, "llama.context_length": 256,
        "llama.embedding_length": 32, "llama.feed_forward_length": 64, "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2, "llama.vocab_size": 320, "llama.rope.dimension_count": 8,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.padding_token_id": 0, "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{{ messages[0].content }}",
    }  # fmt: skip
    assert {key: fields.get(key) for key in wanted} == wanted
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.2.attn_q.weight"] == "Q8_0" and kinds["blk.0.attn_norm.weight"] == "F32"
    assert "output.weight" not in kinds  # tied


def test_rows_that_are_no_multiple_of_32_are_kept_in_f16_and_said(tmp_path):
    model = plain("llama", intermediate_size=40)
    written = gguf_out.write_gguf(model, trained(), tmp_path / "m.gguf", "q8_0")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(written.path).tensors}
    assert kinds["blk.0.ffn_down.weight"] == "F16" and kinds["blk.0.ffn_up.weight"] == "Q8_0"
    assert "40 weights" in written.notes[0]


def test_llama_3_scaling_is_written_and_read(tmp_path, own_cache):
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    model = plain("llama", rope_parameters={**rope, "original_max_position_embeddings": 8192})
    path = gguf_out.write_gguf(model, trained(), tmp_path / "m.gguf", "bf16").path
    again = claw.load(str(path), dtype="bfloat16")[0]
    assert again.config.rope_parameters["factor"] == 8.0 and torch.equal(logits(again), logits(model))


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, "scaled by linear"),
        ("llama", {"hidden_act": "gelu"}, "activation is gelu"),
        ("gemma3", {"query_pre_attn_scalar": 7}, "size of its heads"),
        ("gemma3", {"layer_types": ["full_attention"] * 6}, "6th place"),
    ],
)
def test_what_the_architecture_cannot_hold_is_refused_before_writing(family, changes, words, tmp_path):
    with pytest.raises(InputError, match=words):
        gguf_out.write_gguf(plain(family, **changes), trained(), tmp_path / "m.gguf", "bf16")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_somebody_else_stays(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_text("mine")
    with pytest.raises(InputError, match="was not written by claw"):
        gguf_out.write_gguf(plain("llama"), trained(), path, "bf16")
    assert path.read_text() == "mine"


def test_other_kinds_are_refused():
    with pytest.raises(InputError, match="llama-quantize"):
        gguf_out.check_gguf(plain("llama"), trained(), "q4_k_m")


def test_a_sentencepiece_tokenizer_merges_in_the_same_order(tmp_path, own_cache):
    tokenizer = trained(byte_level=False)
    model = plain("llama", rows=400)
    path = gguf_out.write_gguf(model, tokenizer, tmp_path / "m.gguf", "bf16").path
    vocabulary = gguf_vocabulary.vocabulary_of(tokenizer, 400)
    assert vocabulary.kind == "llama" and vocabulary.types[:5] == (3, 3, 3, 2, 6)
    again = claw.load(str(path), dtype="bfloat16")[1]
    text = "the that not had from"
    assert tokenizer.tokenize(text) == spm(vocabulary, text)
    assert set(again.get_vocab()) == set(tokenizer.get_vocab())


def spm(vocabulary, text):
    """llama.cpp's merging: of all neighbours that make a token, the pair with the highest score, the first of equals."""
    score = dict(zip(vocabulary.tokens, vocabulary.scores, strict=True))
    parts = list(text.replace(" ", "▁"))
    while True:
        pairs = [(score[a + b], -i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in score]
        if not pairs:
            return parts
        place = -max(pairs)[1]
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


def test_rules_of_splitting_have_llama_cpps_names():
    from tokenizers import Regex, pre_tokenizers

    bare = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    splits = {"smollm": digits}
    for pattern, name in gguf_vocabulary.PATTERNS.items():
        splits[name] = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), bare])
    for name, split in splits.items():
        assert gguf_vocabulary.vocabulary_of(trained(split=split), 320).pre == name
    odd = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex("x"), "isolated"), bare])
    with pytest.raises(InputError, match="convert_hf_to_gguf"):
        gguf_vocabulary.vocabulary_of(trained(split=odd), 320)


@pytest.mark.real
def test_a_real_model_keeps_tokens_settings_and_loss(tmp_path):
    model, tokenizer = claw.load("smollm2-135m", dtype="bfloat16")
    path = gguf_out.write_gguf(model, tokenizer, tmp_path / "m.gguf", "q8_0").path
    heldout = claw.blocks(tokenizer, "wikipedia-heldout", length=128, count=2, purpose="heldout")
    held = claw.cross_entropy(gguf_out.read_into(path, model), heldout)
    assert abs(held.mean - claw.cross_entropy(model, heldout).mean) < 0.02
