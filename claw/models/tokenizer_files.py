"""The tokenizer of a checkpoint folder, or one paragraph on why there is none: packages, files, or nothing in it."""

import json
import re
import string
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from claw.errors import InputError
from claw.files import digest, sha256
from claw.models import pretrained
from claw.models.other_files import not_the_file

TOKENIZERS = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model",
    "sentencepiece.bpe.model",
)  # fmt: skip
PIECES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
ELSEWHERE = "save tokenizer.json there from an environment that reads it"
WORDS = "the of and in a is for on with by".split()
PROBE = f"{string.ascii_lowercase} {string.ascii_uppercase} {string.digits}"
WORD = re.compile("[\u2581\u0120]([a-z]{4,})")
"""A word after a space, as pieces and byte-level vocabularies write it."""
SAMPLE = 100  # words that are looked at; a vocabulary with fewer is not
NO_TOKENIZER = {"claw.json", "config.json", "generation_config.json", "model.safetensors.index.json"}
WEIGHTS = {".safetensors", ".bin", ".gguf", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".md"}
"""Names and suffixes of files that say nothing of a tokenizer, but for the classes that a configuration names."""

_looked_at: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
_read: ContextVar[dict[str, Any] | None] = ContextVar("tokenizers that were read", default=None)


@contextmanager
def tokenizers_read_once() -> Iterator[None]:
    """While it is open, folders with equal tokenizers share one object: all checkpoints of a model have the same.

    Reading that of Gemma takes four seconds. Whoever opens it hands none of them on to somebody who may change it.
    """
    token = _read.set({})
    try:
        yield
    finally:
        _read.reset(token)


def shared_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder as transformers reads it, or the one that was read from equal files before."""
    known = _read.get()
    if known is None:
        return pretrained.tokenizer_in(folder)
    key = _contents(folder)
    if key not in known:
        known.clear()  # one is enough, and some take a gigabyte
        known[key] = pretrained.tokenizer_in(folder)
    known[key].name_or_path = str(folder)
    return known[key]


def _contents(folder: Path) -> str:
    """A digest of all that a tokenizer is made of: its files, and the classes that the configuration names."""
    beside = (*folder.iterdir(), *folder.glob("additional_chat_templates/*"))
    own = sorted(p for p in beside if p.is_file() and p.suffix not in WEIGHTS and p.name not in NO_TOKENIZER)
    parts = [f"{path.name} {sha256(path)}\n" for path in own]
    config = folder / "config.json"
    named = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    return digest(*parts, json.dumps([named.get(name) for name in ("model_type", "tokenizer_class", "auto_map")]))


def falls_apart(tokenizer: Any) -> str:
    """A word of the tokenizer's own vocabulary that it cuts into pieces, as it does with most; empty for a sound one.

    Each tokenizer is looked at once: checkpoints share one, and Gemma's takes a quarter of a second.
    """
    if tokenizer not in _looked_at:
        _looked_at[tokenizer] = _cut_word(tokenizer)
    return _looked_at[tokenizer]


def _cut_word(tokenizer: Any) -> str:
    words = sorted(match[1] for piece in tokenizer.get_vocab() if (match := WORD.fullmatch(piece)))
    some = words[:: max(1, len(words) // SAMPLE)]
    if len(words) < SAMPLE:
        return ""
    encoded = tokenizer([f" {word}" for word in some], add_special_tokens=False)["input_ids"]
    broken = [word for word, ids in zip(some, encoded, strict=True) if len(ids) > 2]  # two: a space by itself, and the word
    return broken[0] if 2 * len(broken) > len(some) else ""


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder. InputError for damaged files, packages that are not here, and an empty one."""
    try:
        tokenizer = shared_tokenizer(folder)
        ids = set(tokenizer(PROBE, add_special_tokens=False)["input_ids"])
    except Exception as error:  # each kind of tokenizer fails in its own way
        told = " ".join(str(error).split())[:300] or repr(error)
        raise InputError(f"The tokenizer in {folder} cannot be loaded. {_what_to_do(folder, error)} ({told})") from error
    if ids <= set(tokenizer.all_special_ids):  # transformers makes one without a vocabulary where its file is not there
        raise InputError(
            f"The tokenizer in {folder} is empty: letters and digits give no token of a vocabulary, so its file (tokenizer"
            ".json, tokenizer.model, or vocab.json with merges.txt) is not there or not read. Fetch it, or save the model's "
            "tokenizer there: tokenizer.save_pretrained(folder)."
        )
    if word := falls_apart(tokenizer):
        raise InputError(
            f"The tokenizer in {folder} is damaged: {word!r} is in its vocabulary, but is cut into pieces, as most words are. "
            "Fetch it again; a folder in claw's cache, which an older transformers made of a GGUF file, may be deleted, and is "
            "made anew."
        )
    check_pieces(folder, tokenizer)
    return tokenizer


def check_pieces(folder: Path, tokenizer: Any) -> None:
    """InputError where a tokenizer made of a sentencepiece file cuts words into other pieces than sentencepiece does.

    That is so where nothing says of which class it is: a word at the beginning then lacks its mark, and losses are others.
    """
    path = next((folder / name for name in PIECES if (folder / name).is_file()), None)
    if path is None or (folder / "tokenizer.json").is_file() or not _is_here("sentencepiece"):
        return
    import sentencepiece

    try:
        own = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError):  # of the other kind with this name, which tiktoken reads
        return
    text = " ".join(word for word in WORDS if own.unk_id() not in own.encode(word))
    mine = tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])
    if text and mine != (theirs := own.encode(text, out_type=str)):
        raise InputError(
            f"The tokenizer in {folder} cuts words otherwise than its {path.name}: {text!r} begins with {mine[:3]}, where "
            f"sentencepiece says {theirs[:3]}. Its tokenizer_config.json is missing or names another class (tokenizer_class): "
            f"fetch that of the release, or {ELSEWHERE}."
        )


def check_tokenizer_files(folder: Path) -> None:
    """InputError where a folder has no file that a tokenizer could be made of."""
    if any((folder / name).is_file() for name in TOKENIZERS):
        return
    other = next((path.name for kind in ("tekken.json", "*.tiktoken") for path in sorted(folder.glob(kind))), "")
    only = f", only {other}, which transformers does not read as it is" if other else ""
    raise InputError(
        f"{folder} has no tokenizer (none of {', '.join(TOKENIZERS)}){only}. Put the tokenizer of the model there: "
        "tokenizer.save_pretrained(folder)."
    )


def _what_to_do(folder: Path, error: Exception) -> str:
    present = [folder / name for name in TOKENIZERS if (folder / name).is_file()]
    for path in present:
        if said := not_the_file(path):
            return f"{path.name} {said}"
    if "trust_remote_code" in str(error):
        return "It brings its own code (auto_map), which is never run here: save tokenizer.json of a stock tokenizer there."
    if (folder / "tokenizer.json").is_file():
        return "Fetch or save the tokenizer's files again."
    needs = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf", "tiktoken": "tiktoken"}
    missing = [package for package, module in needs.items() if not _is_here(module)]
    if not any(path.name in PIECES for path in present):
        return f"It has no tokenizer.json. Fetch it, or {ELSEWHERE}."
    if missing:
        return (
            f"It has no tokenizer.json, and {next(path.name for path in present if path.name in PIECES)} must be converted: "
            f"install what is missing here (`pip install {' '.join(missing)}`, or claw's extra "
            f"[sentencepiece]), or {ELSEWHERE}."
        )
    return f"It has no tokenizer.json, and what it has could not be converted. Fetch it again, or {ELSEWHERE}."


def _is_here(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is not here
        return False
