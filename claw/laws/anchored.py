"""Laws of single curves that go through the dense model: least squares of log(y/y0), many curves at once.

Forms with one shape coefficient are y/y0 = 1 + a g(r; k). They are solved by Levenberg-Marquardt in the rise at the largest
ratio and log k, from several starts, for every curve and every fold of a cross-validation in one go: thousands of tiny
problems cost as much as one. Forms that are linear in log y are solved by the pseudo-inverse.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from claw.laws.curves import CurveKey, CurveLaw
from claw.laws.forms import Form

STARTS, POLISHED, STEPS = 15, 2, 60
"""Starts along the logarithm of the shape coefficient, how many of them are polished, and by how many steps at most."""
DAMPING, TINY, ENOUGH = 1e-3, 1e-12, 1e-9
EDGE = 1e-4  # in log k: step of a slope


@dataclass(frozen=True, kw_only=True)
class Ascent:
    """One curve of loss as its laws see it: log(y/y0) at ratios above 0, and y0."""

    curve: CurveKey
    axis: str
    ratio: np.ndarray
    rise: np.ndarray
    start: float  # y at r = 0
    dense: float  # what thresholds are shares of

    @classmethod
    def of(cls, rows: pd.DataFrame, curve: CurveKey, axis: str) -> "Ascent":
        """The curve of rows that hold its dense model, which may be a recovered one."""
        r, loss, dense = (rows[name].to_numpy(float) for name in (axis, "loss", "loss0"))
        zero = rows["ratio"].to_numpy(float) == 0
        start, above = float(loss[zero][0] if zero.any() else dense[0]), r > 0
        return cls(curve=curve, axis=axis, ratio=r[above], rise=np.log(loss[above] / start), start=start, dense=float(dense[0]))

    @property
    def means(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Each ratio once, from small to large, the mean rise there, and how many seeds it has."""
        r, index = np.unique(self.ratio, return_inverse=True)
        seeds = np.bincount(index)
        return r, np.bincount(index, self.rise) / seeds, seeds.astype(float)


def fit_anchored(rises: Sequence[Ascent], form: Form, level: float) -> tuple[list[CurveLaw], list[tuple[Ascent, str]]]:
    """The law of every curve that can carry the form, and of the others why not."""
    p, able, unable = len(form.coefficient_names), list[Ascent](), list[tuple[Ascent, str]]()
    for one in rises:
        n, ratios = len(one.ratio), len(np.unique(one.ratio))
        if not math.isfinite(one.start):
            unable.append((one, f"{one.curve.title} has no dense loss, which {form.formula} starts from."))
        elif ratios < p or n <= p:
            why = f"{one.curve.title}: {n} points at {ratios} ratios above 0 cannot carry the {p} coefficients of "
            unable.append((one, f"{why}{form.formula} and its error. Measure at least {p + 1} ratios above 0."))
        else:
            able.append(one)
    if not able:
        return [], unable
    folds, places = _folds(able, form)
    theta = solve_many(form, *_padded([one.means for one in able] + folds))
    misses = _misses(form, theta[len(able) :], places, len(able))
    laws = []
    for one, own, left_out in zip(able, theta[: len(able)], misses, strict=True):
        c = {"r": one.ratio, "dense": np.full(len(one.ratio), one.start)}
        if np.isfinite(own).all() and np.isfinite(form.jacobian(c, own)).all():
            laws.append(_law(one, form, own, float(np.mean(np.abs(left_out))) if len(left_out) else math.nan, level))
        else:
            unable.append((one, f"{one.curve.title}: {form.formula} has no finite solution that lies inside its limits."))
    return laws, unable


def _law(one: Ascent, form: Form, theta: np.ndarray, left_out: float, level: float) -> CurveLaw:
    """A solved form with its covariance and how well it fits."""
    c, n, p = {"r": one.ratio, "dense": np.full(len(one.ratio), one.start)}, len(one.ratio), len(theta)
    eta, slopes = form.eta(c, theta), form.jacobian(c, theta)
    target = one.rise + math.log(one.start)
    residual = target - eta
    square, df = float(residual @ residual), n - p
    size = np.sqrt((slopes**2).sum(axis=0))
    unit = np.where(size > 0, size, 1.0)
    covariance = np.linalg.pinv((slopes / unit).T @ (slopes / unit)) / np.outer(unit, unit) * square / df
    total = float(((target - target.mean()) ** 2).sum())
    loglike = -n / 2 * (math.log(2 * math.pi * max(square / n, 1e-300)) + 1) - float(target.sum())
    quality = {"r2": 1 - square / total if total > 0 else math.nan, "rmse": math.sqrt(square / n)}
    quality |= {"relative_error": float(np.mean(np.abs(np.expm1(-residual)))), "left_out": left_out}
    quality["bic"] = (p + 1) * math.log(n) - 2 * loglike
    quality["aicc"] = 2 * (p + 1) - 2 * loglike + (2 * (p + 1) * (p + 2) / (n - p - 2) if n > p + 2 else math.inf)
    fields: dict[str, Any] = {"coefficients": theta, "covariance": covariance, "sigma2": square / df, "df": float(df)}
    fields |= {"curve": one.curve, "response": "loss", "axis": one.axis, "form": form.name, "level": level, "weighted": False}
    fields |= {"n": n, "low": 0.0, "high": float(one.ratio.max()), "dense": one.dense, "start": one.start}
    return CurveLaw(**fields, quality=quality)


def left_out_errors(rises: Sequence[Ascent], form: Form) -> list[np.ndarray]:
    """By curve, (ratios below the largest,) predicted over measured - 1 at a ratio that was not fitted.

    Each ratio counts once, whatever its seeds, and the largest is never left out: a law is not asked beyond what it was shown.
    Empty for a curve with too few ratios; NaN where no start converged.
    """
    folds, places = _folds(rises, form)
    theta = solve_many(form, *_padded(folds)) if folds else np.empty((0, len(form.coefficient_names)))
    return _misses(form, theta, places, len(rises))


Fold = tuple[np.ndarray, np.ndarray, np.ndarray]
Place = tuple[int, float, float]


def _folds(rises: Sequence[Ascent], form: Form) -> tuple[list[Fold], list[Place]]:
    """Every curve without each of its ratios but the largest; and which curve, ratio and rise that was."""
    folds, places = list[Fold](), list[Place]()
    for number, one in enumerate(rises):
        r, y, _ = one.means
        if len(r) - 1 >= len(form.coefficient_names):
            folds += [(np.delete(r, i), np.delete(y, i), np.ones(len(r) - 1)) for i in range(len(r) - 1)]
            places += [(number, float(r[i]), float(y[i])) for i in range(len(r) - 1)]
    return folds, places


def _misses(form: Form, theta: np.ndarray, places: Sequence[Place], curves: int) -> list[np.ndarray]:
    """By curve, predicted over measured - 1 at the places that were left out."""
    errors: list[list[float]] = [[] for _ in range(curves)]
    for own, (number, r, y) in zip(theta, places, strict=True):
        eta = form.eta({"r": np.array([r]), "dense": np.ones(1)}, own)[0]
        errors[number].append(float(np.expm1(min(eta - y, 50.0))))
    return [np.array(each) for each in errors]


def _padded(curves: Sequence[Fold]) -> Fold:
    """Curves of unequal length as ratios, rises and weights, (curves, longest); weight 0 is nothing."""
    shape = len(curves), max(len(r) for r, *_ in curves)
    padded = np.full(shape, 0.5), np.zeros(shape), np.zeros(shape)
    for number, curve in enumerate(curves):
        for whole, part in zip(padded, curve, strict=True):
            whole[number, : len(part)] = part
    return padded


def solve_many(form: Form, r: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """(curves, coefficients) with the least squared error of log(y/y0) under weights; NaN where nothing converged."""
    root = np.sqrt(w)
    if form.linear:
        design = form.design({"r": r.ravel(), "dense": np.ones(r.size)}).reshape(*r.shape, -1) * root[..., None]
        return (np.linalg.pinv(design) @ (root * y)[..., None])[..., 0]
    problems = _Problems.of(form, r, y, root)
    with np.errstate(all="ignore"):
        starts = np.linspace(math.log(form.low[1]), math.log(form.high[1]), STARTS)
        first = np.stack([np.column_stack([problems.first, np.full(len(r), log_k)]) for log_k in starts])
        cost = np.stack([problems.squared(theta) for theta in first])
        order = np.argsort(cost, axis=0, kind="stable")[:POLISHED]
        best, lowest = np.full((len(r), 2), math.nan), np.full(len(r), math.inf)
        for place in order:
            theta, cost_here = problems.descend(first[place, np.arange(len(r))])
            better = cost_here < lowest * (1 - ENOUGH)
            best[better], lowest[better] = theta[better], cost_here[better]
        return problems.coefficients(best)


@dataclass(frozen=True, kw_only=True)
class _Problems:
    """Least squares of y/y0 = 1 + rise g(r; k) / g(top; k), many at once; θ = rise, log k."""

    form: Form
    r: np.ndarray
    y: np.ndarray
    root: np.ndarray
    top: np.ndarray  # (problems, 1) largest ratio of each

    @classmethod
    def of(cls, form: Form, r: np.ndarray, y: np.ndarray, root: np.ndarray) -> "_Problems":
        return cls(form=form, r=r, y=y, root=root, top=np.where(root > 0, r, 0).max(axis=1, keepdims=True))

    def unit(self, r: np.ndarray, log_k: np.ndarray) -> np.ndarray:
        """g(r; k), up to a factor that the form gives it."""
        return np.expm1(self.form.shape({"r": r}, 1.0, np.exp(log_k))[0])

    def share(self, log_k: np.ndarray) -> np.ndarray:
        """g(r; k) / g(top; k)."""
        return self.unit(self.r, log_k) / self.unit(self.top, log_k)

    @property
    def first(self) -> np.ndarray:
        """The rise at the largest ratio, as measured."""
        last = (self.r == self.top) & (self.root > 0)
        return np.maximum(np.expm1((last * self.y).sum(axis=1) / last.sum(axis=1)), -0.9)

    def coefficients(self, theta: np.ndarray) -> np.ndarray:
        """a and k of the form."""
        return np.column_stack([theta[:, 0] / self.unit(self.top, theta[:, 1:])[:, 0], np.exp(theta[:, 1])])

    def residuals(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        share = self.share(theta[:, 1:])
        return share, np.where(self.root > 0, self.root * (self.y - np.log1p(theta[:, :1] * share)), 0.0)

    def squared(self, theta: np.ndarray) -> np.ndarray:
        """Squared error of each problem."""
        return np.nan_to_num((self.residuals(theta)[1] ** 2).sum(axis=1), nan=np.inf)

    def take(self, mask: np.ndarray) -> "_Problems":
        return _Problems(form=self.form, r=self.r[mask], y=self.y[mask], root=self.root[mask], top=self.top[mask])

    def descend(self, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Levenberg-Marquardt from a start of each problem; those that no longer move rest."""
        theta, cost, damping = start.copy(), self.squared(start), np.full(len(start), DAMPING)
        moving = np.flatnonzero(np.isfinite(cost))
        for _ in range(STEPS):
            if not len(moving):
                break
            here = self.take(moving)
            trial = here._step(theta[moving], damping[moving])
            lower = here.squared(trial)
            better, gain = lower < cost[moving], cost[moving] - lower
            done = np.where(better, gain <= ENOUGH * cost[moving], damping[moving] >= 1e6)
            theta[moving[better]], cost[moving[better]] = trial[better], lower[better]
            damping[moving] = np.clip(np.where(better, damping[moving] / 10, damping[moving] * 10), 1e-9, 1e6)
            moving = moving[~done]
        return theta, cost

    def _step(self, theta: np.ndarray, damping: np.ndarray) -> np.ndarray:
        """Where damped Gauss-Newton goes; where k is stopped by a limit, the rise goes alone."""
        share, residual = self.residuals(theta)
        inner = np.where(self.root > 0, self.root / (1 + theta[:, :1] * share), 0.0)
        slope = (self.share(theta[:, 1:] + EDGE) - self.share(theta[:, 1:] - EDGE)) / (2 * EDGE)
        by_rise, by_k = share * inner, theta[:, :1] * slope * inner
        aa, kk, ak = ((one * other).sum(axis=1) for one, other in ((by_rise, by_rise), (by_k, by_k), (by_rise, by_k)))
        ea, ek = (by_rise * residual).sum(axis=1), (by_k * residual).sum(axis=1)
        aa, kk = aa * (1 + damping) + TINY, kk * (1 + damping) + TINY
        by = np.clip(np.nan_to_num((aa * ek - ak * ea) / (aa * kk - ak**2)), -3, 3)
        log_k = np.clip(theta[:, 1] + by, math.log(self.form.low[1]), math.log(self.form.high[1]))
        rise = theta[:, 0] + np.clip(np.nan_to_num((ea - ak * (log_k - theta[:, 1])) / aa), -3, 3)
        return np.column_stack([rise, log_k])
