"""Which shape has a curve? Three questions about a form, each answered over curves: is it bent, is it good enough, is it best?

For every working, unrecovered curve (`claw.laws.working`) each measured ratio but the largest is left out in turn, every form
is fitted to the others, and its error |ŷ/y - 1| at the ratio left out is averaged over the curve. Forms are of y/y0, which is 1
at r = 0, and are fitted with equal relative errors, so none is favoured by how it is fitted. Curves are what is compared:
differences between two forms are paired by curve, and methods and models are random (`over_curves.mean_over_curves`).

A form is good enough if no other is better by more than a margin: 1 % of y, or the noise of y where that is larger, because
less cannot be seen. It is not if another is better by more than the margin beyond doubt (Bonferroni over the others).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from claw.laws import catalogue, curves
from claw.laws.evaluation_error import evaluation_errors
from claw.laws.forms import Form, quick_projection
from claw.laws.over_curves import Mean, mean_over_curves
from claw.laws.points import Points
from claw.laws.working import pooled_together

FEWEST_RATIOS = 5  # above 0: one is left out, and the richest form has three coefficients
FEWEST_BENT = 3  # above 0: the form that tells how a curve is bent has two
MARGIN = 0.01
ALPHA = 0.05
BENT = "power-of-r"


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """What the curves of a response say. `errors`: a row per curve, a column per form. `bend`: log b of y/y0 = 1 + a r^b."""

    response: str
    errors: pd.DataFrame
    places: np.ndarray  # (curves, 2) model and method of each row of `errors`
    bend: np.ndarray
    bent_places: np.ndarray  # of each entry of `bend`, for which fewer ratios are enough
    margin: float
    level: float

    def mean(self, values: np.ndarray) -> Mean:
        """The mean of a number that each curve has."""
        return mean_over_curves(values, self.places[:, 1], self.places[:, 0], self.level)

    def bends(self, values: np.ndarray) -> Mean:
        """The same, of curves whose bend is known."""
        return mean_over_curves(values, self.bent_places[:, 1], self.bent_places[:, 0], self.level)

    def behind(self, form: str) -> dict[str, Mean]:
        """By how much the error of `form` is larger than that of each other form, over curves."""
        return {other: self.mean(self.errors[form] - self.errors[other]) for other in self.errors if other != form}


def shapes(points: Points, response: str, level: float = 0.95) -> Shapes:
    """Errors of every form of y/y0 on ratios left out, and how each curve is bent."""
    forms = (*catalogue.COMPETING, *catalogue.OWN)
    rows, dense = points.of(response, recovered=False), f"{response}0"
    rows = rows[rows[dense].gt(0) & rows[response].gt(0)]
    rows = rows[pooled_together(rows)] if len(rows) else rows
    errors, places, bends, bent_places = [], [], [], []
    for key, curve in rows.groupby(list(curves.KEY), sort=True):
        averaged = (curve[response] / curve[dense]).groupby(curve["ratio"]).mean()
        r, y = averaged.index.to_numpy(float), averaged.to_numpy(float)
        r, y = r[r > 0], y[r > 0]
        if len(r) >= FEWEST_BENT:
            bends.append(np.log(quick_projection(catalogue.find_form(BENT, "competing"), r, y, 1 / y**2)[1]))
            bent_places.append(key[:2])
        if len(r) >= FEWEST_RATIOS:
            errors.append({form.name: left_out_error(form, r, y) for form in forms})
            places.append(key[:2])
    fields = {"places": np.array(places, str).reshape(-1, 2), "bent_places": np.array(bent_places, str).reshape(-1, 2)}
    table = pd.DataFrame(errors, columns=[form.name for form in forms])
    margin = max(MARGIN, noise(rows, response))
    return Shapes(response=response, errors=table, bend=np.array(bends), margin=margin, level=level, **fields)


def left_out_error(form: Form, r: np.ndarray, y: np.ndarray) -> float:
    """Mean |ŷ/y - 1| over the ratios of one curve but the largest, each left out in turn; y over its dense value."""
    wrong = []
    for i in range(len(r) - 1):
        keep = np.arange(len(r)) != i
        theta = quick_projection(form, r[keep], y[keep], 1 / y[keep] ** 2)
        at = {"r": r[i : i + 1], "dense": np.ones(1)}
        wrong.append(abs(float(form.eta(at, theta)[0]) / y[i] - 1))
    return float(np.mean(wrong))


def noise(rows: pd.DataFrame, response: str) -> float:
    """Relative standard error of one measurement: as recorded, or seen between seeds, whichever is larger; 0 if unknown."""
    known = [0.0]
    if np.isfinite(error := evaluation_errors(rows, response)).any():
        known.append(float(np.nanmedian(error / rows[response])))
    again = rows.groupby([*curves.KEY, "ratio"])[response].agg(["mean", "std", "size"]) if len(rows) else pd.DataFrame()
    if len(again) and (again["size"] > 1).any():
        again = again[again["size"] > 1]
        known.append(float((again["std"] / again["mean"]).median()))
    return max(value for value in known if np.isfinite(value))
