"""Saved checkpoints are plain: stock transformers gives the same logits, and a wrong one does not survive."""

import shutil
from collections import namedtuple

import pytest
import torch
from conftest import tiny_model
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

import claw
from claw.errors import InputError
from claw.specs import on_disk
from claw.stages import checkpoints


@pytest.fixture
def small(model):
    return claw.compress(model, "magnitude", 0.5)


@torch.no_grad()
def test_stock_transformers_reloads_it_with_equal_logits_and_tokens(small, tokenizer, tmp_path):
    folder = claw.save(small[0], tokenizer, tmp_path / "small", small[1], base_model="HuggingFaceTB/SmolLM2-135M")
    again = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.randint(3, 250, (2, 40))
    assert torch.equal(again(ids).logits, small[0](ids).logits)
    assert again.generate(ids[:1, :5], max_new_tokens=5, do_sample=False).shape == (1, 10)
    assert AutoTokenizer.from_pretrained(folder)("the")["input_ids"] == tokenizer("the")["input_ids"]
    assert not list(tmp_path.glob(".saving-*"))


def test_the_model_card_says_what_was_removed(small, tokenizer, tmp_path):
    folder = claw.save(small[0], tokenizer, tmp_path / "small", small[1], base_model="smollm2-135m")
    card = (folder / "README.md").read_text()
    assert "base_model: HuggingFaceTB/SmolLM2-135M" in card and f"{small[1].ratio_params:.1%}" in card
    assert on_disk.checkpoint_note(folder)["report"]["ratio_params"] == small[1].ratio_params


def test_the_hub_can_read_the_model_card(small, tokenizer, tmp_path):
    folder = claw.save(small[0], tokenizer, tmp_path / "small", small[1], base_model="smollm2-135m")
    data = ModelCard.load(folder / "README.md").data
    assert data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct" and data.license == "apache-2.0"
    assert set(data.tags) == {"pruned", "claw", "magnitude"} and data.library_name == "transformers"
    assert "50% of ffn" in (folder / "README.md").read_text() and "llama.cpp" in (folder / "README.md").read_text()


def test_a_card_of_an_unknown_model_claims_no_base_and_no_licence(tokenizer, tmp_path):
    folder = claw.save(tiny_model("llama"), tokenizer, tmp_path / "dense", base_model="my-own")
    data = ModelCard.load(folder / "README.md").data
    assert data.base_model is None and data.license is None and set(data.tags) == {"pruned", "claw"}


def test_a_checkpoint_that_reloads_differently_is_deleted(tokenizer, tmp_path):
    model = tiny_model("llama")
    model.model.layers[0].mlp.down_proj.register_forward_hook(lambda *parts: parts[2] + 1)  # no file can hold a hook
    with pytest.raises(InputError, match="does not reload"):
        claw.save(model, tokenizer, tmp_path / "small")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named_before_writing(tokenizer, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(10, 10, 0))
    with pytest.raises(InputError, match=r"needs 0.1 MB but only 0.0 MB are free"):
        claw.save(tiny_model("llama"), tokenizer, tmp_path / "small")


def test_a_failed_save_keeps_the_checkpoint_before_it(small, tokenizer, tmp_path, monkeypatch):
    folder = claw.save(small[0], tokenizer, tmp_path / "small", small[1])
    before = (folder / "model.safetensors").read_bytes()
    monkeypatch.setattr(type(small[0]), "save_pretrained", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(InputError, match="No space left"):
        claw.save(small[0], tokenizer, folder, small[1])
    assert (folder / "model.safetensors").read_bytes() == before


def test_a_damaged_description_is_named(small, tokenizer, tmp_path):
    folder = claw.save(small[0], tokenizer, tmp_path / "small", small[1])
    (folder / checkpoints.ABOUT).write_text("{")
    with pytest.raises(InputError, match=r"claw\.json is damaged"):
        checkpoints.experiment_of(str(folder))


def test_a_folder_that_claw_did_not_make_stands_for_a_dense_model(folder_model):
    assert checkpoints.experiment_of(folder_model).compression.method == "dense"


@pytest.mark.parametrize("method", ["slicegpt", "claw", "random"])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_every_size_that_is_cut_reloads(family, method, tokenizer, train_text, own_cache, tmp_path):
    """Llama's configuration refuses a hidden width that is no multiple of the heads."""
    model = tiny_model(family, num_attention_heads=6, num_key_value_heads=3, hidden_size=48, head_dim=8)
    statistics = claw.calibrate(model, claw.blocks(tokenizer, train_text, length=32, count=16))
    for number, ratio in enumerate((0.2, 0.45, 0.6)):
        ratio_of = "heads" if method == "random" else "own"
        try:
            small, report = claw.compress(model, method, ratio, ratio_of=ratio_of, statistics=statistics)
        except InputError as error:
            assert "cannot be reached" in str(error)
            continue
        folder = claw.save(small, tokenizer, tmp_path / str(number), report, base_model="tiny")
        checkpoints.check_reload(small, folder)
