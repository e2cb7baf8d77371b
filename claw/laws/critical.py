"""The critical ratio: how far one can go while a share of the dense performance is still met."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from claw.errors import InputError

GRID = 201
ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Critical:
    """The largest ratio at which a share of the dense performance is still met, with its interval."""

    threshold: float
    ratio: float
    low: float
    high: float
    limit: float  # largest fitted or measured ratio; beyond it a law is a guess
    level: float
    banded: bool = True  # whether the curve has a band that the interval is read off
    bracket: tuple[tuple[float, float], ...] = ()  # (ratio, value) of the measured points beside it, where it is read off them

    def __str__(self) -> str:
        curve = "measured" if self.bracket else "fitted"
        if math.isnan(self.ratio):
            return f"The threshold {self.threshold:g} is met nowhere on the {curve} curve."
        if not self.banded:
            return f"r = {self.ratio:.3f}; no interval, because too little is known of the {curve} curve for a band"
        low = "0" if math.isnan(self.low) else f"{self.low:.3f}"
        high = f"beyond {self.limit:g}" if math.isnan(self.high) else f"{self.high:.3f}"
        more = f" (all of the {curve} range)" if self.ratio >= self.limit else ""
        points = " and ".join(f"{value:.3g} at r = {r:.3g}" for r, value in self.bracket)
        measured = f"; measured: {points}" if self.bracket else ""
        return f"r = {self.ratio:.3f}{more}, {self.level:.0%} interval {low} to {high}{measured}"


def checked(r: Any) -> np.ndarray:
    """Ratios as an array. InputError outside [0, 1)."""
    r = np.atleast_1d(np.asarray(r, float))
    wrong = ~((r >= 0) & (r < 1))
    if wrong.any():
        raise InputError(f"A ratio is a fraction removed in [0, 1); {r[wrong][0]:g} is not. For 30 % write 0.3.")
    return r


def ratio(band: pd.DataFrame, threshold: float, dense: float, response: str, *, level: float, title: str) -> Critical:
    """Largest r of a predicted band with loss ≤ threshold × L0 (threshold ≥ 1), or accuracy ≥ threshold × A0 (threshold ≤ 1).

    The interval holds every r at which the confidence band covers the target: for a straight line that is Fieller's
    interval. Where the curve meets the target again after a rise above it, the interval ends before. An end beyond the band
    is NaN; so are both where the band is not known everywhere.
    """
    rising = response == "loss"
    if not (math.isfinite(threshold) and threshold > 0 and (threshold >= 1 if rising else threshold <= 1)):
        accepted = "at least 1 (1.1 is 10 % more loss)" if rising else "in (0, 1] (0.9 keeps 90 % of the accuracy)"
        raise InputError(f"threshold = {threshold!r} is not accepted: a share of the dense model's {response}, {accepted}.")
    if math.isnan(dense):
        raise InputError(f"{title} has no dense {response} to take a share of. Add a row with method dense and ratio 0.")
    sign = 1 if rising else -1
    worst, best = ("confidence_high", "confidence_low") if rising else ("confidence_low", "confidence_high")
    r = band["ratio"].to_numpy()
    target = sign * threshold * dense
    mean, upper, lower = (sign * band[name].to_numpy() for name in ("mean", worst, best))
    at = _crossing(r, mean, target)
    low = high = math.nan
    if banded := bool((np.isfinite(upper) & np.isfinite(lower)).all()):
        low = _crossing(r, upper, target)
        again = np.flatnonzero(~_above(mean, target) & (r > at))  # met once more
        high = _last_met(r, lower, target, int(again[0]) if len(again) else len(r))
    return Critical(threshold=threshold, ratio=at, low=low, high=high, limit=float(r[-1]), level=level, banded=banded)


def in_bracket(answer: Critical, points: pd.DataFrame) -> Critical:
    """The answer with the measured points beside it, from columns ratio and value in the order of ratios."""
    r = points["ratio"].to_numpy(float)
    at = r[0] if math.isnan(answer.ratio) else answer.ratio
    last = len(r) - 1
    near = {
        int(np.clip(np.searchsorted(r, at + 1e-9, "right") - 1, 0, last)),
        int(np.clip(np.searchsorted(r, at - 1e-9), 0, last)),
    }
    values = points["value"].to_numpy(float)
    return replace(answer, bracket=tuple((float(r[place]), float(values[place])) for place in sorted(near)))


def _above(y: np.ndarray, target: float) -> np.ndarray:
    return y > target + ROUNDING * abs(target)


def _last_met(r: np.ndarray, y: np.ndarray, target: float, within: int) -> float:
    """Largest r of the first `within` at which y is at most the target, interpolated; NaN if that is the end, or nowhere."""
    met = np.flatnonzero(~_above(y[:within], target))
    if not len(met) or met[-1] == len(r) - 1:
        return math.nan
    last = int(met[-1])
    return _between(r, y, target, last) if last + 1 < within else float(r[last])


def _crossing(r: np.ndarray, y: np.ndarray, target: float) -> float:
    """Largest r up to which y stays at or below the target, interpolated; NaN if it starts above."""
    above = np.flatnonzero(_above(y, target))
    if not len(above):
        return float(r[-1])
    if (last := above[0] - 1) < 0:
        return math.nan
    return _between(r, y, target, int(last))


def _between(r: np.ndarray, y: np.ndarray, target: float, place: int) -> float:
    """Where y meets the target between a place and the next."""
    share = (target - y[place]) / (y[place + 1] - y[place])
    return float(r[place] + share * (r[place + 1] - r[place]))
