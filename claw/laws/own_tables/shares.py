"""Ratios and other shares as fractions removed: from percent, from what is kept, from empty cells of the dense model."""

import re

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from claw.errors import InputError
from claw.laws.own_tables import counts, layout
from claw.laws.own_tables.choices import listed, unclear
from claw.laws.own_tables.draft import Draft
from claw.laws.own_tables.headings import Meaning, means_dense
from claw.laws.own_tables.layout import CELLS
from claw.laws.own_tables.own_files import without_told
from claw.laws.tidy import DENSE

SHARES = ("ratio_params", "ratio_nonembedding", "ratio_flops", "ratio_own")


def fractions(
    draft: Draft, name: str, values: pd.Series, signs: pd.Series, declared: bool, label: str = ""
) -> tuple[pd.Series, bool]:
    """Fractions of a column of shares, and whether it was in percent. InputError where some cells look so and some do not."""
    label = label or name
    said, finite = draft.choices.in_percent(label), values[np.isfinite(values) & (values != 0)].abs()
    large, small = bool((finite > 1).any()), bool((finite < 1).any())
    ways = (f'percent={{"{label}": True}}', f'percent={{"{label}": False}}')
    if said is None and signs.any():
        if (~signs[finite.index]).any():
            raise unclear(f"Some entries of {name} have a percent sign and some have none.", *ways)
        said = True
    elif said is None and large and small and not (declared and finite.median() > 1):
        raise unclear(f"Some entries of {name} are above 1 and some below, from {finite.min():g} to {finite.max():g}.", *ways)
    elif said is None and declared and small and not large:
        raise unclear(f"{name} says percent, and its largest entry is {finite.max():g}.", *ways)
    elif said is None and large and finite.max() > 100:
        raise InputError(
            f"{name} goes up to {finite.max():g}, so it is neither a fraction nor a percentage. If it says how many times "
            "smaller, or which n of m is kept, work out the fraction removed (1 − 1/times) first."
        )
    elif said is None:
        said = large or (declared and bool(len(finite)))
        if said:
            draft.guess_percent(name, label)
    return (values / 100).round(12) if said else values, bool(said)


def read_ratios(draft: Draft) -> None:
    """Column ratio: the fraction removed, 0 in dense rows, which get the method dense."""
    choices = draft.choices
    name = draft.one_of("ratio", draft.of_kind("ratio") or draft.of_kind("kept"))
    removed = draft.one_of("ratio_params", draft.of_kind("ratio_params"))
    if name is None and removed is not None and not isinstance(choices.ratio, float):
        draft.rename(removed, "ratio_params")
        draft.frame = draft.frame.assign(ratio=draft.frame["ratio_params"])
        draft.guesses.add("the ratio is the share of parameters removed", 'columns={"…": "ratio"}')
        draft.meanings["ratio"] = draft.meanings["ratio_params"]._replace(kind="ratio")
        name = "ratio"
    if name is None and not isinstance(choices.ratio, float) and draft.of_kind("count"):
        dense = layout.find_dense(draft, pd.Series(np.nan, draft.frame.index))
        if (counted := counts.shares_of_counts(draft, dense)) is not None:
            draft.frame = draft.frame.assign(ratio=counted[0])
            draft.meanings["ratio"] = Meaning("ratio")
            name = "ratio"
    if name is not None and isinstance(choices.ratio, float):
        raise unclear(
            f"The table has ratios of its own (column {name}).", 'ratio="removed" or "kept"', f'columns={{"{name}": "ignore"}}'
        )
    if name is None and CELLS not in draft.frame and not isinstance(choices.ratio, float):
        raise unclear(
            f"The table has no column for the ratio; its columns are {listed(draft.frame.columns, 20)}.",
            'columns={"…": "ratio"}',
            "ratio=0.5 where all compressed rows have one",
        )
    kept = name in draft.of_kind("kept")
    ratio = pd.Series(np.nan, draft.frame.index)
    if name is not None:
        declared, label = draft.meanings[name].percent, name
        cells = draft.frame[name]
        if not is_numeric_dtype(cells.dtype):
            texts = [_divided(without_told(cell)) if isinstance(cell, str) else cell for cell in cells]
            words = (isinstance(cell, str) and not re.fullmatch(r"[\d.,%\s]+", cell) and means_dense(cell) for cell in texts)
            draft.set_names(name, (None if is_dense else cell for is_dense, cell in zip(words, texts, strict=True)))
        draft.rename(name, "ratio", f"column {name!r} is the ratio" + (", as what is kept" if kept else ""))
        values, signs = draft.numbers("ratio")
        ratio, _ = fractions(draft, label, values, signs, declared, "ratio")
    dense = layout.find_dense(draft, ratio)
    if (unnamed := draft.frame["method"].isna() & ~dense).any():
        raise layout.missing_names("method", unnamed)
    kept = _is_kept(draft, ratio, dense, kept)
    if kept:
        draft.meanings["kept"] = Meaning("kept")
        ratio = (1 - ratio).round(12)
    if isinstance(choices.ratio, float):
        ratio = ratio.fillna(choices.ratio)
    ratio = ratio.mask(dense & (ratio.isna() | (draft.frame["method"] != DENSE)), 0.0)
    if "ratio" not in draft.frame and ratio[~dense].isna().any():
        draft.guesses.add(
            f"the table does not say what was removed: the ratio of {int(ratio.isna().sum())} rows is empty", "ratio=0.5"
        )
    if not dense.any() and not (ratio == 0).any() and "loss0" not in draft.frame and "accuracy0" not in draft.frame:
        draft.guesses.add("no row is a dense model", 'dense="…"')
    draft.frame = draft.frame.assign(ratio=ratio, method=draft.frame["method"].mask(dense, DENSE).astype(object))
    _other_shares(draft, dense)


def _divided(cell: str) -> str:
    """n of m, such as the 4/26 layers that were removed, as a fraction; other cells as they are."""
    match = re.fullmatch(r"\s*(\d+)\s*(?:/|of)\s*(\d+)\s*", cell)
    return str(int(match[1]) / int(match[2])) if match and int(match[1]) <= int(match[2]) != 0 else cell


def _is_kept(draft: Draft, ratio: pd.Series, dense: pd.Series, kept: bool) -> bool:
    """Whether ratios are what is kept: as said, by the column's name, or because the dense model has 1."""
    if draft.choices.ratio is not None:
        return draft.choices.ratio == "kept"
    own = set(ratio[dense].dropna())
    ways = ('ratio="kept"', 'ratio="removed"')
    if (kept and 0 in own) or {0, 1} <= own:
        raise unclear("The dense model has ratio 0 where 1 is what is kept, or both.", *ways)
    if not kept and 1 in own:
        draft.guesses.add("ratios are what is kept (the dense model has 1): 1 minus them is removed", 'ratio="removed"')
        return True
    if not kept and not own and (ratio == 1).any() and not (ratio == 0).any():
        rows = ratio.index[ratio == 1]
        raise unclear(f"The ratio is 1 in rows {listed(rows)}: nothing left of the model, or all of it?", *ways)
    return kept


def _other_shares(draft: Draft, dense: pd.Series) -> None:
    """Shares of parameters and the like, as fractions removed."""
    for name in SHARES:
        heading = draft.one_of(name, draft.of_kind(name))
        if heading is None:
            continue
        declared = draft.meanings[heading].percent
        draft.rename(heading, name)
        values, signs = draft.numbers(name)
        values, _ = fractions(draft, heading, values, signs, declared, name)
        if (values[dense] == 1).any() and "kept" in draft.meanings:
            values = (1 - values).round(12)
        draft.frame = draft.frame.assign(**{name: values})
    counted = counts.shares_of_counts(draft, dense) if "ratio_params" not in draft.frame else None
    if counted is not None:
        draft.frame = draft.frame.assign(ratio_params=counted[0], parameters0=counted[1])
