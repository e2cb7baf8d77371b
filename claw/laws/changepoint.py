"""Where a curve changes from slow to fast: the field's rival to a smooth law, with an interval for the point of change.

A power law up to a point and an exponential beyond it, as a phase transition (Model-Phase-Transitions 2025,
github.com/whucs21Mzy/Model-Phase-Transitions), on the scale of the anchored laws and continuous at the point c:

    log(L/L0) = a r^b                  for r ≤ c
    log(L/L0) = a c^b + d (r - c)      for r > c

For every c and b on a grid, a and d follow by least squares, so the best c and the interval around it come from one table of
sums of squares. The interval holds every c that an F-test at its level does not refuse. It is compared by AICc with the same
power law without a change and with a line. Searching for c is worth a few points of AICc by chance, so a change is said to be
there only where it gains `CLEAR` and its interval does not reach the ends of what was measured.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from claw.errors import InputError

FEWEST = 6  # ratios above 0: four coefficients, and two left over for the error
POWERS = np.geomspace(0.25, 8, 181)  # of b
STEPS = 81  # places of c between the second ratio and the last but one
CLEAR = 7.0  # difference of AICc: on smooth curves 5 in 100 reach it


@dataclass(frozen=True, kw_only=True)
class Changepoint:
    """The change of one curve: `ratio` c with its interval, growth before (a, b) and beyond (d), and how much better it is.

    `gain` is the AICc of the best law without a change minus that of this one; `there` whether it is clear, inside the measured
    range, and the curve steeper beyond c than just before it.
    """

    ratio: float
    low: float
    high: float
    a: float
    b: float
    d: float
    gain: float
    there: bool
    level: float

    def __str__(self) -> str:
        if not self.there:
            return "none"
        return f"at r = {self.ratio:.2f}, {self.level:.0%} interval {self.low:.2f} to {self.high:.2f}"


def find_changepoint(r: np.ndarray, loss: np.ndarray, dense: float, level: float = 0.95) -> Changepoint:
    """The change of a curve of losses at ratios above 0. InputError: fewer than six ratios, or losses that are none."""
    r, y = np.asarray(r, float), np.log(np.asarray(loss, float) / dense)
    if len(ratios := np.unique(r)) < FEWEST or ratios[0] <= 0 or not np.isfinite(y).all():
        raise InputError(f"A change takes {FEWEST} different ratios above 0 with a finite loss; this curve has {len(ratios)}.")
    places = np.linspace(ratios[1], ratios[-2], STEPS)
    squares, fits = _sums_of_squares(r, y, places)
    best = np.unravel_index(squares.argmin(), squares.shape)
    n, least = len(r), max(float(squares[best]), 1e-12)
    df = n - 4
    profile = squares.min(axis=1)
    inside = places[(profile - least) / (least / df) <= stats.f.ppf(level, 1, df)]
    a, d = (float(value) for value in fits[best])
    b, c = float(POWERS[best[1]]), float(places[best[0]])
    smooth = min(_aicc(n, _line(r, y), 1), _aicc(n, _power(r, y), 2))
    gain = smooth - _aicc(n, least, 4)
    steeper = d > a * b * c ** (b - 1)
    within = places[0] < inside.min() and inside.max() < places[-1]
    known = {"ratio": c, "low": float(inside.min()), "high": float(inside.max()), "a": a, "b": b, "d": d, "gain": float(gain)}
    return Changepoint(**known, there=bool(gain >= CLEAR and steeper and within), level=level)


def _sums_of_squares(r: np.ndarray, y: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(places, powers) sums of squares, and (places, powers, 2) the coefficients a and d that give them."""
    before = np.minimum(r, places[:, None])[:, None, :] ** POWERS[:, None]  # (places, powers, n)
    beyond = np.broadcast_to(np.maximum(r - places[:, None], 0)[:, None, :], before.shape)
    design = np.stack([before, beyond], axis=-1)
    gram = np.swapaxes(design, -1, -2) @ design + 1e-12 * np.eye(2)
    fits = np.linalg.solve(gram, (np.swapaxes(design, -1, -2) @ y)[..., None])[..., 0]
    residual = y - (design @ fits[..., None])[..., 0]
    return (residual**2).sum(axis=-1), fits


def _line(r: np.ndarray, y: np.ndarray) -> float:
    return float(((y - r * (r @ y) / (r @ r)) ** 2).sum())


def _power(r: np.ndarray, y: np.ndarray) -> float:
    columns = r ** POWERS[:, None]
    scale = (columns @ y) / (columns**2).sum(axis=1)
    return float(((y - scale[:, None] * columns) ** 2).sum(axis=1).min())


def _aicc(n: int, squares: float, coefficients: int) -> float:
    """Akaike's criterion for few points; the variance is a coefficient, too."""
    k = coefficients + 1
    return n * np.log(max(squares, 1e-12) / n) + 2 * k + 2 * k * (k + 1) / max(n - k - 1, 1)


def changepoints(curves: pd.DataFrame, by: str | list[str], level: float = 0.95) -> pd.DataFrame:
    """The change of each curve of a table (columns ratio, loss, dense, and `by`), for curves of six ratios or more.

    Columns of `by`, ratio, low, high, gain, there, points.
    """
    names, rows = [by] if isinstance(by, str) else list(by), []
    for key, own in curves.groupby(names):
        try:
            change = find_changepoint(own["ratio"].to_numpy(), own["loss"].to_numpy(), float(own["dense"].iloc[0]), level)
        except InputError:
            continue
        place = dict(zip(names, key, strict=True))
        rows.append(
            place | {name: getattr(change, name) for name in ("ratio", "low", "high", "gain", "there")} | {"points": len(own)}
        )
    return pd.DataFrame(rows, columns=[*names, "ratio", "low", "high", "gain", "there", "points"])
