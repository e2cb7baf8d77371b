"""What others' published measurements say of a model that is not in the table: how far, with which method, how sure.

The answer is that of `claw.laws.new_models`, one law over the losses of many papers, for a number of parameters. It is a
prediction, never a measurement, and its band is that of one new measurement: several times as wide as a measured one.
"""

import math

import numpy as np
import pandas as pd

from claw.advice.true_shares import percent
from claw.errors import InputError, unknown
from claw.laws.hierarchical import NEW
from claw.laws.new_models import NewModels, read_new_models
from claw.specs.methods import is_control, is_method
from claw.words import quantity

GRID = np.arange(1, 61) / 100  # shares removed; few papers went further


def predict_unseen(
    parameters: float,
    threshold: float = 1.1,
    shares: tuple[float, ...] = (0.1, 0.3, 0.5),
    *,
    family: str = "",
    tokens: float = 0,
    law: NewModels | None = None,
) -> pd.DataFrame:
    """One row per published method for a model of so many parameters, the one that is predicted to go furthest first.

    `share` removed at `threshold` × the dense loss by the middle prediction, with the shares at which the band of a new
    measurement meets it (`low`, `high`; NaN beyond 60 %), and L/L0 with its band at `shares`. A `family` of the published table
    narrows the band. `tokens` above 0 stands for training after the cut as papers do it: too few say on how much to tell
    budgets apart. InputError: no number above 0, or a family that was not measured.
    """
    if not (math.isfinite(parameters) and parameters > 0):
        raise InputError(f"unseen = {parameters!r} is not accepted: a number of parameters above 0, such as 7e9.")
    law = law or read_new_models()
    if family and family not in law.families:
        raise unknown("unseen_family", family, law.families, "Leave it empty for another one.")
    curves = []
    for method, measured in law.methods.items():
        if is_control(method):
            continue
        band = law.predict(GRID, method, parameters, trained=tokens > 0, family=family or NEW)
        row = {"method": method, "share": _met(band["mean"], threshold), "low": _met(band["high"], threshold)}
        row |= {"high": _met(band["low"], threshold), "curves": int(measured["curves"])}
        row |= {"in claw": "yes" if is_method(method) else "no"}
        for share in shares:
            at = band.iloc[int(np.argmin(np.abs(GRID - share)))]
            row[f"L/L0 at {percent(share)}"] = f"{at['mean']:.2f} [{at['low']:.2f}, {at['high']:.2f}]"
        curves.append(row)
    return pd.DataFrame(curves).sort_values("share", ascending=False, na_position="first", ignore_index=True)


def _met(excess: pd.Series, threshold: float) -> float:
    """The share up to which L/L0 stays within a threshold, by lines on the grid; NaN where all of it does."""
    over = np.flatnonzero(excess.to_numpy() > threshold)
    if not len(over):
        return math.nan
    place = int(over[0])
    x, y = np.append(0.0, GRID), np.append(1.0, excess.to_numpy())
    return float(x[place] + (threshold - y[place]) / (y[place + 1] - y[place]) * (x[place + 1] - x[place]))


def unseen_sentences(parameters: float, table: pd.DataFrame, threshold: float = 1.1) -> list[str]:
    """The prediction in words."""
    best, more = table.iloc[0], percent(threshold - 1)
    reached = lambda share: percent(share) if math.isfinite(share) else "more than 60 %"
    own = table[table["in claw"] == "yes"].head(2)
    names = " and ".join(f"{row.method} {reached(row.share)}" for row in own.itertuples())
    inside = int((table["share"].fillna(1.0) >= best["low"]).sum())
    return [
        f"A model of {quantity(parameters)} parameters that is not in the table: for {more} more loss {best['method']} is "
        f"predicted to remove {reached(best['share'])} of its parameters; one new measurement would lie between "
        f"{percent(best['low'])} and {reached(best['high'])}." + (f" Of the methods that claw has, {names}." if names else ""),
        f"This is foretold from other papers' measurements, not measured. {inside} of {len(table)} methods lie within that "
        "band, so it hardly tells them apart: measure two ratios of your first choices before relying on it.",
    ]
