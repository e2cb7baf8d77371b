"""A law across models as it was fitted: its intervals of every kind, its bands, and where its variance comes from.

Everything is arithmetic on the sums per model that the law keeps, so a law read from JSON predicts as the fitted one does.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from claw.errors import unknown
from claw.laws import catalogue, clusters, critical, crossed, forms
from claw.laws.clusters import FEWEST_DF, Clusters, student
from claw.laws.crossed import Crossed
from claw.laws.mixed import Mixed
from claw.laws.sample import covariates_at
from claw.words import number, plural, with_interval

KINDS = {
    "bias-reduced": "clustered by model, bias-reduced (CR2), Satterthwaite degrees of freedom",
    "clustered": "clustered by model (CR1), Student with models - 1 degrees of freedom",
    "wild": "wild cluster restricted bootstrap, Webb weights",
    "pairs": "bootstrap of whole models, its spread with the bias-reduced quantile",
    "mixed": "mixed model with random slopes (of methods too, where there are several), Satterthwaite degrees of freedom",
    "runs": "ordinary least squares of one curve, its dense point not counted where the law meets it by construction",
    "ordinary": "ordinary least squares, every run on its own: for one curve; too narrow wherever models differ (49 % of 95)",
}
"""Kinds of interval, that of one method's law first."""
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
    scope: str  # rows of what works, or every row; see `claw.laws.working`
    kept: tuple[int, ...]  # coefficients of the form that were fitted
    coefficients: np.ndarray
    clusters: Clusters  # of the problem, linearised at the coefficients
    intervals: Mapping[str, np.ndarray]
    degrees: Mapping[str, np.ndarray]  # degrees of freedom of each interval, by kind
    mixed: Mixed | None
    crossed: Crossed | None  # where several methods are pooled
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

    def __repr__(self) -> str:
        """A few lines for `print`: the formula, each coefficient with its interval, what it rests on, what to mind."""
        lines = [f"{self.form} law of {self.response} against {self.axis}, {self.method}, {self.scope} rows:"]
        lines.append(f"  {catalogue.find_form(self.form, self.group).formula}")
        for name, value, interval, df in zip(self.coefficient_names, self.coefficients, self.interval, self.df, strict=True):
            lines.append(f"  {name} = {with_interval(value, interval)} ({plural_df(df)})")
        error, r2 = self.quality["relative_error"], number(self.quality["r2"])
        lines.append(f"  from {plural(self.n, 'row')}, {self.basis}, r = {self.low:.2g} to {self.high:.2g}")
        lines.append(f"  typical error {error:.1%}, R² {r2}")
        return "\n".join([*lines, *(f"  {note}" for note in (self.without_interval, *self.notes) if note)])

    @property
    def default_kind(self) -> str:
        """The kind of interval that this law is given with."""
        return "mixed" if self.crossed else "runs" if self.unit == "run" else "bias-reduced"

    @property
    def interval(self) -> np.ndarray:
        """(coefficients, 2): the default interval of each coefficient; NaN where there are too few degrees of freedom."""
        return self.intervals.get(self.default_kind, np.full((len(self.coefficients), 2), math.nan))

    @property
    def df(self) -> np.ndarray:
        """(coefficients,) degrees of freedom of the default intervals."""
        return self.degrees.get(self.default_kind, np.full(len(self.coefficients), math.nan))

    @property
    def without_interval(self) -> str:
        """Why some coefficients have no interval, in words; empty where all have one."""
        if not self.intervals:
            return "least squares over several methods: no interval, because methods differ"
        pairs = zip(self.coefficient_names, self.df, strict=True)
        few = [f"{name}: {plural_df(df)}" for name, df in pairs if not df >= FEWEST_DF - 1e-6]
        return f"{self.basis}; {', '.join(few)}, too few for an interval" if few else ""

    @property
    def basis(self) -> str:
        """What the law rests on, in words."""
        if self.crossed:
            return f"{plural(len(self.crossed.methods), 'method')} on {plural(len(self.crossed.models), 'model')}"
        return plural(len(self.models), self.unit)

    @property
    def decomposition(self) -> pd.DataFrame:
        """Where the variance around the law comes from: a row per level, its share, and the spread of each coefficient."""
        if self.crossed:
            frame = self.crossed.decomposition
            return frame.rename(columns=dict(enumerate(f"spread of {name}" for name in self.coefficient_names)))
        if self.mixed is None or self.unit != "model":
            return pd.DataFrame(columns=["level", "share of variance"])
        return self._two_levels(self.mixed)

    def lend(self, frame: pd.DataFrame, other: "PooledLaw", covariates: Mapping[str, np.ndarray]) -> pd.DataFrame:
        """Bands of a method's own law from this law of several methods, where its models are too few for its own.

        They lie around its best linear prediction here and reach the mean, which is that of its own least squares.
        """
        if self.crossed is None or other.method not in self.crossed.methods or frame["confidence_low"].notna().all():
            return frame
        form = catalogue.find_form(self.form, self.group)
        theta = np.zeros(len(form.coefficient_names))
        theta[list(self.kept)] = self.crossed.own[self.crossed.methods.index(other.method)]
        design = form.design(covariates)[:, list(self.kept)]
        eta = form.eta(covariates, theta)
        for name, new in (("confidence", ()), ("model", ("model", "curve", "residual"))):
            half = self.crossed.half_width(design, self.level, other.method, new)
            low, high = (forms.from_scale(form.scale, eta + sign * half, covariates) for sign in (-1, 1))
            frame[f"{name}_low"], frame[f"{name}_high"] = np.minimum(low, frame["mean"]), np.maximum(high, frame["mean"])
        return frame

    def _two_levels(self, own: Mixed) -> pd.DataFrame:
        """The decomposition of a law of one method: between its models and within them."""
        mean = np.einsum("gii->i", self.clusters.gram) / self.clusters.rows.sum()
        spread = np.zeros(len(self.coefficients))
        spread[list(own.random)] = np.sqrt(np.diag(own.between))
        between = float((spread**2 * mean).sum()) + own.intercept
        total = between + own.sigma2
        names = [f"spread of {name}" for name in self.coefficient_names]
        rows = [("between models", *spread, between / total), ("within models", *spread * math.nan, own.sigma2 / total)]
        return pd.DataFrame(rows, columns=["level", *names, "share of variance"])

    def half_width(self, design: np.ndarray, kind: str = "") -> np.ndarray:
        """(points,) half of the interval of the mean at each row of `design`, on the form's scale; NaN where there is none."""
        kind = kind or self.default_kind
        if kind not in KINDS:
            raise unknown("kind of interval", kind, KINDS)
        half = self._half_width(design, kind, student(self.degrees_of(design, kind), self.level))
        return np.where(np.any(design, axis=1), half, 0.0)  # an anchored law is exact at its anchor

    def degrees_of(self, design: np.ndarray, kind: str) -> np.ndarray:
        """(points,) degrees of freedom of the interval of each row of `design`."""
        g, few = len(self.clusters.names), np.full(len(design), math.nan)
        if self.crossed:
            return self.crossed.df(design) if kind == "mixed" else few
        if kind == "ordinary":
            return np.full(len(design), float(self.n - len(self.coefficients)))
        if kind == "runs":
            return np.full(len(design), float(self._informed - len(self.coefficients)))
        if g < 2 or (kind == "mixed" and self.mixed is None):
            return few
        if kind == "mixed":
            assert self.mixed is not None
            return np.minimum(self.mixed.df(self.clusters, design), np.where(self._on_a_line(design), g - 2, math.inf))
        if kind == "clustered":
            return np.where(self._on_a_line(design), g - 2.0, g - 1.0)
        return clusters.satterthwaite(self.clusters, design)

    @property
    def _informed(self) -> int:
        """Rows that tell of the coefficients: not the dense point of one curve, which an anchored law meets anyway."""
        return self.n - int((~self.clusters.gram.any(axis=(1, 2))).sum()) if self.unit == "run" else self.n

    def _on_a_line(self, design: np.ndarray) -> np.ndarray:
        """(points,) whether a row needs what only a line through models tells, α beside κ or β beside λ: one model more."""
        names = self.coefficient_names
        lines = [pair for pair in (("κ", "α"), ("β", "λ")) if set(pair) <= set(names) and self.unit == "model"]
        return np.any(design[:, [names.index(name) for pair in lines for name in pair]] != 0, axis=1)

    def _half_width(self, design: np.ndarray, kind: str, quantile: np.ndarray) -> np.ndarray:
        g = len(self.clusters.names)
        if np.isnan(quantile).all():
            return quantile
        if self.crossed:
            return self.crossed.half_width(design, self.level)
        if kind == "mixed":
            assert self.mixed is not None
            return quantile * _error(design, self.mixed.covariance)
        if kind in ("ordinary", "runs"):
            k, counted = len(self.coefficients), self.n if kind == "ordinary" else self._informed
            variance = self.sigma2 * max(1, self._informed - k) / max(1, counted - k)
            return quantile * np.sqrt(variance) * _error(design, self.clusters.bread)
        if kind == "clustered":
            return quantile * _error(design, clusters.clustered(self.clusters))
        if kind == "wild":
            chosen = np.unique(np.linspace(0, len(design) - 1, min(LATTICE, len(design))).astype(int))
            low, high = self._wild_intervals(design[chosen]).T
            return np.interp(np.arange(len(design)), chosen, (high - low) / 2) + 0 * quantile
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
        """(coefficients, 2): interval of each coefficient; NaN where there are too few degrees of freedom."""
        unit, middle = np.eye(len(self.coefficients)), self.coefficients
        half = self.half_width(unit, kind)
        if kind == "wild" and np.isfinite(half).any():
            return np.where(np.isfinite(half)[:, None], self._wild_intervals(unit), math.nan)
        if kind == "mixed" and self.mixed is not None:
            middle = self.mixed.coefficients
        return np.column_stack([middle - half, middle + half])

    def predict(
        self,
        r: Any,
        dense: float,
        tokens: float = 0,
        *,
        model: str | None = None,
        chance: float = math.nan,
        size: float = math.nan,
        interval: str = "",
        statistic: str = "median",
    ) -> pd.DataFrame:
        """Frame over r for a model with this dense value: mean, confidence band, new-run band, new-model band.

        The confidence band is of the law of all models. The new-run band is of one measurement of `model`, around that model's
        own law (its best linear prediction), or of any of the fitted models if none is named. The new-model band is of one
        measurement of a model that was not seen. Of a law of several methods both are of a method that was not seen, too.
        `interval` is a kind of KINDS, the law's `default_kind` if none is named; a band that the table cannot carry is NaN. A
        fit in logs predicts a median; statistic="mean" multiplies by the smearing factor (Duan 1983). `size` in parameters.
        """
        r = critical.checked(r)
        if statistic not in ("median", "mean"):
            raise unknown("statistic", statistic, ["median", "mean"])
        c = covariates_at(r, dense, tokens, chance, size)
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
        if self.crossed:
            half = self.crossed.half_width(design, self.level, new=(*crossed.LEVELS, "residual"))
            return {"run_low": middle - half, "run_high": middle + half}
        if self.mixed is not None and self.mixed.random and model in names:
            own, variance = self.mixed.of_model(self.clusters, model, design)
            middle, variance = eta + own, variance + self.mixed.sigma2
            df = self.clusters.rows[names.index(model)] - len(self.coefficients)
        else:
            mean = _error(design, clusters.bias_reduced(self.clusters)) ** 2 if len(names) > 1 else np.zeros(len(eta))
            variance, df = mean + self.sigma2, len(names) - 1
        half = student(df, self.level) * np.sqrt(variance)
        return {"run_low": middle - half, "run_high": middle + half}

    def _new_model(self, eta: np.ndarray, design: np.ndarray, half: np.ndarray) -> dict[str, np.ndarray]:
        """Band of a run of a model not seen, on the form's scale; NaN where the table cannot tell."""
        df = len(self.clusters.names) - 1
        if self.crossed:
            wide = self.crossed.half_width(design, self.level, new=(*crossed.LEVELS, "residual"))
        elif self.mixed is None or self.unit != "model":
            wide = np.full(len(eta), math.nan)
        else:
            wide = np.fmax(student(df, self.level) * np.sqrt(self.mixed.new_model_variance(design)), half)
        return {"model_low": eta - wide, "model_high": eta + wide}


def _error(design: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(clusters.variances(design, covariance), 0.0))


def plural_df(df: float) -> str:
    """1.8 degrees of freedom."""
    few = math.isnan(df) or df < 0.1
    return "no degrees of freedom" if few else f"{math.floor(10 * df + 1e-6) / 10:.1f} degrees of freedom"
