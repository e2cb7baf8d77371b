"""The tokenizer in a GGUF file, looked at before it is believed.

transformers makes it from the file's vocabulary, and not every version does so rightly: 5.17 makes of Gemma's a tokenizer that
cuts words into letters and scraps. A model then has a loss that means nothing, without an error anywhere. So words of the
vocabulary are encoded, and where they fall apart, Gemma's is made here: BPE over pieces, merged in the vocabulary's order.
"""

from pathlib import Path
from typing import Any

import transformers

from claw.errors import InputError
from claw.models import pretrained
from claw.models.tokenizer_files import falls_apart

CONTROL, USER_DEFINED = 3, 4  # GGUF's kinds of tokens that are matched as a whole


def tokenizer_in_file(gguf: Path, name: str) -> Any:
    """The tokenizer in a GGUF file. InputError where words of its own vocabulary fall apart."""
    tokenizer = pretrained.tokenizer_in(gguf.parent, gguf_file=gguf.name)
    if (word := falls_apart(tokenizer)) and (fields := _gemma_fields(gguf)):
        tokenizer = gemma_tokenizer(fields)
        word = falls_apart(tokenizer)
    if word:
        raise InputError(
            f"transformers {transformers.__version__} does not read the tokenizer of {name} rightly: {word!r} is in its "
            "vocabulary, but is cut into pieces. Take a newer transformers (pip install -U transformers), or a folder with "
            "tokenizer.json and safetensors weights."
        )
    return tokenizer


def _gemma_fields(gguf: Path) -> dict[str, Any]:
    """What a file says of a tokenizer of Gemma's kind; empty for others."""
    from gguf import GGUFReader

    fields = GGUFReader(gguf).fields
    content = lambda key: fields[key].contents() if key in fields else None
    gemma = str(content("general.architecture")).startswith("gemma") and content("tokenizer.ggml.model") == "llama"
    prefix = "tokenizer.ggml."
    return {key.removeprefix(prefix): fields[key].contents() for key in fields if key.startswith(prefix)} if gemma else {}


def gemma_tokenizer(fields: dict[str, Any]) -> Any:
    """A tokenizer of Gemma's kind from a file's fields `tokens`, `token_type` and the ids of special tokens.

    A file has spaces as they are and no merges. Each token is merged from any two that make it up; those that stand earlier in
    the vocabulary are merged first, as its scores say nothing.
    """
    tokens = ["▁" * len(token) if token and not token.strip(" ") else token for token in fields["tokens"]]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges: Any = [
        (token[:cut], token[cut:])
        for token in tokens
        for cut in range(len(token) - 1, 0, -1)
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    ]
    named = {"unk": "unknown", "bos": "bos", "eos": "eos", "pad": "padding"}
    ids = {name: fields.get(f"{field}_token_id") for name, field in named.items()}
    special: dict[str, Any] = {f"{name}_token": tokens[number] for name, number in ids.items() if number is not None}
    special["mask_token"] = "<mask>" if "<mask>" in vocabulary else None  # else one would be added
    begins = bool(fields.get("add_bos_token", True))
    tokenizer = transformers.GemmaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=begins, **special)
    kinds = list(zip(tokens, fields.get("token_type") or (), strict=False))
    whole = lambda kind: [
        transformers.AddedToken(token, normalized=False, special=kind == CONTROL) for token, own in kinds if own == kind
    ]
    tokenizer.add_tokens(whole(CONTROL), special_tokens=True)
    tokenizer.add_tokens(whole(USER_DEFINED))
    return tokenizer
