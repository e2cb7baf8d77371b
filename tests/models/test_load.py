"""Loading by name, folder and GGUF file; what cannot be loaded is refused by name."""

import json
import struct
from pathlib import Path

import pytest
import torch
from conftest import tiny_model

import claw
from claw.errors import InputError
from claw.models import load, sources
from claw.models.identity import weights_hash


def test_a_folder_loads_as_it_was_saved(folder_model):
    model, tokenizer = claw.load(folder_model, dtype="float32")
    assert not model.training and model.dtype == torch.float32
    assert weights_hash(model) == weights_hash(tiny_model("llama"))
    assert tokenizer.decode(tokenizer("the of")["input_ids"]) == "the of"


def test_the_number_type_is_measured_or_as_asked(folder_model):
    assert claw.load(folder_model)[0].dtype == load.fast_dtype("cpu")
    assert claw.load(folder_model, dtype="bfloat16")[0].dtype == torch.bfloat16
    with pytest.raises(InputError, match=r"bf16.*bfloat16"):
        claw.load(folder_model, dtype="bf16")


@pytest.mark.parametrize("name", ["smollm2-135", "./nowhere", "a/b/c", "/x", "", "nowhere.gguf", "https://x/y"])
def test_what_cannot_be_a_model_is_refused_without_the_network(name):
    with pytest.raises(InputError):
        load.check_name(name)


def test_a_pickle_is_never_loaded(folder_model):
    folder = Path(folder_model)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin, a pickle"):
        claw.load(folder_model)


def test_code_in_a_checkpoint_is_never_run(folder_model):
    folder = Path(folder_model)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(InputError, match="cannot be loaded"):
        claw.load(folder_model)


def test_truncated_weights_are_named(folder_model):
    weights = Path(folder_model) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="incomplete, corrupt"):
        claw.load(folder_model)


def test_a_tokenizer_with_more_ids_than_the_model_embeds_is_refused(tokenizer, tmp_path):
    tiny_model("llama", vocab_size=100).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"259 ids .* 100"):
        claw.load(str(tmp_path))


def test_a_device_that_is_not_there_is_refused(folder_model):
    for device in ("cuda:99", "tpu"):
        with pytest.raises(InputError, match=f"device '{device}'"):
            claw.load(folder_model, device=device)


def test_files_that_are_not_gguf_are_refused(tmp_path, own_cache):
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"PK..")
    with pytest.raises(InputError, match="not a GGUF file"):
        claw.load(str(wrong))
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 5, 5))
    with pytest.raises(InputError, match=r"cut\.gguf could not be read"):
        claw.load(str(cut))
    assert not list((own_cache / "models").glob("gguf-*/config.json"))


def test_the_original_studys_models_are_known_by_hub_id():
    hub = [source.hub for source in sources.models().values() if source.hub]
    assert len(hub) >= 8 and all(name.count("/") == 1 for name in hub)


@pytest.mark.real
def test_the_embedded_model_has_its_published_size_and_speaks():
    model, tokenizer = claw.load("smollm2-135m", dtype="float32")
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    said = tokenizer.decode(model.generate(**prompt, max_new_tokens=4, do_sample=False)[0])
    assert "Paris" in said
