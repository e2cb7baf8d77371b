"""Mixed models: a law whose slopes differ between models, by restricted maximum likelihood (REML).

y = Xθ + Z b + ε for each model, b ~ N(0, Ψ), ε ~ N(0, σ²). statsmodels' MixedLM fits it; it has no degrees of freedom and no
prediction. Both come here from the same sums per model as in `claw.laws.clusters`:

- Satterthwaite degrees of freedom of c'θ, 2 V² / Var(V), with Var from the curvature of the restricted likelihood in Ψ and
  σ² (Giesbrecht and Burns 1985, as in lmerTest);
- variance of a new model's law x'Vx + z'Ψz, and of a run of it, + σ².

Where the variances are at their boundary (zero, or slopes perfectly correlated: few models) the fit falls back to
independent slopes, to those whose variance is not zero, to a random intercept, and says so; degrees of freedom then are at
most models - 1, because a variance set to zero was not known to be zero.
"""

import math
import warnings
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import statsmodels.api as sm
from scipy import optimize
from statsmodels.regression.mixed_linear_model import MixedLMParams

from claw.laws.clusters import Clusters, variances, with_gradient

STEP = 1e-4
BOUNDARY = 1e-6
MANY = 8  # models per varying coefficient from which correlations of more than two are estimated
NOTES = {
    "slopes": "",
    "independent slopes": "Slopes vary between models independently of each other: too few models to tell their correlation.",
    "some slopes": "Not every slope varies between models: the variance of the others is at its boundary.",
    "intercept": "Only the intercept varies between models: the variance of the slopes is at its boundary.",
}
"""What varies between models, from the richest fit to the poorest, and the note on it."""


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """Restricted maximum likelihood fit. `random` are the columns of X whose coefficients vary between models."""

    coefficients: np.ndarray
    covariance: np.ndarray
    varies: str  # one of NOTES
    random: tuple[int, ...]
    between: np.ndarray  # Ψ, over `random`
    intercept: float  # variance of a random intercept, where the fit fell back to it
    sigma2: float
    models: int

    @property
    def note(self) -> str:
        """What was given up, in words; empty if nothing."""
        return NOTES[self.varies]

    def df(self, clusters: Clusters, combinations: np.ndarray) -> np.ndarray:
        """(combinations,) degrees of freedom of each c'θ."""
        return _satterthwaite(self, clusters, np.atleast_2d(combinations))

    def new_model_variance(self, design: np.ndarray) -> np.ndarray:
        """(points,) variance of one measurement of a new model."""
        z = design[:, list(self.random)]
        return variances(design, self.covariance) + variances(z, self.between) + self.intercept + self.sigma2

    def of_model(self, clusters: Clusters, model: str, design: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(points,) a fitted model's own departure from the law of all, z'b predicted (BLUP), and the variance of x'θ + z'b.

        b = ΨZ'V⁻¹(y - Xθ); variance (x - B'z)' Var(θ) (x - B'z) + z'(Ψ - ΨZ'V⁻¹ZΨ)z with B = ΨZ'V⁻¹X (Henderson 1975).
        """
        i, z = clusters.names.index(model), list(self.random)
        gram, cross = clusters.gram[i], clusters.cross[i]
        weight = self.between @ np.linalg.inv(self.sigma2 * np.eye(len(z)) + gram[np.ix_(z, z)] @ self.between)
        own = weight @ (cross[z] - gram[z] @ self.coefficients)
        left = design - design[:, z] @ (weight @ gram[z])
        spread = self.between - weight @ gram[np.ix_(z, z)] @ self.between
        variance = variances(left, self.covariance) + variances(design[:, z], spread)
        return design[:, z] @ own, np.maximum(variance, 0.0)


def fit_mixed(
    design: np.ndarray, response: np.ndarray, groups: np.ndarray, varying: tuple[int, ...], clusters: Clusters
) -> Mixed | None:
    """Mixed fit with random slopes on the columns `varying`, or the richest one below it that is regular; None if none is.

    statsmodels starts from the optimum that the sums in `clusters` give, so that it converges at once.
    """
    for varies in NOTES:
        if varies == "slopes" and len(varying) > 2 and len(clusters.names) < MANY * len(varying):
            continue  # simulated: correlations of three slopes over eight models make intervals cover 83 %
        columns = varying if varies in ("slopes", "independent slopes") else ()
        with suppress(np.linalg.LinAlgError, ValueError):  # no noise at all, or one row per cluster: there is no maximum
            if varies == "some slopes":
                own = np.sqrt(np.diag(optimum(clusters, varying, diagonal=True)[1]))
                columns = tuple(np.array(varying)[own > math.sqrt(BOUNDARY) * _typical(clusters, varying)].tolist())
            if (varies == "some slopes" and columns in ((), varying)) or (varies == "independent slopes" and len(varying) == 1):
                continue
            mixed = _fit(design, response, groups, columns, varies=varies, clusters=clusters)
            if mixed is not None:
                return mixed
    return None


def _fit(design, response, groups, columns: tuple[int, ...], *, varies: str, clusters: Clusters) -> Mixed | None:
    """The fit with random slopes on `columns`, a random intercept without any; None if it is at its boundary."""
    q, k, options = len(columns), design.shape[1], dict[str, Any]()
    if columns:
        diagonal = varies != "slopes" and q > 1
        theta, ratio = optimum(clusters, columns, diagonal)
        if not _regular(ratio, _typical(clusters, columns)):
            return None
        options["start_params"] = MixedLMParams.from_components(theta, cov_re=ratio)
        if diagonal:
            options["free"] = MixedLMParams.from_components(np.ones(k), cov_re=np.eye(q))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        random = design[:, list(columns)] if columns else np.ones((len(response), 1))
        fitted = sm.MixedLM(response, design, groups, exog_re=random).fit(reml=True, method=["lbfgs", "bfgs"], **options)
        covariance = np.asarray(fitted.cov_params())[:k, :k]
    between, sigma2, intercept = np.atleast_2d(fitted.cov_re), float(fitted.scale), 0.0
    if not (np.isfinite(covariance).all() and (np.linalg.eigvalsh(covariance) > 0).all() and np.isfinite(between).all()):
        return None
    if not columns:
        between, intercept = np.zeros((0, 0)), float(between[0, 0])
    elif not _regular(between / sigma2, _typical(clusters, columns)):
        return None
    fields: dict[str, Any] = {"coefficients": np.asarray(fitted.fe_params), "covariance": covariance, "varies": varies}
    fields |= {"random": columns, "between": between, "intercept": intercept}
    return Mixed(**fields, sigma2=sigma2, models=len(clusters.names))


def _typical(clusters: Clusters, columns: tuple[int, ...]) -> np.ndarray:
    """Standard error over σ of each slope within one model: the scale on which its variance between models is judged."""
    return 1 / np.sqrt(np.einsum("gii->gi", clusters.gram[:, list(columns)][:, :, list(columns)]).mean(axis=0))


def _regular(ratio: np.ndarray, scale: np.ndarray) -> bool:
    """Whether Ψ/σ² is inside its boundary: no variance that vanishes, no correlation of ±1."""
    own = np.sqrt(np.maximum(np.diag(ratio), 0))
    if not (own > math.sqrt(BOUNDARY) * scale).all():
        return False
    return bool(np.linalg.eigvalsh(ratio / np.outer(own, own))[0] > BOUNDARY)


def optimum(clusters: Clusters, random: tuple[int, ...], diagonal: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """θ and Ψ/σ² at the optimum of the restricted likelihood, σ² concentrated out, Ψ/σ² by its Cholesky factor."""
    q, n, k = len(random), clusters.rows.sum(), clusters.gram.shape[1]
    rows, columns = np.diag_indices(q) if diagonal else np.tril_indices(q)
    scale = _typical(clusters, random)[rows]

    def ratio(values: np.ndarray) -> np.ndarray:
        root = np.zeros((*values.shape[:-1], q, q))
        root[..., rows, columns] = values * scale
        return root @ np.swapaxes(root, -1, -2)

    def objective(values: np.ndarray) -> np.ndarray:
        _, _, total, fitted, logdet = _precision(clusters, random, ratio(values), np.ones(len(values)))
        return 0.5 * (logdet + (n - k) * np.log(np.maximum(total - fitted, 1e-300)))

    start = np.where(rows == columns, 3.0, 0.0)
    best = optimize.minimize(partial(with_gradient, objective), start, jac=True, method="L-BFGS-B", options={"maxiter": 60}).x
    return _precision(clusters, random, ratio(best)[None], np.ones(1))[1][0], ratio(best)


def _precision(clusters: Clusters, random: tuple[int, ...], psi: np.ndarray, sigma2: np.ndarray):
    """X'V⁻¹X, θ, y'V⁻¹y, θ'X'V⁻¹y and log|V| + log|X'V⁻¹X| over all models, for a batch of Ψ (b, q, q) and σ² (b,).

    -½ (log|V| + log|X'V⁻¹X| + y'V⁻¹y - θ'X'V⁻¹y) is the restricted log-likelihood up to a constant.
    """
    z = list(random)
    zz, zx, zy = clusters.gram[:, z][:, :, z], clusters.gram[:, z], clusters.cross[:, z]
    inner = sigma2[:, None, None, None] * np.eye(len(z)) + psi[:, None] @ zz  # (b, models, q, q)
    shrink = np.linalg.solve(inner, np.broadcast_to(psi[:, None], inner.shape))
    right = shrink @ zx  # (b, models, q, k)
    xvx = (clusters.gram.sum(0) - np.einsum("gqi,bgqj->bij", zx, right)) / sigma2[:, None, None]
    xvy = (clusters.cross.sum(0) - np.einsum("gq,bgqj->bj", zy, right)) / sigma2[:, None]
    yvy = (clusters.square.sum() - np.einsum("gq,bgqp,gp->b", zy, shrink, zy)) / sigma2
    theta = np.linalg.solve(xvx, xvy[..., None])[..., 0]
    logdet = (clusters.rows - len(z)).sum() * np.log(sigma2) + np.linalg.slogdet(inner)[1].sum(axis=1)
    return xvx, theta, yvy, np.einsum("bi,bi->b", xvy, theta), logdet + np.linalg.slogdet(xvx)[1]


def _satterthwaite(mixed: Mixed, clusters: Clusters, combinations: np.ndarray) -> np.ndarray:
    """Degrees of freedom 2 V² / Var(V) of each c'θ, from finite differences of V and of the restricted likelihood."""
    q, most = len(mixed.random), float(clusters.rows.sum() - clusters.gram.shape[1])
    if not q:
        return np.full(len(combinations), float(mixed.models - 1))
    rows, columns = np.tril_indices(q) if mixed.varies == "slopes" else np.diag_indices(q)
    own = np.sqrt(np.diag(mixed.between))
    at = np.append(mixed.between[rows, columns], mixed.sigma2)
    steps = STEP * np.diag(np.append(own[rows] * own[columns], mixed.sigma2))
    n = len(at)

    def parts(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        psi = np.zeros((len(values), q, q))
        psi[:, rows, columns] = psi[:, columns, rows] = values[:, :-1]
        return psi, values[:, -1]

    def of_combinations(values: np.ndarray) -> np.ndarray:
        covariance = np.linalg.inv(_precision(clusters, mixed.random, *parts(values))[0])
        return np.einsum("ij,bjk,ik->bi", combinations, covariance, combinations)

    signs = [(i, j, a, b) for i in range(n) for j in range(n) for a in (1, -1) for b in (1, -1)]
    around = np.array([at + a * steps[i] + b * steps[j] for i, j, a, b in signs])
    _, _, total, fitted, logdet = _precision(clusters, mixed.random, *parts(around))
    likelihood = -0.5 * (logdet + total - fitted)
    curvature = (np.array([a * b for _, _, a, b in signs]) * likelihood).reshape(n, n, 4).sum(axis=-1) / 4
    gradient = (of_combinations(at + steps) - of_combinations(at - steps)) / 2  # both in units of the steps
    spread = np.einsum("ik,ij,jk->k", gradient, np.linalg.pinv(-curvature), gradient)
    df = np.where(spread > 0, 2 * of_combinations(at[None])[0] ** 2 / np.where(spread > 0, spread, 1), most)
    return np.clip(df, 1.0, min(most, mixed.models - 1) if mixed.note else most)
