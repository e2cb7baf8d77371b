"""Nonlinear least squares by variable projection (Golub and Pereyra 1973) from many starts; the best optimum is kept."""

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import qmc

from claw.errors import InputError
from claw.laws.forms import Covariates, Form

GRID = {1: 64, 2: 20}
"""Starts along each shape coefficient, by the number of them; the best start is polished."""
SOBOL, POLISHED = 256, 4
"""Starts where there are more shape coefficients, a Sobol sequence; and how many of them are polished."""
AMPLITUDE = 1e3
RIDGE = 1e-9


def variable_projection(form: Form, covariates: Covariates, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Coefficients with the least squared error within the form's limits.

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

    def residual(theta: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.nan_to_num(root * (form.eta(covariates, theta) - target), nan=1e6, posinf=1e6, neginf=-1e6)

    def slope(theta: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.nan_to_num(root[:, None] * form.jacobian(covariates, theta), nan=0.0, posinf=1e6, neginf=-1e6)

    for i in order:
        start = np.clip(np.append(tops[i], shapes[i]), low + 1e-9, high - 1e-9)
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
    n, limits = GRID[len(form.low)], zip(form.low, form.high, strict=True)
    axes = [np.geomspace(low, high, n) if low > 0 else np.linspace(low, high, n) for low, high in limits]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
