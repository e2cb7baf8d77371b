"""Every kind of checkpoint that people have loads, or is refused with what it is and what to do."""

import json
import shutil
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import byte_tokenizer, sentences, tiny_model
from safetensors.torch import load_file, save_file

import claw
from claw.errors import InputError
from claw.models import load, tokenizer_files

WEIGHTS, CONFIG, ADAPTER = "model.safetensors", "config.json", "adapter_config.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("good") / "model"
    tiny_model("llama").save_pretrained(root)
    byte_tokenizer().save_pretrained(root)
    return root


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "model"))


def edit(path, **changes):
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))


def refused(folder, said):
    with pytest.raises(InputError, match=said) as told:
        claw.load(folder)
    assert "\n" not in str(told.value)
    return str(told.value)


def logits(model):
    with torch.no_grad():
        return model(torch.arange(3, 67)[None], use_cache=False).logits


# weights of other kinds


def instead(*names):
    """Replace the weights by empty files or folders of these names."""

    def spoil(folder):
        (folder / WEIGHTS).unlink()
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).touch()

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (instead("pytorch_model.bin"), r"two lines convert them: `AutoModelForCausalLM.*` and `AutoTokenizer"),
        (instead("pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"), "never loaded.*two lines"),
        (instead("onnx/model.onnx"), "export to ONNX.*exported from"),
        (instead("openvino_model.bin", "openvino_model.xml"), "export to OpenVINO"),
        (instead("model.mlpackage"), "export to Core ML"),
        (instead("tf_model.h5"), "TensorFlow or Flax"),
        (instead("flax_model.msgpack"), "TensorFlow or Flax"),
        (instead("model.q4.gguf", "model.q8.gguf"), r"Name the file: .*model\.q4\.gguf"),
        (instead("zero_to_fp32.py", "global_step10"), r"zero_to_fp32\.py .* --safe_serialization"),
        (instead("pytorch_model_fsdp_0"), "accelerate merge-weights"),
        (instead("optimizer.pt", "training_args.bin"), "nor other weights: its download or copy is not complete"),
        (lambda f: (f / WEIGHTS).write_text("<!DOCTYPE html>"), "a web page"),
        (lambda f: (f / CONFIG).write_text("version https://git-lfs.github.com/spec/v1"), "git lfs pull"),
        (lambda f: (f / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1"), "git lfs pull"),
    ],
)  # fmt: skip
def test_what_is_there_in_place_of_weights_is_told(folder, spoil, said):
    spoil(folder)
    refused(folder, said)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["model_index.json", "unet/config.json"], "pipeline of diffusers"),
        (["checkpoint-500/config.json", "checkpoint-1000/config.json"], r"name one of \S+checkpoint-1000, \S+checkpoint-500\."),
        (["checkpoint-9/adapter_config.json", "runs/x"], r"name one of \S+checkpoint-9\."),
        (["a/b/config.json", ".cache/config.json"], r"name one of \S+a/b\."),
        (["model.nemo"], "NeMo or Megatron"),
        ([], "It is empty"),
    ],
)
def test_a_folder_without_configuration_says_what_it_is(tmp_path, names, said):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    refused(tmp_path, said)


def test_what_a_run_left_beside_the_weights_is_no_fault(folder):
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "pytorch_model.bin", "model.q4.gguf"):
        (folder / name).write_bytes(b"x")
    shutil.copytree(folder, folder / "checkpoint-500")
    claw.load(folder)


def test_a_part_that_the_index_does_not_name_is_told_of(folder):
    (folder / WEIGHTS).unlink()
    tiny_model("llama").save_pretrained(folder, max_shard_size="40KB")
    shutil.copy(min(folder.glob("model-0*")), folder / "model-00009-of-00009.safetensors")
    with pytest.warns(UserWarning, match="does not name model-00009-of-00009"):
        assert torch.equal(logits(claw.load(folder, dtype="float32")[0]), logits(tiny_model("llama")))


# quantised


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("fp8", "FineGrainedFP8Config"),
        ("compressed-tensors", "CompressedTensorsConfig"),
        ("mxfp4", "Mxfp4Config"),
        ("bitsandbytes", r"from_pretrained\(folder\)\.dequantize\(\)"),
        ("gptq", "own tool"),
        ("awq", "own tool"),
    ],
)
def test_each_kind_of_quantised_checkpoint_says_how_it_is_unpacked_and_of_which_it_was_made(folder, kind, said):
    edit(folder / CONFIG, text_config={"quantization_config": {"quant_method": kind}})
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model:\n- org/Whole-7B\n---\n# It\nbase_model: other/one\n")
    assert "org/Whole-7B by its README.md" in refused(folder, rf"quantised \({kind}.*{said}")


@pytest.mark.parametrize(
    ("names", "kind", "said"),
    [
        (["up_proj.weight"], torch.float8_e4m3fn, "float8"),
        (["up_proj.weight_scale_inv"], torch.uint8, "fp8: float8 with scales"),
        (["up_proj.weight", "up_proj.weight.absmax"], torch.uint8, "bitsandbytes"),
        (["up_proj.qweight", "up_proj.qzeros"], torch.int32, "gptq"),
        (["up_proj.weight_packed", "up_proj.weight_scale"], torch.int32, "compressed-tensors"),
        (["experts.gate_up_proj_blocks", "experts.gate_up_proj_scales"], torch.uint8, "mxfp4"),
    ],
)
def test_packed_weights_are_recognised_without_a_configuration(folder, names, kind, said):
    packed = {f"model.layers.0.mlp.{name}": torch.zeros(4, 4).to(kind) for name in names}
    save_file(load_file(folder / WEIGHTS) | packed, folder / WEIGHTS, metadata={"format": "pt"})
    refused(folder, rf"quantised \({said}.*its config\.json does not say")


# configurations of older releases


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize("torch_dtype", ["float16", "bfloat16", None, ...])
@pytest.mark.parametrize("scaling", [None, {"rope_type": "llama3", **LLAMA3}, {"type": "linear", "factor": 2.0}])
def test_older_configurations_mean_what_they_meant(folder, torch_dtype, scaling):
    older = {"dtype": ..., "rope_parameters": ..., "architectures": ..., "torch_dtype": torch_dtype}
    edit(folder / CONFIG, **older, rope_theta=500.0, rope_scaling=scaling)
    kind = {"rope_type": (scaling or {}).get("rope_type", (scaling or {}).get("type", "default"))}
    newer = {name: value for name, value in (scaling or {}).items() if name != "type"} | kind | {"rope_theta": 500.0}
    wanted = tiny_model("llama", rope_parameters=newer)
    assert torch.equal(logits(claw.load(folder, dtype="float32")[0]), logits(wanted))
    assert not torch.equal(logits(wanted), logits(tiny_model("llama")))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"torch_dtype": "torch.bfloat16"}, "Write 'bfloat16'"),
        ({"dtype": "float17"}, "no number type of torch.*leave the line out"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "classes or a reward"),
        ({"model_type": ...}, "has no model_type.*LlamaForCausalLM"),
        ({"rope_parameters": ..., "rope_scaling": {"type": "new", "factor": 2.0}}, "type 'new', which transformers has not"),
    ],
)
def test_a_configuration_that_cannot_be_followed_says_which_line(folder, changes, said):
    edit(folder / CONFIG, **changes)
    refused(folder, said)


# tokenizers


def only(folder, **files):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)


def test_a_tokenizer_without_vocabulary_is_refused(folder):
    """transformers makes one that turns every text into nothing."""
    only(folder, tokenizer_config__json='{"tokenizer_class": "LlamaTokenizer"}')
    refused(folder, "is empty.*tokenizer.save_pretrained")


@pytest.mark.parametrize("name", ["tokenizer__model", "spiece__model"])
def test_sentencepiece_alone_names_the_packages_that_are_missing(folder, monkeypatch, name):
    only(folder, **{name: "x"})
    fails = lambda folder: (_ for _ in ()).throw(ValueError("`tiktoken` is required"))  # whatever is installed here
    monkeypatch.setattr(tokenizer_files.pretrained, "tokenizer_in", fails)
    monkeypatch.setattr(tokenizer_files, "find_spec", lambda module: None)
    refused(folder, r"must be converted: install what is missing here \(`pip install sentencepiece protobuf tiktoken`")


@pytest.mark.parametrize(("config", "right"), [('{"tokenizer_class": "LlamaTokenizer"}', True), (None, False)])
def test_a_sentencepiece_file_is_cut_as_sentencepiece_cuts_or_refused(folder, tmp_path, config, right):
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    (tmp_path / "text").write_text(sentences(1, 2000))
    choices = {"vocab_size": 70, "model_type": "bpe", "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(input=str(tmp_path / "text"), model_prefix=str(tmp_path / "pieces"), **choices)
    only(folder, **({"tokenizer_config__json": config} if config else {}))
    shutil.copy(tmp_path / "pieces.model", folder / "tokenizer.model")
    if right:
        assert claw.load(folder)[1].tokenize("the of") == ["▁the", "▁of"]
    else:
        refused(folder, r"cuts words otherwise than its tokenizer\.model.*tokenizer_class")


def test_pieces_are_compared_with_those_of_sentencepiece(tmp_path, monkeypatch):
    """As above, where sentencepiece is not installed: a reader of pieces that stands for it."""

    class Reader:
        def __init__(self, model_file):
            self.unk_id = lambda: 0

        def encode(self, text, out_type=int):
            return [f"▁{word}" if out_type is str else 1 for word in text.split()]

    module = ModuleType("sentencepiece")
    module.SentencePieceProcessor, module.__spec__ = Reader, ModuleSpec("sentencepiece", None)
    monkeypatch.setitem(sys.modules, "sentencepiece", module)
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(InputError, match="cuts words otherwise"):
        tokenizer_files.check_pieces(tmp_path, byte_tokenizer())
    byte_tokenizer().save_pretrained(tmp_path)  # what tokenizer.json says counts
    tokenizer_files.check_pieces(tmp_path, byte_tokenizer())


def test_tokenizers_of_other_programs_are_named(folder):
    only(folder, tekken__json="{}")
    refused(folder, r"only tekken\.json")


def test_chat_templates_of_every_file_are_read(folder):
    (folder / "chat_template.jinja").write_text("{% for m in messages %}<{{ m['content'] }}>{% endfor %}")
    asked = [{"role": "user", "content": "hi"}]
    assert claw.load(folder)[1].apply_chat_template(asked, tokenize=False) == "<hi>"


# adapters


def adapter(folder, base, model=None):
    from peft import LoraConfig, get_peft_model

    made = get_peft_model(model or tiny_model("llama"), LoraConfig(r=4, target_modules=["q_proj", "up_proj"]))
    for parameter in (p for p in made.parameters() if p.requires_grad):
        parameter.data += 0.1 * torch.randn_like(parameter)
    made.save_pretrained(folder)
    edit(Path(folder) / ADAPTER, base_model_name_or_path=str(base))
    return made.merge_and_unload().eval()


def test_an_adapter_in_a_step_of_a_run_over_a_compressed_checkpoint(folder, tmp_path):
    dense, tokenizer = claw.load(folder, dtype="float32")
    small, report = claw.compress(dense, "magnitude", 0.25)
    claw.save(small, tokenizer, tmp_path / "small", report, base_model=str(folder))
    base, _ = claw.load(tmp_path / "small", dtype="float32")
    merged = adapter(tmp_path / "run" / "checkpoint-500", "../../small", base)
    (tmp_path / "run" / "checkpoint-500" / "optimizer.pt").write_bytes(b"x")
    refused(tmp_path / "run", r"name one of \S+checkpoint-500")
    load.check_name(tmp_path / "run" / "checkpoint-500")
    torch.testing.assert_close(logits(claw.load(tmp_path / "run" / "checkpoint-500", dtype="float32")[0]), logits(merged))


def test_an_adapter_on_an_adapter_and_adapters_beside_each_other(folder, tmp_path):
    adapter(tmp_path / "one", folder)
    adapter(tmp_path / "two", tmp_path / "one")
    refused(tmp_path / "two", "an adapter on another adapter.*claw.save")
    shutil.copytree(tmp_path / "one", tmp_path / "one" / "second")
    with pytest.warns(UserWarning, match=r"others below it, which are not: name one of \S+second"):
        claw.load(tmp_path / "one")


def test_a_base_that_was_fetched_before_is_taken_from_the_hubs_cache(folder, tmp_path, monkeypatch):
    from huggingface_hub import constants

    place = tmp_path / "hub" / "models--org--base"
    shutil.copytree(folder, place / "snapshots" / ("0" * 40))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0" * 40)
    merged = adapter(tmp_path / "adapter", "org/base")
    refused(tmp_path / "adapter", "`hf download org/base`")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    torch.testing.assert_close(logits(claw.load(tmp_path / "adapter", dtype="float32")[0]), logits(merged))


def test_a_model_made_to_embed_loads_and_says_so(tmp_path):
    tiny_model("qwen3").model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "modules.json").write_text("[]")
    with pytest.warns(UserWarning, match="sentence-transformers"):
        claw.load(tmp_path)
