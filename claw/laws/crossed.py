"""What methods share: a law whose slopes differ between methods, between models, and between models within a method.

    y = X θ + Z (b_method + b_model + b_curve) + ε,   a curve being one model with one method

Methods and models are crossed: each method was run on several models and each model with several methods, not always all.
Every random effect is normal with a variance of its own for each coefficient that varies; variances by restricted maximum
likelihood (REML). statsmodels fits the same model (`MixedLM` with one group and variance components; a test compares), but
works on all rows at once, minutes where this takes milliseconds, and has no degrees of freedom. Here everything follows from
the sums X'X, X'y of each curve (Woodbury's identity, once within curves and once over methods and models).

Degrees of freedom: V, the variance of an estimate, is a sum of what each variance ψ adds to it, V = Σ ψ ∂V/∂ψ (Euler), and
Satterthwaite's V² / Σ (ψ ∂V/∂ψ)² / df follows with df = levels - 1 of each: methods, models, or curves that carry the
coefficient. The curvature of the likelihood, which lmerTest uses, gives .5 or 12 for one table according to whether a small
variance comes out as zero. A variance that does is left out, and a note says so. One that comes out small by chance makes an
interval short and would claim many degrees of freedom besides, so for these each counts as one standard error larger,
ψ (1 + √(2 / df)). With it 95 % intervals cover 92 to 97.5 % of the time on studies as they are (four models, five to eight
methods, a quarter of the curves missing; benchmarks/crossed_coverage.py), and 99 % of a coefficient that does not vary.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize

from claw.laws.clusters import Clusters, student, with_gradient

LEVELS = ("method", "model", "curve")
MEANING = {
    "method": "between methods",
    "model": "between models",
    "curve": "between models within a method",
    "residual": "within curves",
}
STEP, SMALL = 1e-4, 1e-12
BOUNDARY = 1e-3  # standard deviation between levels over σ of a slope, below which a variance counts as zero
SEPARATOR = "\t"
FEW_LEVELS = 4


@dataclass(frozen=True, kw_only=True)
class Crossed:
    """Fit of a law with crossed random effects.

    `spread`: standard deviation of each coefficient by level, zero where it does not vary. `own`: coefficients of each method
    (θ + b_method, best linear unbiased prediction). Covariances: of θ, of `own`, and what each variance adds to them. `shares`:
    of the variance around Xθ, by level.
    """

    methods: tuple[str, ...]
    models: tuple[str, ...]
    curves: int
    coefficients: np.ndarray
    covariance: np.ndarray
    spread: Mapping[str, np.ndarray]
    sigma2: float
    own: np.ndarray  # (methods, k)
    own_covariance: np.ndarray  # (methods, k, k)
    adds: np.ndarray  # (variances, 1 + methods, k, k): what each variance adds to these covariances
    levels: tuple[str, ...]  # of each variance: "method 0" is that of coefficient 0 between methods; the last is "residual"
    free: np.ndarray  # (variances,) degrees of freedom of each
    most: np.ndarray  # (k,) of each coefficient: what only differs between models rests on few of them
    shares: Mapping[str, float]
    note: str

    def half_width(self, design: np.ndarray, level: float, method: str | None = None, new: tuple[str, ...] = ()) -> np.ndarray:
        """(points,) half of the interval of `mean`; `new` adds what varies: of a model not seen ("model", "curve"), and so on.

        "residual" in `new` makes it the interval of one measurement. NaN where there are too few degrees of freedom.
        """
        variance, df = self.variance(design, method, new)
        return student(df, level) * np.sqrt(variance)

    def df(self, design: np.ndarray) -> np.ndarray:
        """(points,) degrees of freedom of Xθ."""
        return self.variance(design, None, ())[1]

    def variance(self, design: np.ndarray, method: str | None, new: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """(points,) variance that `half_width` is made of, and its degrees of freedom."""
        place = self.methods.index(method) + 1 if method in self.methods else 0
        parts = np.einsum("ni,vij,nj->vn", design, self.adds[:, place], design)
        for i, name in enumerate(self.levels):
            level, _, k = name.partition(" ")
            if level in new:
                parts[i] += self.sigma2 if level == "residual" else (design[:, int(k)] * self.spread[level][int(k)]) ** 2
        variance = parts.sum(axis=0)
        likely = parts * (1 + np.sqrt(2 / self.free))[:, None]
        square = (likely**2 / self.free[:, None]).sum(axis=0)
        df = np.where(square > 0, likely.sum(axis=0) ** 2 / np.where(square > 0, square, 1), math.inf)
        most = np.where(np.abs(design) > 0, self.most, math.inf).min(axis=1)
        varies = "model" if place else "method"  # its variance, where zero, was not known to be zero
        levels = len(self.models if place else self.methods)
        seen = np.where(design != 0, self.spread[varies] > 0, True).all(axis=1) & (levels >= FEW_LEVELS)
        df = np.where(seen, df, np.minimum(df, levels - 1))
        return variance, df if place else np.minimum(df, most)

    @property
    def decomposition(self) -> pd.DataFrame:
        """One row per level: standard deviation of each coefficient, and share of the variance around the common law."""
        rows = [(MEANING[level], *self.spread[level], self.shares[level]) for level in LEVELS]
        rows.append((MEANING["residual"], *np.full(len(self.coefficients), math.nan), self.shares["residual"]))
        return pd.DataFrame(rows, columns=["level", *range(len(self.coefficients)), "share of variance"])


def curve_sums(
    design: np.ndarray, response: np.ndarray, methods: np.ndarray, models: np.ndarray, weights: np.ndarray
) -> Clusters:
    """Sums of X'X, X'y by curve: one model with one method."""
    names = np.char.add(np.char.add(methods.astype(str), SEPARATOR), models.astype(str))
    return Clusters.of(design, response, names, weights)


class _Problem:
    """The restricted likelihood and the solution of the mixed model equations, for batches of variances over σ²."""

    def __init__(self, sums: Clusters, varying: Mapping[str, tuple[int, ...]]):
        pairs = [name.split(SEPARATOR) for name in sums.names]
        self.sums, self.n, self.k = sums, int(sums.rows.sum()), sums.gram.shape[1]
        self.methods, method = np.unique([pair[0] for pair in pairs], return_inverse=True)
        self.models, model = np.unique([pair[1] for pair in pairs], return_inverse=True)
        self.inner = list(varying["curve"])
        self.index: list[tuple[str, int]] = [(level, i) for level in LEVELS for i in varying[level]]
        columns = []  # of the augmented design: X, then one column per level and coefficient
        for level, places, count in (("method", method, len(self.methods)), ("model", model, len(self.models))):
            columns += [(level, i, place, places == place) for i in varying[level] for place in range(count)]
        self.outer = columns = sorted(columns, key=lambda column: column[1])
        self.coefficient = np.array([i for _, i, *_ in columns], int)
        ends = np.searchsorted(self.coefficient, np.arange(self.k + 1))  # columns of one coefficient stand together
        self.blocks = {i: slice(a, b) for i, (a, b) in enumerate(pairwise(ends)) if b > a}
        self.present = np.array([mask for *_, mask in columns], float).reshape(len(columns), len(pairs))
        self.which = np.array([self.index.index((level, i)) for level, i, *_ in columns], int)
        self.within = np.array([self.index.index(("curve", i)) for i in self.inner], int)

    def within_curves(self, psi: np.ndarray):
        """X'V⁻¹X, X'V⁻¹y, y'V⁻¹y of each curve and log|V| over curves, V = I + Z Ψ_curve Z'; psi (b, variances)."""
        sums, z = self.sums, self.inner
        if not z:
            one = np.ones(len(psi))
            return (
                np.broadcast_to(sums.gram, (len(psi), *sums.gram.shape)),
                np.broadcast_to(sums.cross, (len(psi), *sums.cross.shape)),
                one * sums.square.sum(),
                0 * one,
            )
        own = psi[:, self.within][:, None, :, None] * np.eye(len(z))  # (b, 1, q, q)
        zz, zx, zy = sums.gram[:, z][:, :, z], sums.gram[:, z], sums.cross[:, z]
        inner = np.eye(len(z)) + own @ zz
        shrink = np.linalg.solve(inner, np.broadcast_to(own, inner.shape))
        gram = sums.gram - np.einsum("gqi,bgqp,gpj->bgij", zx, shrink, zx)
        cross = sums.cross - np.einsum("gqi,bgqp,gp->bgi", zx, shrink, zy)
        square = sums.square.sum() - np.einsum("gq,bgqp,gp->b", zy, shrink, zy)
        return gram, cross, square, np.linalg.slogdet(inner)[1].sum(axis=1)

    def _outer_sums(self, gram: np.ndarray, cross: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Z'V⁻¹Z, Z'V⁻¹X and Z'V⁻¹y of the effects of methods and models, by pairs of coefficients."""
        b, p = len(gram), len(self.coefficient)
        zz, zx, zy = np.zeros((b, p, p)), np.zeros((b, p, self.k)), np.zeros((b, p))
        for i, rows in self.blocks.items():
            own = self.present[rows]
            zx[:, rows], zy[:, rows] = own @ gram[:, :, i], cross[:, :, i] @ own.T
            for j, columns in self.blocks.items():
                zz[:, rows, columns] = (own * gram[:, None, :, i, j]) @ self.present[columns].T
        return zz, zx, zy

    def solve(self, psi: np.ndarray):
        """For each row of psi, with σ² = 1: restricted log-determinants, residual square, θ, its covariance, b, and more."""
        gram, cross, square, logdet = self.within_curves(psi)
        xx, xy = gram.sum(axis=1), cross.sum(axis=1)
        at = np.arange(len(self.coefficient))
        zz, zx, zy = self._outer_sums(gram, cross)
        prior = np.zeros_like(zz)
        prior[:, at, at] = psi[:, self.which]
        inner = np.eye(len(at)) + prior @ zz
        shrink = np.linalg.solve(inner, prior)
        reach = shrink @ zx
        xvx = xx - np.einsum("bpi,bpj->bij", zx, reach)
        xvy = xy - np.einsum("bpi,bp->bi", reach, zy)
        covariance = np.linalg.inv(xvx)
        theta = np.einsum("bij,bj->bi", covariance, xvy)
        rest = square - np.einsum("bp,bpq,bq->b", zy, shrink, zy) - np.einsum("bi,bi->b", xvy, theta)
        logdet = logdet + np.linalg.slogdet(inner)[1] + np.linalg.slogdet(xvx)[1]
        return logdet, np.maximum(rest, 1e-300), theta, covariance, (shrink, reach, zy)

    def scale(self) -> np.ndarray:
        """(variances,) standard error over σ of each slope within one level: what a spread is judged by."""
        own = np.einsum("gii->gi", self.sums.gram)
        scales = []
        for level, i in self.index:
            count = {"method": len(self.methods), "model": len(self.models), "curve": len(own)}[level]
            scales.append(1 / math.sqrt(max(own[:, i].sum() / count, 1e-300)))
        return np.array(scales)

    def optimum(self) -> np.ndarray:
        """(variances,) over σ² at the maximum of the restricted likelihood, σ² concentrated out."""
        scale = self.scale()
        if not len(scale):
            return scale

        def objective(values: np.ndarray) -> np.ndarray:
            logdet, rest, *_ = self.solve((values * scale) ** 2)
            return 0.5 * (logdet + (self.n - self.k) * np.log(rest))

        best, function = None, partial(with_gradient, objective)
        for start in (3.0, 0.3):
            bounds = [(0.0, 1e4)] * len(scale)
            tried = optimize.minimize(function, np.full(len(scale), start), jac=True, method="L-BFGS-B", bounds=bounds)
            if best is None or tried.fun < best.fun - 1e-6:
                best = tried
            if (best.x > BOUNDARY).all():
                break  # a maximum inside; at a boundary it may be a local one
        assert best is not None
        return np.where(best.x < BOUNDARY, 0.0, best.x * scale) ** 2

    def own_coefficients(self, theta, covariance, parts) -> tuple[np.ndarray, np.ndarray]:
        """(methods, k) θ + b of each method and (methods, k, k) their covariances, for σ² = 1 and one row of a batch."""
        shrink, reach, zy = parts
        b = shrink @ zy - reach @ theta
        cross = -reach @ covariance  # Cov(b̂ - b, θ̂)
        spread = shrink + reach @ covariance @ reach.T
        own = np.repeat(theta[None], len(self.methods), axis=0)
        variance = np.repeat(covariance[None], len(self.methods), axis=0)
        places = [(p, i, place) for p, (level, i, place, _) in enumerate(self.outer) if level == "method"]
        for p, i, place in places:
            own[place, i] += b[p]
            variance[place, i, :] += cross[p]
            variance[place, :, i] += cross[p]
            for q, j, other in places:
                if other == place:
                    variance[place, i, j] += spread[p, q]
        return own, variance


def fit_crossed(sums: Clusters, varying: Mapping[str, tuple[int, ...]], most: np.ndarray | None = None) -> Crossed:
    """REML fit to sums by curve (`curve_sums`); `varying` names for each of LEVELS the coefficients that differ there.

    `most`: largest degrees of freedom of each coefficient, where something else than methods limits them.

    LinAlgError where the fixed effects cannot be told apart.
    """
    problem = _Problem(sums, varying)
    psi = problem.optimum()
    at_zero = [f"{MEANING[level]}" for (level, i), value in zip(problem.index, psi, strict=True) if value == 0 and i == 0]
    _, rest, theta, covariance, parts = problem.solve(psi[None])
    sigma2 = float(rest[0]) / (problem.n - problem.k)
    own, own_covariance = problem.own_coefficients(theta[0], covariance[0], tuple(part[0] for part in parts))
    spread = {level: np.zeros(problem.k) for level in LEVELS}
    for (level, i), value in zip(problem.index, psi * sigma2, strict=True):
        spread[level][i] = math.sqrt(value)
    some = [*np.flatnonzero(psi > 0), len(psi)]  # the last is σ²
    names = [*(f"{level} {i}" for level, i in problem.index), "residual"]
    fields: dict[str, Any] = {"methods": tuple(map(str, problem.methods)), "models": tuple(map(str, problem.models))}
    fields |= {"curves": len(sums.names), "coefficients": theta[0], "covariance": covariance[0] * sigma2, "spread": spread}
    fields |= {"sigma2": sigma2, "own": own, "own_covariance": own_covariance * sigma2}
    fields |= {"adds": _adds(problem, np.append(psi * sigma2, sigma2), some), "levels": tuple(names[i] for i in some)}
    fields |= {"free": _levels_less_one(problem, psi)[some], "most": np.full(problem.k, math.inf) if most is None else most}
    note = f"No variance {' and none '.join(at_zero)} could be seen." if at_zero else ""
    return Crossed(**fields, shares=_shares(sums, spread, sigma2), note=note)


def _adds(problem: _Problem, variances: np.ndarray, some: list[int]) -> np.ndarray:
    """(variances, 1 + methods, k, k): ψ times the change with it of the covariances of θ and of each method's coefficients."""

    def state(values: np.ndarray) -> np.ndarray:
        *_, theta, covariance, parts = problem.solve(values[None, :-1] / values[-1])
        _, own = problem.own_coefficients(theta[0], covariance[0], tuple(part[0] for part in parts))
        return np.concatenate([covariance, own]) * values[-1]

    step = np.eye(len(variances)) * STEP * variances
    return np.array([(state(variances + step[i]) - state(variances - step[i])) / (2 * STEP) for i in some])


def _levels_less_one(problem: _Problem, psi: np.ndarray) -> np.ndarray:
    """(variances + 1,) degrees of freedom of each variance: levels that carry the coefficient, less one.

    Of σ²: the rows, less what is estimated beside it.
    """
    own = np.einsum("gii->gi", problem.sums.gram)
    carries = own > SMALL * own.max(axis=0)
    free, taken = [], problem.k
    for (level, i), variance in zip(problem.index, psi, strict=True):
        masks = {name: [mask for lev, j, _, mask in problem.outer if (lev, j) == (name, i)] for name in ("method", "model")}
        counts = {name: sum(bool((mask & carries[:, i]).any()) for mask in masks[name]) for name in masks}
        crossing = carries[:, i].sum() - sum(max(0, count - 1) for count in counts.values())
        free.append(max(1, (crossing if level == "curve" else counts[level]) - 1))
        taken += free[-1] if variance > 0 else 0
    return np.array([*free, max(1, problem.n - taken)], float)


def _shares(sums: Clusters, spread: Mapping[str, np.ndarray], sigma2: float) -> dict[str, float]:
    """Share of each level in the variance of a row around the common law, averaged over rows."""
    mean = np.einsum("gii->i", sums.gram) / sums.rows.sum()
    parts = {level: float((spread[level] ** 2 * mean).sum()) for level in LEVELS} | {"residual": sigma2}
    total = sum(parts.values())
    return {level: part / total for level, part in parts.items()} if total > 0 else dict.fromkeys(parts, math.nan)
