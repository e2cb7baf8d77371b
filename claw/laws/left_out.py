"""How far off is a curve at a ratio that was not measured? Each inner ratio left out and predicted from the others.

The error is |ŷ/y - 1| of the loss, a mean over the ratios of a curve and then over curves. Only ratios between r = 0 and the
largest measured one are left out, so that interpolation and laws answer the same questions. Seeds of a ratio count as one
point, their mean by logarithm.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from scipy.interpolate import PchipInterpolator

from claw.laws import anchored, catalogue, curves, interpolation
from claw.laws.anchored import Ascent
from claw.laws.points import Points

FEWEST = 4  # ratios above 0 with which every form leaves something to judge
READING = "reading"
Errors = Iterator[tuple[str, list[np.ndarray]]]


def left_out_ratios(points: Points, axis: str = "ratio", *, by_curve: bool = False) -> pd.DataFrame:
    """A row per way to answer, the best first: error (mean over curves of mean |ŷ/y - 1|), its stderr, median, curves.

    Ways: `reading` (PCHIP of log L over r - ½ log(1-r), what claw reads off a curve), `PCHIP of log L` over r itself, the
    forms of `claw.laws.catalogue.ANCHORED`, and `quadratic`, least squares on the loss itself. Curves with fewer than four
    ratios above 0 are left out. by_curve=True gives an error for each curve (rows) and way (columns).
    """
    rises = [Ascent.of(rows, curve, axis) for curve, rows in curves.split(points, "loss", axis)] if points.responses else []
    rises = [one for one in rises if math.isfinite(one.start) and len(one.means[0]) >= FEWEST]
    index = [one.curve.title for one in rises]
    frame = pd.DataFrame({way: [np.mean(np.abs(each)) for each in errors] for way, errors in _ways(rises)}, index=index)
    if by_curve:
        return frame.rename_axis("curve")
    table = pd.DataFrame({"error": frame.mean(), "stderr": frame.sem(), "median": frame.median(), "curves": frame.count()})
    return table.rename_axis("way").reset_index().sort_values("error", ignore_index=True)


def _ways(rises: list[Ascent]) -> Errors:
    yield READING, [_interpolated(one, interpolation.through) for one in rises]
    yield "PCHIP of log L", [_interpolated(one, _plain) for one in rises]
    for form in catalogue.ANCHORED:
        yield form.name, anchored.left_out_errors(rises, form)
    yield "quadratic", [_quadratic(one) for one in rises]


def _with_dense(one: Ascent) -> tuple[np.ndarray, np.ndarray]:
    r, rise, _ = one.means
    return np.append(0.0, r), np.append(0.0, rise)


def _interpolated(one: Ascent, through: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    r, rise = _with_dense(one)
    inner = range(1, len(r) - 1)
    at = [through(np.delete(r, i), np.delete(rise, i)[:, None], r[i : i + 1])[0, 0] - rise[i] for i in inner]
    return np.expm1(at)


def _plain(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    return PchipInterpolator(x, y, axis=0)(at)


def _quadratic(one: Ascent) -> np.ndarray:
    r, rise = _with_dense(one)
    y, inner = np.exp(rise), range(1, len(r) - 1)
    return np.array([np.polyval(np.polyfit(np.delete(r, i), np.delete(y, i), 2), r[i]) / y[i] - 1 for i in inner])
