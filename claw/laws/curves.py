"""Laws of single curves: loss quadratic in r, accuracy linear in r, by ordinary or weighted least squares.

A curve is one model, one method, one recovery budget; its seeds are replicates and its dense model is the point r = 0 (of
recovered curves too, unless the dense model was itself recovered with the same recipe and budget). Its intervals are those
of a regression with independent errors: they speak of this model and this method, never of another.
"""

import html
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import stats

from claw.errors import InputError
from claw.laws import catalogue, critical
from claw.laws.critical import Critical
from claw.laws.points import DENSE, Points, is_dense
from claw.words import number, tokens_text, with_interval

UNITS = {"loss": "nats per token", "accuracy": "fraction correct"}
KEY = ("model", "method", "recovery", "recovery_tokens", "ratio_of")
"""Columns that tell curves apart."""
DEFAULT = {"loss": "quadratic", "accuracy": "linear"}


class CurveKey(NamedTuple):
    """What a curve is: everything but its ratios and seeds."""

    model: str
    method: str
    recovery: str = "none"
    tokens: int = 0
    ratio_of: str = "own"

    @property
    def title(self) -> str:
        """For people: smollm2-135m · magnitude · lora 1M tokens."""
        axis = "" if self.ratio_of == "own" else f" · ratio of {self.ratio_of}"
        return f"{self.model} · {self.method}{axis}" + (f" · {self.recovery} {tokens_text(self.tokens)}" if self.tokens else "")


@dataclass(frozen=True)
class CurveLaw:
    """A fitted law of one curve. y(r) = X(r) θ, variance of the mean X Σ Xᵀ, of a new run X Σ Xᵀ + σ²."""

    curve: CurveKey
    response: str
    axis: str
    form: str
    coefficients: np.ndarray
    covariance: np.ndarray
    sigma2: float
    df: float
    level: float
    n: int
    low: float
    high: float
    dense: float
    weighted: bool
    quality: Mapping[str, float] = field(default_factory=dict)

    @property
    def quantile(self) -> float:
        """Student quantile of the bands."""
        return float(stats.t.ppf(0.5 + self.level / 2, self.df))

    @property
    def intervals(self) -> np.ndarray:
        """(parameters, 2): interval of each coefficient."""
        half = self.quantile * np.sqrt(np.diag(self.covariance))
        return np.column_stack([self.coefficients - half, self.coefficients + half])

    def predict(self, r: Any) -> pd.DataFrame:
        """Frame over r: mean, confidence band (the law's), run band (a new run's), and whether r is beyond the fitted range."""
        r = critical.checked(r)
        design = catalogue.find_form(self.form).design({"r": r})
        mean = design @ self.coefficients
        variance = np.einsum("ij,jk,ik->i", design, self.covariance, design)
        half, run = self.quantile * np.sqrt(variance), self.quantile * np.sqrt(variance + self.sigma2)
        return pd.DataFrame({
            "ratio": r, "mean": mean, "confidence_low": mean - half, "confidence_high": mean + half,
            "run_low": mean - run, "run_high": mean + run, "extrapolated": (r < self.low) | (r > self.high),
        })  # fmt: skip

    def critical_ratio(self, threshold: float) -> Critical:
        """Largest r with loss ≤ threshold × L0 (threshold ≥ 1), or accuracy ≥ threshold × A0 (threshold ≤ 1).

        The interval holds every r at which the confidence band covers the target, which is Fieller's interval.
        """
        band = self.predict(np.linspace(0, self.high, critical.GRID))
        return critical.ratio(band, threshold, self.dense, self.response, self.level, self.curve.title)

    def _repr_html_(self) -> str:
        return curve_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, unrounded."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain.update(curve=self.curve._asdict(), coefficients=self.coefficients.tolist(), covariance=self.covariance.tolist())
        return plain | {"quality": dict(self.quality)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "CurveLaw":
        """The law that `to_dict` wrote."""
        arrays = {name: np.asarray(plain[name], float) for name in ("coefficients", "covariance")}
        return cls(**{**plain, **arrays, "curve": CurveKey(**plain["curve"])})


def split(points: Points, response: str, axis: str = "ratio") -> Iterator[tuple[CurveKey, pd.DataFrame]]:
    """Each curve with its rows, the dense model among them."""
    rows = points.of(response, axis, dense=True)
    zeros = dict(tuple(rows[is_dense(rows)].groupby("model")))
    for key, found in rows[~is_dense(rows)].groupby(list(KEY), sort=True):
        model, method, recovery, tokens, ratio_of = key
        curve = CurveKey(model, method, recovery, int(tokens), ratio_of)
        yield curve, pd.concat([_zero(zeros[model], curve), found]) if model in zeros else found


def rows_of(points: Points, curve: CurveKey, response: str, axis: str = "ratio") -> pd.DataFrame:
    """The rows of one curve, the dense model among them."""
    rows = points.of(response, axis, dense=True)
    rows = rows[rows["model"] == curve.model]
    dense, cut = is_dense(rows), pd.Series(True, rows.index)
    for name, value in zip(KEY, curve, strict=True):
        cut &= rows[name] == value
    return pd.concat([_zero(rows[dense], curve), rows[cut & ~dense]])


def _zero(dense: pd.DataFrame, curve: CurveKey) -> pd.DataFrame:
    """The row(s) at r = 0 that belong to a curve: its own, else the dense model's."""
    if len(dense) <= 1:
        return dense[dense["recovery_tokens"].isin((0, curve.tokens))]
    alike = dense[(dense["recovery"] == curve.recovery) & (dense["recovery_tokens"] == curve.tokens)]
    found = alike if len(alike) else dense[dense["recovery_tokens"] == 0]
    own = found[found["method"] == curve.method]
    return own if len(own) else found[found["method"] == DENSE] if (found["method"] == DENSE).any() else found.head(1)


def fit_curve(
    rows: pd.DataFrame, curve: CurveKey, response: str, form: str, axis: str = "ratio", level: float = 0.95
) -> CurveLaw:
    """Least squares of one form on one curve; accuracy is weighted by 1/stderr² where every row has one.

    InputError: one ratio only, or not more points than parameters.
    """
    law = catalogue.find_form(form)
    r, y = rows[axis].to_numpy(float), rows[response].to_numpy(float)
    if len(np.unique(r)) <= len(law.coefficient_names) - 1 or len(r) <= len(law.coefficient_names):
        raise InputError(
            f"{curve.title}: {len(r)} points at {len(np.unique(r))} ratios cannot carry the {len(law.coefficient_names)} parameters "
            f"of {law.formula} and its error. Measure at least {len(law.coefficient_names) + 1} ratios, r = 0 among them."
        )
    stderr = rows.get(f"{response}_stderr", pd.Series(np.nan, rows.index)).to_numpy(float)
    weighted = response == "accuracy" and bool((stderr > 0).all())
    weights = np.mean(stderr**2) / stderr**2 if weighted else np.ones(len(r))
    fitted = sm.WLS(y, law.design({"r": r}), weights=weights).fit()
    residual = y - fitted.fittedvalues
    total = np.average((y - np.average(y, weights=weights)) ** 2, weights=weights)
    dense = float(rows[f"{response}0"].iloc[0])
    return CurveLaw(
        curve, response, axis, form, fitted.params, fitted.cov_params(), float(fitted.scale), float(fitted.df_resid), level,
        n=len(r), low=float(r.min()), high=float(r.max()), dense=dense, weighted=weighted,
        quality={
            "r2": float(1 - np.average(residual**2, weights=weights) / total) if total > 0 else math.nan,
            "rmse": float(np.sqrt(np.mean(residual**2))),
            "relative_error": float(np.mean(np.abs(residual) / y)) if (y > 0).all() else math.nan,
            "bic": float(fitted.bic), "aicc": float(fitted.aic + 2 * _penalty(len(law.coefficient_names) + 1, len(r))),
        },
    )  # fmt: skip


def _penalty(k: int, n: int) -> float:
    """Half of AICc's correction of AIC, with statsmodels' count of k - 1 parameters moved to k; infinite without room."""
    return 1 + k * (k + 1) / (n - k - 1) if n > k + 1 else math.inf


def curve_html(law: CurveLaw) -> str:
    """One curve's law for a notebook: formula, coefficients with intervals, and how far it reaches."""
    form = catalogue.find_form(law.form)
    rows = "".join(
        f"<tr><th>{name}</th><td>{with_interval(value, interval)}</td></tr>"
        for name, value, interval in zip(form.coefficient_names, law.coefficients, law.intervals, strict=True)
    )
    reach = (
        "" if math.isnan(law.dense) or law.response != "loss" else f" With 10 % more loss allowed: {law.critical_ratio(1.1)}."
    )
    return (
        f"<p>{html.escape(law.curve.title)}: {law.response} = {html.escape(form.formula)}</p><table>{rows}</table><p>"
        f"{law.level:.0%} intervals from {law.n} points between r = {law.low:g} and {law.high:g}; R² {number(law.quality['r2'])}, "
        f"typical error {number(law.quality['rmse'])}.{html.escape(reach)}</p>"
    )
