"""What is read off a curve: values between measured points, with bands, without any law.

A reading goes through the dense model and the mean of the seeds at each measured ratio (losses by logarithm), so it never
contradicts what was measured, dips included. It ends at the largest measured ratio: beyond it the answer is NaN, and a law
may be asked instead. `claw.laws.interpolation` says how unsure it is between points.

Where the noise comes from, in this order: seeds of this curve, pooled over its ratios; seeds of the same method on other
models; seeds of any method but controls; the standard errors of the evaluation alone; and if the table has neither seeds nor
standard errors, how far points lie from what their neighbours interpolate, which is noise at most. All seeds at a ratio are
evaluated on the same text, so averaging them does not make the error of the evaluation smaller. That error is the paired one,
relative to the dense model, where the table has it (`claw.laws.evaluation_error`): the dense point then has none.
"""

import html
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from claw.laws import critical, curves, interpolation
from claw.laws.critical import Critical
from claw.laws.curves import CurveKey
from claw.laws.evaluation_error import evaluation_errors
from claw.laws.points import Points, is_dense
from claw.specs.methods import is_control
from claw.words import html_table, number, with_interval

FEWEST = 4  # degrees of freedom with which seeds of a curve speak for themselves
GRID = 401
SAME = 1e-9  # ratios closer than this are one


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One curve as it was measured.

    `points`: ratio, value (mean of the seeds), stderr (in the unit of the value, seeds and evaluation), seeds; r = 0 is the
    dense model. `run`: standard deviation of a new run on the scale of the interpolation (log for losses). `typical`: squared
    swing of curves of this table, for curves of too few points to show their own. `df`: degrees of freedom of the noise,
    infinite where it is that of the evaluation. `noise` says where it comes from.
    """

    curve: CurveKey
    response: str
    axis: str
    dense: float
    points: pd.DataFrame
    run: float
    typical: float
    df: float
    level: float
    noise: str

    @property
    def low(self) -> float:
        """Smallest ratio that it answers for: 0 with a dense model, unless a method adds parameters."""
        return float(self.points["ratio"].min())

    @property
    def high(self) -> float:
        """Largest measured ratio."""
        return float(self.points["ratio"].max())

    @property
    def quantile(self) -> float:
        """Student quantile of the bands."""
        return float(stats.t.ppf(0.5 + self.level / 2, self.df))

    @property
    def _logs(self) -> bool:
        return self.response == "loss"

    def _nodes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ratios, and (points, 1) values and standard errors on the scale of the interpolation."""
        r, value, error = (self.points[name].to_numpy(float) for name in ("ratio", "value", "stderr"))
        y, error = (np.log(value), error / value) if self._logs else (value, error)
        return r, y[:, None], error[:, None]

    def _back(self, y: np.ndarray) -> np.ndarray:
        return np.exp(y) if self._logs else np.clip(y, 0, 1)

    def mean(self, r: Any) -> np.ndarray:
        """Values at ratios; NaN beyond the measured range."""
        x, y, _ = self._nodes()
        return self._back(interpolation.through(x, y, critical.checked(r))[:, 0])

    def predict(self, r: Any) -> pd.DataFrame:
        """Frame over r: mean, confidence band, band of a new run, whether r is beyond what was measured (all NaN), the bracket.

        `bracket_low` and `bracket_high` are the measured ratios on either side, equal at a measured ratio.
        """
        r = critical.checked(r)
        x, y, error = self._nodes()
        mean, noise, swing = self._parts(r, None)
        frame = {"ratio": r, "mean": self._back(mean)}
        for name, more in (("confidence", 0.0), ("run", self.run**2)):
            half, edge = self.quantile * np.sqrt(noise + swing + more), self.quantile * np.sqrt(error**2 + more)
            low, high = self._within(r, mean, half, (y - edge)[:, 0], (y + edge)[:, 0])
            frame |= {f"{name}_low": self._back(low), f"{name}_high": self._back(high)}
        below, above = self._bracket(r)
        edges = {"bracket_low": np.where(np.isnan(mean), np.nan, x[below]), "bracket_high": x[above]}
        edges["bracket_high"] = np.where(np.isnan(mean), np.nan, edges["bracket_high"])
        return pd.DataFrame(frame | {"extrapolated": np.isnan(mean)} | edges)

    def _parts(self, r: np.ndarray, relative_to: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Value, variance by noise and variance by interpolation at ratios, on the scale of the interpolation."""
        x, y, error = self._nodes()
        mean = interpolation.through(x, y, r)
        noise = interpolation.spread(x, y, error, r, relative_to=relative_to)
        swing = interpolation.swing(x, y, error**2, r, typical=self.typical)
        return mean[:, 0], noise[:, 0], swing[:, 0]

    def _bracket(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places of the measured ratios at or below and at or above each r."""
        x = self.points["ratio"].to_numpy(float)
        last = len(x) - 1
        below = np.clip(np.searchsorted(x, r + SAME, side="right") - 1, 0, last)
        return below, np.clip(np.searchsorted(x, r - SAME, side="left"), 0, last)

    def _within(self, r: np.ndarray, mean: np.ndarray, half: np.ndarray, node_low, node_high) -> tuple[np.ndarray, np.ndarray]:
        """Bands kept between the lowest and highest edge of the two points beside: the curve turns at points only."""
        below, above = self._bracket(r)
        low = np.maximum(mean - half, np.minimum(node_low[below], node_low[above]))
        high = np.minimum(mean + half, np.maximum(node_high[below], node_high[above]))
        return np.minimum(low, mean), np.maximum(high, mean)

    def critical_ratio(self, threshold: float) -> Critical:
        """Largest r up to which a share `threshold` of the dense performance is met: the first crossing, with its interval.

        The interval holds every r at which the band of y(r) / y(0) covers the threshold; the dense model's own error counts.
        """
        return self.critical_ratios([threshold])[0]

    def critical_ratios(self, thresholds: Iterable[float]) -> list[Critical]:
        """The critical ratio of each threshold."""
        band, title = self._relative_band(), self.curve.title
        reach = lambda threshold: critical.ratio(band, threshold, self.dense, self.response, level=self.level, title=title)
        answers = [reach(threshold) for threshold in thresholds]
        return [critical.in_bracket(answer, self.points) for answer in answers]

    def _relative_band(self) -> pd.DataFrame:
        """Columns ratio, mean, confidence_low and confidence_high of y(r), as unsure as y(r) / y(0) is."""
        x, y, error = self._nodes()
        r = np.union1d(np.linspace(0, self.high, GRID), x[x >= 0]) if self.high > 0 else np.zeros(1)
        r = r[r >= self.low]
        origin = np.flatnonzero(np.abs(x) < SAME)
        whole = len(origin) > 0 and math.isclose(self.points["value"].iloc[origin[0]], self.dense, rel_tol=1e-6)
        place = int(origin[0]) if whole else None
        mean, noise, swing = self._parts(r, place)
        nodes = self.quantile * np.sqrt(error**2 + (error[place] ** 2 if place is not None else 0.0))
        if place is not None:
            nodes[place] = 0.0
        half = self.quantile * np.sqrt(noise + swing)
        low, high = self._within(r, mean, half, (y - nodes)[:, 0], (y + nodes)[:, 0])
        band = {"mean": mean, "confidence_low": low, "confidence_high": high}
        return pd.DataFrame({"ratio": r} | {name: self._back(values) for name, values in band.items()})

    def _repr_html_(self) -> str:
        """The points with their intervals, and where the noise comes from."""
        r, _, _ = self._nodes()
        band = self.predict(r[(r >= 0)])
        edges = zip(band["confidence_low"], band["confidence_high"], strict=True)
        rows = [(number(x), with_interval(y, edge)) for x, y, edge in zip(band["ratio"], band["mean"], edges, strict=True)]
        text = f"{self.level:.0%} intervals; {self.noise}. Between points a shape-preserving cubic."
        return f"<p>{html.escape(f'{self.curve.title}: {self.response}')}</p>{html_table(rows)}<p>{html.escape(text)}</p>"


def read_curves(points: Points, response: str, axis: str = "ratio", level: float = 0.95) -> list[Reading]:
    """A reading of every curve of a response, by model, method and recovery."""
    drawn = [_Drawn.of(rows, curve, response, axis) for curve, rows in curves.split(points, response, axis)]
    noises = [_noise(one, drawn) for one in drawn]
    swings = [one.swing(noise) for one, noise in zip(drawn, noises, strict=True)]
    known = [value for value in swings if math.isfinite(value)]
    typical = max(float(np.median(known)), 0.0) if known else 0.0
    return [one.reading(noise, typical, level) for one, noise in zip(drawn, noises, strict=True)]


@dataclass(frozen=True, kw_only=True)
class _Noise:
    """Variance between seeds on the scale of the interpolation, its degrees of freedom, and where it comes from."""

    variance: float
    df: float
    source: str


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """A curve before its noise is known: one entry per ratio, on the scale of the interpolation."""

    curve: CurveKey
    response: str
    axis: str
    dense: float
    x: np.ndarray
    y: np.ndarray
    evaluation: np.ndarray  # standard error of the evaluation; NaN where there is none
    seeds: np.ndarray
    square: float  # between seeds, summed over ratios
    df: int
    whole: np.ndarray  # whether a point is the dense model, which has no seed

    @classmethod
    def of(cls, rows: pd.DataFrame, curve: CurveKey, response: str, axis: str) -> "_Drawn":
        dense = float(rows[f"{response}0"].iloc[0])
        r, value, zero = rows[axis].to_numpy(float), rows[response].to_numpy(float), is_dense(rows).to_numpy()
        error = evaluation_errors(rows, response)
        if not zero.any() and math.isfinite(dense):  # known from a column only
            r, value, error, zero = (np.append(a, b) for a, b in ((r, 0.0), (value, dense), (error, np.nan), (zero, True)))
        r = np.where(zero, 0.0, r)
        y, error = (np.log(value), error / value) if response == "loss" else (value, error)
        x, index = np.unique(np.round(r, 9), return_inverse=True)
        seeds = np.bincount(index)
        mean = np.bincount(index, y) / seeds
        known = np.bincount(index, np.isfinite(error))
        with np.errstate(invalid="ignore", divide="ignore"):
            evaluation = np.where(known > 0, np.bincount(index, np.nan_to_num(error)) / known, np.nan)
        fields: dict[str, Any] = {"curve": curve, "response": response, "axis": axis, "dense": dense, "x": x, "y": mean}
        fields |= {"evaluation": evaluation, "seeds": seeds, "whole": np.bincount(index, zero) > 0}
        return cls(**fields, square=float(((y - mean[index]) ** 2).sum()), df=int((seeds - 1).sum()))

    def errors(self, noise: "_Noise") -> np.ndarray:
        """Standard error of each point: of the evaluation and of the mean over seeds; the dense model has no seed."""
        between = np.where(self.whole, 0.0, noise.variance / self.seeds)
        return np.sqrt(np.nan_to_num(self.evaluation) ** 2 + between)

    def swing(self, noise: "_Noise") -> float:
        """Mean squared swing; NaN where no point lies between two others."""
        if len(self.x) < 3:
            return math.nan
        error = self.errors(noise)[:, None]
        return float(interpolation.swings(self.x, self.y[:, None], error**2).mean())

    def reading(self, noise: "_Noise", typical: float, level: float) -> Reading:
        error, value = self.errors(noise), np.exp(self.y) if self.response == "loss" else self.y
        scale = value if self.response == "loss" else np.ones(len(value))
        frame = pd.DataFrame({"ratio": self.x, "value": value, "stderr": error * scale, "seeds": self.seeds})
        evaluation = self.evaluation[~self.whole]
        evaluation = evaluation[np.isfinite(evaluation)]
        exact = float(np.median(evaluation)) ** 2 if len(evaluation) else 0.0
        run = math.sqrt(noise.variance + exact)
        # Satterthwaite: only the part between seeds is estimated, that of the evaluation is known
        between = noise.variance / float(np.median(self.seeds[~self.whole])) if (~self.whole).any() else 0.0
        df = noise.df * ((between + exact) / between) ** 2 if between > 0 else math.inf
        fields: dict[str, Any] = {"curve": self.curve, "response": self.response, "axis": self.axis, "dense": self.dense}
        return Reading(**fields, points=frame, run=run, typical=typical, df=df, level=level, noise=noise.source)


def _noise(own: _Drawn, drawn: list[_Drawn]) -> _Noise:
    """The noise between seeds of a curve, from the nearest place that knows it."""
    alike = [one for one in drawn if one.curve.method == own.curve.method]
    compressed = [one for one in drawn if not is_control(one.curve.method)]
    places = {
        "noise between seeds of this curve": [own],
        f"noise between seeds of {own.curve.method} on all models": alike,
        "noise between seeds of the other methods of this table": compressed,
        "noise between seeds of this table": drawn,
    }
    for source, group in places.items():
        df = sum(one.df for one in group)
        if df >= FEWEST or (group is drawn and df):
            return _Noise(variance=sum(one.square for one in group) / df, df=float(df), source=source)
    if any(np.isfinite(one.evaluation).any() for one in drawn):
        return _Noise(variance=0.0, df=math.inf, source="noise of the evaluation only, as no curve has several seeds")
    return _rough(own, drawn)


def _rough(own: _Drawn, drawn: list[_Drawn]) -> _Noise:
    """Noise from how far points lie from what their neighbours interpolate, where nothing else is known."""
    source = "noise at most, from how far points lie off their neighbours, as there are neither seeds nor standard errors"
    for group in ([own] if len(own.x) >= FEWEST + 2 else [], drawn):
        squares, shares = list[float](), list[float]()
        for one in group:
            if len(one.x) > 2:
                squares += list(interpolation.misses(one.x, one.y[:, None])[:, 0] ** 2)
                shares += list(interpolation.noise_of_misses(one.x, np.ones((len(one.x), 1)))[:, 0])
        if squares:
            return _Noise(variance=float(np.sum(squares) / np.sum(shares)), df=float(len(squares)), source=source)
    return _Noise(variance=0.0, df=math.inf, source="no noise is known: neither seeds, standard errors nor three points")
