"""The speed law: speed-up over the dense model against the share truly removed, and whether size changes it.

Prefill is bound by arithmetic, so its axis is the share of FLOPs removed; decoding is bound by reading weights, so its axis
is the share of parameters removed. Ideal is S = 1/(1-ρ), κ = 1.
"""

import numpy as np

from claw.laws.points import Points, is_dense

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


def at_ninety(points: Points, response: str) -> list[dict]:
    """Largest measured speed-up near a nominal 90 % (0.85 to 0.95) of each model, with its interval and size."""
    rows = points.rows[~is_dense(points.rows) & points.rows["ratio"].between(0.85, 0.95)]
    rows = rows[np.isfinite(rows[response].astype(float))]
    best = rows.loc[rows[response].astype(float).groupby(rows["model"]).idxmax()]
    numbers = {response: "speedup", f"{response}_low": "low", f"{response}_high": "high", "parameters0": "parameters0"}
    best = best.reindex(columns=["model", "method", *numbers]).astype(dict.fromkeys(numbers, float))
    return best.rename(columns=numbers).to_dict("records")
