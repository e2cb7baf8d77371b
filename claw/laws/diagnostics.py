"""Can a law's fit be trusted? Residuals, heteroscedasticity, influence of each model, identifiability; and sensitivity.

`diagnose` computes everything that `claw.figures.diagnostic_panels` draws. `sensitivity` refits one law under other
choices: the unit of D, without the collapse beyond r = 0.7, robust weights, the true ratio.
"""

import math
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.diagnostic import het_breuschpagan, het_white

from claw.errors import InputError
from claw.laws import catalogue, clusters
from claw.laws.clusters import Clusters
from claw.laws.forms import Form
from claw.laws.points import Points
from claw.laws.sample import ALL, Sample, Solution, gather, kept_terms, solve

COLLAPSE = 0.7
UNITS = {"tokens": 1.0, "thousands": 1e3, "billions": 1e9}


@dataclass(frozen=True)
class Diagnostics:
    """What can be said against a fit.

    `residuals`: one row per experiment (model, method, ratio, fitted, residual, standardised, normal quantile), on the form's
    scale. `influence`: each coefficient refitted without each model, in standard errors of the full fit. `coefficients`: what
    each coefficient rests on. `tests`: heteroscedasticity and normality p-values, condition number.
    """

    residuals: pd.DataFrame
    influence: pd.DataFrame
    coefficients: pd.DataFrame
    tests: dict[str, float]


def diagnose(points: Points, form: Form, response: str, axis: str = "ratio", method: str = ALL) -> Diagnostics:
    """Diagnostics of one law across models."""
    solution = solve(gather(points, form, response, axis, method))
    sample, sums = solution.sample, solution.clusters
    root = np.sqrt(sample.weights)
    residual, design = root * (sample.target - solution.eta), root[:, None] * solution.design
    influence, coefficients = _influence(sums, solution.names), _coefficients(sums, solution)
    return Diagnostics(_residuals(solution, residual, design), influence, coefficients, _tests(residual, design))


def _residuals(solution: Solution, residual: np.ndarray, design: np.ndarray) -> pd.DataFrame:
    leverage = (
        sm.OLS(residual, design).fit().get_influence().hat_matrix_diag
    )  # the residual is orthogonal to the design already
    scale = math.sqrt(max((residual**2).sum() / max(1, len(residual) - design.shape[1]), 1e-300))
    standard = residual / (scale * np.sqrt(np.maximum(1 - leverage, 1e-9)))
    rank = stats.rankdata(standard, method="ordinal")
    normal = stats.norm.ppf((rank - 0.5) / len(rank))
    rows = solution.sample.rows[["model", "family", "method", "ratio", "recovery_tokens"]].reset_index(drop=True)
    columns = {"fitted": solution.eta, "residual": residual, "standardised": standard, "normal": normal, "leverage": leverage}
    return rows.assign(**columns)


def _influence(sums: Clusters, names: tuple[str, ...]) -> pd.DataFrame:
    """Refits without each model; NaN where the rest cannot carry the law."""
    columns, rows = ["without", "coefficient", "estimate", "change", "in_stderr"], []
    if len(sums.names) < 2:
        return pd.DataFrame(columns=columns)
    full, error = sums.coefficients, np.sqrt(np.diag(clusters.bias_reduced(sums)))
    for model in sums.names:
        try:
            theta = sums.without(model).coefficients
        except InputError:
            theta = np.full(len(names), math.nan)
        for name, before, after, stderr in zip(names, full, theta, error, strict=True):
            in_stderr = (after - before) / stderr if stderr > 0 else math.nan
            rows.append((model, name, after, after - before, in_stderr))
    return pd.DataFrame(rows, columns=columns)


def _coefficients(sums: Clusters, solution: Solution) -> pd.DataFrame:
    """On how many models, values and degrees of freedom each coefficient rests."""
    g, sample, design, names = len(sums.names), solution.sample, solution.design, solution.names
    df = clusters.satterthwaite(sums, np.eye(len(names))) if g > 1 else np.full(len(names), math.nan)
    rows = []
    for i, name in enumerate(names):
        column = design[:, i]
        within = max(np.ptp(column[sample.groups == group]) for group in set(sample.groups))
        constant = within <= 1e-9 * max(1.0, float(np.abs(column).max()))
        basis = f"{g} {sample.unit}s, one value each" if constant else f"{g} {sample.unit}s and their rows"
        values, others = len(np.unique(np.round(column, 12))), np.delete(design, i, axis=1)
        r2 = sm.OLS(column, others, hasconst=False).fit().rsquared if others.size else 0.0  # uncentred: no intercept
        rows.append({"coefficient": name, "rests on": basis, "values": values, "df": df[i], "vif": 1 / (1 - r2)})
    return pd.DataFrame(rows)


def _tests(residual: np.ndarray, design: np.ndarray) -> dict[str, float]:
    """Heteroscedasticity (statsmodels insists on a constant), normality, condition number of scaled X."""
    constant = sm.add_constant(design, has_constant="skip")
    p = dict.fromkeys(("breusch_pagan_p", "white_p", "jarque_bera_p"), math.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(ValueError, AssertionError, np.linalg.LinAlgError):
            p["breusch_pagan_p"] = float(het_breuschpagan(residual, constant)[1])
            p["white_p"] = float(het_white(residual, constant)[1])
            p["jarque_bera_p"] = float(stats.jarque_bera(residual).pvalue)
    return p | {"condition_number": float(np.linalg.cond(design / np.linalg.norm(design, axis=0)))}


def sensitivity(
    points: Points, response: str = "loss", form: str = "unit-α", axis: str = "ratio", method: str = ALL
) -> pd.DataFrame:
    """One law refitted under other choices: one row per choice and coefficient, with bias-reduced standard errors."""
    law = catalogue.find_form(form, "cross")
    reported = partial(gather, points, law, response, axis, method)
    choices: dict[str, Callable[[], Sample]] = {"as reported (D in millions)": reported}
    choices |= {f"D in {name}": partial(reported, unit=unit) for name, unit in UNITS.items()}
    choices[f"without r > {COLLAPSE}"] = lambda: reported().take(reported().covariates["r"] <= COLLAPSE)
    choices["Huber weights"] = lambda: _huber_weighted(reported())
    choices["weighted by seed noise"] = lambda: _noise_weighted(reported())
    choices["true ratio"] = partial(gather, points, law, response, "ratio_params", method)
    rows: list[tuple] = []
    for name, choice in choices.items():
        try:
            sample = choice()
            design, target, terms = _linear_problem(sample)
            sums = Clusters.of(design, target, sample.groups, sample.weights)
            stderr = np.sqrt(np.diag(clusters.bias_reduced(sums))) if len(sums.names) > 1 else np.full(len(terms), math.nan)
            rows += [(name, *row, sample.n, "") for row in zip(terms, sums.coefficients, stderr, strict=True)]
        except InputError as error:
            rows.append((name, "", math.nan, math.nan, 0, str(error)))
    return pd.DataFrame(rows, columns=["choice", "coefficient", "estimate", "stderr", "n", "why"])


def _linear_problem(sample: Sample) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """X and y of a linear form with the terms that the sample can carry, and their names."""
    form, (kept, _) = sample.form, kept_terms(sample)
    names = [form.coefficient_names[i] for i in kept]
    return form.design(sample.covariates)[:, list(kept)], sample.target - form.offset(sample.covariates), names


def _huber_weighted(sample: Sample) -> Sample:
    design, target, _ = _linear_problem(sample)
    with np.errstate(all="ignore"), warnings.catch_warnings():  # residuals of exactly zero have no scale: their weight is 1
        warnings.simplefilter("ignore")
        robust = sm.RLM(target, design, M=sm.robust.norms.HuberT()).fit().weights
    if robust is None:
        raise InputError("The fit is perfect, so no residual has a scale and Huber weights would change nothing.")
    return replace(sample, weights=sample.weights * np.nan_to_num(robust, nan=1.0))


def _noise_weighted(sample: Sample) -> Sample:
    """Weights 1/variance over seeds at each ratio, from curves with several seeds. InputError without any."""
    key = ["model", "method", "recovery_tokens", "ratio"]
    spread = sample.rows.assign(target=sample.target).groupby(key)["target"].agg(["var", "size"])
    repeated = spread[spread["size"] > 1].groupby("ratio")["var"].mean()
    if not len(repeated) or not (repeated > 0).all():
        raise InputError("No experiment was repeated with another seed, so the noise over seeds is not known.")
    variance = np.interp(sample.rows["ratio"].astype(float), repeated.index, repeated.to_numpy())
    return replace(sample, weights=variance.mean() / variance)
