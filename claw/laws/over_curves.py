"""The mean of a number that each curve has, over methods and models that are some of many, with its interval and test.

What shapes of curves, recovery and accuracy kept are judged by: a difference between two forms, a change of log loss, a share.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from claw.laws.clusters import FEWEST_DF, student
from claw.laws.crossed import FEW_LEVELS, curve_sums, fit_crossed
from claw.words import plural


@dataclass(frozen=True, kw_only=True)
class Mean:
    """The mean of a number that each curve has, over methods and models, with its interval and test."""

    value: float
    low: float
    high: float
    error: float
    df: float
    curves: int
    methods: int
    models: int

    @property
    def basis(self) -> str:
        """What it rests on, in words."""
        return self.of("curve")

    def of(self, noun: str) -> str:
        """The same, of what is averaged."""
        these = lambda count, noun: f"{'these ' if 1 < count < FEW_LEVELS else ''}{plural(count, noun)}"
        return f"{plural(self.curves, noun)} of {these(self.methods, 'method')} on {these(self.models, 'model')}"

    @property
    def too_few(self) -> str:
        """Why there is no interval, in words; empty where there is one."""
        if self.df >= FEWEST_DF - 1e-6:
            return ""
        return "one curve" if self.curves == 1 else f"{self.basis}: too few for an interval"

    def p_above(self, bound: float) -> float:
        """One-sided p-value of the hypothesis that the mean is at most `bound`."""
        if not self.error > 0:
            return 0.0 if self.value > bound else 1.0
        return float(stats.t.sf((self.value - bound) / self.error, self.df))


def mean_over_curves(values: np.ndarray, methods: np.ndarray, models: np.ndarray, level: float) -> Mean:
    """The mean over curves, which are some of many, and so are methods and models where there are `FEW_LEVELS` or more.

    Fewer do not tell how such methods or models differ: the mean then is of these, and differences between them are noise.
    """
    values, count = np.asarray(values, float), len(values)
    several = {"method": len(set(methods)), "model": len(set(models))}
    cells = len(set(zip(methods, models, strict=True)))
    levels: dict[str, tuple[int, ...]] = {}
    for name, levels_of in several.items():  # with one value each, what differs between levels is the residual already
        levels[name] = (0,) if FEW_LEVELS <= levels_of < count else ()
    levels["curve"] = (0,) if max(several.values()) < cells < count else ()
    value, error, df = (float(values.mean()) if count else math.nan), math.nan, 0.0
    if count > 1 and np.ptp(values) > 0:
        fit = fit_crossed(curve_sums(np.ones((count, 1)), values, methods, models, np.ones(count)), levels)
        value, error = float(fit.coefficients[0]), math.sqrt(max(0.0, float(fit.covariance[0, 0])))
        parts = fit.adds[:, 0, 0, 0]
        df = float((parts.sum() ** 2) / (parts**2 / fit.free).sum())
    elif count > 1:
        error, df = 0.0, count - 1.0
    limits = [several[name] for name in several if levels[name]]
    df = min(df, max(limits, default=count) - 1) if limits else df
    half = float(student(df, level)) * error
    fields: dict[str, Any] = {"curves": count, "methods": several["method"], "models": several["model"]}
    return Mean(value=value, low=value - half, high=value + half, error=error, df=df, **fields)
