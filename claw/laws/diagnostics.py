"""Is a law's fit to be trusted? Residuals, heteroscedasticity, influence by model, identifiability; and what changes it.

`diagnose` computes everything that `claw.figures.diagnostic_panels` draws. `sensitivity` refits one law under other
choices: the unit of D, without the collapse beyond r = 0.7, robust weights, the true ratio. `robustness` does it for forms
that are not linear.
"""

import math
import warnings
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.diagnostic import het_breuschpagan, het_white

from claw.errors import InputError
from claw.laws import catalogue, clusters, nonlinear
from claw.laws.clusters import Clusters
from claw.laws.forms import Form
from claw.laws.points import Points
from claw.laws.sample import ALL, Sample, gather, kept_terms, solve_form

COLLAPSE = 0.7
UNITS = {"tokens": 1.0, "thousands": 1e3, "millions": 1e6, "billions": 1e9}


@dataclass(frozen=True)
class Diagnostics:
    """What can be said against a fit.

    `residuals`: one row per experiment (model, method, ratio, fitted, residual, standardised, normal quantile), on the form's
    scale. `influence`: each parameter refitted without each model, in standard errors of the full fit. `coefficients`: what each
    coefficient rests on. `tests`: heteroscedasticity and normality p-values, condition number.
    """

    residuals: pd.DataFrame
    influence: pd.DataFrame
    coefficients: pd.DataFrame
    tests: dict[str, float]


def diagnose(points: Points, form: Form, response: str, axis: str = "ratio", method: str = ALL) -> Diagnostics:
    """Diagnostics of one law across models."""
    found = gather(points, form, response, axis, method)
    kept, _ = kept_terms(form, found)
    theta, eta, design = solve_form(form, found, kept)
    root = np.sqrt(found.weights)
    residual = root * (found.target - eta)
    sums = Clusters.of(design, found.target - eta + design @ theta, found.groups, found.weights)
    names = tuple(form.coefficient_names[i] for i in kept)
    return Diagnostics(
        _residuals(found, eta, residual, root[:, None] * design),
        _influence(sums, names),
        _parameters(sums, names, found, design),
        _tests(residual, root[:, None] * design),
    )


def _residuals(found: Sample, eta: np.ndarray, residual: np.ndarray, design: np.ndarray) -> pd.DataFrame:
    fitted = sm.OLS(residual, design).fit()  # only for leverage: the residual is orthogonal to the design already
    leverage = fitted.get_influence().hat_matrix_diag
    scale = math.sqrt(max((residual**2).sum() / max(1, len(residual) - design.shape[1]), 1e-300))
    standard = residual / (scale * np.sqrt(np.maximum(1 - leverage, 1e-9)))
    rank = stats.rankdata(standard, method="ordinal")
    rows = found.rows[["model", "family", "method", "ratio", "recovery_tokens"]].reset_index(drop=True)
    return rows.assign(
        fitted=eta, residual=residual, standardised=standard, normal=stats.norm.ppf((rank - 0.5) / len(rank)), leverage=leverage
    )


def _influence(sums: Clusters, names: tuple[str, ...]) -> pd.DataFrame:
    """Refits without each model; NaN where the rest cannot carry the law."""
    rows = []
    if len(sums.names) < 2:
        return pd.DataFrame(columns=["without", "coefficient", "estimate", "change", "in_stderr"])
    full, error = sums.coefficients, np.sqrt(np.diag(clusters.bias_reduced(sums)))
    for model in sums.names:
        try:
            theta = sums.without(model).coefficients
        except InputError:
            theta = np.full(len(names), math.nan)
        for name, before, after, stderr in zip(names, full, theta, error, strict=True):
            in_stderr = (after - before) / stderr if stderr > 0 else math.nan
            rows.append(
                {"without": model, "coefficient": name, "estimate": after, "change": after - before, "in_stderr": in_stderr}
            )
    return pd.DataFrame(rows)


def _parameters(sums: Clusters, names: tuple[str, ...], found: Sample, design: np.ndarray) -> pd.DataFrame:
    """On how many models, values and degrees of freedom each parameter rests."""
    g = len(sums.names)
    df = clusters.satterthwaite(sums, np.eye(len(names))) if g > 1 else np.full(len(names), math.nan)
    rows = []
    for i, name in enumerate(names):
        column = design[:, i]
        within = max(np.ptp(column[found.groups == group]) for group in set(found.groups))
        constant = within <= 1e-9 * max(1.0, float(np.abs(column).max()))
        basis = f"{g} {found.unit}s, one value each" if constant else f"{g} {found.unit}s and their rows"
        values = len(np.unique(np.round(column, 12)))
        rows.append({"coefficient": name, "rests on": basis, "values": values, "df": df[i], "vif": _inflation(design, i)})
    return pd.DataFrame(rows)


def _inflation(design: np.ndarray, i: int) -> float:
    """How much the variance of a coefficient is inflated by the other columns (uncentred VIF)."""
    others = np.delete(design, i, axis=1)
    if not others.shape[1]:
        return 1.0
    left = design[:, i] - others @ np.linalg.lstsq(others, design[:, i], rcond=None)[0]
    return float((design[:, i] ** 2).sum() / max((left**2).sum(), 1e-300))


def _tests(residual: np.ndarray, design: np.ndarray) -> dict[str, float]:
    """Heteroscedasticity (a constant added, without which statsmodels refuses), normality, condition number of scaled X."""
    constant = sm.add_constant(design, has_constant="skip")
    found = {"breusch_pagan_p": math.nan, "white_p": math.nan, "jarque_bera_p": math.nan}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found["breusch_pagan_p"] = float(het_breuschpagan(residual, constant)[1])
            found["white_p"] = float(het_white(residual, constant)[1])
            found["jarque_bera_p"] = float(stats.jarque_bera(residual).pvalue)
        except (ValueError, AssertionError, np.linalg.LinAlgError):
            pass
    return found | {"condition_number": float(np.linalg.cond(design / np.linalg.norm(design, axis=0)))}


def sensitivity(
    points: Points, response: str = "loss", form: str = "unit-α", axis: str = "ratio", method: str = ALL
) -> pd.DataFrame:
    """One law refitted under other choices: one row per choice and parameter, with bias-reduced standard errors."""
    law = catalogue.find_form(form, "cross")
    choices: list[tuple[str, dict]] = [("as reported (D in millions)", {})]
    choices += [(f"D in {name}", {"unit": unit}) for name, unit in UNITS.items() if unit != 1e6]
    choices += [(f"without r > {COLLAPSE}", {"most": COLLAPSE}), ("Huber weights", {"robust": True})]
    choices += [("weighted by seed noise", {"noise": True}), ("true ratio", {"axis": "ratio_params"})]
    rows = []
    for name, choice in choices:
        try:
            rows += [row | {"choice": name} for row in _refit(points, law, response, choice.get("axis", axis), method, choice)]
        except (InputError, KeyError) as error:
            rows.append(
                {"choice": name, "coefficient": "", "estimate": math.nan, "stderr": math.nan, "n": 0, "why": str(error)}
            )
    return pd.DataFrame(rows)


def robustness(points: Points, response: str = "loss", axis: str = "ratio", method: str = ALL) -> pd.DataFrame:
    """Forms that are not linear, by least squares and with Huber's loss: one row per form and parameter, and their change."""
    rows = []
    for group in ("competing", "own"):
        for form in catalogue.GROUPS[group]:
            if form.linear:
                continue
            try:
                found = gather(points, form, response, axis, method, recovered=False)
                fits = [
                    nonlinear.variable_projection(form, found.covariates, found.target, found.weights, loss)
                    for loss in ("linear", "huber")
                ]
            except InputError:
                continue
            for name, plain, huber in zip(form.coefficient_names, *fits, strict=True):
                change = huber / plain - 1 if plain else math.nan
                rows.append({"form": form.name, "coefficient": name, "least squares": plain, "Huber": huber, "change": change})
    return pd.DataFrame(rows, columns=["form", "coefficient", "least squares", "Huber", "change"])


def _refit(points: Points, law: Form, response: str, axis: str, method: str, choice: dict) -> list[dict]:
    if axis not in points.rows:
        raise InputError(f"No column {axis}.")
    found = gather(points, law, response, axis, method, unit=choice.get("unit", 1e6))
    if "most" in choice:
        keep = found.covariates["r"] <= choice["most"]
        found = replace(found.take(keep), rows=found.rows[keep])
    kept, _ = kept_terms(law, found)
    design, target = law.design(found.covariates)[:, list(kept)], found.target - law.offset(found.covariates)
    weights = found.weights
    if choice.get("robust"):
        with np.errstate(all="ignore"):  # residuals of exactly zero have no scale: their weight is 1
            weights = weights * np.nan_to_num(sm.RLM(target, design, M=sm.robust.norms.HuberT()).fit().weights, nan=1.0)
    if choice.get("noise"):
        weights = _seed_noise_weights(found)
    sums = Clusters.of(design, target, found.groups, weights)
    error = np.sqrt(np.diag(clusters.bias_reduced(sums))) if len(sums.names) > 1 else np.full(len(kept), math.nan)
    names = [law.coefficient_names[i] for i in kept]
    return [
        {"choice": "", "coefficient": name, "estimate": value, "stderr": stderr, "n": found.n, "why": ""}
        for name, value, stderr in zip(names, sums.coefficients, error, strict=True)
    ]


def _seed_noise_weights(found: Sample) -> np.ndarray:
    """1/variance over seeds at each ratio, from curves with several seeds. InputError without any."""
    key = ["model", "method", "recovery_tokens", "ratio"]
    spread = found.rows.assign(target=found.target).groupby(key)["target"].agg(["var", "size"])
    repeated = spread[spread["size"] > 1].groupby("ratio")["var"].mean()
    if not len(repeated) or not (repeated > 0).all():
        raise InputError("No experiment was repeated with another seed, so the noise over seeds is not known.")
    variance = np.interp(found.rows["ratio"].astype(float), repeated.index, repeated.to_numpy())
    return variance.mean() / variance
