"""One error type for everything a user can put right, and what stands where a result cannot be.

`InputError` carries a paragraph written for the user: what was wrong, what is accepted, what to do. The
command line and notebooks show it without a traceback; scripts see an ordinary `ValueError`.
"""

import difflib
import html
import re
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

CREDENTIALS = re.compile(r"(?<=://)(?:[^\s/:@]+:(?!\d+[/?#])\S*|[^\s/?#]*)@")
"""Up to the last @ of an address, also where a password has a slash; not where what looks like one is a port."""


def without_credentials(text: str) -> str:
    """A text without the user names and passwords of the addresses in it.

    >>> without_credentials("no answer from https://anna:secret@host.org/simple")
    'no answer from https://host.org/simple'
    """
    return CREDENTIALS.sub("", text)


class InputError(ValueError):
    """A parameter, file, archive or checkpoint that cannot be used, explained in one paragraph, without credentials."""

    def __init__(self, *parts: object):
        super().__init__(*(without_credentials(part) if isinstance(part, str) else part for part in parts))

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback: the paragraph."""
        return textwrap.wrap(str(self), 100, break_long_words=False, break_on_hyphens=False)


def unknown(kind: str, name: object, accepted: Iterable[str], do: str = "") -> InputError:
    """Error for a name that is not among `accepted`; names near ones first.

    >>> str(unknown("method", "magnitud", ["magnitude", "random"]))
    "unknown method 'magnitud': did you mean 'magnitude'? Accepted: magnitude, random."
    """
    names = sorted(accepted)
    near = difflib.get_close_matches(str(name).lower(), names, n=3, cutoff=0.6)
    hint = f" did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    listed = ", ".join(names[:60]) + (f" and {len(names) - 60} more" if len(names) > 60 else "")
    text = f"unknown {kind} {name!r}:{hint} Accepted: {listed}."
    return InputError(f"{text} {do}".strip())


class NoResult:
    """Stands where a figure, table or law would be and says why there is none; saving it writes nothing."""

    def __init__(self, reason: object):
        self.reason = f"Not with this table: {reason}"

    def __repr__(self) -> str:
        return self.reason

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.reason)}</p>"

    def save(self, folder: Path) -> list[Path]:
        """No file, as there is nothing to write."""
        return []


def or_reason(make: Callable[..., Any], *values: Any, **options: Any) -> Any:
    """What `make` returns, or, where a small table cannot carry it, a `NoResult` that shows the reason."""
    try:
        return make(*values, **options)
    except InputError as error:
        return NoResult(error)
