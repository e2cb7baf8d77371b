"""Laws of single curves, and what a curve is. Here are those that the original paper claims: least squares on y itself.

Loss is quadratic in r there and accuracy linear. `claw.laws.anchored` fits laws of loss that go through the dense model, and
`claw.laws.reading` reads a curve off without any law. A curve is one model, one method, one recovery budget; its seeds are
replicates and its dense model is the point r = 0 (of recovered curves too, unless the dense model was itself recovered with
the same recipe and budget). Its intervals are those of a regression with independent errors: they speak of this model and
this method, never of another.
"""

import html
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import stats

from claw.errors import InputError
from claw.laws import catalogue, critical
from claw.laws.clusters import variances
from claw.laws.critical import Critical
from claw.laws.evaluation_error import columns_of_errors
from claw.laws.forms import from_scale
from claw.laws.points import DENSE, Points, is_dense, unrecovered
from claw.words import html_table, number, tokens_text, training_text, with_interval

UNITS = {"loss": "nats per token", "accuracy": "fraction correct"}
KEY = ("model", "method", "recovery", "recovery_tokens", "ratio_of")
"""Columns that tell curves apart."""
NEAR, ASKED_ALIKE = 0.005, 0.02  # ratios of two seeds no farther apart are one; the second if the same one was asked for
CLAIM = {"loss": "quadratic", "accuracy": "linear"}
"""What the original paper claims of a curve."""


class CurveKey(NamedTuple):
    """What a curve is: everything but its ratios and seeds."""

    model: str
    method: str
    recovery: str = "none"
    tokens: int = 0
    ratio_of: str = "own"

    @property
    def training(self) -> str:
        """What recovered it: 1M tokens of lora; empty without recovery."""
        return training_text(self.tokens, self.recovery) if self.tokens else ""

    @property
    def apart(self) -> dict[str, Any]:
        """What tells curves of one model, method and number of tokens apart, as `Laws.predict` takes it."""
        return {"recovery": self.recovery, "ratio_of": self.ratio_of}

    @property
    def title(self) -> str:
        """For people: smollm2-135m · magnitude · lora 1M tokens."""
        axis = "" if self.ratio_of == "own" else f" · ratio of {self.ratio_of}"
        return f"{self.model} · {self.method}{axis}" + (f" · {self.recovery} {tokens_text(self.tokens)}" if self.tokens else "")


@dataclass(frozen=True, kw_only=True)
class CurveLaw:
    """A fitted law of one curve: g(y) = η(r; θ) with g the logarithm for laws that go through the dense model.

    With X the slopes of η by θ the variance of η is X Σ Xᵀ, that of a new run X Σ Xᵀ + σ²; bands are g⁻¹ of η ± t √variance.
    """

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
    start: float  # what a law through the dense model starts from: `dense`, or the dense model recovered as the curve was
    weighted: bool
    quality: Mapping[str, float]

    @property
    def quantile(self) -> float:
        """Student quantile of the bands."""
        return float(stats.t.ppf(0.5 + self.level / 2, self.df))

    @property
    def intervals(self) -> np.ndarray:
        """(coefficients, 2): interval of each coefficient."""
        half = self.quantile * np.sqrt(np.diag(self.covariance))
        return np.column_stack([self.coefficients - half, self.coefficients + half])

    def predict(self, r: Any) -> pd.DataFrame:
        """Frame over r: mean, confidence band (the law's), run band (a new run's), and whether r is beyond the fitted range."""
        r = critical.checked(r)
        form, c = catalogue.find_form(self.form), {"r": r, "dense": np.full(len(r), self.start)}
        eta, design = form.eta(c, self.coefficients), form.jacobian(c, self.coefficients)
        variance, frame = variances(design, self.covariance), {"ratio": r, "mean": from_scale(form.scale, eta, c)}
        for name, more in (("confidence", 0.0), ("run", self.sigma2)):
            half = self.quantile * np.sqrt(variance + more)
            frame |= {
                f"{name}_{edge}": from_scale(form.scale, eta + sign * half, c) for edge, sign in (("low", -1), ("high", 1))
            }
        return pd.DataFrame(frame | {"extrapolated": (r < self.low) | (r > self.high)})

    def critical_ratio(self, threshold: float) -> Critical:
        """Largest r at which a share `threshold` of the dense performance is met; see `claw.laws.critical.ratio`."""
        band = self.predict(np.linspace(0, self.high, critical.GRID))
        return critical.ratio(band, threshold, self.dense, self.response, level=self.level, title=self.curve.title)

    def _repr_html_(self) -> str:
        """Formula, coefficients with intervals, and how far the law reaches."""
        form = catalogue.find_form(self.form)
        shown = map(with_interval, self.coefficients, self.intervals)
        reach = math.isfinite(self.dense) and self.response == "loss"
        text = f"{self.level:.0%} intervals from {self.n} points between r = {self.low:g} and {self.high:g}; "
        text += f"R² {number(self.quality['r2'])}, typical error {number(self.quality['rmse'])}."
        text += f" With 10 % more loss allowed: {self.critical_ratio(1.1)}." if reach else ""
        title = html.escape(f"{self.curve.title}: {self.response} = {form.formula}")
        return f"<p>{title}</p>{html_table(zip(form.coefficient_names, shown, strict=True))}<p>{html.escape(text)}</p>"


def split(points: Points, response: str, axis: str = "ratio") -> Iterator[tuple[CurveKey, pd.DataFrame]]:
    """Each curve with its rows, the dense model among them, and of the columns those that a curve has a use for."""
    rows = points.of(response, axis, dense=True)
    columns = (*KEY, "ratio", axis, response, *columns_of_errors(response), "seed")
    rows = rows[[name for name in dict.fromkeys(columns) if name in rows]]  # joining two wide frames takes most of the time
    zeros = dict(tuple(rows[is_dense(rows)].groupby("model")))
    for (model, method, recovery, tokens, ratio_of), cut in rows[~is_dense(rows)].groupby(list(KEY), sort=True):
        curve = CurveKey(model, method, recovery, int(tokens), ratio_of)
        cut = _alike(cut, axis)
        yield curve, pd.concat([zero_rows(zeros[model], curve), cut]) if model in zeros else cut


def rows_of(points: Points, curve: CurveKey, response: str, axis: str = "ratio") -> pd.DataFrame:
    """The rows of one curve, the dense model among them."""
    rows = points.of(response, axis, dense=True)
    zeros, cut = zeros_and_cut(rows, curve)
    return pd.concat([zeros, _alike(cut, axis)])


def zeros_and_cut(rows: pd.DataFrame, curve: CurveKey) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of rows, dense models among them, those of one curve: at r = 0, and where something was removed."""
    rows = rows[rows["model"] == curve.model]
    dense, own = is_dense(rows), (rows[list(KEY)] == list(curve)).all(axis=1)
    return zero_rows(rows[dense], curve), rows[own & ~dense]


def _alike(cut: pd.DataFrame, axis: str) -> pd.DataFrame:
    """The rows of a curve, with one place on the axis for seeds that were asked for the same ratio, or reached nearly the same.

    A method that chooses its shape may reach 9.7 % with one seed and 9.9 % with another: two points of a curve that differ by
    noise alone, and whatever is drawn through both of them rises or falls steeply between.
    """
    if "seed" not in cut or cut["seed"].nunique() < 2:
        return cut
    rows = cut.sort_values(axis, kind="stable")
    place, seeds, places = 0, set[Any](), list[int]()
    before = (math.nan, math.nan)
    for asked, reached, seed in zip(rows["ratio"], rows[axis], rows["seed"], strict=True):
        near = reached - before[1] <= (ASKED_ALIKE if asked == before[0] else NEAR)
        place, seeds = (place, seeds | {seed}) if near and seed not in seeds else (place + 1, {seed})
        places.append(place)
        before = (asked, reached)
    return rows.assign(**{axis: rows.groupby(places)[axis].transform("mean")}).loc[cut.index]


def zero_rows(dense: pd.DataFrame, curve: CurveKey) -> pd.DataFrame:
    """The row(s) at r = 0 that belong to a curve: its own, else the dense model's."""
    if len(dense) <= 1:
        return dense[dense["recovery_tokens"].isin((0, curve.tokens))]
    alike = dense[(dense["recovery"] == curve.recovery) & (dense["recovery_tokens"] == curve.tokens)]
    zeros = alike if len(alike) else unrecovered(dense)
    for method in (curve.method, DENSE):
        if (zeros["method"] == method).any():
            return zeros[zeros["method"] == method]
    return zeros.head(1)


def fit_curve(
    rows: pd.DataFrame, curve: CurveKey, response: str, form: str, *, axis: str = "ratio", level: float = 0.95
) -> CurveLaw:
    """Least squares of a claimed form on one curve; accuracy is weighted by 1/stderr² where every row has one.

    InputError: too few ratios, or not more points than coefficients.
    """
    law = catalogue.find_form(form)
    k, r, y = len(law.coefficient_names), rows[axis].to_numpy(float), rows[response].to_numpy(float)
    if (ratios := len(np.unique(r))) < k or len(r) <= k:
        raise InputError(
            f"{curve.title}: {len(r)} points at {ratios} ratios cannot carry the {k} coefficients of {law.formula} and its "
            f"error. Measure at least {k + 1} ratios, r = 0 among them."
        )
    stderr = rows.get(f"{response}_stderr", pd.Series(np.nan, rows.index)).to_numpy(float)
    weighted = response == "accuracy" and bool((stderr > 0).all())
    weights = np.mean(stderr**2) / stderr**2 if weighted else np.ones(len(r))
    fitted = sm.WLS(y, law.design({"r": r}), weights=weights).fit()
    residual = y - fitted.fittedvalues
    total = np.average((y - np.average(y, weights=weights)) ** 2, weights=weights)
    # statsmodels' AIC counts k coefficients and not the variance: 1 moves the count to k + 1, the rest is AICc's correction
    correction = 1 + (k + 1) * (k + 2) / (len(r) - k - 2) if len(r) > k + 2 else math.inf
    r2 = float(1 - np.average(residual**2, weights=weights) / total) if total > 0 else math.nan
    relative_error = float(np.mean(np.abs(residual) / y)) if (y > 0).all() else math.nan
    quality = {"r2": r2, "rmse": float(np.sqrt(np.mean(residual**2))), "relative_error": relative_error}
    quality |= {"bic": float(fitted.bic), "aicc": float(fitted.aic + 2 * correction)}
    fields: dict[str, Any] = {"curve": curve, "response": response, "axis": axis, "form": form, "level": level}
    fields |= {"coefficients": fitted.params, "covariance": fitted.cov_params()}
    fields |= {"sigma2": float(fitted.scale), "df": float(fitted.df_resid)}
    fields |= dict.fromkeys(("dense", "start"), float(rows[f"{response}0"].iloc[0]))
    return CurveLaw(**fields, n=len(r), low=float(r.min()), high=float(r.max()), weighted=weighted, quality=quality)
