"""Tables whose headings do not say which column has the methods, or which have none because method or model is but one.

Notable choices:
- A column is the methods' by what it holds: words, of which one says the uncompressed model, such as `dense` or `baseline`.
- One method or one model is assumed only where no other column of words could tell rows apart and no row is there twice.
"""

import re

import pandas as pd

from claw.laws.own_tables.draft import Draft
from claw.laws.own_tables.headings import Meaning, means_dense, size_in
from claw.laws.own_tables.own_files import FIRST, numbers_in
from claw.laws.points import KEY

UNNAMED = "unnamed"
"""What the only method or model of a table is called if nothing names it."""
DASHES = {"-", "–", "—", "−", "/"}
_TOLD = re.compile(r"^\s*[a-z ]+\s*[=:@]\s*", re.IGNORECASE)
"""The words before a number, as in Ratio = 20%."""


def find_names(draft: Draft) -> None:
    """Call a column the methods', or the first one the models', by what it holds, where no heading says so."""
    first = [cell for cell in draft.frame.get(FIRST, []) if isinstance(cell, str)]
    free = FIRST not in draft.choices.columns and draft.choices.model is None and not draft.of_kind("model")
    if free and any(size_in(cell) for cell in first):
        draft.meanings[FIRST] = Meaning("model")
    if draft.choices.method is not None or draft.of_kind("method"):
        return
    unclear_kinds = [name for name in draft.frame if name not in draft.meanings] + draft.of_kind("ratio")
    columns = [name for name in unclear_kinds if name not in draft.choices.columns and _has_methods(draft, name)]
    if len(columns) == 1:
        draft.meanings[columns[0]] = Meaning("method")


def _has_methods(draft: Draft, name: str) -> bool:
    """Words beside one for the dense model, which under a heading such as Pruning may also be a dash."""
    words = {cell for cell in draft.frame[name] if _is_words(draft, cell)}
    dash = name in draft.meanings and any(isinstance(cell, str) and cell.strip() in DASHES for cell in draft.frame[name])
    return any(not means_dense(cell) for cell in words) and (dash or any(means_dense(cell) for cell in words))


def _is_words(draft: Draft, cell: object) -> bool:
    """Whether a cell is text and no number, sign, or number after a word, such as 20 %, - or Ratio = 0.2."""
    text = pd.Series([_TOLD.sub("", cell)], dtype=object) if isinstance(cell, str) else None
    return text is not None and bool(numbers_in(text, draft.decimal)[2].iloc[0])


def ratio_in(draft: Draft) -> str | None:
    """A column that says how much was removed, kept or left."""
    return next(iter(draft.of_kind("ratio", "kept", "ratio_params", "count")), None)


def name_only(draft: Draft, kind: str, ratio: str | None) -> bool:
    """Give all rows one method or one model (`kind`) where nothing can tell several apart; `ratio`: the column of ratios.

    Whether it was done: not if there is no column of ratios, another column has words, or rows are alike in all that tells them
    apart.
    """
    frame, known = draft.frame, {*KEY, "model", "method", "family", "status", ratio}
    others = [name for name in frame if name not in known and name not in draft.of_kind("other", "own")]
    words = [name for name in others if frame[name].map(lambda cell: _is_words(draft, cell)).any()]
    key = [name for name in frame if name in known]
    if ratio is None or words or frame.astype(dict.fromkeys(key, str)).duplicated(key).any():
        return False
    draft.set_names(kind, [UNNAMED] * len(frame))
    draft.guesses.add(f"no column names the {kind}: all rows are of one, called {UNNAMED!r}", f'{kind}="…"')
    return True
