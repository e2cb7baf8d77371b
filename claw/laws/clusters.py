"""Cluster-robust inference with the model, not the run, as the unit: everything from a few sums per model.

Least squares needs of each model only X'X, X'y, y'y and its number of rows. These sums are kept with a law, so that every
interval here (clustered, bias-reduced, wild bootstrap, pairs bootstrap, leave-one-model-out) is arithmetic on small
matrices, whatever the number of rows: thousands of bootstrap draws at once, and again later from laws.json alone.
No library among the dependencies has CR2 with its degrees of freedom, or a wild bootstrap from sums; statsmodels has CR1,
which the tests compare with.

- CR1: the clustered covariance of statsmodels (`cov_type="cluster"`), Student quantiles with models - 1 degrees of freedom.
- CR2: Bell and McCaffrey 2002; unbiased if errors are independent, with Satterthwaite degrees of freedom for each combination.
- Wild cluster restricted bootstrap: Cameron, Gelbach and Miller 2008, weights of Webb 2023, all 6^G of them where feasible;
  intervals by inverting the test.
- Pairs bootstrap: whole models drawn with replacement. Its percentiles cover 76 % at three models and 82 % at five, so the
  interval is its spread (interquartile: near-singular draws do not count), enlarged by √(G/(G-1)), times CR2's quantile.

Why CR2 is the default: simulated with three, five and eight models whose slopes differ, balanced or not, with one term or
with one that is constant within a model, it is the only one that stays near its level throughout (benchmarks/coverage.py).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy import stats

from claw.errors import InputError

WEBB = np.array([-math.sqrt(1.5), -1.0, -math.sqrt(0.5), math.sqrt(0.5), 1.0, math.sqrt(1.5)])
"""Six-point weights of mean 0 and variance 1 (Webb 2023)."""

SINGULAR, GRADIENT_STEP = 1e-10, 1e-4
FEWEST_DF = 3.0
"""Degrees of freedom below which no interval is given: its length would say more of the table than of the law."""


@dataclass(frozen=True)
class Clusters:
    """Sums of a least-squares problem over each model."""

    names: tuple[str, ...]
    gram: np.ndarray  # (models, k, k) X'X
    cross: np.ndarray  # (models, k) X'y
    square: np.ndarray  # (models,) y'y
    rows: np.ndarray  # (models,)

    @classmethod
    def of(cls, design: np.ndarray, response: np.ndarray, groups: np.ndarray, w: np.ndarray) -> "Clusters":
        """Sums of X (n, k) and y (n,) by group; `w` as in weighted least squares."""
        names, index = np.unique(groups, return_inverse=True)
        gram = np.zeros((len(names), design.shape[1], design.shape[1]))
        cross, square = np.zeros((len(names), design.shape[1])), np.zeros(len(names))
        np.add.at(gram, index, w[:, None, None] * design[:, :, None] * design[:, None, :])
        np.add.at(cross, index, w[:, None] * design * response[:, None])
        np.add.at(square, index, w * response**2)
        return cls(tuple(map(str, names)), gram, cross, square, np.bincount(index))

    @property
    def bread(self) -> np.ndarray:
        """(X'X)⁻¹."""
        return inverse(self.gram.sum(axis=0))

    @property
    def coefficients(self) -> np.ndarray:
        """Least squares over all models."""
        return self.bread @ self.cross.sum(axis=0)

    def scores(self, coefficients: np.ndarray) -> np.ndarray:
        """(models, k): X'(y - Xθ) of each model."""
        return self.cross - self.gram @ coefficients

    def without(self, name: str) -> "Clusters":
        """The sums with one model left out."""
        keep = [i for i, model in enumerate(self.names) if model != name]
        names = tuple(self.names[i] for i in keep)
        return Clusters(names, self.gram[keep], self.cross[keep], self.square[keep], self.rows[keep])


def student(df: Any, level: float) -> np.ndarray:
    """Quantile of an interval of this level; NaN below `FEWEST_DF` degrees of freedom."""
    df = np.asarray(df, float)
    return stats.t.ppf(0.5 + level / 2, np.where(df >= FEWEST_DF - 1e-6, df, math.nan))


def variances(design: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """(points,) variance x'Vx of each row x of `design`."""
    return np.einsum("ij,jk,ik->i", design, covariance, design)


def inverse(gram: np.ndarray) -> np.ndarray:
    """Inverse of X'X; InputError where terms cannot be told apart."""
    scale = np.sqrt(np.diag(gram))
    if not (scale > 0).all() or np.linalg.eigvalsh(gram / np.outer(scale, scale))[0] < SINGULAR:
        raise InputError(
            "The terms of this law cannot be told apart on these data: one of them is constant or repeats another (one "
            "recovery budget only, one model only, or one ratio only). Use a form with fewer terms, or measure more."
        )
    return np.linalg.inv(gram / np.outer(scale, scale)) / np.outer(scale, scale)


def clustered(clusters: Clusters) -> np.ndarray:
    """CR1 covariance, as statsmodels computes it: G/(G-1) × (n-1)/(n-k)."""
    bread, n, g, k = clusters.bread, clusters.rows.sum(), len(clusters.names), clusters.gram.shape[1]
    scores = clusters.scores(clusters.coefficients)
    return bread @ (scores.T @ scores) @ bread * (g / (g - 1) * (n - 1) / (n - k))


def bias_reduced(clusters: Clusters) -> np.ndarray:
    """CR2 covariance."""
    scores = np.einsum("gji,gj->gi", _half(clusters), clusters.scores(clusters.coefficients))
    return clusters.bread @ (scores.T @ scores) @ clusters.bread


def satterthwaite(clusters: Clusters, combinations: np.ndarray) -> np.ndarray:
    """Degrees of freedom of c'θ under CR2 for each row c of `combinations`."""
    bread, half = clusters.bread, _half(clusters)
    df = []
    for c in np.atleast_2d(combinations):
        u = half @ (bread @ c)  # (models, k)
        mu = np.einsum("gij,gj->gi", clusters.gram, u)
        inner = np.diag(np.einsum("gi,gi->g", u, mu)) - mu @ bread @ mu.T
        square = (inner**2).sum()
        df.append(np.trace(inner) ** 2 / square if square > 0 else float(len(clusters.names) - 1))
    return np.array(df)


def _half(clusters: Clusters) -> np.ndarray:
    """(models, k, k): F with (I - H)^(-1/2) X = X F for each model, from X'X alone.

    With A = (X'X)⁻¹ = B B and S = B X_g'X_g B symmetric, F = B (I - S)^(-1/2) B⁻¹. A model that alone decides a combination
    has an eigenvalue of 1 in S; there the pseudo-inverse is the convention.
    """
    scale = np.sqrt(np.einsum("gii->i", clusters.gram))  # columns of length one: forms mix units
    gram = clusters.gram / np.outer(scale, scale)
    values, vectors = np.linalg.eigh(gram.sum(axis=0))
    root, unroot = (vectors * values**-0.5) @ vectors.T, (vectors * values**0.5) @ vectors.T
    values, vectors = np.linalg.eigh(root @ gram @ root)
    left = 1 - values
    shrink = np.where(left > 1e-8, np.maximum(left, 1e-8) ** -0.5, 0.0)
    middle = np.einsum("gij,gj,gkj->gik", vectors, shrink, vectors)
    return (root @ middle @ unroot) / scale[:, None] * scale


def pairs(clusters: Clusters, draws: int, rng: np.random.Generator) -> np.ndarray:
    """(draws, k): coefficients of samples of whole models, drawn with replacement. Singular samples are left out."""
    g = len(clusters.names)
    counts = rng.multinomial(g, np.full(g, 1 / g), size=draws).astype(float)
    gram, cross = np.tensordot(counts, clusters.gram, 1), counts @ clusters.cross
    scale = np.sqrt(np.einsum("dii->di", gram))
    usable = (scale > 0).all(axis=1)
    scaled = gram[usable] / (scale[usable, :, None] * scale[usable, None, :])
    regular = np.linalg.eigvalsh(scaled)[:, 0] > SINGULAR
    scaled, scale, cross = scaled[regular], scale[usable][regular], cross[usable][regular]
    return np.linalg.solve(scaled, (cross / scale)[..., None])[..., 0] / scale


def webb(models: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """(draws, models) weights; every combination once, where there are no more than `draws` of them."""
    if len(WEBB) ** models <= draws:
        return np.array(list(product(WEBB, repeat=models)))
    return rng.choice(WEBB, size=(draws, models))


def wild_interval(clusters: Clusters, c: np.ndarray, weights: np.ndarray, level: float) -> tuple[float, float]:
    """All values of c'θ that the wild cluster restricted bootstrap does not reject; infinite where it never rejects.

    Under the null c'θ = v the restricted scores of a model are linear in v, so numerator and squared denominator of every
    draw's statistic are polynomials in v whose coefficients are computed once.
    """
    bread, theta = clusters.bread, clusters.coefficients
    reader, estimate = bread @ c, float(c @ theta)
    spread = np.einsum("gij,j->gi", clusters.gram, reader)
    base, slope = clusters.scores(theta), np.einsum("gij,j->gi", clusters.gram, reader / (c @ reader))
    error = math.sqrt(((base @ reader) ** 2).sum())
    if error == 0:
        return estimate, estimate
    numerator, denominator = [], []
    for scores in (base, slope):  # X'(y - X θ̃) = base + slope × (estimate - v)
        shift = weights @ scores @ bread  # (draws, k)
        numerator.append(shift @ c)
        denominator.append(weights * (scores @ reader) - shift @ spread.T)
    square = [(u * v).sum(axis=1) for u, v in (denominator[:1] * 2, denominator, denominator[1:] * 2)]

    def p(gap: float) -> float:
        drawn = np.maximum(square[0] + 2 * gap * square[1] + gap**2 * square[2], 0)
        extreme = (numerator[0] + gap * numerator[1]) ** 2 >= (gap / error) ** 2 * drawn * (1 - 1e-9)
        return float((extreme & (drawn > 0)).mean())

    return estimate - _edge(p, error, 1 - level), estimate - _edge(p, -error, 1 - level)


def _edge(p: Callable[[float], float], step: float, alpha: float) -> float:
    """The farthest gap in the direction of `step` that is not rejected, by bracketing and bisection."""
    inside, outside = 0.0, 1.0
    while p(outside * step) > alpha:
        inside, outside = outside, outside * 2
        if outside > 512:
            return math.copysign(math.inf, step)
    for _ in range(24):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if p(middle * step) > alpha else (inside, middle)
    return (inside + outside) / 2 * step


def with_gradient(objective: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> tuple[float, np.ndarray]:
    """A function of (batch, n) at `values` (n,) and its slopes by central differences, all in one batch, for an optimiser."""
    steps = GRADIENT_STEP * np.maximum(np.abs(values), 0.1)
    at = objective(np.vstack([values, values + np.diag(steps), values - np.diag(steps)]))
    return float(at[0]), (at[1 : len(values) + 1] - at[len(values) + 1 :]) / (2 * steps)
