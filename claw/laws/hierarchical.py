"""One law for the measurements of many papers, with what methods, model families, models, papers and texts add to it.

On 1,100 published losses of 34 models the excess of a compressed model follows a power of what is kept:

    log(L/L0) = a (-log(1-r))^p,    log a = μ + λ log10(N0/10⁹) + τ·trained + method + family + model + paper + text + curve

r is the share of all parameters removed, N0 the parameters of the uncompressed model. With p = 1, L = L0 (1-r)^-a. The slope
p differs between methods; each addend after λ is a random effect with a spread of its own (crossed, by restricted maximum
likelihood in statsmodels' MixedLM). Such a law answers for a model that nobody measured: what is known of its method, size and
family is used, and what is not known widens the band by that effect's spread.

Predictions are the best linear ones given the points and the spreads (Robinson 1991, "That BLUP is a good thing"). A paper is
left out by predicting its points from those of all others with the spreads held, so judging is quick and hardly flattered.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM

from claw.errors import InputError, unknown
from claw.laws.critical import checked
from claw.words import plural

FACTORS = ("method", "family", "model", "paper", "text", "curve", "training")
"""What adds a random effect, each level its own; training is the paper's own gain where a model was trained afterwards."""
LEAST = 0.02  # share removed below which rounding and noise are as large as what is lost
FEWEST_ROWS = 30
NEW, UNTRAINED = "(new)", "(untrained)"
MOST = 5.0  # of z: L/L0 above 10⁶⁰ is as good as infinite, and does not overflow
DIFFUSE = 1e4  # variance of what could be anything, on a scale where effects are below 1
BILLION = 1e9


@dataclass(frozen=True, kw_only=True)
class Excess:
    """Points on the law's scale: `rows` has z = log(log(L/L0)), x = log(-log(1-r)), `FACTORS`; `left_out` counts the rest."""

    rows: pd.DataFrame
    left_out: Mapping[str, int]
    centre: float  # of x
    shape: str = "kept"


SHAPES: dict[str, Callable[[Any], Any]] = {"kept": lambda r: -np.log1p(-r), "removed": lambda r: r, "original": np.log1p}
"""What the excess is a power of: log of what is kept; what is removed; log(1+r), as in the original paper's (1+r)^β."""


FORMULAS = {"kept": "(-log(1-r))", "removed": "r", "original": "log(1+r)"}


def excess_points(table: pd.DataFrame, shape: str = "kept") -> Excess:
    """The rows of a table (columns of `results/published.csv`) that the law can use, and how many are left out, by reason.

    InputError: a column is missing, or too few rows remain.
    """
    if shape not in SHAPES:
        raise unknown("shape", shape, SHAPES)
    needed = ["paper", "model", "family", "method", "parameters0", "ratio_params", "recovery", "heldout", "loss", "loss0"]
    if gone := [name for name in needed if name not in table]:
        raise InputError(f"A law over many papers needs the columns {', '.join(needed)}; the table has no {', '.join(gone)}.")
    rows, left_out = table[table["method"] != "dense"].copy(), dict[str, int]()

    def keep(mask: pd.Series, reason: str) -> None:
        nonlocal rows
        left_out[reason] = int((~mask).sum())
        rows = rows[mask]

    keep(rows["loss"].notna(), "accuracy only")
    if "apart" in rows:
        keep(rows["apart"].fillna("") == "", "not comparable (column apart)")
    keep(rows["loss0"].notna() & rows["ratio_params"].notna(), "no loss0 or no share of parameters")
    keep(rows["ratio_params"] >= LEAST, f"less than {LEAST:.0%} of the parameters removed")
    if "vocabulary" in rows:
        keep(~(rows["loss"] > np.log(rows["vocabulary"])), "destroyed: loss above that of guessing tokens")
    keep(rows["loss"] > rows["loss0"], "not worse than uncompressed")
    if len(rows) < FEWEST_ROWS:
        raise InputError(f"Only {plural(len(rows), 'row')} can be used; a law over many papers needs {FEWEST_ROWS}.")
    context = rows["context"] if "context" in rows else pd.Series(math.nan, rows.index)
    rows = rows.assign(
        text=rows["heldout"].astype(str) + context.map(lambda tokens: f", {tokens:g} tokens" if tokens == tokens else ""),
        x=np.log(SHAPES[shape](rows["ratio_params"].astype(float))),
        z=np.log(np.log(rows["loss"] / rows["loss0"])),
        size=np.log10(rows["parameters0"].astype(float) / BILLION),
        trained=(rows["recovery"] != "none").astype(float),
        training=rows["paper"].where(rows["recovery"] != "none", UNTRAINED),
    )
    rows["curve"] = rows[["method", "paper", "model", "text"]].agg(" · ".join, axis=1)
    return Excess(rows=rows.reset_index(drop=True), left_out=left_out, centre=float(rows["x"].mean()), shape=shape)


@dataclass(frozen=True, kw_only=True)
class HierarchicalLaw:
    """The fitted law: `fixed` effects with `stderr`, `spread` (standard deviation) of each random effect, and its points."""

    points: Excess
    fixed: Mapping[str, float]
    stderr: Mapping[str, float]
    spread: Mapping[str, float]
    level: float
    note: str = ""

    @property
    def df(self) -> int:
        """Degrees of freedom of the bands: papers less one, as a new paper is what they are for."""
        return max(1, self.points.rows["paper"].nunique() - 1)

    @property
    def quantile(self) -> float:
        """Half width of a band in standard deviations: Student's, of `df` degrees of freedom."""
        return float(stats.t.ppf(0.5 + self.level / 2, self.df))

    def _covariance(self, some: pd.DataFrame, others: pd.DataFrame) -> np.ndarray:
        """Covariance of z between rows, without the noise of runs; a level called (new) is like no other.

        Fixed effects are random ones that could be anything (`DIFFUSE`), so predictions are those of generalised least squares.
        """
        fixed = [(self._x(rows), rows["size"], rows["trained"]) for rows in (some, others)]
        total = DIFFUSE * (1 + np.sum([np.outer(one, other) for one, other in zip(*fixed, strict=True)], axis=0))
        for name in FACTORS:
            apart = some[name].isin((NEW, UNTRAINED)).to_numpy()
            alike = (some[name].to_numpy()[:, None] == others[name].to_numpy()) & ~apart[:, None]
            total += self.spread[name] ** 2 * alike
            if name == "method":
                total += self.spread["slope"] ** 2 * alike * np.outer(self._x(some), self._x(others))
        return total

    def _x(self, rows: pd.DataFrame) -> np.ndarray:
        return rows["x"].to_numpy() - self.points.centre

    @cached_property
    def precision(self) -> np.ndarray:
        """Inverse covariance of the measured z."""
        rows = self.points.rows
        return np.linalg.inv(self._covariance(rows, rows) + self.spread["run"] ** 2 * np.eye(len(rows)))

    def _band(self, mean: np.ndarray, variance: np.ndarray, df: int) -> tuple[np.ndarray, ...]:
        """L/L0 of one measurement: middle, low and high, from z's mean and variance."""
        half = stats.t.ppf(0.5 + self.level / 2, df) * np.sqrt(variance)
        return tuple(np.exp(np.exp(np.minimum(z, MOST))) for z in (mean, mean - half, mean + half))

    def predict(
        self,
        r: Any,
        method: str,
        parameters: float,
        *,
        trained: bool = False,
        model: str = NEW,
        family: str = NEW,
        text: str = NEW,
        paper: str = NEW,
    ) -> pd.DataFrame:
        """Frame over r, the share of parameters removed: mean of L/L0 and the band in which one new measurement lies.

        What is named and in the table is used; what is not ("(new)", or another name) widens the band by its spread.
        `parameters` of the uncompressed model; `trained`: fine-tuned afterwards, as the papers did (few say on how many
        tokens). InputError: r outside (0, 1) or no size.
        """
        r = checked(r)
        if (r <= 0).any() or not parameters > 0:
            raise InputError(
                "A prediction needs shares removed above 0 and the number of parameters of the uncompressed model."
            )
        rows = pd.DataFrame({"x": np.log(SHAPES[self.points.shape](r)), "size": math.log10(parameters / BILLION)})
        rows = rows.assign(method=method, model=model, family=family, text=text, paper=paper, curve=NEW, trained=float(trained))
        rows["training"] = (paper if paper in set(self.points.rows["training"]) else NEW) if trained else UNTRAINED
        for name in FACTORS[:-1]:  # a level that is not in the table is a new one
            rows.loc[~rows[name].isin(self.points.rows[name]), name] = NEW
        covariance = self._covariance(rows, self.points.rows)
        weights = covariance @ self.precision
        prior = np.diag(self._covariance(rows, rows)) + self._of_new_levels(rows) + self.spread["run"] ** 2
        variance = prior - np.einsum("ij,ij->i", weights, covariance)
        middle, below, above = self._band(weights @ self.points.rows["z"].to_numpy(), variance, self.df)
        low, high = self.points.rows["ratio_params"].agg(["min", "max"])
        frame = pd.DataFrame({"ratio": r, "mean": middle, "low": below, "high": above})
        return frame.assign(extrapolated=(r < low) | (r > high))

    def _of_new_levels(self, rows: pd.DataFrame) -> np.ndarray:
        """Variance that levels called (new) add, which `_covariance` leaves out."""
        new = {name: (rows[name] == NEW).to_numpy() for name in FACTORS}
        total = np.sum([self.spread[name] ** 2 * new[name] for name in FACTORS], axis=0)
        return total + (self.spread["slope"] * self._x(rows)) ** 2 * new["method"]

    def left_out(self, by: str = "paper") -> pd.DataFrame:
        """Every point predicted from the points of all other papers (or models, or methods), the spreads held.

        Columns paper, model, method, ratio_params, measured and predicted L/L0, low, high, covered, error (of L, relative).
        """
        known, precision = self.points.rows, self.precision
        pull, parts = precision @ known["z"].to_numpy(), []
        for rows in known.groupby(by).indices.values():
            covariance = np.linalg.inv(precision[np.ix_(rows, rows)])  # of these points, given all others
            mean = known["z"].to_numpy()[rows] - covariance @ pull[rows]
            middle, low, high = self._band(mean, np.diag(covariance), max(1, self.df - 1))
            frame = known.loc[rows, ["paper", "model", "family", "method", "text", "ratio_params"]]
            frame = frame.assign(measured=known["loss"] / known["loss0"], predicted=middle, low=low, high=high)
            parts.append(frame.assign(covered=frame["measured"].between(frame["low"], frame["high"])))
        left = pd.concat(parts, ignore_index=True)
        return left.assign(error=(left["predicted"] / left["measured"] - 1).abs())

    def effects(self, factor: str) -> pd.DataFrame:
        """Each level of a factor: how many times the average excess it has, with the interval, and its number of points."""
        known = self.points.rows
        levels = sorted(known[factor].unique())
        alike = np.array(levels)[:, None] == known[factor].to_numpy()
        weights = self.spread[factor] ** 2 * alike @ self.precision
        mean = weights @ known["z"].to_numpy()
        variance = self.spread[factor] ** 2 * (1 - np.einsum("ij,ij->i", weights, alike.astype(float)))
        half = self.quantile * np.sqrt(np.maximum(variance, 0))
        frame = pd.DataFrame({factor: levels, "times": np.exp(mean), "low": np.exp(mean - half), "high": np.exp(mean + half)})
        return frame.assign(points=alike.sum(axis=1)).sort_values("times", ignore_index=True)

    def summary(self) -> str:
        """The law in words."""
        rows, half = self.points.rows, self.quantile
        edges = lambda name: self.fixed[name] + half * self.stderr[name] * np.array([0, -1, 1])
        words = lambda values: f"{values[0]:.2f} [{values[1]:.2f}, {values[2]:.2f}]"
        counts = ", ".join(plural(rows[name].nunique(), name) for name in ("model", "method", "paper"))
        first, second = sorted(((self.spread[name], name) for name in FACTORS), reverse=True)[:2]
        said = [
            f"{len(rows)} losses of {counts}.",
            f"The excess log(L/L0) grows as {FORMULAS[self.points.shape]}^p with p = {words(edges('x'))};",
            f"ten times the size leaves {words(np.exp(edges('size')))} of it,",
            f"training after compression {words(np.exp(edges('trained')))}.",
            f"What differs most is the {first[1]} (a factor of {np.exp(first[0]):.2f} either way),",
            f"then the {second[1]} ({np.exp(second[0]):.2f}); one run varies by a factor of {np.exp(self.spread['run']):.2f}.",
        ]
        return " ".join(said)

    __str__ = summary


def fit_hierarchical(table: pd.DataFrame, *, level: float = 0.95, shape: str = "kept") -> HierarchicalLaw:
    """The law of a table like `results/published.csv`; `shape` of `SHAPES`. InputError: see `excess_points`."""
    points = excess_points(table, shape)
    rows = points.rows.assign(x=points.rows["x"] - points.centre)
    parts = {name: f"0 + C({name})" for name in FACTORS} | {"slope": "0 + C(method):x", "training": "0 + C(paper):trained"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a spread of zero is a result
        model = MixedLM.from_formula(
            "z ~ x + size + trained", groups=np.ones(len(rows)), vc_formula=parts, re_formula="0", data=rows
        )
        result = model.fit(reml=True, method="lbfgs")
    spread = dict(zip(model.exog_vc.names, np.sqrt(np.maximum(result.vcomp, 0)).tolist(), strict=True))
    return HierarchicalLaw(
        points=points,
        fixed=result.fe_params.to_dict(),
        stderr=result.bse_fe.to_dict(),
        spread=spread | {"run": math.sqrt(result.scale)},
        level=level,
        note="" if result.converged else "The likelihood's maximum was not reached to the last digit.",
    )


def coverage(left_out: pd.DataFrame, by: str = "paper") -> pd.DataFrame:
    """Of points left out, by group and over all: number, share inside the band, median and mean error of L."""
    rows = []
    for name, group in [*left_out.groupby(by), ("all", left_out)]:
        shares = {"points": len(group), "covered": group["covered"].mean()}
        rows.append({by: name} | shares | {"median error": group["error"].median(), "mean error": group["error"].mean()})
    return pd.DataFrame(rows)
