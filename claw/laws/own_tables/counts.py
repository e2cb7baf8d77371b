"""Columns that count parameters, such as `Params (B)` or `remaining_params` with 494M: what they say of shares and sizes."""

import re

import numpy as np
import pandas as pd

from claw.laws.own_tables.draft import Draft
from claw.laws.own_tables.headings import Meaning, counted_in
from claw.laws.own_tables.own_files import numbers_in

FEWEST = 1e4
"""A number without a unit is a count of parameters from here on; below it may be a share, or billions."""
_SCALES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9}
_COUNT = re.compile(r"^(?P<number>.*\d)\s*(?P<unit>[kmbg])(illions?)?\s*(params?|parameters?)?$", re.IGNORECASE)


def find_counts(draft: Draft) -> None:
    """Call columns counts where heading and cells say so, and make their cells numbers of parameters."""
    for name in draft.frame:
        kind = draft.meanings[name].kind if name in draft.meanings else "other"
        if name in draft.choices.columns or kind not in ("other", "kept", "parameters") or "parameters0" in draft.frame:
            continue
        unit = counted_in(name)
        counts = None if unit is None else _counts(draft, name, unit)
        if counts is not None:
            draft.frame = draft.frame.assign(**{name: counts})
            draft.meanings[name] = Meaning("count")


def _counts(draft: Draft, name: str, unit: float) -> pd.Series | None:
    """Numbers of parameters, NaN where blank; None where cells are no such counts."""
    cells = draft.frame[name]
    texts = ["" if cell is None or cell != cell else str(cell).strip() for cell in cells]
    matches = [_COUNT.match(text) for text in texts]
    plain = pd.Series([match["number"] if match else text for match, text in zip(matches, texts, strict=True)], cells.index)
    values, signs, wrong = numbers_in(plain.astype(object), draft.decimal)
    counts = values * [_SCALES[match["unit"].lower()] if match else unit for match in matches]
    bad = wrong.any() or signs.any() or not counts.notna().any() or (counts < FEWEST).any() or not np.isfinite(counts.max())
    return None if bad else counts


def shares_of_counts(draft: Draft, dense: pd.Series) -> tuple[pd.Series, pd.Series] | None:
    """The share of parameters removed and the parameters of the dense model, by row.

    None where no column counts parameters, a model has no dense row that is counted, or a count is half as much again as its
    dense model's (what is counted is then something else).
    """
    name = draft.one_of("count", draft.of_kind("count"))
    if name is None:
        return None
    counts = draft.frame[name]
    full = counts.where(dense).groupby(draft.frame["model"]).transform("mean")
    share = (1 - counts / full).round(12)
    if full.isna().any() or (share < -0.5).any() or share.isna().all():
        return None
    said = f"{name!r} beside that of the dense model is the share of parameters removed"
    draft.guesses.add(said, f'columns={{"{name}": "ignore"}}')
    return share, full
