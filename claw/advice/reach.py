"""How far one can go: the share of a model's parameters that each method removes for so much more loss, read off its points.

Everything here is read off measured points (`Laws.readings`). Where a measured point is within rounding of what is asked its
value is quoted as measured, else the answer names the measured points between which it lies.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from claw.advice.true_shares import ROUNDING, TRUE, own_bracket, own_ratio, percent, percents, ratio_of_share
from claw.laws import CurveKey, Laws, Reading
from claw.laws.curves import rows_of
from claw.laws.points import is_dense
from claw.laws.working import DESTROYED
from claw.specs.methods import AXES, is_control

SHAPED = set(AXES)  # axes whose ratio and share fix a shape


@dataclass(frozen=True, kw_only=True)
class Quote:
    """A value of a curve at a ratio: `at` where it stands, its interval, and whether it was measured there.

    `beside` holds the measured ratios on either side on the axis of the reading, 0 being the dense model.
    """

    at: float
    value: float
    low: float
    high: float
    measured: bool
    beside: tuple[float, float]
    axis: str

    @property
    def source(self) -> str:
        """measured, or between what."""
        if self.measured:
            return "measured"
        low, high = self.beside
        if self.axis == TRUE:
            start = "the dense model" if low == 0 else f"the measured {percent(low)}"
            return f"between {start} and {'the measured ' * (low == 0)}{percent(high)}"
        start = "the dense model" if low == 0 else f"the measured r = {low:.2g}"
        return f"between {start} and {'the measured r = ' * (low == 0)}{high:.2g}"


def quote(one: Reading, r: float, rounding: float = ROUNDING) -> Quote | None:
    """What a curve says at a ratio of its axis: the measured value within `rounding`, else between points; None beyond them."""
    points = one.points["ratio"].to_numpy(float)
    if not math.isfinite(r) or len(points) == 0:
        return None
    nearest = float(points[np.argmin(np.abs(points - r))])
    measured = abs(nearest - r) <= rounding and (nearest > 0 or r <= 0)
    at = nearest if measured else r
    if not one.low <= at <= one.high or at < 0:
        return None
    row = one.predict([at]).iloc[0]
    edges = {"low": float(row["confidence_low"]), "high": float(row["confidence_high"])}
    beside = (float(row["bracket_low"]), float(row["bracket_high"]))
    return Quote(at=at, value=float(row["mean"]), **edges, measured=measured, beside=beside, axis=one.axis)


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How far one curve goes for `threshold` × its dense loss.

    `share` with `low` and `high`: of all parameters where `axis` is the true one, else the method's own ratio; `ratio` is that
    ratio. `all_of_it`: all that was measured stays within. `beside`: the measured (share, loss) on either side.
    """

    curve: CurveKey
    threshold: float
    axis: str
    share: float
    low: float
    high: float
    ratio: float
    all_of_it: bool
    beside: tuple[tuple[float, float], ...]

    @property
    def known(self) -> bool:
        """Whether the share is one of parameters."""
        return self.axis == TRUE

    @property
    def removed(self) -> str:
        """10 % (5 to 15) of smollm2-135m's parameters with wanda-sp+ridge (ratio 0.17 of the FFN)."""
        model, method, _, _, ratio_of = self.curve
        if not self.known:
            text = f"{own_ratio(self.ratio, method, ratio_of)} of {model} with {method}"
            return f"{text} (the table does not say which share of the parameters that is)"
        bracket = own_bracket(self.ratio, method, ratio_of)
        return f"{percent(self.share)}{self.interval} of {model}'s parameters with {method}{bracket}"

    @property
    def brief(self) -> str:
        """10 % (5 to 15) with wanda-sp+ridge (ratio 0.17 of the FFN)."""
        name = self.curve.method
        if not self.known:
            return f"{own_ratio(self.ratio, name, self.curve.ratio_of)} with {name}"
        return f"{percent(self.share)}{self.interval} with {name}{own_bracket(self.ratio, name, self.curve.ratio_of)}"

    @property
    def interval(self) -> str:
        """(5 to 15 %), and what is beyond the measured range said so."""
        if self.all_of_it or (math.isnan(self.low) and math.isnan(self.high)):
            return ""
        low = 0.0 if math.isnan(self.low) else self.low
        return f" ({percents(low, self.high)})" if math.isfinite(self.high) else f" (at least {percent(low)})"


def reaches(laws: Laws, threshold: float, model: str, *, recovered: bool = False, controls: bool = False) -> list[Reach]:
    """Every curve of a model, the one that goes furthest first; those without a true share last, in no order between methods.

    `laws` over points whose shares are complete (`complete_shares`). Curves without a dense loss are left out.
    """
    keys, answers = set[CurveKey](), list[Reach]()
    for axis in (TRUE, "ratio"):
        for one in laws.readings("loss", axis):
            key = one.curve
            wanted = key.model == model and (key.tokens > 0) == recovered and is_control(key.method) == controls
            if not wanted or key in keys or not math.isfinite(one.dense) or one.high <= 0:
                continue
            keys.add(key)
            answers.append(_reach(laws, one, threshold))
    return sorted(answers, key=lambda one: (not one.known, -one.share, one.curve))


def _reach(laws: Laws, one: Reading, threshold: float) -> Reach:
    critical = one.critical_ratio(threshold)
    share = 0.0 if math.isnan(critical.ratio) else critical.ratio
    true = one.axis == TRUE
    ratio = ratio_of_share(laws.points, share, *one.curve[:2], one.curve.ratio_of) if true else share
    edges: dict[str, Any] = {"low": critical.low, "high": critical.high, "all_of_it": critical.ratio >= critical.limit}
    place: dict[str, Any] = {"curve": one.curve, "threshold": threshold, "axis": one.axis, "share": share, "ratio": ratio}
    return Reach(**place, **edges, beside=critical.bracket)


def tied(first: Reach, others: list[Reach]) -> list[Reach]:
    """Those of the same axis that cannot be told apart from the first: their share lies in its interval, its in theirs."""
    inside = lambda x, one: (math.isnan(one.low) or x >= one.low) and (math.isnan(one.high) or x <= one.high)
    alike = [one for one in others if one.axis == first.axis and one.curve != first.curve]
    return [one for one in alike if inside(one.share, first) and inside(first.share, one)]


def reading_like(laws: Laws, curve: CurveKey, response: str, axis: str = TRUE) -> Reading | None:
    """The reading of another response of the same curve; None where it was not measured."""
    return next((one for one in laws.readings(response, axis) if one.curve == curve), None)


def speedup(laws: Laws, curve: CurveKey, share: float, response: str = "speedup_decode") -> tuple[float, str] | None:
    """Measured speed-up of a curve at a true share and where from: measured there, or by lines between measured shares.

    Only the shape counts for speed, so any method that cuts the same axis of this model speaks for it.
    """
    rows = laws.points.rows
    if response not in rows or TRUE not in rows or not math.isfinite(share):
        return None
    rows = rows[(rows["model"] == curve.model) & ~is_dense(rows) & (rows["ratio_of"] == curve.ratio_of)]
    rows = rows[rows[response].notna() & rows[TRUE].notna()]
    same = rows["method"] == curve.method
    rows = rows if curve.ratio_of in SHAPED else rows[same]
    own = same[rows.index].sum() > 1
    known = (rows[same[rows.index]] if own else rows).groupby(TRUE)[response].mean()
    of = "" if own else " of models of the same shapes"
    known = pd.concat([pd.Series({0.0: 1.0}), known]).sort_index().astype(float)
    if len(known) < 2 or share > float(known.index[-1]) + ROUNDING:
        return None
    x, y = known.index.to_numpy(float), known.to_numpy()
    near = int(np.argmin(np.abs(x - share)))
    if abs(x[near] - share) <= ROUNDING and x[near] > 0:
        return float(y[near]), f"measured{of.replace(' of ', ' on ')}"
    return float(np.interp(share, x, y)), f"between measured points{of}"


def best_at(laws: Laws, model: str, share: float) -> list[tuple[Reading, Quote]]:
    """Curves of a model without recovery that reach a true share, by the loss read off their points there, lowest first."""
    pairs = [
        (one, quote(one, share)) for one in laws.readings("loss", TRUE) if one.curve.model == model and not one.curve.tokens
    ]
    return sorted(((one, said) for one, said in pairs if said is not None), key=lambda pair: pair[1].value)


def wrecked(laws: Laws, curve: CurveKey, r: float, axis: str = TRUE) -> bool:
    """Whether the measured point of a curve that is nearest to r is of a model that no longer works."""
    own = rows_of(laws.points, curve, "loss", axis)
    return len(own) > 0 and own["flag"].iloc[(own[axis] - r).abs().argmin()] == DESTROYED
