"""From the nominal ratio to the share truly removed, so that a law fitted against one can be read against the other.

A method's ratio counts only the part it can cut: 0.5 of the feed-forward neurons may be 0.3 of all parameters. The share is
read from measured points: linear between them and through the origin. It depends on the model's shape, so a model or method
that was not measured gets the mean share per ratio of those that were.
"""

from typing import Any

import numpy as np
import pandas as pd

from claw.errors import InputError, unknown
from claw.laws.points import Points, is_dense
from claw.laws.sample import ALL

SHARES = {
    "ratio_params": "all parameters",
    "ratio_nonembedding": "parameters without embedding and head",
    "ratio_flops": "FLOPs per token",
}
"""Columns of true shares, and what they are shares of."""


def axes(points: Points) -> tuple[str, ...]:
    """True shares that the table has."""
    return tuple(name for name in SHARES if name in points.rows and points.rows[name].notna().any())


def share(points: Points, r: Any, model: str | None = None, method: str = ALL, axis: str = "ratio_params") -> np.ndarray:
    """Share truly removed at nominal ratios `r`. InputError where no such share was recorded."""
    if axis not in SHARES:
        raise unknown("share", axis, SHARES)
    r = np.atleast_1d(np.asarray(r, float))
    rows = points.rows[~is_dense(points.rows)].reindex(columns=["model", "method", "ratio", axis]).dropna(subset=axis)
    if not len(rows):
        raise InputError(f"The table has no column {axis} with numbers, so the nominal ratio cannot be converted to it.")
    own, alike = rows["model"] == model, rows["method"] == method
    rows = next((rows[mask] for mask in (own & alike, own, alike) if mask.any()), rows)
    exact = rows["model"].nunique() == 1 and rows["method"].nunique() == 1
    known = rows.groupby("ratio")[axis].mean()
    if not exact or len(known) < 2:
        return np.clip(r * float((rows[axis] / rows["ratio"]).mean()), 0, 0.999)
    x, y = np.append(0.0, known.index), np.append(0.0, known.to_numpy())
    beyond = y[-1] + (r - x[-1]) * (y[-1] - y[-2]) / (x[-1] - x[-2])
    return np.clip(np.where(r <= x[-1], np.interp(r, x, y), beyond), 0, 0.999)


def conversion_table(points: Points, axis: str = "ratio_params") -> pd.DataFrame:
    """One row per model and method: share truly removed per nominal ratio, smallest to largest; empty without the column."""
    rows = points.rows[~is_dense(points.rows)].reindex(columns=["model", "method", "ratio", axis]).dropna(subset=axis)
    per = (rows[axis] / rows["ratio"]).groupby([rows["model"], rows["method"]])
    return per.agg(points="size", smallest="min", mean="mean", largest="max").reset_index()
