"""The speed law: speed-up over the dense model against the share truly removed, and whether size changes it.

Prefill is bound by arithmetic, so its axis is the share of FLOPs removed; decoding is bound by reading weights, so its axis
is the share of parameters removed. Ideal is S = 1/(1-ρ), κ = 1.
"""

import math
from typing import Any

import numpy as np

from claw.errors import InputError
from claw.laws import catalogue, pooled
from claw.laws.points import Points, is_dense
from claw.laws.pooled import PooledLaw
from claw.laws.sample import ALL, gather

AXIS = {"prefill": ("ratio_flops", "ratio_nonembedding", "ratio_params"), "decode": ("ratio_params", "ratio_flops")}
EDGES = ("_low", "_high", "_stderr")


def responses(points: Points) -> tuple[str, ...]:
    """Columns of speed-ups that the table has."""
    names = [str(name) for name in points.rows.columns if str(name).startswith("speedup") and not str(name).endswith(EDGES)]
    return tuple(name for name in names if np.isfinite(points.rows[name].astype(float)).any())


def speed_axis(points: Points, response: str) -> str:
    """The share removed that this speed-up follows; the nominal ratio where no true one was recorded."""
    kind = "prefill" if "prefill" in response else "decode"
    known = (name for name in AXIS[kind] if name in points.rows and points.rows[name].notna().any())
    return next(known, "ratio")


def fit_speed_laws(points: Points, **options: Any) -> tuple[list[PooledLaw], list[dict]]:
    """Every speed law of every measured speed-up, and why others could not be fitted; `options` as in `fit_pooled`."""
    laws, failed = [], []
    for response in responses(points):
        axis = speed_axis(points, response)
        for form in catalogue.SPEED:
            try:
                laws.append(pooled.fit_pooled(gather(points, form, response, axis), **options))
            except InputError as error:
                failed.append({"method": ALL, "response": response, "axis": axis, "form": form.name, "why": str(error)})
    return laws, failed


def at_ninety(points: Points, response: str) -> list[dict]:
    """Largest measured speed-up near a nominal 90 % (0.85 to 0.95) of each model, with its interval and size."""
    rows = points.rows[~is_dense(points.rows) & points.rows["ratio"].between(0.85, 0.95)]
    rows = rows[np.isfinite(rows[response].astype(float))]
    fastest = []
    for model, group in rows.groupby("model"):
        best = group.loc[group[response].astype(float).idxmax()]
        low, high = (float(best.get(f"{response}{edge}", math.nan)) for edge in ("_low", "_high"))
        size, speedup = float(best.get("parameters0", math.nan)), float(best[response])
        row = {"model": model, "method": best["method"], "speedup": speedup, "low": low, "high": high, "parameters0": size}
        fastest.append(row)
    return fastest
