"""Laws across models: fitted by least squares, with every kind of interval side by side and three kinds of band.

The unit of inference is the model, not the run: a hundred runs of three models are three observations of how models differ.
Each law keeps the sums per model that its intervals need, so it predicts with any of them, from JSON too.

Notable choices:
- The default interval is bias-reduced (CR2, Satterthwaite degrees of freedom); `claw.laws.clusters` says why.
- Points at r = 0 are left out: in anchored forms they are satisfied by construction and would only flatter R² and BIC.
- The recovery term is dropped, and that is said, where the rows have one recovery budget: it would be an intercept in
  disguise.
- With one model the curves (method, seed, recovery run) are the clusters, and the law speaks of that model only. With one
  curve the runs are, the dense one among them, as in a regression of a published curve.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from claw.errors import InputError, unknown
from claw.laws import catalogue, clusters, critical, forms, mixed
from claw.laws.clusters import Clusters
from claw.laws.critical import Critical
from claw.laws.forms import MILLION, Covariates, Form
from claw.laws.mixed import Mixed
from claw.laws.sample import Sample, kept_terms, quality, solve_form

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


@dataclass(frozen=True)
class PooledLaw:
    """A fitted law across models."""

    form: str
    group: str
    response: str
    axis: str
    method: str
    kept: tuple[int, ...]  # parameters of the form that were fitted
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
    quality: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def coefficient_names(self) -> tuple[str, ...]:
        """Names of the fitted parameters."""
        return tuple(catalogue.find_form(self.form, self.group).coefficient_names[i] for i in self.kept)

    @property
    def models(self) -> tuple[str, ...]:
        """What the law rests on: its clusters."""
        return self.clusters.names

    def _parts(self, c: Covariates) -> tuple[np.ndarray, np.ndarray]:
        """η and its Jacobian at covariates."""
        form = catalogue.find_form(self.form, self.group)
        theta = np.zeros(len(form.coefficient_names))
        theta[list(self.kept)] = self.coefficients
        return form.eta(c, theta), form.jacobian(c, theta)[:, list(self.kept)]

    def half_width(self, design: np.ndarray, kind: str = "bias-reduced", r: np.ndarray | None = None) -> np.ndarray:
        """(points,) half of the interval of the mean at each row of `design`, on the form's scale."""
        if kind not in KINDS:
            raise unknown("kind of interval", kind, KINDS)
        g, tail = len(self.clusters.names), 0.5 + self.level / 2
        if g < 2:
            return np.full(len(design), math.nan)
        if kind == "mixed":
            if self.mixed is None:
                return np.full(len(design), math.nan)
            low, high = self.mixed.intervals(self.clusters, design, self.level).T
            return (high - low) / 2
        if kind == "ordinary":
            error = np.sqrt(self.sigma2) * _error(design, self.clusters.bread)
            return stats.t.ppf(tail, self.n - len(self.coefficients)) * error
        if kind == "clustered":
            return stats.t.ppf(tail, g - 1) * _error(design, clusters.clustered(self.clusters))
        if kind == "wild":
            return self._wild_half_width(design, r)
        quantile = stats.t.ppf(tail, clusters.satterthwaite(self.clusters, design))
        if kind == "pairs":
            drawn = clusters.pairs(self.clusters, self.draws, np.random.default_rng(self.seed))
            return quantile * clusters.pairs_spread(drawn @ design.T, g)
        return quantile * _error(design, clusters.bias_reduced(self.clusters))

    def _wild_half_width(self, design: np.ndarray, r: np.ndarray | None) -> np.ndarray:
        weights = clusters.webb(len(self.clusters.names), self.draws, np.random.default_rng(self.seed))
        chosen = np.unique(np.linspace(0, len(design) - 1, min(LATTICE, len(design))).astype(int))
        half = []
        for row in design[chosen]:
            low, high = clusters.wild_interval(self.clusters, row, weights, self.level) if np.any(row) else (0.0, 0.0)
            half.append((high - low) / 2)
        return np.interp(np.arange(len(design)), chosen, half)

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
        c = {
            name: np.full(len(r), value, float) for name, value in (("dense", dense), ("chance", chance), ("size", size / 1e9))
        }
        c |= {"r": r, "d": np.full(len(r), tokens / MILLION)}
        eta, design = self._parts(c)
        half = self.half_width(design, interval, r)
        frame = {"mean": eta, "confidence_low": eta - half, "confidence_high": eta + half}
        frame |= self._run(eta, design, model) | self._new_model(eta, design, half)
        scale = catalogue.find_form(self.form, self.group).scale
        factor = self.quality["smearing"] if statistic == "mean" and scale == "log" else 1.0
        found = {name: forms.from_scale(scale, values, c) * factor for name, values in frame.items()}
        if scale == "inverse":  # a larger 1/S is a smaller S
            found = {name: found[_other_edge(name)] for name in found}
        outside = (r < self.low) | (r > self.high) | (tokens > max(self.tokens, default=0))
        return pd.DataFrame({"ratio": r} | found | {"extrapolated": outside & (r > 0)})

    def _run(self, eta: np.ndarray, design: np.ndarray, model: str | None) -> dict[str, np.ndarray]:
        """Band of a new run, on the form's scale."""
        middle, tail = eta, 0.5 + self.level / 2
        if self.mixed is not None and self.mixed.random and model in self.clusters.names:
            own, variance = self.mixed.of_model(self.clusters, model, design)
            middle, variance = eta + own, variance + self.mixed.sigma2
            df = self.clusters.rows[self.clusters.names.index(model)] - len(self.coefficients)
        else:
            mean = _error(design, clusters.bias_reduced(self.clusters)) ** 2 if len(self.clusters.names) > 1 else 0.0
            variance, df = mean + self.sigma2, len(self.clusters.names) - 1
        half = stats.t.ppf(tail, max(1, df)) * np.sqrt(variance)
        return {"run_low": middle - half, "run_high": middle + half}

    def _new_model(self, eta: np.ndarray, design: np.ndarray, half: np.ndarray) -> dict[str, np.ndarray]:
        """Band of a run of a model not seen, on the form's scale; NaN where the table cannot tell."""
        if self.mixed is None or self.unit != "model":
            wide = np.full(len(eta), math.nan)
        else:
            quantile = stats.t.ppf(0.5 + self.level / 2, max(1, len(self.clusters.names) - 1))
            wide = np.maximum(quantile * np.sqrt(self.mixed.new_model_variance(design)), half)
        return {"model_low": eta - wide, "model_high": eta + wide}

    def critical_ratio(self, threshold: float, dense: float, tokens: float = 0, **options: Any) -> Critical:
        """Largest r at which a share `threshold` of the dense performance is met; see `claw.laws.critical.ratio`."""
        band = self.predict(np.linspace(0, self.high, critical.GRID), dense, tokens, **options)
        return critical.ratio(band, threshold, dense, self.response, self.level, f"{self.form} of {self.method}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, unrounded."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return plain | {
            "coefficients": self.coefficients.tolist(), "clusters": self.clusters.to_dict(), "quality": dict(self.quality),
            "intervals": {kind: found.tolist() for kind, found in self.intervals.items()},
            "mixed": self.mixed and self.mixed.to_dict(),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "PooledLaw":
        """The law that `to_dict` wrote."""
        found = dict(plain) | {name: tuple(plain[name]) for name in ("kept", "tokens", "notes")}
        found["coefficients"], found["clusters"] = (
            np.asarray(plain["coefficients"], float),
            Clusters.from_dict(plain["clusters"]),
        )
        found["intervals"] = {kind: np.asarray(interval, float) for kind, interval in plain["intervals"].items()}
        found["mixed"] = plain["mixed"] and Mixed.from_dict(plain["mixed"])
        return cls(**found)


def _other_edge(name: str) -> str:
    """confidence_low for confidence_high, and so on."""
    return name.replace("_low", "_high") if name.endswith("_low") else name.replace("_high", "_low")


def _error(design: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", design, covariance, design), 0.0))


def fit_pooled(
    found: Sample, form: Form, group: str, response: str, axis: str, method: str, *, level: float = 0.95, seed: int = 0,
    draws: int = 2000, kinds: tuple[str, ...] = tuple(KINDS),
) -> PooledLaw:  # fmt: skip
    """One law across models with the asked kinds of interval. InputError: terms that cannot be told apart, too few rows."""
    kept, notes = kept_terms(form, found)
    units = len(set(found.groups))
    if found.n <= len(kept):
        raise InputError(f"{found.n} rows cannot carry the {len(kept)} parameters of {form.name}: {form.formula}.")
    ratios = set(found.covariates["r"]) - {0.0}
    if len(ratios) < 2:
        raise InputError(
            f"{form.name} needs at least two ratios above 0, and {method} has {len(ratios)}: one ratio tells a height and no "
            "course. Measure more ratios."
        )
    constant = sum(name in ("α", "κ") for name in form.coefficient_names) if group == "cross" else 0
    if constant and (found.unit != "model" or units <= constant):
        count = 1 if found.unit != "model" else units
        raise InputError(
            f"{form.name} rests α on how models differ, and there {'is 1 model' if count == 1 else f'are {count} models'}: "
            f"it needs at least {constant + 1}. Use unit-α or anchored."
        )
    if "λ" in form.coefficient_names and (found.unit != "model" or units < 3):
        raise InputError(f"{form.name} asks how a slope changes with size, which takes at least three models of known size.")
    theta, eta, design = solve_form(form, found, kept)
    residual = found.target - eta
    sums = Clusters.of(design, residual + design @ theta, found.groups, found.weights)
    varying = tuple(i for i, j in enumerate(kept) if form.coefficient_names[j] in form.varying)
    random = None
    if "mixed" in kinds and units >= 3 and varying:
        root = np.sqrt(found.weights)
        random = mixed.fit_mixed(root[:, None] * design, root * (residual + design @ theta), found.groups, varying, sums)
    law = PooledLaw(
        form.name, group, response, axis, method, kept, theta, sums, {}, random,
        float(np.average(residual**2, weights=found.weights) * found.n / (found.n - len(kept))), level, seed, draws, found.n,
        found.unit, float(found.covariates["r"].min()), float(found.covariates["r"].max()),
        tuple(sorted(set(found.rows["recovery_tokens"].astype(float)))), quality(form, found, theta, kept, eta),
        (*notes, *_caveats(found, units), *([random.note] if random and random.note else [])),
    )  # fmt: skip
    intervals = {kind: _intervals(law, kind) for kind in kinds}
    return PooledLaw(**{**{name: getattr(law, name) for name in law.__dataclass_fields__}, "intervals": intervals})


def _intervals(law: PooledLaw, kind: str) -> np.ndarray:
    """(parameters, 2) interval of each coefficient."""
    k = len(law.coefficients)
    if kind == "wild" and len(law.clusters.names) > 1:
        weights = clusters.webb(len(law.clusters.names), law.draws, np.random.default_rng(law.seed))
        return np.array([clusters.wild_interval(law.clusters, row, weights, law.level) for row in np.eye(k)])
    if kind == "mixed" and law.mixed is not None:
        return law.mixed.intervals(law.clusters, np.eye(k), law.level)
    half = law.half_width(np.eye(k), kind)
    return np.column_stack([law.coefficients - half, law.coefficients + half])


def _caveats(found: Sample, units: int) -> tuple[str, ...]:
    """What the number of models allows to be claimed."""
    notes = []
    if found.unit != "model":
        notes.append(f"One model only: the intervals are over its {found.unit}s ({units}) and say nothing of other models.")
    elif units < 5:
        notes.append(
            f"{units} models: slopes rest on {units} numbers. Bias-reduced intervals hold their level; the wild bootstrap is "
            "too wide here, and a mixed model's variances are rough."
        )
    if found.lost:
        notes.append(f"{found.lost} rows have no value on this scale (no dense value, or at or below zero) and are left out.")
    return tuple(notes)
