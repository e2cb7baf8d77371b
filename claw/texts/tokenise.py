"""Token ids of running text, whatever it says and however long it is.

A text that spells a control token ("</s>", "<|endoftext|>") is text: it is encoded by its letters. A document longer than
`WINDOW` characters is encoded in windows that overlap, because a tokenizer's memory grows with what it is given. Two windows
are joined where both have the same tokens at the same places, so the ids are those of the whole document at once; where they
never agree (a single word longer than the overlap) the text is cut between two tokens.
"""

import operator
from bisect import bisect_left
from typing import Any

from claw.errors import InputError

WINDOW = 1 << 17  # characters that are encoded at once
OVERLAP = 1 << 12  # of two windows
AGREEING = 8  # tokens before and after a joint that must be the same in both windows

Token = tuple[int, int, int]  # id, first character, character after the last
FIRST = operator.itemgetter(1)


def encode_text(tokenizer: Any, text: str, enough: float = float("inf")) -> list[Token]:
    """The tokens of a text without any that a tokenizer adds by itself; where it has more than `enough`, not all of them."""
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"{type(tokenizer).__name__} does not say which characters a token covers. Load the tokenizer in its fast form "
            "(AutoTokenizer does so by default; it is what tokenizer.json holds)."
        )
    tokens, start = _window(tokenizer, text, 0), 0
    while start + WINDOW < len(text) and len(tokens) <= enough:
        start = _next_window(text, start)
        if not _join(tokens, _window(tokenizer, text, start)):  # cut after the token that reaches into the next window
            del tokens[bisect_left(tokens, start, key=FIRST) :]
            start = max(start, tokens[-1][2] if tokens else 0)
            tokens += _window(tokenizer, text, start)
    return tokens


def _window(tokenizer: Any, text: str, start: int) -> list[Token]:
    """The tokens of one window, at their places in the whole text."""
    backend = tokenizer.backend_tokenizer
    before = backend.encode_special_tokens
    try:
        piece = text if len(text) <= WINDOW else text[start : start + WINDOW]
        options = {"add_special_tokens": False, "split_special_tokens": True, "return_offsets_mapping": True, "verbose": False}
        encoded = tokenizer(piece, **options)
    finally:
        backend.encode_special_tokens = before
    places = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return [(token, start + first, start + end) for token, (first, end) in places]


def _next_window(text: str, start: int) -> int:
    """Where the next window begins: at white space where there is some, so that few words are cut."""
    first = start + WINDOW - OVERLAP
    return next((place for place in range(first, first + OVERLAP // 2) if text[place].isspace()), first)


def _join(tokens: list[Token], following: list[Token]) -> bool:
    """Put the tokens of the next window after those of this one, in place of the ones that both have; whether they agree."""
    for place in range(AGREEING, len(following) - AGREEING):
        _, first, _ = following[place]
        if first == following[place - 1][1]:  # inside a character
            continue
        here = bisect_left(tokens, first, key=FIRST)
        if here + AGREEING > len(tokens):
            break
        around = slice(here - AGREEING, here + AGREEING)
        if here >= AGREEING and tokens[around] == following[place - AGREEING : place + AGREEING]:
            del tokens[here:]
            tokens += following[place:]
            return True
    return False
