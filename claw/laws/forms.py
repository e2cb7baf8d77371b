"""The forms of laws: formula, coefficients, the scale of the response, covariates; and nonlinear least squares of a form.

Covariates are arrays of equal length, one entry per experiment:

    r       fraction removed, on whichever axis the law is fitted
    d       recovery tokens D in millions
    dense   L0 or A0: the response of the dense model
    chance  accuracy of guessing (accuracy only)

A form says g(y) = η(θ). Its scale g decides what "linear" or "quadratic" means (a line in log L is an exponential in L), and
likelihoods on different scales are compared through its Jacobian:

    identity   y                 relative   y / dense
    log        log y             retention  (y - chance) / (dense - chance)
    inverse    1 / y                logit      log p/(1-p), p = (y - chance) / (1 - chance)

Notable choices:
- log(1 + 1/(D+1)) is 0.69 at D = 0 and 1e-6 at a million: D in tokens makes γ a switch, so D counts millions.
- "anchored" forms give exactly the dense value at r = 0, D = 0. The original form gives L0^α 2^γ there.
"""

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import qmc

from claw.errors import InputError

Covariates = Mapping[str, np.ndarray]
MILLION = 1e6
STEP = 1e-6
GRID = {1: 64, 2: 20}
"""Starts along each shape coefficient, by the number of them; the best start is polished."""
SOBOL, POLISHED = 256, 4
"""Starts where there are more shape coefficients, a Sobol sequence; and how many of them are polished."""
ROUNDS = 3
AMPLITUDE = 1e3
RIDGE = 1e-9


@dataclass(frozen=True)
class Form:
    """One law as text and as a function."""

    name: str
    formula: str
    coefficient_names: tuple[str, ...]
    scale: str = "identity"
    _: KW_ONLY
    columns: Callable[[Covariates], tuple] = lambda c: ()  # of X, for a form linear in its coefficients: η = offset + Xθ
    offset: Callable[[Covariates], Any] = lambda c: 0.0
    shape: Callable[..., tuple] = lambda c, *theta: ()  # gᵢ of a nonlinear form: η = offset + Σ aᵢ gᵢ(c, shape coefficients)
    amplitudes: int = 1  # leading coefficients aᵢ, which variable projection solves for; with none η = offset + g
    positive: bool = False  # whether amplitudes must not be negative
    low: tuple[float, ...] = ()  # limits of the shape coefficients; of nonlinear forms only
    high: tuple[float, ...] = ()
    varying: tuple[str, ...] = ()  # coefficients that may differ between models: the random slopes of a mixed model
    powers: tuple[int, ...] = ()  # of r, where the form is a polynomial in r alone: what a slider without Python needs
    needs: tuple[str, ...] = ("dense",)  # covariates beside r and d that must be known
    group: str = ""  # its set of forms; see `claw.laws.catalogue`

    @property
    def linear(self) -> bool:
        """Whether η is linear in the coefficients."""
        return not self.low

    def design(self, covariates: Covariates) -> np.ndarray:
        """X: (points, coefficients) of a linear form."""
        n = np.shape(covariates["r"])
        return np.column_stack([np.broadcast_to(column, n).astype(float) for column in self.columns(covariates)])

    def eta(self, covariates: Covariates, theta: np.ndarray) -> np.ndarray:
        """Prediction on the form's own scale."""
        if self.linear:
            return self.offset(covariates) + self.design(covariates) @ theta
        with np.errstate(divide="ignore", invalid="ignore"):  # a curve's own r = 0, or D = 0, where a form has no value
            columns = self.shape(covariates, *theta[self.amplitudes :])
        tops = theta[: self.amplitudes] if self.amplitudes else (1.0,)
        return self.offset(covariates) + sum(top * column for top, column in zip(tops, columns, strict=True))

    def jacobian(self, covariates: Covariates, theta: np.ndarray) -> np.ndarray:
        """(points, coefficients): dη/dθ."""
        if self.linear:
            return self.design(covariates)
        steps, eta = np.diag(STEP * np.maximum(np.abs(theta), 1e-3)), partial(self.eta, covariates)
        return np.column_stack([(eta(theta + step) - eta(theta - step)) / (2 * step.sum()) for step in steps])


LINEAR_SCALES: Mapping[str, Callable[[Covariates], tuple[Any, Any]]] = {
    "identity": lambda c: (0.0, 1.0),
    "relative": lambda c: (0.0, c["dense"]),
    "retention": lambda c: (c["chance"], c["dense"] - c["chance"]),
}
"""Zero and unit of the scales that are linear in y: g(y) = (y - zero) / unit."""


def to_scale(scale: str, y: np.ndarray, c: Covariates) -> np.ndarray:
    """g(y). NaN where a value has none (the log of what is at or below zero)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        if scale == "log":
            return np.where(y > 0, np.log(y), np.nan)
        if scale == "inverse":
            return np.where(y > 0, 1 / y, np.nan)
        if scale == "logit":
            p = (y - c["chance"]) / (1 - c["chance"])
            return np.where((p > 0) & (p < 1), np.log(p / (1 - p)), np.nan)
        zero, unit = LINEAR_SCALES[scale](c)
        return (y - zero) / unit


def from_scale(scale: str, eta: np.ndarray, c: Covariates) -> np.ndarray:
    """y from g(y); infinite where it is too large for a float."""
    with np.errstate(over="ignore"):
        if scale == "log":
            return np.exp(eta)
        if scale == "inverse":
            return 1 / np.maximum(eta, 1e-9)
        if scale == "logit":
            return c["chance"] + (1 - c["chance"]) / (1 + np.exp(-eta))
        zero, unit = LINEAR_SCALES[scale](c)
        return zero + eta * unit


def derivative(scale: str, y: np.ndarray, c: Covariates) -> np.ndarray:
    """|dg/dy|: times a standard error of y it gives one of g(y) (delta method), times a likelihood of g(y) one of y."""
    with np.errstate(invalid="ignore", divide="ignore"):
        if scale in ("log", "inverse"):
            return 1 / y if scale == "log" else 1 / y**2
        if scale == "logit":
            p = (y - c["chance"]) / (1 - c["chance"])
            return 1 / (p * (1 - p) * (1 - c["chance"]))
        return 1 / np.abs(np.broadcast_to(LINEAR_SCALES[scale](c)[1], np.shape(y)))


def log_jacobian(scale: str, y: np.ndarray, c: Covariates) -> float:
    """Σ log |dg/dy|: what turns a likelihood of g(y) into one of y."""
    return float(np.log(derivative(scale, y, c)).sum())


def variable_projection(form: Form, covariates: Covariates, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Coefficients of a nonlinear form with the least squared error within its limits (Golub and Pereyra 1973).

    Every start over the shape coefficients has its best amplitudes in closed form; the best starts are polished by trust-region
    least squares. InputError if none converges.
    """
    shapes, left = _starts(form), target - form.offset(covariates)
    # equal points as one: their weighted mean with their summed weight has the same least-squares solution
    keys = np.column_stack([np.nan_to_num(covariates[name], nan=-1.0) for name in ("r", "d", "size")])
    _, first, index = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    total = np.bincount(index.ravel(), weights)
    left, weights = np.bincount(index.ravel(), weights * left) / total, total
    covariates = {name: values[first] for name, values in covariates.items()}
    target = left + form.offset(covariates)
    tops, cost = _profile(form, covariates, left, weights, shapes)
    order = np.argsort(np.nan_to_num(cost, nan=np.inf), kind="stable")[: 1 if len(form.low) in GRID else POLISHED]
    floor = 0.0 if form.positive else -AMPLITUDE
    low = np.array([floor] * form.amplitudes + list(form.low), float)
    high = np.array([AMPLITUDE] * form.amplitudes + list(form.high), float)
    root, best = np.sqrt(weights), None

    finite = partial(np.nan_to_num, posinf=1e6, neginf=-1e6)
    residual = lambda theta: finite(root * (form.eta(covariates, theta) - target), nan=1e6)
    slope = lambda theta: finite(root[:, None] * form.jacobian(covariates, theta), nan=0.0)
    for i in order:
        start = np.clip(np.append(tops[i], shapes[i]), low + 1e-9, high - 1e-9)
        with np.errstate(all="ignore"):
            fitted = least_squares(residual, start, slope, bounds=(low, high), x_scale="jac", max_nfev=200)
        if fitted.success and (best is None or fitted.cost < best.cost * (1 - 1e-9)):
            best = fitted
    if best is None:
        raise InputError(f"{form.name} ({form.formula}) did not converge from any start on {len(target)} points.")
    return best.x


def _profile(form: Form, covariates: Covariates, left: np.ndarray, weights: np.ndarray, shapes: np.ndarray):
    """(starts, amplitudes) best amplitudes and (starts,) squared error for each row of shape coefficients."""
    c = {name: values[None, :] for name, values in covariates.items()}
    with np.errstate(all="ignore"):
        g = np.stack([np.broadcast_to(x, (len(shapes), len(left))) for x in form.shape(c, *shapes.T[:, :, None])], axis=-1)
        g = np.nan_to_num(g, nan=1e6, posinf=1e6, neginf=-1e6)
        if not form.amplitudes:
            return np.empty((len(shapes), 0)), (weights * (left - g[..., 0]) ** 2).sum(axis=1)
        gram, cross = np.einsum("snp,n,snq->spq", g, weights, g), np.einsum("snp,n,n->sp", g, weights, left)
        scale = np.sqrt(np.einsum("spp->sp", gram)) + 1e-300
        gram = gram / (scale[:, :, None] * scale[:, None, :]) + RIDGE * np.eye(form.amplitudes)
        tops = np.linalg.solve(gram, (cross / scale)[..., None])[..., 0] / scale
        tops = np.clip(tops, 0.0 if form.positive else -AMPLITUDE, AMPLITUDE)
        return tops, (weights * (left - np.einsum("snp,sp->sn", g, tops)) ** 2).sum(axis=1)


def _starts(form: Form) -> np.ndarray:
    """(starts, shape coefficients) inside the limits: a regular grid, even in the logarithm where they are positive."""
    if len(form.low) not in GRID:
        return qmc.scale(qmc.Sobol(len(form.low), rng=np.random.default_rng(0)).random(SOBOL), form.low, form.high)
    return _grid(np.array(form.low, float), np.array(form.high, float), GRID[len(form.low)])


def _grid(low: np.ndarray, high: np.ndarray, count: int) -> np.ndarray:
    """(count^k, k) points of a regular grid, even in the logarithm where limits are positive."""
    limits = zip(low, high, strict=True)
    axes = [np.geomspace(a, b, count) if a > 0 else np.linspace(a, b, count) for a, b in limits]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def quick_projection(form: Form, r: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Coefficients of a form of y/y0 in r alone, by grids: `ROUNDS` of them, each around the best point of the one before.

    As good as `variable_projection` to a thousandth of the range of a coefficient, at a tenth of its time.
    """
    c = {"r": r} | dict.fromkeys(("d", "size", "chance"), np.zeros(len(r))) | {"dense": np.ones(len(r))}
    if form.linear:
        root = np.sqrt(weights)
        return np.linalg.lstsq(root[:, None] * form.design(c), root * (y - form.offset(c)), rcond=None)[0]
    low, high = np.array(form.low, float), np.array(form.high, float)
    count = GRID[len(form.low)]
    for _ in range(ROUNDS):
        shapes = _grid(low, high, count)
        tops, cost = _profile(form, c, y - form.offset(c), weights, shapes)
        best = int(np.argmin(np.nan_to_num(cost, nan=np.inf)))
        step = (high / low) ** (1 / (count - 1)) if (low > 0).all() else (high - low) / (count - 1)
        around = (shapes[best] / step, shapes[best] * step) if (low > 0).all() else (shapes[best] - step, shapes[best] + step)
        low, high = np.maximum(low, around[0]), np.minimum(high, around[1])
    return np.append(tops[best], shapes[best])
