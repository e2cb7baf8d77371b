"""A tokenizer in the words of a GGUF file, as llama.cpp's converter writes it.

llama.cpp has two kinds that matter here. `gpt2` is byte-level BPE: tokens and merges, and the name of the rule by which text
is split before merging (`tokenizer.ggml.pre`). `llama` is BPE over pieces as sentencepiece makes it: tokens and scores, higher
ones merged first, and bytes for what has no piece. The rule is recognised by the tokenizer's own definition, not by a list of
models, so a tokenizer that splits text in a way unknown here is refused: a file with a wrong rule loads and writes nonsense.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gguf

from claw.errors import InputError

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CASED = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
SMALL = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PATTERNS = {
    CONTRACTIONS + r"\p{N}" + REST: "qwen2",
    CONTRACTIONS + r"\p{N}{1,3}" + REST: "llama-bpe",
    CASED + rf"*{SMALL}+|" + CASED + rf"+{SMALL}*|\p{{N}}" + REST.replace("]*|", "/]*|", 1): "tekken",
}
"""llama.cpp's name of a rule, by the expression that tokenizer.json has for it."""
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
SPECIAL = ("bos", "eos", "unk", "sep", "pad")
ADDED_SCORE = -1000.0  # what the converter gives to added tokens
PADDING = "[PAD{}]"  # stands for rows of the embedding without a token


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A tokenizer as GGUF fields. `scores` or `merges`, by the kind; ids of special tokens by their GGUF names."""

    kind: str  # gpt2 or llama
    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...] = ()
    merges: tuple[str, ...] = ()
    special: Mapping[str, int]
    adds_bos: bool
    adds_space: bool  # before the first word
    chat_template: str | None

    def write(self, writer: gguf.GGUFWriter) -> None:
        """Put all of it into a file's header."""
        writer.add_tokenizer_model(self.kind)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(list(self.tokens))
        if self.scores:
            writer.add_token_scores(list(self.scores))
        writer.add_token_types(list(self.types))
        if self.merges:
            writer.add_token_merges(list(self.merges))
        for name, number in self.special.items():
            getattr(writer, f"add_{name}_token_id")(number)
        writer.add_add_bos_token(self.adds_bos)
        if self.kind == "llama":
            writer.add_add_space_prefix(self.adds_space)
        if self.chat_template:
            writer.add_chat_template(self.chat_template)


def vocabulary_of(tokenizer: Any, rows: int) -> Vocabulary:
    """The vocabulary of a tokenizer for a model that embeds `rows` ids; InputError for one that no GGUF file can hold."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _refusal("it is no fast tokenizer, so its rules are not known")
    rules = json.loads(backend.to_str())
    model, split = rules["model"], _flat(rules.get("pre_tokenizer"))
    pieces = {number: token for token, number in tokenizer.get_vocab().items() if number < rows}
    tokens = tuple(pieces.get(number, PADDING.format(number)) for number in range(rows))
    chat = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None
    first = tokenizer("a")["input_ids"][:1]
    shared: dict[str, Any] = {"special": _special(tokenizer, rows), "chat_template": chat}
    shared["adds_bos"] = first == [tokenizer.bos_token_id] and first != [None]
    added = {int(each["id"]): each for each in rules["added_tokens"] if each["id"] < rows}
    if model["type"] == "BPE" and any(part["type"] == "ByteLevel" for part in split):
        merges = tuple(" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"])
        about: dict[str, Any] = {
            "pre": _rule(split, rules),
            "merges": merges,
            "types": _types(tokens, pieces, added, {}),
            "adds_space": False,
        }
        return Vocabulary(kind="gpt2", tokens=tokens, **about, **shared)
    if model.get("byte_fallback"):
        unknown = {model.get("unk_token"): 2} if model["type"] == "BPE" else {}
        types, scores = _types(tokens, pieces, added, unknown), _scores(model, tokens, added)
        return Vocabulary(
            kind="llama", pre="default", tokens=tokens, types=types, scores=scores, adds_space=_adds_space(rules), **shared
        )
    raise _refusal(f"it is of type {model['type']} without bytes for unknown letters")


def _refusal(why: str) -> InputError:
    return InputError(
        f"The tokenizer cannot be written as GGUF here: {why}. Known are byte-level BPE as in GPT-2, SmolLM, Llama 3, Qwen "
        "and Mistral Nemo, and sentencepiece BPE as in Llama 2 and Gemma. The checkpoint is plain: llama.cpp's own "
        "convert_hf_to_gguf.py may know this tokenizer."
    )


def _flat(part: Any) -> list[dict[str, Any]]:
    """The steps of a pre-tokenizer."""
    if part is None:
        return []
    return [step for each in part["pretokenizers"] for step in _flat(each)] if part["type"] == "Sequence" else [part]


def _rule(split: list[dict[str, Any]], rules: Mapping[str, Any]) -> str:
    """llama.cpp's name of how byte-level text is split."""
    kinds = [step["type"] for step in split]
    prefix = any(step.get("add_prefix_space") for step in split)
    if kinds == ["ByteLevel"] and split[0].get("use_regex", True) and not prefix and rules.get("normalizer") is None:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and split[0]["individual_digits"] and split[1].get("use_regex", True) and not prefix:
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not split[1].get("use_regex", True) and not prefix:
        pattern = split[0]["pattern"].get("Regex", "")
        if pattern in PATTERNS and split[0]["behavior"] == "Isolated" and not split[0]["invert"]:
            return PATTERNS[pattern]
    raise _refusal(f"it splits text by a rule whose name in llama.cpp is not known here ({', '.join(kinds)})")


def _types(tokens: tuple, pieces: Mapping[int, str], added: Mapping[int, Mapping], own: Mapping[Any, int]) -> tuple[int, ...]:
    """GGUF's kind of each token: normal 1, unknown 2, control 3, user-defined 4, unused 5, byte 6."""
    kinds = gguf.TokenType

    def kind(number: int, token: str) -> int:
        if number not in pieces:
            return kinds.UNUSED
        if token in own:
            return own[token]
        if number in added:
            return kinds.CONTROL if added[number]["special"] else kinds.USER_DEFINED
        return kinds.BYTE if BYTE.fullmatch(token) else kinds.NORMAL

    return tuple(int(kind(number, token)) for number, token in enumerate(tokens))


def _scores(model: Mapping[str, Any], tokens: tuple[str, ...], added: Mapping[int, Any]) -> tuple[float, ...]:
    """What orders the merges: minus the rank of the merge that makes a piece; as they are in a model that has scores."""
    if model["type"] == "Unigram":
        known = {token: float(score) for token, score in model["vocab"]}
    else:
        known = {}
        for rank, pair in enumerate(model["merges"]):
            left, right = pair if isinstance(pair, list) else pair.split(" ")
            known.setdefault(left + right, -float(rank))
    last = -float(len(model.get("merges", ())) + 1)
    return tuple(ADDED_SCORE if number in added else known.get(token, last) for number, token in enumerate(tokens))


def _adds_space(rules: Mapping[str, Any]) -> bool:
    """Whether a space is put before the first word."""
    text = json.dumps([rules.get("normalizer"), rules.get("pre_tokenizer")], ensure_ascii=False)
    return '"Prepend"' in text or '"prepend_scheme": "first"' in text or '"prepend_scheme": "always"' in text


def _special(tokenizer: Any, rows: int) -> dict[str, int]:
    """Ids of special tokens that the model embeds."""
    ids = {name: getattr(tokenizer, f"{name}_token_id", None) for name in SPECIAL}
    return {name: int(number) for name, number in ids.items() if number is not None and number < rows}
