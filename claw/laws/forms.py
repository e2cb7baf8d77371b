"""The forms of laws: text, parameters, scale of the response, and what enters them.

Covariates are arrays of equal length, one entry per experiment:

    r       fraction removed, on whichever axis the law is fitted
    d       recovery tokens D in millions
    dense   L0 or A0: the response of the dense model
    chance  accuracy of guessing (accuracy only)

A form says g(y) = η(θ). Its scale g decides what "linear" or "quadratic" means (a line in log L is an exponential in L) and
brings a Jacobian when forms on different scales are compared:

    identity   y                 relative   y / dense
    log        log y             retention  (y - chance) / (dense - chance)
    inverse    1 / y                logit      log p/(1-p), p = (y - chance) / (1 - chance)

Notable choices:
- log(1 + 1/(D+1)) is 0.69 at D = 0 and 1e-6 at a million: D in tokens makes γ a switch, so D counts millions.
- "anchored" forms give exactly the dense value at r = 0, D = 0. The original form gives L0^α 2^γ there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Covariates = Mapping[str, np.ndarray]
MILLION = 1e6
STEP = 1e-6


@dataclass(frozen=True)
class Form:
    """One law as text and as a function."""

    name: str
    formula: str
    coefficient_names: tuple[str, ...]
    scale: str = "identity"
    columns: Callable[[Covariates], tuple] | None = None
    """Columns of X, for a form linear in its parameters: η = offset + Xθ."""
    offset: Callable[[Covariates], np.ndarray | float] = lambda c: 0.0
    shape: Callable[..., tuple] | None = None
    """Columns g(c, shape parameters) of a form that is not linear: η = offset + Σ aᵢ gᵢ, or offset + g without amplitudes."""
    amplitudes: int = 1
    """Number of leading parameters that are amplitudes aᵢ: they are profiled out."""
    positive: bool = False
    """Whether amplitudes must not be negative."""
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    """Limits of the shape parameters; of non-linear forms only."""
    varying: tuple[str, ...] = ()
    """Parameters that may differ between models: the random slopes of a mixed model."""
    powers: tuple[int, ...] = ()
    """Powers of r, where the form is a polynomial in r alone: what a slider without Python needs."""
    needs: tuple[str, ...] = ("dense",)
    """Covariates beside r and d that must be known."""
    own: bool = False
    """A candidate of ours, judged out of sample only."""

    @property
    def linear(self) -> bool:
        """Whether η is linear in the parameters."""
        return self.columns is not None

    def design(self, covariates: Covariates) -> np.ndarray:
        """X: (points, parameters) of a linear form."""
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
        """(points, parameters): dη/dθ."""
        if self.linear:
            return self.design(covariates)
        columns = []
        for i, value in enumerate(theta):
            step = np.zeros(len(theta))
            step[i] = STEP * max(abs(value), 1e-3)
            columns.append((self.eta(covariates, theta + step) - self.eta(covariates, theta - step)) / (2 * step[i]))
        return np.column_stack(columns)


def to_scale(scale: str, y: np.ndarray, c: Covariates) -> np.ndarray:
    """g(y). NaN where a value has none (the log of what is at or below zero)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        if scale == "log":
            return np.where(y > 0, np.log(y), np.nan)
        if scale == "relative":
            return y / c["dense"]
        if scale == "retention":
            return (y - c["chance"]) / (c["dense"] - c["chance"])
        if scale == "inverse":
            return np.where(y > 0, 1 / y, np.nan)
        if scale == "logit":
            p = (y - c["chance"]) / (1 - c["chance"])
            return np.where((p > 0) & (p < 1), np.log(p / (1 - p)), np.nan)
        return np.asarray(y, float)


def from_scale(scale: str, eta: np.ndarray, c: Covariates) -> np.ndarray:
    """y from g(y)."""
    if scale == "log":
        return np.exp(eta)
    if scale == "relative":
        return eta * c["dense"]
    if scale == "retention":
        return c["chance"] + eta * (c["dense"] - c["chance"])
    if scale == "inverse":
        return 1 / np.maximum(eta, 1e-9)
    if scale == "logit":
        return c["chance"] + (1 - c["chance"]) / (1 + np.exp(-eta))
    return eta


def log_jacobian(scale: str, y: np.ndarray, c: Covariates) -> float:
    """Σ log |dg/dy|: what turns a likelihood of g(y) into one of y."""
    if scale == "log":
        return float(-np.log(y).sum())
    if scale == "relative":
        return float(-np.log(np.broadcast_to(c["dense"], np.shape(y))).sum())
    if scale == "retention":
        return float(-np.log(np.broadcast_to(c["dense"] - c["chance"], np.shape(y))).sum())
    if scale == "inverse":
        return float(-2 * np.log(y).sum())
    if scale == "logit":
        p = (y - c["chance"]) / (1 - c["chance"])
        return float(-np.log(p * (1 - p) * (1 - c["chance"])).sum())
    return 0.0
