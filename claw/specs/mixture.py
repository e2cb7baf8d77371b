"""Several texts in shares: a mapping of names to shares, and the one line of text that stands for it everywhere else.

    corpus: {wikipedia-train: 0.7, my_chats.jsonl: 0.3}          # a study, or a notebook's parameter
    corpus: 0.7 wikipedia-train + 0.3 my_chats.jsonl             # the same, where only text can stand; what records hold

The line is in the order of the names, so the same mix is the same text and has the same id.
"""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from claw.errors import InputError

PLUS = " + "
_PART = re.compile(r"(\d*\.?\d+(?:e-?\d+)?) (\S.*)")
EXPECTED = (
    "Expected such as {wikipedia-train: 0.7, my.jsonl: 0.3}, or '0.7 wikipedia-train + 0.3 my.jsonl': shares that add up to 1."
)


def mix_shares(corpus: str) -> dict[str, float]:
    """The texts of a corpus and the share of each: of a plain name that name alone. InputError for shares that cannot be."""
    matches = [_PART.fullmatch(part.strip()) for part in str(corpus).split(PLUS)]
    if len(matches) < 2 or not all(matches):
        return {str(corpus): 1.0}
    pairs = [(match[2], float(match[1])) for match in matches if match]
    names = [name for name, _ in pairs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"the mix {corpus!r} names {twice!r} twice. Name it once, with its whole share.")
    return _checked(dict(pairs))


def _checked(shares: dict[str, float]) -> dict[str, float]:
    for name, share in shares.items():
        if not 0 < share < 1:
            raise InputError(f"the share of {name!r} in a mix is {share:g}, and must be between 0 and 1. {EXPECTED}")
    if not math.isclose(total := math.fsum(shares.values()), 1, abs_tol=1e-6):
        scaled = ", ".join(f"{name}: {share / total:.4g}" for name, share in shares.items())
        raise InputError(f"the shares of a mix add up to {total:g}, not to 1. In these proportions they are {{{scaled}}}.")
    return shares


def mix_text(given: Any) -> Any:
    """The text that names a mix given as a mapping or as text; anything else as it is, for the check of its type."""
    if isinstance(given, str):
        shares = mix_shares(given)
        return given if len(shares) == 1 else _line(shares)
    if not isinstance(given, Mapping):
        return given
    for name, share in given.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not math.isfinite(share):
            raise InputError(f"the share of {name!r} in a mix is {share!r}, which is no number. {EXPECTED}")
        if not isinstance(name, str) or not name.strip() or PLUS in name:
            raise InputError(f"{name!r} cannot name a text of a mix: it is empty, or has {PLUS!r} in it. Rename the file.")
    if not given:
        raise InputError(f"a mix without texts. {EXPECTED}")
    if len(given) == 1:
        (name, share), *_ = given.items()
        if not math.isclose(share, 1, abs_tol=1e-6):
            raise InputError(
                f"a mix of one text, {name!r}, has a share of {share:g}. Name the text alone, or what it is mixed with."
            )
        return name
    return _line(_checked({name.strip(): float(share) for name, share in given.items()}))


def _line(shares: Mapping[str, float]) -> str:
    return PLUS.join(f"{shares[name]:.10g} {name}" for name in sorted(shares))


Corpus = Annotated[str, Field(min_length=1, max_length=2000), BeforeValidator(mix_text)]
"""A text, or several in shares, whose names together may be longer than one."""
