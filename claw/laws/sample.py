"""The rows that a law across models is fitted to, on its scale; least squares on them; how good the fit is."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from claw.errors import InputError
from claw.laws import clusters, forms
from claw.laws.clusters import Clusters
from claw.laws.forms import MILLION, Covariates, Form
from claw.laws.points import RESPONSES, Points, is_dense, unrecovered
from claw.laws.working import pooled_together

ALL = "all methods"
WORKING, EVERY = "working", "every row"
"""Which rows a law is fitted to: those of methods and models that work (see `claw.laws.working`), or every one."""
FLOOR = 0.05  # of the range of an accuracy: how near to guessing, or to 1, weights follow it
NEEDED = {"chance": "chance", "size": "parameters0", "healing": "recovery tokens"}
"""What a form needs, as users know it."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Rows that a form can use, on its scale."""

    form: Form
    response: str
    axis: str
    method: str
    scope: str  # WORKING or EVERY
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
    columns = {"r": rows[axis], "d": rows["recovery_tokens"] / unit, "dense": rows.get(f"{response}0", nan)}
    columns |= {"chance": rows.get("chance", nan), "size": rows.get("parameters0", nan) / 1e9}
    return {name: column.to_numpy(float) for name, column in columns.items()}


def covariates_at(r: np.ndarray, dense: float, tokens: float, chance: float, size: float) -> dict[str, np.ndarray]:
    """Covariates of one model over r; `size` in parameters."""
    fixed = {"dense": dense, "chance": chance, "size": size / 1e9, "d": tokens / MILLION}
    return {"r": r} | {name: np.full(len(r), value, float) for name, value in fixed.items()}


@dataclass(frozen=True, kw_only=True)
class Subset:
    """The compressed experiments of a table that many forms are fitted to: one response, one axis, one method or all."""

    points: Points
    response: str
    axis: str
    method: str
    scope: str
    rows: pd.DataFrame
    covariates: Covariates
    models: np.ndarray
    single: bool  # whether all rows are of one curve

    def sample(self, form: Form) -> Sample:
        """The rows that `form` can be fitted to. InputError where there are none, or where they cannot be compared."""
        rows, column, c = self.rows, self.response, self.covariates
        if form.name.startswith("original") and column == "loss" and not self.points.one_tokenizer:
            column = "bits_per_byte"
            if column not in self.points.rows or self.points.of(self.response)[column].isna().any():
                raise InputError(
                    "The models have different tokenizers (column heldout_data), so their losses in nats per token cannot be "
                    "compared and a law with L0^α cannot pool them. Add a column bits_per_byte, use a form relative to the "
                    "dense model, or fit each apart with claw.laws.fit_each(table, by='heldout_data')."
                )
            c = {**c, "dense": rows["bits_per_byte0"].to_numpy(float)}
        y = rows[column].to_numpy(float)
        target = forms.to_scale(form.scale, y, c)
        usable = np.isfinite(np.column_stack([target, c["r"], *(c[name] for name in form.needs if name in c)])).all(axis=1)
        if "healing" in form.needs:
            usable &= c["d"] > 0
        if form.scale in ("retention", "logit"):
            usable &= c["dense"] > c["chance"]
        if not usable.any():
            needs = [self.response, self.axis, *(NEEDED.get(name, f"the dense {self.response}") for name in form.needs)]
            raise InputError(f"No row of {self.method} has all that the law {form.name} needs: {', '.join(needs)}.")
        if not usable.all():
            rows, c = rows[usable], {name: values[usable] for name, values in c.items()}
        groups, unit = self.models[usable], "model"
        if len(set(groups)) == 1:
            groups = np.array([f"run {row}" for row in rows["row"]], str) if self.single else _curve_names(rows)
            unit = "run" if self.single else "curve"
        y, target, weights = y[usable], target[usable], _weights(rows, self.response, form, c)
        fields = {name: getattr(self, name) for name in ("response", "axis", "method", "scope")}
        fields |= {"y": y, "target": target, "weights": weights, "groups": groups, "unit": unit}
        return Sample(form=form, rows=rows, covariates=c, **fields, lost=int((~usable).sum()))


def select(
    points: Points,
    response: str,
    axis: str = "ratio",
    method: str = ALL,
    *,
    scope: str = WORKING,
    recovered: bool = True,
    unit: float = MILLION,
) -> Subset:
    """Compressed experiments of a method (or all) that have the response; without recovered ones if so asked.

    `scope`: working methods and models only (of loss and accuracy), or every row. D is counted in units of `unit` tokens.
    InputError where the table lacks the response or the axis.
    """
    for column in (response, axis):
        if column not in points.rows:
            raise InputError(f"The table has no column {column}, which a law of {response} against {axis} needs.")
    rows = points.of(response, axis) if response in RESPONSES else points.rows[~is_dense(points.rows)]
    rows = rows[rows["method"] == method] if method != ALL else rows
    rows = rows if recovered else unrecovered(rows)
    everything = scope == EVERY or response not in RESPONSES  # how fast a model is does not depend on what it says
    rows = rows if everything else rows[pooled_together(rows, alone=method != ALL)]
    single = response in RESPONSES and rows["model"].nunique() == 1 and len(set(_curve_names(rows))) == 1
    if single:
        whole = unrecovered(points.of(response, axis, dense=True))
        zero = whole[is_dense(whole) & (whole["model"] == rows["model"].iloc[0])]
        rows = pd.concat([zero.head(1).assign(method=rows["method"].iloc[0]), rows])
    covariates, models = covariates_of(rows, response, axis, unit), rows["model"].to_numpy(str)
    place = {"response": response, "axis": axis, "method": method, "scope": scope}
    return Subset(points=points, **place, rows=rows, covariates=covariates, models=models, single=single)


def _curve_names(rows: pd.DataFrame) -> np.ndarray:
    """The curve of each row within its model."""
    names = (rows[name].astype(str).to_numpy(object) for name in ("method", "seed", "recovery_run"))
    return np.array(["|".join(parts) for parts in zip(*names, strict=True)], str)


def gather(points: Points, form: Form, response: str, axis: str = "ratio", method: str = ALL, **choices) -> Sample:
    """The rows of a table that `form` can be fitted to; `choices` as in `select`. InputError where there are none."""
    return select(points, response, axis, method, **choices).sample(form)


def _weights(rows: pd.DataFrame, response: str, form: Form, c: Covariates) -> np.ndarray:
    """1/stderr² on the form's scale (delta method), of mean 1, for accuracy where every row has one; else 1."""
    stderr = rows.get(f"{response}_stderr", pd.Series(np.nan, rows.index)).to_numpy(float)
    if response != "accuracy" or not (stderr > 0).all():
        return np.ones(len(rows))
    y = rows[response].to_numpy(float)
    y = y if form.scale in forms.LINEAR_SCALES else _without_noise(y, c)
    weights = 1 / (stderr * forms.derivative(form.scale, y, c)) ** 2
    return weights / weights.mean()


def _without_noise(y: np.ndarray, c: Covariates) -> np.ndarray:
    """y by a parabola in r over its dense value: a weight that follows a row's own noise would prefer lucky rows."""
    share = y / c["dense"]
    if len(y) < 4 or not np.isfinite(share).all():
        return y
    powers = c["r"][:, None] ** np.arange(3)
    smooth = powers @ np.linalg.lstsq(powers, share, rcond=None)[0] * c["dense"]
    floor = np.nan_to_num(c["chance"], nan=0.0)
    return np.clip(smooth, floor + FLOOR * (c["dense"] - floor), 1 - FLOOR * (1 - c["dense"]))


@dataclass(frozen=True, kw_only=True)
class Solution:
    """Least squares of a form on a sample."""

    sample: Sample
    kept: tuple[int, ...]  # coefficients of the form that were fitted
    notes: tuple[str, ...]  # what was dropped, in words
    theta: np.ndarray  # of those kept
    eta: np.ndarray
    design: np.ndarray  # the Jacobian of η at the sample

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the fitted coefficients."""
        return tuple(self.sample.form.coefficient_names[i] for i in self.kept)

    @property
    def every(self) -> np.ndarray:
        """All coefficients of the form, zero where one was not fitted."""
        theta = np.zeros(len(self.sample.form.coefficient_names))
        theta[list(self.kept)] = self.theta
        return theta

    @property
    def linearised(self) -> np.ndarray:
        """(rows,) the response of the linear problem that has this solution."""
        return self.sample.target - self.eta + self.design @ self.theta

    @property
    def clusters(self) -> Clusters:
        """The sums per model that inference needs."""
        return Clusters.of(self.design, self.linearised, self.sample.groups, self.sample.weights)


def solve(sample: Sample) -> Solution:
    """Least squares of the coefficients that the sample can carry. InputError: terms that cannot be told apart."""
    form, (kept, notes) = sample.form, kept_terms(sample)
    if form.linear:
        design, offset = form.design(sample.covariates)[:, list(kept)], form.offset(sample.covariates)
        clusters.inverse((sample.weights[:, None] * design).T @ design)  # refuses terms that cannot be told apart
        root = np.sqrt(sample.weights)
        theta = np.linalg.lstsq(root[:, None] * design, root * (sample.target - offset), rcond=None)[0]
        eta = offset + design @ theta
    else:
        theta = forms.variable_projection(form, sample.covariates, sample.target, sample.weights)
        eta, design = form.eta(sample.covariates, theta), form.jacobian(sample.covariates, theta)
    return Solution(sample=sample, kept=kept, notes=notes, theta=theta, eta=eta, design=design)


def kept_terms(sample: Sample) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Coefficients of the form that this sample can carry, and what was dropped, in words."""
    names = sample.form.coefficient_names
    kept = tuple(i for i, name in enumerate(names) if name not in ("γ", "g"))
    if sample.form.linear and len(kept) < len(names) and len(set(sample.covariates["d"])) == 1:
        return kept, (f"One recovery budget only: {'γ' if 'γ' in names else 'g'} is not fitted.",)
    return tuple(range(len(names))), ()


def quality(solution: Solution) -> dict[str, float]:
    """R² centred and not, errors, smearing factor, anchor error, BIC and AICc of y (Jacobian included)."""
    sample, form, c = solution.sample, solution.sample.form, solution.sample.covariates
    w, n, p, residual = sample.weights, sample.n, len(solution.theta) + 1, sample.target - solution.eta
    total = np.average((sample.target - np.average(sample.target, weights=w)) ** 2, weights=w)
    square, variance = np.average(sample.target**2, weights=w), float(np.average(residual**2, weights=w))
    predicted = forms.from_scale(form.scale, solution.eta, c)
    loglike = -n / 2 * (math.log(2 * math.pi * max(variance, 1e-300)) + 1) + 0.5 * float(np.log(w).sum())
    loglike += forms.log_jacobian(form.scale, sample.y, c)
    at_zero = {**c, "r": np.zeros(n), "d": np.zeros(n)}
    anchor = np.full(n, np.nan)
    if "healing" not in form.needs:
        anchor = forms.from_scale(form.scale, form.eta(at_zero, solution.every), at_zero) / c["dense"] - 1
    positive = (predicted > 0) & (sample.y > 0)
    log_error = np.log(sample.y[positive] / predicted[positive])
    relative = float(np.mean(np.abs(predicted / sample.y - 1))) if (sample.y > 0).all() else math.nan
    r2, r2_uncentred = (float(1 - variance / of) if of > 0 else math.nan for of in (total, square))
    rmse, rmse_log = math.sqrt(np.mean(residual**2)), math.sqrt(np.mean(log_error**2)) if positive.all() else math.nan
    smearing = float(np.average(np.exp(residual), weights=w)) if form.scale == "log" else 1.0
    aicc = 2 * p - 2 * loglike + (2 * p * (p + 1) / (n - p - 1) if n > p + 1 else math.inf)
    figures = {"r2": r2, "r2_uncentred": r2_uncentred, "rmse": rmse, "rmse_log": rmse_log, "relative_error": relative}
    figures |= {"smearing": smearing, "anchor_error": float(np.mean(np.abs(anchor)))}
    return figures | {"bic": p * math.log(n) - 2 * loglike, "loglike": loglike, "aicc": aicc}
