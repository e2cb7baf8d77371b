"""Running text becomes the ids of its letters, in windows or at once alike."""

import itertools
import random

import pytest
from conftest import byte_tokenizer, sentences
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from claw.errors import InputError
from claw.texts import tokenise

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SAMPLE = "".join(
    sentences(seed, 60) + "\n\nDon't stop: 12345 times, naïve café 東京は日本の首都です。 x  y\n" for seed in range(8)
)
SPECIALS = ["<s>", "</s>", "<unk>"]


def trained(kind: str) -> PreTrainedTokenizerFast:
    """A small tokenizer of one of the kinds that language models have."""
    if kind == "unigram":
        core = Tokenizer(models.Unigram())
        core.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False)
    else:
        core = Tokenizer(models.BPE(unk_token="<unk>"))
        options = {"vocab_size": 500, "special_tokens": SPECIALS, "show_progress": False}
        if kind in ("llama2", "gemma"):
            steps = [normalizers.Prepend("▁")] if kind == "llama2" else []
            core.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
            core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # while training; a real one has none
        else:
            split = {"gpt2": None, "llama3": LLAMA3}[kind]
            steps = [pre_tokenizers.Split(Regex(split), "isolated")] if split else []
            level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not split)
            core.pre_tokenizer, core.decoder = pre_tokenizers.Sequence([*steps, level]), decoders.ByteLevel()
            options["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(**options)
    core.train_from_iterator(SAMPLE.split("\n\n"), trainer)
    if kind in ("llama2", "gemma"):
        core.pre_tokenizer = None
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


KINDS = ("gpt2", "llama3", "llama2", "gemma", "unigram")
TOKENIZERS = {kind: trained(kind) for kind in KINDS}
TOKENIZERS["bytes"] = byte_tokenizer()
WORDS = [
    "the",
    "of",
    "naïve",
    "café",
    "don't",
    "12345",
    "東京は日本",
    "x",
    "</s>",
    "!?",
    "…",
    "\n",
    "\n\n",
    "  ",
    "\t",
    "-",
    "a" * 9,
]


def whole(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(200, 1200))
def test_windows_give_the_ids_of_the_whole(kind, seed, count):
    draw = random.Random(seed)
    text = "".join(draw.choice(WORDS) + draw.choice([" ", " ", " ", "", ". "]) for _ in range(count))
    tokenizer = TOKENIZERS[kind]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenise, "WINDOW", 512)
        patch.setattr(tokenise, "OVERLAP", 160)
        tokens = tokenise.encode_text(tokenizer, text)
    assert [token for token, _, _ in tokens] == whole(tokenizer, text)
    assert tokens == tokenise.encode_text(tokenizer, text)  # the places too


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_only_as_much_as_asked_for_is_encoded(kind):
    text = sentences(3, 4000).replace("\n\n", " ")
    tokenizer, lengths = TOKENIZERS[kind], []
    with pytest.MonkeyPatch.context() as patch:
        window = tokenise._window
        patch.setattr(tokenise, "WINDOW", 4096)
        patch.setattr(tokenise, "OVERLAP", 512)
        patch.setattr(tokenise, "_window", lambda *given: lengths.append(given) or window(*given))
        tokens = tokenise.encode_text(tokenizer, text, enough=3000)
    assert len(tokens) > 3000 and len(lengths) * 3000 < len(text)
    assert [token for token, _, _ in tokens[:3000]] == whole(tokenizer, text)[:3000]


@pytest.mark.parametrize("text", ["a" * 5000, "é" * 3000, "ab" * 4000 + " " + "z" * 3000, " " * 5000])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_word_longer_than_a_window_loses_nothing(kind, text, monkeypatch):
    monkeypatch.setattr(tokenise, "WINDOW", 512)
    monkeypatch.setattr(tokenise, "OVERLAP", 128)
    tokens = tokenise.encode_text(TOKENIZERS[kind], text)
    covered = {place for _, first, end in tokens for place in range(first, end)}
    assert covered >= {place for place, letter in enumerate(text) if not letter.isspace()}
    assert all(end <= following for (_, _, end), (_, following, _) in itertools.pairwise(tokens) if following != end - 1)


def test_a_tokenizer_without_white_space_passes_over_much_of_it(monkeypatch):
    core = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<unk>": 2}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    monkeypatch.setattr(tokenise, "WINDOW", 256)
    monkeypatch.setattr(tokenise, "OVERLAP", 64)
    text = " " * 1000 + "a b " * 200 + " " * 3000 + "b a " * 100 + " " * 500
    assert [token for token, _, _ in tokenise.encode_text(tokenizer, text)] == [0, 1] * 200 + [1, 0] * 100


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["word", " ", "</s>", "<s>", "<unk>", "<", "s>"]), min_size=1, max_size=30).map("".join))
def test_text_never_becomes_a_control_token(text):
    for kind in ("bytes", "gpt2", "llama3"):
        tokenizer = TOKENIZERS[kind]
        special = set(tokenizer.all_special_ids)
        ids = [token for token, _, _ in tokenise.encode_text(tokenizer, text)]
        assert not special & set(ids)
        assert tokenizer.decode(ids) == text


def test_the_tokenizer_is_left_as_it_was():
    tokenizer = byte_tokenizer()
    before = tokenizer("a </s>")["input_ids"]
    tokenise.encode_text(tokenizer, "b </s>")
    assert not tokenizer.backend_tokenizer.encode_special_tokens
    assert tokenizer("a </s>")["input_ids"] == before and before[-1] == tokenizer.eos_token_id


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(InputError, match="fast form"):
        tokenise.encode_text(Slow(), "text")
