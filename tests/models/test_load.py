"""Loading by name, folder and GGUF file; what cannot be loaded is refused by name."""

import struct

import pytest
import torch
from conftest import tiny_model

import claw
from claw.errors import InputError
from claw.models import load, sources


def test_a_folder_loads_as_it_was_saved(folder_model):
    model, tokenizer = claw.load(folder_model, dtype="float32")
    assert not model.training and model.dtype == torch.float32
    assert load.weights_hash(model) == load.weights_hash(tiny_model("llama"))
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


def test_a_hub_model_is_its_files_read_as_a_folder(tmp_path, monkeypatch, tokenizer):
    """In the hub's cache, files of a snapshot are links to blobs outside it."""
    from huggingface_hub import constants

    place = tmp_path / "hub" / "models--org--tiny"
    snapshot = place / "snapshots" / ("0" * 40)
    blobs = place / "blobs"
    tiny_model("llama").save_pretrained(blobs)
    tokenizer.save_pretrained(blobs)
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(path)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    model, own = claw.load("org/tiny", dtype="float32")
    assert load.weights_hash(model) == load.weights_hash(tiny_model("llama"))
    assert model.config._name_or_path == own.name_or_path == "org/tiny"
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no model\.safetensors"):
        claw.load("org/tiny")
    with pytest.raises(InputError, match=r"hub model 'org/other' cannot be loaded.*no folder of this name"):
        claw.load("org/other")


def test_a_device_that_is_not_there_is_refused(folder_model):
    for device in ("cuda:99", "tpu", "meta"):
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
