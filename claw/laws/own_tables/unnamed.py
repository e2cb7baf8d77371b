"""Tables whose headings do not say which column has the methods, or which have none because method or model is but one.

Notable choices:
- A column is the methods' by what it holds: words, of which one says the uncompressed model, such as `dense` or `baseline`.
- One method or one model is assumed only where no other column of words could tell rows apart and no row is there twice.
"""

import pandas as pd

from claw.laws.own_tables.draft import Draft
from claw.laws.own_tables.headings import Meaning, means_dense, size_in
from claw.laws.own_tables.own_files import FIRST, numbers_in, without_told
from claw.laws.points import KEY

UNNAMED = "unnamed"
"""What the only method or model of a table is called if nothing names it."""
DASHES = {"-", "–", "—", "−", "/"}


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
    words = set(_words(draft, name))
    dash = name in draft.meanings and any(isinstance(cell, str) and cell.strip() in DASHES for cell in draft.frame[name])
    return any(not means_dense(cell) for cell in words) and (dash or any(means_dense(cell) for cell in words))


def _words(draft: Draft, name: str) -> list[str]:
    """Cells that are text and no number, sign, or number after a word, such as 20 %, - or Ratio = 0.2."""
    cells = draft.frame[name]
    texts = pd.Series([without_told(cell) if isinstance(cell, str) else None for cell in cells], cells.index, dtype=object)
    return list(cells[numbers_in(texts, draft.decimal)[2]])


def ratio_in(draft: Draft) -> str | None:
    """A column that says how much was removed, kept or left."""
    return next(iter(draft.of_kind("ratio", "kept", "ratio_params", "count")), None)


def name_only(draft: Draft, kind: str) -> bool:
    """Give all rows one method or one model (`kind`) where nothing can tell several apart.

    Whether it was done: not if there is no column of ratios, another column has words, or rows are alike in all that tells them
    apart.
    """
    frame, ratio = draft.frame, ratio_in(draft)
    known = {*KEY, "model", "method", "family", "status", ratio}
    others = [name for name in frame if name not in known and name not in draft.of_kind("other", "own")]
    key = [name for name in frame if name in known]
    told_apart = any(_words(draft, name) for name in others)
    if ratio is None or told_apart or frame.astype(dict.fromkeys(key, str)).duplicated(key).any():
        return False
    draft.set_names(kind, [UNNAMED] * len(frame))
    draft.guesses.add(f"no column names the {kind}: all rows are of one, called {UNNAMED!r}", f'{kind}="…"')
    return True
