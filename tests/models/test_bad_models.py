"""Whatever is wrong with a model's files is refused and named; nothing random, left out or run beside it gets in."""

import ast
import builtins
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import byte_tokenizer, tiny_model
from gguf_files import write_gguf
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import claw
from claw.errors import InputError
from claw.evaluate.lm_eval_model import ClawLM
from claw.models import load
from claw.texts.token_blocks import blocks

WEIGHTS, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_config.json"
UP = "model.layers.1.mlp.up_proj.weight"
FAMILIES = ("llama", "qwen2", "gemma3")
SMALL = {"vocab_size": 259, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"num_key_value_heads": 2, "max_position_embeddings": 128}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folder of a good checkpoint of each family."""
    root = tmp_path_factory.mktemp("good")
    for family in FAMILIES:
        tiny_model(family).save_pretrained(root / family)
        byte_tokenizer().save_pretrained(root / family)
    return root


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved / "llama", tmp_path / "model"))


def edit_weights(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def shard(folder):
    (folder / WEIGHTS).unlink()
    tiny_model("llama").save_pretrained(folder, max_shard_size="40KB")
    return sorted(folder.glob("model-0*"))


# weights


KINDS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


@settings(max_examples=40, deadline=None)
@given(family=st.sampled_from(FAMILIES), data=st.data())
def test_a_tensor_that_is_missing_renamed_resized_or_retyped_is_named(saved, tmp_path_factory, family, data):
    folder = Path(shutil.copytree(saved / family, tmp_path_factory.mktemp("bad") / "model"))
    tensors = load_file(folder / WEIGHTS)
    chosen = data.draw(st.lists(st.sampled_from(sorted(tensors)), min_size=1, max_size=3, unique=True))
    fault = data.draw(st.sampled_from(["drop", "rename", "resize", "integer", "boolean", "float8", "extra"]))
    for name in chosen:
        tensor = tensors.pop(name)
        if fault == "rename":
            tensors[data.draw(st.sampled_from(["x.", "base_model.model."])) + name] = tensor
        elif fault == "resize":
            axis = data.draw(st.integers(0, tensor.ndim - 1))
            grown = data.draw(st.booleans())
            tensors[name] = (
                torch.cat([tensor, tensor], axis) if grown else tensor.narrow(axis, 0, tensor.shape[axis] // 2).clone()
            )
        elif fault in ("integer", "boolean", "float8"):
            kinds = {"integer": torch.int8, "boolean": torch.bool, "float8": torch.float8_e5m2}
            tensors[name] = tensor.to(kinds[fault])
        elif fault == "extra":
            tensors |= {name: tensor, name.replace("weight", "weight_scale").replace("bias", "bias_scale"): tensor.clone()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(InputError) as refused:
        claw.load(str(folder), dtype="float32")
    assert any(name.removesuffix("weight").removesuffix("bias") in str(refused.value) for name in chosen)


@settings(max_examples=15, deadline=None)
@given(family=st.sampled_from(FAMILIES), kind=st.sampled_from(sorted(KINDS)), shards=st.booleans())
def test_a_whole_checkpoint_loads_with_its_weights(saved, tmp_path_factory, family, kind, shards):
    folder = Path(shutil.copytree(saved / family, tmp_path_factory.mktemp("good") / "model"))
    edit_weights(folder, lambda tensors: tensors.update({name: t.to(KINDS[kind]) for name, t in tensors.items()}))
    tensors = load_file(folder / WEIGHTS)
    if shards:
        names = sorted(tensors)
        parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
        for file, some in parts.items():
            save_file({name: tensors[name] for name in some}, folder / file, metadata={"format": "pt"})
        (folder / WEIGHTS).unlink()
        (folder / INDEX).write_text(
            json.dumps({"metadata": {}, "weight_map": {n: f for f, some in parts.items() for n in some}})
        )
    model, _ = claw.load(str(folder), dtype="float32")
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor.float()) for name, tensor in tensors.items())


def test_more_or_fewer_layers_than_the_configuration_says(folder):
    for layers, word in ((5, r"18 tensors of the model are missing \(model\.layers\.3"), (2, r"9 tensors are not expected")):
        edit_json(folder / "config.json", num_hidden_layers=layers)
        with pytest.raises(InputError, match=word):
            claw.load(str(folder))


def test_an_untied_model_needs_its_head_and_a_tied_one_keeps_what_the_file_has(folder):
    edit_json(folder / "config.json", tie_word_embeddings=False)
    with pytest.raises(InputError, match=r"lm_head\.weight"):
        claw.load(str(folder))
    edit_json(folder / "config.json", tie_word_embeddings=True)
    edit_weights(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"] * 2}))
    with pytest.warns(UserWarning, match="a head of its own"):
        model, _ = claw.load(str(folder), dtype="float32")
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight * 2) and not model.config.tie_word_embeddings


def test_what_older_versions_saved_beside_weights_is_no_fault(folder):
    edit_weights(folder, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    edit_json(folder / "config.json", torch_dtype="bfloat16", dtype=None, auto_map={"AutoModelForCausalLM": "mine.Model"})
    assert claw.load(str(folder), dtype="float32")[0].dtype == torch.float32


def test_weights_that_are_not_finite_are_told_of_and_constant_ones_are_fine(folder):
    edit_weights(folder, lambda tensors: tensors[UP].fill_(0))
    claw.load(str(folder))
    edit_weights(folder, lambda tensors: tensors[UP].__setitem__((0, 0), float("inf")))
    with pytest.warns(UserWarning, match=UP):
        claw.load(str(folder))


def test_gpt2_as_the_hub_has_it_without_prefix_and_with_masks(tmp_path):
    import transformers as tf

    model = tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=259, n_embd=16, n_layer=2, n_head=2, n_positions=32))
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 32, 32, dtype=torch.bool) for i in range(2)}
    own = {name.removeprefix("transformer."): t for name, t in load_file(tmp_path / WEIGHTS).items()}
    save_file(own | masks, tmp_path / WEIGHTS, metadata={"format": "pt"})
    assert same_weights(claw.load(str(tmp_path), dtype="float32")[0], model)
    own.pop("h.1.mlp.c_fc.bias")
    save_file(own | masks, tmp_path / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"h\.1\.mlp\.c_fc\.bias"):
        claw.load(str(tmp_path))


def test_an_expert_or_a_norm_of_a_mixture_that_is_missing_is_refused(tmp_path):
    """transformers puts experts together as it reads them, so names in the file are not those of the model."""
    import transformers as tf

    torch.manual_seed(0)
    model = tf.MixtralForCausalLM(tf.MixtralConfig(**SMALL, num_local_experts=2)).eval()
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    assert same_weights(claw.load(str(tmp_path), dtype="float32")[0], model)
    whole = load_file(tmp_path / WEIGHTS)
    for word in ("experts.1.w1", "experts.1.w2", "layers.1.input_layernorm", "gate"):
        save_file({n: t for n, t in whole.items() if word not in n}, tmp_path / WEIGHTS, metadata={"format": "pt"})
        with pytest.raises(InputError):
            claw.load(str(tmp_path))


# what a folder is


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        *[(kind, "an encoder that fills in masked words") for kind in ("bert", "roberta", "xlm-roberta", "electra")],
        *[(kind, "an encoder-decoder model") for kind in ("t5", "bart", "mbart", "pegasus")],
        *[
            (kind, "state-space or recurrent")
            for kind in ("mamba", "mamba2", "rwkv", "recurrent_gemma", "falcon_h1", "qwen3_next")
        ],
        *[(kind, "several inputs") for kind in ("mllama", "blip", "clip", "qwen2_audio", "glm4v")],
        *[(kind, "predicts the next token") for kind in ("vit", "wav2vec2", "dinov2")],
        *[(kind, "does not know it") for kind in ("future", "", 5)],
        (None, "has no model_type"),
    ],
)
def test_what_is_no_decoder_is_refused_by_what_it_is(folder, kind, said):
    import transformers as tf

    known = isinstance(kind, str) and kind in tf.CONFIG_MAPPING
    (folder / "config.json").write_text(
        tf.CONFIG_MAPPING[kind]().to_json_string() if known else json.dumps({"model_type": kind})
    )
    with pytest.raises(InputError, match=said):
        load.check_name(str(folder))  # before any weight is read


def test_a_model_that_looks_ahead_is_refused():
    import transformers as tf

    model = tf.XLNetLMHeadModel(tf.XLNetConfig(vocab_size=64, d_model=16, n_layer=2, n_head=2, d_inner=32)).eval()
    with pytest.raises(InputError, match="no causal decoder"):
        load.check_causal(model)
    load.check_causal(tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2)).eval())


@pytest.mark.parametrize(
    ("about", "kind"),
    [
        *[({"quant_method": kind}, kind) for kind in ("gptq", "awq", "compressed-tensors", "fp8", "bitsandbytes", "hqq")],
        ({"load_in_4bit": True}, "bitsandbytes"), ({"group_size": 64, "bits": 4}, "mlx"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["quantization_config", "quantization"])
def test_quantised_checkpoints_are_refused_with_what_to_do(folder, about, kind, where):
    edit_json(folder / "config.json", **{where: about})
    with pytest.raises(InputError, match=rf"quantised \({kind}.*dequantise it once"):
        load.check_name(str(folder))


def spoil_index(folder, change):
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def outside(folder):
    first = shard(folder)[0]
    shutil.copy(first, folder.parent)
    spoil_index(folder, lambda names: names.update({n: f"../{f}" for n, f in names.items() if f == first.name}))


def both(folder):
    shutil.copy(folder / WEIGHTS, folder / "kept")
    shard(folder)
    (folder / "kept").rename(folder / WEIGHTS)


def no_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()


FOLDERS = {
    "no config": (lambda f: (f / "config.json").unlink(), "Name the folder that holds config.json"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "not an object"),
    "config is cut": (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
    "config nested": (lambda f: (f / "config.json").write_text("[" * 100_000), "cannot be read"),
    "config is a folder": (lambda f: ((f / "config.json").unlink(), (f / "config.json").mkdir()), "has no config.json"),
    "a size is text": (lambda f: edit_json(f / "config.json", hidden_size="x"), "hidden_size"),
    "heads do not divide": (lambda f: edit_json(f / "config.json", num_attention_heads=3), "not a configuration of llama"),
    "a far larger model": (lambda f: edit_json(f / "config.json", vocab_size=10**13), "a far larger model"),
    "far more layers": (lambda f: edit_json(f / "config.json", num_hidden_layers=10**9), "a far larger model"),
    "padding beyond": (lambda f: edit_json(f / "config.json", pad_token_id=9999), "Padding_idx"),
    "code": (lambda f: edit_json(f / "config.json", model_type="mine", auto_map={"AutoConfig": "mine.C"}), "own code"),
    "other file named": (lambda f: edit_json(f / "config.json", transformers_weights="../x"), "transformers_weights"),
    "truncated": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-9]), "damaged or incomplete"),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), "damaged or incomplete"),
    "git lfs": (lambda f: (f / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid x"), "git lfs pull"),
    "a folder for weights": (lambda f: ((f / WEIGHTS).unlink(), (f / WEIGHTS).mkdir()), "has no model.safetensors"),
    "another file name": (lambda f: (f / WEIGHTS).rename(f / "weights.safetensors"), "rename it to model.safetensors"),
    "pickle": (lambda f: (f / WEIGHTS).rename(f / "pytorch_model.bin"), "never loaded.*save_pretrained"),
    "pickles": (lambda f: (f / WEIGHTS).rename(f / "pytorch_model-00001-of-00002.bin"), "never loaded"),
    "a shard is missing": (lambda f: shard(f)[0].unlink(), "model-00001-of-0000"),
    "the index is missing": (lambda f: (shard(f), (f / INDEX).unlink()), "no model.safetensors.index.json"),
    "the index is a list": (lambda f: (shard(f), (f / INDEX).write_text("[]")), "is damaged"),
    "the index leads out": (outside, r"not in its own folder: \.\./"),
    "the index names more": (lambda f: (shard(f), spoil_index(f, lambda m: m.update(x=m[UP]))), "no file holds: x"),
    "two sets of weights": (both, "two sets of weights"),
    "a distributed run's": (lambda f: shutil.copy(f / WEIGHTS, f / "shard-00000-model-00001-of-00001.safetensors"), "for each"),
    "adapter beside": (lambda f: (f / ADAPTER).write_text("{}"), "a complete model .* and an adapter"),
    "no tokenizer": (no_tokenizer, "has no tokenizer"),
    "tokenizer of nothing": (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer in .* cannot be loaded"),
    "sentencepiece": (  # missing, or there
        lambda f: (no_tokenizer(f), (f / "tokenizer.model").write_bytes(b"x")),
        "sentencepiece|could not be converted",
    ),
    "original layout": (lambda f: ((f / "config.json").unlink(), (f / "params.json").touch()), "original release's own layout"),
    "holds a gguf": (lambda f: ((f / "config.json").unlink(), (f / "m.gguf").touch()), "name the file"),
    "stale claw.json": (
        lambda f: (f / "claw.json").write_text(
            json.dumps({"report": {"small": {"depth": 3, "hidden": 32, "width": 48, "vocabulary": 259}}})
        ),
        "intermediate_size 64, not 48",
    ),
    "pruned unevenly": (
        lambda f: edit_weights(f, lambda t: t.update({UP: t[UP][:48].clone()})),
        "48 × 32, where the model has 64 × 32.*layers of different sizes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FOLDERS)
def test_a_faulty_folder_is_refused_by_what_is_wrong(folder, fault, recwarn):
    spoil, said = FOLDERS[fault]
    spoil(folder)
    with pytest.raises(InputError, match=said) as refused:
        claw.load(str(folder))
    assert "\n" not in str(refused.value) and "claw" not in type(refused.value.__cause__).__module__


def test_the_folder_above_checkpoints_names_them(folder):
    with pytest.raises(InputError, match=rf"name one of {folder}"):
        claw.load(str(folder.parent))


NAMES = (
    "a" * 300, "a/" + "b" * 300, "./" + "c" * 5000, "a\0b", "~nobodyatall/x", "/dev/zero", "/dev/null", "/dev/stdin.gguf",
    "../ck/good", "a\\b", "/", "", " ", "a b", "a/b/c", "http://user:secret@host/x", "x.safetensors", "x.gguf", "x.GGUF",
    None, 5,
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_cannot_be_a_model_is_refused_with_what_can(name):
    with pytest.raises(InputError, match=r"folder|file|config\.json") as refused:
        claw.load(name)
    assert "secret" not in str(refused.value)


def test_paths_are_read_from_here_and_below_the_project(folder, monkeypatch):
    project = folder.parent
    for name in ("notebooks", "params"):
        (project / name).mkdir()
    for here in (project, project / "notebooks"):
        monkeypatch.chdir(here)
        claw.load("model")
    claw.load(folder)  # a Path
    claw.load("../model")


# GGUF files


def gguf_of(tmp_path, family="qwen2", name="tiny.gguf", **changes):
    model = tiny_model(family, dtype=torch.bfloat16, **({"hidden_size": 32}))
    return write_gguf(tmp_path / name, model, byte_tokenizer(), **changes), model.float()


def same_weights(model, other) -> bool:
    """Whether all weights are equal; what is derived from the configuration is computed in another precision."""
    stored, wanted = model.state_dict(), other.state_dict()
    return stored.keys() == wanted.keys() and all(torch.equal(stored[name], wanted[name]) for name in stored)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("name", ["tiny.gguf", "TINY.GGUF", "tiny-00001-of-00001.gguf"])
def test_a_gguf_file_loads_with_its_weights(tmp_path, own_cache, family, name):
    path, model = gguf_of(tmp_path, family, name)
    loaded, tokenizer = claw.load(str(path), dtype="float32")
    assert same_weights(loaded, model)
    assert tokenizer.decode(tokenizer("the of")["input_ids"]) == "the of"


def drop(*parts):
    return lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith(parts)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"change": drop("blk.1.ffn_up.weight")}, r"model\.layers\.1\.mlp\.up_proj\.weight"),
        ({"change": drop("output_norm")}, r"model\.norm\.weight"),
        ({"change": drop("blk.1.")}, r"missing \[1\]"),
        ({"change": drop("blk.2.")}, r"missing \[2\]"),
        ({"blocks": 2}, r"not expected \[2\]"),
        ({"change": lambda t: t.update({"blk.0.ffn_magic.weight": np.ones((4, 4), np.float32)})}, "ffn_magic"),
        ({"family": "llama", "change": lambda t: t.update({"blk.0.ffn_gate_inp.weight": np.ones((4, 32), "f")})}, "holds"),
        ({"change": lambda t: t.update({"blk.0.ffn_up.weight": t["blk.0.ffn_up.weight"][:-1].copy()})}, "63 × 32"),
        ({"change": lambda t: t.update({"blk.0.ffn_up.weight": t["blk.0.ffn_up.weight"].astype(np.int8)})}, "not be read"),
        ({"name": "tiny-00002-of-00003.gguf"}, "part 2 of 3.*llama-gguf-split --merge tiny-00001-of-00003.gguf"),
        ({"settings": lambda w: (w.add_uint16("split.no", 0), w.add_uint16("split.count", 3))}, "part 1 of 3"),
        ({"settings": lambda w: w.add_rope_scaling_factor(4.0)}, r"rope\.scaling\.factor = 4\.0"),
        ({"settings": lambda w: w.add_sliding_window(16)}, "sliding_window = 16"),
        ({"settings": lambda w: w.add_type("adapter")}, "no model but 'adapter'"),
        ({"change": lambda t: t.update({"rope_freqs.weight": np.arange(1, 5, dtype=np.float32)})}, "rope_freqs"),
    ],
)  # fmt: skip
def test_a_gguf_file_that_is_not_whole_or_not_followed_is_refused(tmp_path, own_cache, changes, said):
    path, _ = gguf_of(tmp_path, **changes)
    with pytest.raises(InputError, match=said):
        claw.load(str(path))
    assert not list(own_cache.glob("models/*/config.json")) and not list(own_cache.glob("models/.writing*"))


def test_the_rotary_scaling_of_llama_3_is_found_in_a_gguf_file(tmp_path, own_cache):
    """GGUF keeps only the divisors; with them left out, the model would be another one."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling |= {"original_max_position_embeddings": 8192, "rope_theta": 10000.0}
    model = tiny_model("llama", rope_parameters=scaling)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()  # without rounding the rotary frequencies
    divisors = 10000.0 ** -(np.arange(0, 8, 2) / 8) / ROPE_INIT_FUNCTIONS["llama3"](model.config, "cpu")[0].numpy()
    change = lambda tensors: tensors.update({"rope_freqs.weight": divisors.astype(np.float32)})
    path = write_gguf(tmp_path / "scaled.gguf", model, byte_tokenizer(), change=change)
    loaded, _ = claw.load(str(path), dtype="float32")
    ids = torch.arange(3, 203)[None]
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)


# adapters


def adapter(folder, base, **choices):
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(**{"r": 4, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"} | choices)
    model = get_peft_model(tiny_model("llama"), lora)
    torch.manual_seed(1)
    for parameter in (p for p in model.parameters() if p.requires_grad):
        parameter.data = parameter.data + 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    edit_json(folder / ADAPTER, base_model_name_or_path=str(base))
    return model.merge_and_unload().eval()


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"use_dora": True},
        {"use_rslora": True, "bias": "all"},
        {"modules_to_save": ["norm"]},
        {"rank_pattern": {"q_proj": 2}},
    ],
)
@pytest.mark.parametrize("relative", [False, True])
def test_a_lora_adapter_is_merged_into_its_base(folder, tmp_path, choices, relative):
    merged = adapter(tmp_path / "adapter", "../model" if relative else folder, **choices)
    load.check_name(str(tmp_path / "adapter"))
    model, tokenizer = claw.load(str(tmp_path / "adapter"), dtype="float32")
    assert type(model).__name__ == "LlamaForCausalLM" and tokenizer("the")
    ids = torch.arange(3, 35)[None]
    torch.testing.assert_close(model(ids).logits, merged(ids).logits)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base_model_name_or_path": "meta-llama/Llama-3.2-1B"}, "hf download meta-llama/Llama-3.2-1B"),
        ({"base_model_name_or_path": None}, "names no base"),
        ({"base_model_name_or_path": "nowhere"}, "is not here"),
        ({"peft_type": "IA3"}, "the type IA3"),
        ({"megatron_config": {"a": 1}, "megatron_core": "evil"}, "megatron_config"),
        ({"a_new_setting": 3}, "a_new_setting"),
        ({"target_modules": ["nothing"]}, "does not fit its base"),
        ({"r": 3}, "does not fit its base"),
    ],
)  # fmt: skip
def test_an_adapter_that_cannot_be_merged_says_why(folder, tmp_path, changes, said):
    adapter(tmp_path / "adapter", folder)
    edit_json(tmp_path / "adapter" / ADAPTER, **changes)
    with pytest.raises(InputError, match=said):
        claw.load(str(tmp_path / "adapter"))


@pytest.mark.parametrize("fault", ["missing", "extra", "pickle", "cut"])
def test_an_adapter_with_other_tensors_is_refused(folder, tmp_path, fault):
    adapter(tmp_path / "adapter", folder)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    if fault == "missing":
        tensors.pop(next(iter(tensors)))
    elif fault == "extra":
        tensors["base_model.model.x.lora_A.weight"] = torch.ones(2, 2)
    save_file(tensors, file)
    if fault == "pickle":
        file.rename(file.with_suffix(".bin"))
    elif fault == "cut":
        file.write_bytes(file.read_bytes()[:99])
    with pytest.raises(InputError, match=r"not whole|pickle|damaged"):
        claw.load(str(tmp_path / "adapter"))


# code beside a model


def evil(folder, marker):
    """Code in every place that transformers knows, and files that name it."""
    code = f"open({str(marker)!r}, 'a').write('ran')\n"
    for name in ("mine.py", "configuration_mine.py", "sitecustomize.py"):
        (folder / name).write_text(code)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code)
    auto = {
        "AutoConfig": "mine.C",
        "AutoTokenizer": ["mine.T", "mine.T"],
        "AutoModelForCausalLM": "mine.M",
        "AutoModel": "mine.M",
    }
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        content = json.loads((folder / name).read_text()) if (folder / name).exists() else {"model_type": "mine"}
        content |= {"auto_map": auto} | ({"tokenizer_class": "T"} if "tokenizer" in name else {})
        (folder / name).write_text(json.dumps(content))


@pytest.fixture
def nobody_asked(monkeypatch, tmp_path):
    """The marker that evil code would leave; asking anything is a failure."""

    def asked(*words):
        raise AssertionError(f"asked {words}")

    monkeypatch.setattr(builtins, "input", asked)
    return tmp_path / "marker"


def test_code_beside_a_checkpoint_does_not_run(folder, nobody_asked):
    evil(folder, nobody_asked)
    with pytest.raises(InputError, match="own code"):
        claw.load(str(folder))
    for name in ("tokenizer_config.json", "config.json"):  # with a stock tokenizer the stock class is taken
        content = json.loads((folder / name).read_text())
        content.pop("auto_map")
        content.pop("tokenizer_class", None)
        (folder / name).write_text(json.dumps(content))
        claw.load(str(folder))
    assert not nobody_asked.exists()


def test_nothing_beside_a_gguf_file_is_read(tmp_path, own_cache, nobody_asked):
    path, model = gguf_of(tmp_path)
    evil(tmp_path, nobody_asked)
    (tmp_path / ADAPTER).write_text(json.dumps({"base_model_name_or_path": "evil", "peft_type": "LORA"}))
    loaded, _ = claw.load(str(path), dtype="float32")
    assert same_weights(loaded, model) and not nobody_asked.exists()


def test_only_one_module_calls_transformers_loaders():
    root = Path(claw.__file__).parents[1]
    sources = [*root.glob("claw/**/*.py"), *root.glob("benchmarks/*.py")]
    texts = {path: path.read_text(encoding="utf-8") for path in sources}
    texts |= {path: "\n".join(_code(path)) for path in root.glob("notebooks/*.ipynb")}
    calls = {
        str(path.relative_to(root)): [
            c for c in ast.walk(ast.parse(text)) if isinstance(c, ast.Attribute) and c.attr == "from_pretrained"
        ]
        for path, text in texts.items()
    }
    assert [path for path, some in calls.items() if some] == ["claw/models/pretrained.py"]
    tree = ast.parse(texts[root / "claw" / "models" / "pretrained.py"])
    for call in (c for c in ast.walk(tree) if isinstance(c, ast.Call) and getattr(c.func, "attr", "") == "from_pretrained"):
        names = [ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg is None]
        assert "NO_CODE" in names or ast.unparse(call.args[0]) == "None"  # nothing to be read, so no code either


def _code(notebook):
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            yield "\n".join(line for line in "".join(cell["source"]).splitlines() if not line.lstrip().startswith(("%", "!")))


# token ids


def test_a_tokenizer_with_more_ids_is_accepted_and_they_are_refused_where_they_occur(tmp_path, own_cache, train_text):
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<image_soft_token>"])
    tiny_model("llama").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"1 id beyond .*<image_soft_token>.* \(259\)"):
        model, tokenizer = claw.load(str(tmp_path), dtype="float32")
    claw.cross_entropy(model, blocks(tokenizer, train_text, length=32, count=2))
    (tmp_path / "odd.txt").write_text("the <image_soft_token> of " * 50)
    odd = blocks(tokenizer, str(tmp_path / "odd.txt"), length=32, count=2)
    requests = [type("R", (), {"args": ("the", " <image_soft_token>"), "task_name": "t"})()]
    for use in (
        lambda: claw.cross_entropy(model, odd),
        lambda: claw.calibrate(model, odd),
        lambda: claw.recover(model, odd, tokens=64, length=32),
        lambda: ClawLM(model, tokenizer).loglikelihood(requests),
    ):
        with pytest.raises(InputError, match="id 259, but the model embeds only 259 ids"):
            use()


def test_the_largest_id_counts_not_how_many_there_are(tmp_path, train_text):
    folder = tmp_path / "model"
    tiny_model("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["e"] = 5000
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.warns(UserWarning, match=r"'e' \(5000\)"):
        model, tokenizer = claw.load(str(folder), dtype="float32")
    with pytest.raises(InputError, match="id 5,000"):
        claw.cross_entropy(model, blocks(tokenizer, train_text, length=32, count=2))


@pytest.fixture(scope="module")
def tiny():
    return tiny_model("llama")


@given(st.lists(st.lists(st.integers(0, 400), max_size=5), max_size=4), st.sampled_from([list, np.array, torch.tensor]))
def test_ids_are_checked_in_any_form(tiny, lists, form):
    numbers = [number for part in lists for number in part]
    ids = torch.tensor(numbers or [0]) if form is torch.tensor else [form(part) for part in lists]
    if max(numbers, default=0) >= 259:
        with pytest.raises(InputError, match="ids"):
            load.check_ids(ids, tiny)
    else:
        load.check_ids(ids, tiny)


# conversions in the cache


def noise(folder):
    path = folder / WEIGHTS
    tensors = load_file(path)
    save_file({name: torch.randn_like(tensor) for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


@pytest.mark.filterwarnings("ignore:.*not as claw made it", "ignore:The tokenizer has")
@pytest.mark.parametrize(
    "damage",
    [
        noise,
        lambda f: (f / "config.json").unlink(),
        lambda f: edit_json(f / "config.json", rope_theta=5, rope_parameters={"rope_type": "default", "rope_theta": 5}),
        lambda f: (f / ADAPTER).write_text('{"base_model_name_or_path": "evil"}'),
        lambda f: (f / WEIGHTS).write_bytes(b""),
        shutil.rmtree,
    ],
    ids=["noise", "no config", "another config", "an adapter beside", "empty weights", "gone"],
)
def test_a_conversion_that_was_changed_is_made_again(tmp_path, own_cache, damage):
    path, model = gguf_of(tmp_path)
    claw.load(str(path))
    (kept,) = (place for place in (own_cache / "models").iterdir() if place.is_dir())
    damage(kept)
    loaded, _ = claw.load(str(path), dtype="float32")
    assert same_weights(loaded, model) and loaded.config.rope_parameters["rope_theta"] == 10000
    assert all(place.stat().st_mode & 0o044 for place in kept.rglob("*"))  # for others to read, as the umask says


def test_what_is_in_the_cache_is_not_read_twice(tmp_path, own_cache, monkeypatch):
    from claw import files

    path, _ = gguf_of(tmp_path)
    claw.load(str(path))
    read = []
    monkeypatch.setattr(files, "sha256", lambda path: read.append(path))
    claw.load(str(path))
    assert not read


@pytest.mark.parametrize("place", ["file", "x" * 300, "file/below"])
def test_a_cache_that_cannot_be_written_is_refused_before_converting(tmp_path, monkeypatch, place):
    path, _ = gguf_of(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setenv("CLAW_CACHE", str(tmp_path / place))
    with pytest.raises(InputError, match="CLAW_CACHE"):
        claw.load(str(path))
