"""The tokenizer of a GGUF file: words of its own vocabulary stay whole, whatever transformers makes of it."""

import itertools
import json
from pathlib import Path

import gguf
import pytest
from conftest import byte_tokenizer
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast

from claw.errors import InputError
from claw.models import gguf_tokenizer, pretrained
from claw.models.tokenizer_files import SAMPLE, falls_apart, read_tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["".join(word) for word in itertools.islice(itertools.product("aeio", "rst", "aeio", "lmn"), SAMPLE)]


def fields(*, words=WORDS) -> dict:
    """What a file of Gemma's kind says: bytes, letters, words with all their beginnings; scores that say nothing."""
    beginnings = {f"▁{word[:end]}": None for word in words for end in range(1, 5)}
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<turn>", "  ", "   ", *(f"<0x{n:02X}>" for n in range(256))]
    tokens += ["▁", *LETTERS, *sorted(beginnings, key=len), "<image>"]
    kinds = [3, 3, 3, 2, 3, 1, 1, *[6] * 256, *[1] * (1 + len(LETTERS) + len(beginnings)), 4]
    ids = {"padding_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "unknown_token_id": 3}
    return ids | {"tokens": tokens, "token_type": kinds, "scores": [-1000.0] * len(tokens), "add_bos_token": True}


def in_letters(tokens) -> PreTrainedTokenizerFast:
    """What transformers 5.17 makes of it: the likeliest pieces by scores that are all alike."""
    model = Tokenizer(Unigram([(token, -(float(len(token)) ** 2)) for token in tokens], unk_id=3, byte_fallback=True))
    model.normalizer, model.decoder = normalizers.Replace(" ", "▁"), decoders.Replace("▁", " ")
    return PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<unk>", bos_token="<bos>", eos_token="<eos>")


def write(path: Path, architecture: str) -> Path:
    """A file with this vocabulary and no tensors."""
    writer, own = gguf.GGUFWriter(path, architecture), fields()
    writer.add_tokenizer_model("llama")
    writer.add_token_list(own["tokens"])
    writer.add_token_types(own["token_type"])
    writer.add_token_scores(own["scores"])
    for name in ("bos", "eos", "unk", "pad"):
        long = {"unk": "unknown", "pad": "padding"}.get(name, name)
        getattr(writer, f"add_{name}_token_id")(own[f"{long}_token_id"])
    writer.add_add_bos_token(True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_words_stay_whole_and_marks_are_matched_as_a_whole():
    tokenizer = gguf_tokenizer.gemma_tokenizer(fields())
    text = f" {WORDS[0]} {WORDS[5]}  q<turn><image>"
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    assert pieces == ["<bos>", f"▁{WORDS[0]}", f"▁{WORDS[5]}", "▁▁", "q", "<turn>", "<image>"]
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"], skip_special_tokens=True).startswith(
        text[:10]
    )
    assert falls_apart(tokenizer) == "" and len(tokenizer) == len(fields()["tokens"])
    assert tokenizer("ß", add_special_tokens=False)["input_ids"] == [7 + 0xC3, 7 + 0x9F]  # bytes of what has no piece


def test_the_tokenizer_says_no_beginning_where_the_file_does_not():
    own = fields() | {"add_bos_token": False}
    assert gguf_tokenizer.gemma_tokenizer(own)(" q")["input_ids"][0] != own["bos_token_id"]


def test_a_tokenizer_that_cuts_its_own_words_is_noticed():
    assert falls_apart(in_letters(fields()["tokens"])) in WORDS
    assert (
        falls_apart(byte_tokenizer()) == "" == falls_apart(in_letters(fields(words=WORDS[:10])["tokens"]))
    )  # no words to speak of


def test_what_transformers_reads_wrongly_is_made_here(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "tokenizer_in", lambda folder, **choices: in_letters(fields()["tokens"]))
    tokenizer = gguf_tokenizer.tokenizer_in_file(write(tmp_path / "gemma.gguf", "gemma3"), "gemma")
    assert tokenizer.tokenize(f" {WORDS[3]}") == [f"▁{WORDS[3]}"]
    with pytest.raises(InputError, match=r"does not read the tokenizer of mine rightly.*Take a newer transformers"):
        gguf_tokenizer.tokenizer_in_file(write(tmp_path / "llama.gguf", "llama"), "mine")


def test_what_transformers_reads_rightly_is_left_alone(tmp_path, monkeypatch):
    right = gguf_tokenizer.gemma_tokenizer(fields())
    monkeypatch.setattr(pretrained, "tokenizer_in", lambda folder, **choices: right)
    assert gguf_tokenizer.tokenizer_in_file(tmp_path / "not read.gguf", "gemma") is right


def test_a_folder_with_such_a_tokenizer_is_refused(tmp_path):
    in_letters(fields()["tokens"]).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"is damaged: .* is cut into pieces"):
        read_tokenizer(tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text())  # left as it is
