"""The rows that a law across models is fitted to, on its scale; least squares on them; how good the fit is."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import statsmodels.api as sm

from claw.errors import InputError
from claw.laws import clusters, forms, nonlinear
from claw.laws.forms import MILLION, Covariates, Form
from claw.laws.points import RESPONSES, Points, is_dense

ALL = "all methods"


@dataclass(frozen=True)
class Sample:
    """Rows that a form can use, on its scale."""

    rows: pd.DataFrame  # of the whole table of which this is a sample
    covariates: Covariates
    y: np.ndarray
    target: np.ndarray
    weights: np.ndarray
    groups: np.ndarray
    unit: str  # what the groups are: model; curve with one model only; run with one curve only
    lost: int  # rows whose value has no place on this scale

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.y)

    def take(self, mask: np.ndarray) -> "Sample":
        """Some of the rows; `rows` itself stays whole, because slicing a frame costs more than a fit."""
        covariates = {name: values[mask] for name, values in self.covariates.items()}
        arrays = {name: getattr(self, name)[mask] for name in ("y", "target", "weights", "groups")}
        return replace(self, covariates=covariates, **arrays)


def covariates_of(rows: pd.DataFrame, response: str, axis: str, unit: float = MILLION) -> dict[str, np.ndarray]:
    """Covariates of rows; D counted in units of `unit` tokens."""
    nan = pd.Series(np.nan, rows.index)
    found = {"r": rows[axis], "d": rows["recovery_tokens"] / unit, "dense": rows.get(f"{response}0", nan)}
    found |= {"chance": rows.get("chance", nan), "size": rows.get("parameters0", nan) / 1e9}
    return {name: column.to_numpy(float) for name, column in found.items()}


def select(points: Points, response: str, axis: str = "ratio", method: str = ALL, recovered: bool = True) -> pd.DataFrame:
    """Compressed experiments of a method (or all) that have the response; without recovered ones if so asked."""
    rows = points.of(response, axis) if response in RESPONSES else points.rows[~is_dense(points.rows)]
    if method != ALL:
        rows = rows[rows["method"] == method]
    return rows if recovered else rows[rows["recovery_tokens"] == 0]


def _curve_names(rows: pd.DataFrame) -> np.ndarray:
    """Curve of each row within its model."""
    names = (rows[name].astype(str).to_numpy(object) for name in ("method", "seed", "recovery_run"))
    return np.array(["|".join(parts) for parts in zip(*names, strict=True)], str)


def _selected(
    points: Points, response: str, column: str, axis: str, method: str, recovered: bool, unit: float
) -> tuple[pd.DataFrame, dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Rows of a selection, their covariates, models and curves; computed once for a table."""
    key = (response, column, axis, method, recovered, unit)
    if key not in points.selected:
        rows = select(points, response, axis, method, recovered)
        curves = _curve_names(rows)
        if len(rows) and len(set(curves)) == 1 and rows["model"].nunique() == 1 and response in RESPONSES:
            whole = points.of(response, axis, dense=True)
            zero = whole[is_dense(whole) & (whole["model"] == rows["model"].iloc[0]) & (whole["recovery_tokens"] == 0)]
            rows = pd.concat([zero.head(1).assign(method=rows["method"].iloc[0]), rows])
            curves = np.array([f"run {row}" for row in rows["row"]], str)
        points.selected[key] = rows, covariates_of(rows, column, axis, unit), rows["model"].to_numpy(str), curves
    return points.selected[key]


def gather(
    points: Points,
    form: Form,
    response: str,
    axis: str = "ratio",
    method: str = ALL,
    *,
    recovered: bool = True,
    unit: float = MILLION,
) -> Sample:
    """The rows of a table that `form` can be fitted to. InputError where there are none, or where they do not compare."""
    column = response
    if response not in points.rows or axis not in points.rows:
        gone = axis if response in points.rows else response
        raise InputError(f"The table has no column {gone}, which the law {form.name} of {response} against {axis} needs.")
    if form.name.startswith("original") and response == "loss" and not points.one_tokenizer:
        column = "bits_per_byte"
        if column not in points.rows or points.of(response)[column].isna().any():
            raise InputError(
                "The models have different tokenizers (column heldout_data), so their losses in nats per token do not compare "
                "and a law with L0^α cannot pool them. Add a column bits_per_byte, use a form relative to the dense model, or "
                "fit each apart with claw.laws.fit_each(table, by='heldout_data')."
            )
    rows, c, groups, curves = _selected(points, response, column, axis, method, recovered, unit)
    y = rows[column].to_numpy(float)
    target = forms.to_scale(form.scale, y, c)
    usable = np.isfinite(np.column_stack([target, c["r"], *(c[name] for name in form.needs if name in c)])).all(axis=1)
    if "healing" in form.needs:
        usable &= c["d"] > 0
    if form.scale in ("retention", "logit"):
        usable &= c["dense"] > c["chance"]
    if not usable.any():
        names = {"dense": f"the dense {response}", "chance": "chance", "size": "parameters0", "healing": "recovery tokens"}
        needs = ", ".join([response, axis, *(names[name] for name in form.needs)])
        raise InputError(f"No row of {method} has all that the law {form.name} needs: {needs}.")
    if not usable.all():
        rows, c = rows[usable], {name: values[usable] for name, values in c.items()}
        groups, curves = groups[usable], curves[usable]
    one = len(set(groups)) == 1
    groups = curves if one else groups
    weights, lost = _weights(rows, response, form, c), int((~usable).sum())
    unit = "model" if not one else "run" if groups[0].startswith("run ") else "curve"
    return Sample(rows, c, y[usable], target[usable], weights, groups, unit, lost)


def _weights(rows: pd.DataFrame, response: str, form: Form, c: Covariates) -> np.ndarray:
    """1/stderr² on the form's scale, of mean 1, for accuracy where every row has one; else 1."""
    stderr = rows.get(f"{response}_stderr", pd.Series(np.nan, rows.index)).to_numpy(float)
    if response != "accuracy" or not (stderr > 0).all():
        return np.ones(len(rows))
    if form.scale == "retention":
        stderr = stderr / (c["dense"] - c["chance"])
    if form.scale == "logit":
        p = (rows[response].to_numpy(float) - c["chance"]) / (1 - c["chance"])
        stderr = stderr / (p * (1 - p) * (1 - c["chance"]))
    weights = 1 / stderr**2
    return weights / weights.mean()


def solve_form(form: Form, found: Sample, kept: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least-squares coefficients, η and its Jacobian at the sample, for the parameters `kept`."""
    if form.linear:
        design = form.design(found.covariates)[:, list(kept)]
        clusters.inverse((found.weights[:, None] * design).T @ design)  # refuses terms that cannot be told apart
        fitted = sm.WLS(found.target - form.offset(found.covariates), design, weights=found.weights).fit()
        return fitted.params, form.offset(found.covariates) + fitted.fittedvalues, design
    theta = nonlinear.variable_projection(form, found.covariates, found.target, found.weights)
    return theta, form.eta(found.covariates, theta), form.jacobian(found.covariates, theta)


def kept_terms(form: Form, found: Sample) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Parameters of a form that this sample can carry, and what was dropped, in words."""
    every = tuple(range(len(form.coefficient_names)))
    recovery = [i for i in every if form.coefficient_names[i] in ("γ", "g")]
    if form.linear and recovery and len(set(found.covariates["d"])) == 1:
        name = form.coefficient_names[recovery[0]]
        return tuple(i for i in every if i not in recovery), (f"One recovery budget only: {name} is not fitted.",)
    return every, ()


def quality(form: Form, found: Sample, theta: np.ndarray, kept: tuple[int, ...], eta: np.ndarray) -> dict[str, float]:
    """R² centred and not, errors, smearing factor, anchor error, BIC and AICc of y (Jacobian included)."""
    w, residual = found.weights, found.target - eta
    total = np.average((found.target - np.average(found.target, weights=w)) ** 2, weights=w)
    predicted = forms.from_scale(form.scale, eta, found.covariates)
    n, p = found.n, len(theta) + 1
    variance = float(np.average(residual**2, weights=w))
    loglike = -n / 2 * (math.log(2 * math.pi * max(variance, 1e-300)) + 1) + 0.5 * float(np.log(w).sum())
    loglike += forms.log_jacobian(form.scale, found.y, found.covariates)
    full = np.zeros(len(form.coefficient_names))
    full[list(kept)] = theta
    at_zero = {**found.covariates, "r": np.zeros(n), "d": np.zeros(n)}
    anchor = np.nan
    if "healing" not in form.needs:
        anchor = forms.from_scale(form.scale, form.eta(at_zero, full), at_zero) / found.covariates["dense"] - 1
    positive = (predicted > 0) & (found.y > 0)
    log_error = np.log(found.y[positive] / predicted[positive])
    return {
        "r2": float(1 - variance / total) if total > 0 else math.nan,
        "r2_uncentred": float(1 - variance / square) if (square := np.average(found.target**2, weights=w)) > 0 else math.nan,
        "rmse": math.sqrt(np.mean(residual**2)), "rmse_log": math.sqrt(np.mean(log_error**2)) if positive.all() else math.nan,
        "relative_error": float(np.mean(np.abs(predicted / found.y - 1))) if (found.y > 0).all() else math.nan,
        "smearing": float(np.average(np.exp(residual), weights=w)) if form.scale == "log" else 1.0,
        "anchor_error": float(np.mean(np.abs(anchor))), "bic": p * math.log(n) - 2 * loglike, "loglike": loglike,
        "aicc": 2 * p - 2 * loglike + (2 * p * (p + 1) / (n - p - 1) if n > p + 1 else math.inf),
    }  # fmt: skip
