"""Tokenizers of equal files are read once where a stage asks for it, and only there."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import tiny_model

from claw.models import load
from claw.models.tokenizer_files import read_tokenizer, tokenizers_read_once


@pytest.fixture
def other_model(folder_model, tmp_path):
    """Another checkpoint with the same tokenizer."""
    place = tmp_path / "other"
    shutil.copytree(folder_model, place)
    tiny_model("llama", 1).save_pretrained(place)
    return place


def test_equal_files_are_read_once_while_it_is_asked_for(folder_model, other_model):
    with tokenizers_read_once():
        first, again = (load.load(str(name), dtype="float32")[1] for name in (folder_model, other_model))
        assert first is again and again.name_or_path == str(other_model)
    assert read_tokenizer(Path(folder_model)) is not read_tokenizer(Path(folder_model)) is not first


@pytest.mark.parametrize("change", ["token", "template", "class", "any file"])
def test_a_tokenizer_that_differs_is_read(folder_model, other_model, change):
    if change == "token":
        tokenizer = read_tokenizer(other_model)
        tokenizer.add_tokens(["<one more>"])
        tokenizer.save_pretrained(other_model)
    elif change == "template":
        (other_model / "chat_template.jinja").write_text("{{ messages }}")
    elif change == "any file":  # of a kind that this claw does not know
        (other_model / "vocabulary.tiktoken").write_text("IQ== 0")
    else:
        config = json.loads((other_model / "config.json").read_text())
        (other_model / "config.json").write_text(json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    with tokenizers_read_once():
        first, other, again = (read_tokenizer(Path(name)) for name in (folder_model, other_model, folder_model))
    assert first is not other and other is not again
    assert (len(other) > len(first)) == (change == "token") and bool(other.chat_template) == (change == "template")
    assert len(again) == len(first)
