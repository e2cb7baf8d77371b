"""Laws across models: fitted by least squares, with every kind of interval side by side and three kinds of band.

The unit of inference is the model, not the run: a hundred runs of three models are three observations of how models differ.
Each law keeps the sums per model that its intervals need, so it predicts with any of them, from JSON too.

Notable choices:
- The default interval is bias-reduced (CR2, Satterthwaite degrees of freedom); `claw.laws.clusters` says why.
- Points at r = 0 are left out: anchored forms satisfy them by construction, so they would only flatter R² and BIC.
- Where the rows have one recovery budget the recovery term is dropped, with a note: it would be an intercept in disguise.
- With one model the curves (method, seed, recovery run) are the clusters, and the law speaks of that model only. With one
  curve the runs are, the dense one among them, as in a regression of a published curve.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from claw.errors import InputError, unknown
from claw.laws import catalogue, clusters, critical, forms, mixed
from claw.laws.clusters import Clusters
from claw.laws.forms import MILLION
from claw.laws.mixed import Mixed
from claw.laws.sample import Sample, kept_terms, quality, solve
from claw.words import plural

KINDS = {
    "bias-reduced": "clustered by model, bias-reduced (CR2), Satterthwaite degrees of freedom",
    "clustered": "clustered by model (CR1), Student with models - 1 degrees of freedom",
    "wild": "wild cluster restricted bootstrap, Webb weights",
    "pairs": "bootstrap of whole models, its spread with the bias-reduced quantile",
    "mixed": "mixed model with random slopes, Satterthwaite degrees of freedom",
    "ordinary": "ordinary least squares, every run on its own: too narrow wherever models differ (covers 49 % of 95)",
}
"""Kinds of interval, the default first."""
LATTICE = 9  # ratios at which a wild-bootstrap band is computed; between them its width is interpolated
OTHER_EDGE = {"confidence_low": "confidence_high", "run_low": "run_high", "model_low": "model_high"}
OTHER_EDGE |= {high: low for low, high in OTHER_EDGE.items()}
"""The other edge of each band."""


@dataclass(frozen=True, kw_only=True)
class PooledLaw:
    """A fitted law across models."""

    form: str
    group: str
    response: str
    axis: str
    method: str
    kept: tuple[int, ...]  # coefficients of the form that were fitted
    coefficients: np.ndarray
    clusters: Clusters  # of the problem, linearised at the coefficients
    intervals: Mapping[str, np.ndarray]
    mixed: Mixed | None
    sigma2: float
    level: float
    seed: int
    draws: int
    n: int
    unit: str  # what the clusters are
    low: float
    high: float
    tokens: tuple[float, ...]
    quality: Mapping[str, float]
    notes: tuple[str, ...]

    @property
    def coefficient_names(self) -> tuple[str, ...]:
        """Names of the fitted coefficients."""
        return tuple(catalogue.find_form(self.form, self.group).coefficient_names[i] for i in self.kept)

    @property
    def models(self) -> tuple[str, ...]:
        """What the law rests on: its clusters."""
        return self.clusters.names

    def half_width(self, design: np.ndarray, kind: str = "bias-reduced") -> np.ndarray:
        """(points,) half of the interval of the mean at each row of `design`, on the form's scale."""
        if kind not in KINDS:
            raise unknown("kind of interval", kind, KINDS)
        g, tail = len(self.clusters.names), 0.5 + self.level / 2
        if kind == "mixed" and self.mixed is not None:
            low, high = self.mixed.intervals(self.clusters, design, self.level).T
            return (high - low) / 2
        if kind == "mixed" or g < 2:
            return np.full(len(design), math.nan)
        if kind == "ordinary":
            error = np.sqrt(self.sigma2) * _error(design, self.clusters.bread)
            return stats.t.ppf(tail, self.n - len(self.coefficients)) * error
        if kind == "clustered":
            return stats.t.ppf(tail, g - 1) * _error(design, clusters.clustered(self.clusters))
        if kind == "wild":
            chosen = np.unique(np.linspace(0, len(design) - 1, min(LATTICE, len(design))).astype(int))
            low, high = self._wild_intervals(design[chosen]).T
            return np.interp(np.arange(len(design)), chosen, (high - low) / 2)
        quantile = stats.t.ppf(tail, clusters.satterthwaite(self.clusters, design))
        if kind == "pairs":
            drawn = clusters.pairs(self.clusters, self.draws, np.random.default_rng(self.seed)) @ design.T
            low, high = np.quantile(drawn, [0.25, 0.75], axis=0)  # interquartile range as of a normal, enlarged for few models
            return quantile * ((high - low) / (stats.norm.ppf(0.75) - stats.norm.ppf(0.25)) * math.sqrt(g / (g - 1)))
        return quantile * _error(design, clusters.bias_reduced(self.clusters))

    def _wild_intervals(self, combinations: np.ndarray) -> np.ndarray:
        """(combinations, 2): wild-bootstrap interval of each c'θ; zero width where c is zero."""
        weights = clusters.webb(len(self.clusters.names), self.draws, np.random.default_rng(self.seed))
        interval = lambda c: clusters.wild_interval(self.clusters, c, weights, self.level) if np.any(c) else (0.0, 0.0)
        return np.array([interval(c) for c in combinations])

    def coefficient_intervals(self, kind: str) -> np.ndarray:
        """(coefficients, 2): interval of each coefficient."""
        unit = np.eye(len(self.coefficients))
        if kind == "wild" and len(self.clusters.names) > 1:
            return self._wild_intervals(unit)
        if kind == "mixed" and self.mixed is not None:
            return self.mixed.intervals(self.clusters, unit, self.level)
        half = self.half_width(unit, kind)
        return np.column_stack([self.coefficients - half, self.coefficients + half])

    def predict(
        self,
        r: Any,
        dense: float,
        tokens: float = 0,
        *,
        model: str | None = None,
        chance: float = math.nan,
        size: float = math.nan,
        interval: str = "bias-reduced",
        statistic: str = "median",
    ) -> pd.DataFrame:
        """Frame over r for a model with this dense value: mean, confidence band, new-run band, new-model band.

        The confidence band is of the law of all models. The new-run band is of one measurement of `model`, around that model's
        own law (its best linear prediction), or of any of the fitted models if none is named. The new-model band is of one
        measurement of a model that was not seen. A fit in logs predicts a median; statistic="mean" multiplies by the smearing
        factor (Duan 1983). `size` in parameters.
        """
        r = critical.checked(r)
        if statistic not in ("median", "mean"):
            raise unknown("statistic", statistic, ["median", "mean"])
        fixed = {"dense": dense, "chance": chance, "size": size / 1e9, "d": tokens / MILLION}
        c = {"r": r} | {name: np.full(len(r), value, float) for name, value in fixed.items()}
        form, kept = catalogue.find_form(self.form, self.group), list(self.kept)
        theta = np.zeros(len(form.coefficient_names))
        theta[kept] = self.coefficients
        eta, design = form.eta(c, theta), form.jacobian(c, theta)[:, kept]
        half = self.half_width(design, interval)
        frame = {"mean": eta, "confidence_low": eta - half, "confidence_high": eta + half}
        frame |= self._run(eta, design, model) | self._new_model(eta, design, half)
        factor = self.quality["smearing"] if statistic == "mean" and form.scale == "log" else 1.0
        bands = {name: forms.from_scale(form.scale, values, c) * factor for name, values in frame.items()}
        if form.scale == "inverse":  # a larger 1/S is a smaller S
            bands = {name: bands[OTHER_EDGE.get(name, name)] for name in bands}
        outside = (r < self.low) | (r > self.high) | (tokens > max(self.tokens, default=0))
        return pd.DataFrame({"ratio": r} | bands | {"extrapolated": outside & (r > 0)})

    def _run(self, eta: np.ndarray, design: np.ndarray, model: str | None) -> dict[str, np.ndarray]:
        """Band of a new run, on the form's scale."""
        middle, names = eta, self.clusters.names
        if self.mixed is not None and self.mixed.random and model in names:
            own, variance = self.mixed.of_model(self.clusters, model, design)
            middle, variance = eta + own, variance + self.mixed.sigma2
            df = self.clusters.rows[names.index(model)] - len(self.coefficients)
        else:
            mean = _error(design, clusters.bias_reduced(self.clusters)) ** 2 if len(names) > 1 else np.zeros(len(eta))
            variance, df = mean + self.sigma2, len(names) - 1
        half = stats.t.ppf(0.5 + self.level / 2, max(1, df)) * np.sqrt(variance)
        return {"run_low": middle - half, "run_high": middle + half}

    def _new_model(self, eta: np.ndarray, design: np.ndarray, half: np.ndarray) -> dict[str, np.ndarray]:
        """Band of a run of a model not seen, on the form's scale; NaN where the table cannot tell."""
        if self.mixed is None or self.unit != "model":
            wide = np.full(len(eta), math.nan)
        else:
            quantile = stats.t.ppf(0.5 + self.level / 2, max(1, len(self.clusters.names) - 1))
            wide = np.maximum(quantile * np.sqrt(self.mixed.new_model_variance(design)), half)
        return {"model_low": eta - wide, "model_high": eta + wide}


def _error(design: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(clusters.variances(design, covariance), 0.0))


def fit_pooled(
    sample: Sample, *, level: float = 0.95, seed: int = 0, draws: int = 2000, kinds: Iterable[str] = KINDS
) -> PooledLaw:
    """One law across models with the asked kinds of interval. InputError: terms that cannot be told apart, too few rows."""
    form, units = sample.form, len(set(sample.groups))
    _check(sample, units)
    solution = solve(sample)
    sums, residual, r = solution.clusters, sample.target - solution.eta, sample.covariates["r"]
    varying = tuple(i for i, name in enumerate(solution.names) if name in form.varying)
    random, notes = None, [*solution.notes, *_caveats(sample, units)]
    if "mixed" in kinds and units >= 3 and varying:
        root = np.sqrt(sample.weights)
        random = mixed.fit_mixed(root[:, None] * solution.design, root * solution.linearised, sample.groups, varying, sums)
        notes.append(random.note if random else "No mixed model: its restricted likelihood has no regular maximum here.")
    sigma2 = float(np.average(residual**2, weights=sample.weights) * sample.n / (sample.n - len(solution.kept)))
    fields = {name: getattr(sample, name) for name in ("response", "axis", "method", "n", "unit")}
    fields |= {"form": form.name, "group": form.group, "level": level, "seed": seed, "draws": draws, "sigma2": sigma2}
    fields |= {"kept": solution.kept, "coefficients": solution.theta, "clusters": sums, "intervals": {}, "mixed": random}
    fields |= {"low": float(r.min()), "high": float(r.max()), "quality": quality(solution)}
    tokens = tuple(sorted(set(sample.rows["recovery_tokens"].astype(float))))
    law = PooledLaw(**fields, tokens=tokens, notes=tuple(filter(None, notes)))
    return replace(law, intervals={kind: law.coefficient_intervals(kind) for kind in kinds})


def _check(sample: Sample, units: int) -> None:
    """InputError where the sample cannot carry the form."""
    form, (kept, _) = sample.form, kept_terms(sample)
    if sample.n <= len(kept):
        raise InputError(f"{sample.n} rows cannot carry the {len(kept)} coefficients of {form.name}: {form.formula}.")
    if (ratios := len(set(sample.covariates["r"]) - {0.0})) < 2:
        raise InputError(f"{form.name} needs two ratios above 0, and {sample.method} has {ratios}: one ratio gives no slope.")
    constant = sum(name in ("α", "κ") for name in form.coefficient_names) if form.group == "cross" else 0
    models = units if sample.unit == "model" else 1
    if models <= constant:
        raise InputError(f"{form.name} rests α on {plural(models, 'model')}: it needs {constant + 1}. Use unit-α or anchored.")
    if "λ" in form.coefficient_names and models < 3:
        raise InputError(f"{form.name} asks how a slope changes with size, which takes at least three models of known size.")


def _caveats(sample: Sample, units: int) -> tuple[str, ...]:
    """What the number of models allows to be claimed."""
    notes = []
    if sample.unit != "model":
        notes.append(f"One model only: the intervals are over its {sample.unit}s ({units}) and say nothing of other models.")
    elif units < 5:
        notes.append(
            f"{units} models: slopes rest on {units} numbers. Bias-reduced intervals hold their level; the wild bootstrap is "
            "too wide here, and a mixed model's variances are rough."
        )
    if sample.lost:
        notes.append(f"{sample.lost} rows have no value on this scale (no dense value, or at or below zero) and are left out.")
    return tuple(notes)
