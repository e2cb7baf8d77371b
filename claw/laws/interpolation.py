"""Shape-preserving interpolation through measured points, and how unsure it is: the arithmetic under `claw.laws.reading`.

Between two points the value comes from a piecewise cubic Hermite interpolant (PCHIP, Fritsch and Butland 1984), which rises
where the points rise and turns only where they turn. It is taken over r - ½ log(1-r) rather than r: losses climb steeply as
little is kept, and over this scale less is missed (leave-one-ratio-out, results/findings.md). Arrays are (points, curves).

The error has two parts. *Noise*: what the errors of the points do to the value, by moving each point by its standard error.
*Interpolation*: each inner point is left out and interpolated from the others; what is missed beyond noise, in units of
(width of the gap)^1.5, the growth of an integrated random walk, says how far the curve may swing in a gap: three quarters of
the weight are on the points beside it, one on the median of all. `benchmarks/brackets.py` shows that intervals of critical
ratios then hold what they promise.
"""

import numpy as np
from scipy.interpolate import PchipInterpolator

GROWTH = 1.5  # power of the width of a gap that the error of interpolation grows by
NEAR = 0.75  # weight of the points beside a gap in how far the curve may swing there
OWN_NOISE = 1.1  # noise of a point interpolated at u of a gap is about 1.1 ((1-u)² v₀ + u² v₁)


def stretched(r: np.ndarray) -> np.ndarray:
    """The scale over which curves are interpolated."""
    return r - 0.5 * np.log1p(-r)


def through(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(at, curves) interpolated at ratios `at` from points at ratios `x`; NaN outside them. One point answers for itself."""
    if len(x) == 1:
        return np.where(np.isclose(at, x[0])[:, None], y, np.nan)
    return PchipInterpolator(stretched(x), y, axis=0, extrapolate=False)(stretched(at))


def misses(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(points - 2, curves) measured minus interpolated, for each inner point left out in turn."""
    inner = range(1, len(x) - 1)
    left_out = [y[i] - through(np.delete(x, i), np.delete(y, i, axis=0), x[i : i + 1])[0] for i in inner]
    return np.array(left_out).reshape(len(left_out), *y.shape[1:])


def noise_of_misses(x: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """(points - 2, curves) the part of the variance of `misses` that is noise of the points."""
    s = stretched(x)
    u = ((s[1:-1] - s[:-2]) / (s[2:] - s[:-2]))[:, None]
    return variance[1:-1] + OWN_NOISE * ((1 - u) ** 2 * variance[:-2] + u**2 * variance[2:])


def _reach(width: np.ndarray, u: np.ndarray) -> np.ndarray:
    """How far a curve may swing at a share `u` of a gap, for a swing of 1."""
    return width**GROWTH * 4 * u * (1 - u)


def swing(x: np.ndarray, y: np.ndarray, variance: np.ndarray, at: np.ndarray, *, typical: float = 0.0) -> np.ndarray:
    """(at, curves) variance of the interpolation itself, zero at the points.

    `typical` is the squared swing where fewer than three points leave nothing to judge it by.
    """
    s, here = stretched(x), stretched(at)
    if len(x) < 2:
        return np.zeros((len(at), y.shape[1]))
    gap = np.clip(np.searchsorted(s, here, side="right") - 1, 0, len(s) - 2)
    width = s[gap + 1] - s[gap]
    u = np.clip((here - s[gap]) / width, 0, 1)
    return np.maximum(swings(x, y, variance, typical)[gap], 0) * _reach(width, u)[:, None] ** 2


def swings(x: np.ndarray, y: np.ndarray, variance: np.ndarray, typical: float = 0.0) -> np.ndarray:
    """(points - 1, curves) squared swing in each gap; below zero where less is missed than noise explains."""
    if len(x) < 3:
        return np.full((len(x) - 1, y.shape[1]), typical)
    s = stretched(x)
    squared = misses(x, y) ** 2 - noise_of_misses(x, variance)
    squared = squared / _reach(s[2:] - s[:-2], (s[1:-1] - s[:-2]) / (s[2:] - s[:-2]))[:, None] ** 2
    last = len(squared) - 1
    near = np.array([squared[[max(gap - 1, 0), min(gap, last)]].mean(axis=0) for gap in range(len(x) - 1)])
    return NEAR * near + (1 - NEAR) * np.median(squared, axis=0)


def spread(x: np.ndarray, y: np.ndarray, error: np.ndarray, at: np.ndarray, *, relative_to: int | None = None) -> np.ndarray:
    """(at, curves) variance that the standard errors of the points give the value; of its distance to a point if named.

    Each point is moved up and down by its standard error: half of the difference is what it contributes.
    """
    total = np.zeros((len(at), y.shape[1]))
    for i in range(len(x)):
        moved = np.zeros_like(y)
        moved[i] = error[i]
        part = (through(x, y + moved, at) - through(x, y - moved, at)) / 2
        total += (part - error[i] if i == relative_to else part) ** 2
    return total
