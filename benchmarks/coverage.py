"""Do the intervals of one method's law hold what they promise? Simulate it on many models, fit it, count.

    python benchmarks/coverage.py [--draws 400] [--only cross] [--ideas]

For every law, coefficient and kind of interval: bias of the estimate in standard errors (target: under 0.1) and the share of
nominal 95 % intervals that hold the truth (target: 93 to 97 %), with models that differ in their slopes. Then the bands: the
law's, a new run's, a new model's. `--ideas` adds the intervals that were tried and not taken. Two cores: about half an hour
for 400 draws of everything.
"""

import argparse
import math
import time
import warnings
import zlib
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats
from threadpoolctl import threadpool_limits

from claw.laws import catalogue, clusters, curves, forms, pooled, simulate
from claw.laws.points import read_points
from claw.laws.sample import gather
from claw.laws.simulate import Design, Truth

LEVEL = 0.95
GRID = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
LINEAR = tuple(pooled.KINDS)
OTHER = ("bias-reduced", "clustered", "pairs")

WITH_INTERCEPT = {"κ": 0.05, "α": 0.95, "β": 1.2, "γ": 0.15}
P_SQUARED = {"N_C": 0.8, "D_C": 0.9, "E": 0.3, "γ": -1.5, "δ": 0.1, "α": 0.3, "β": 0.4}
LAWS = [
    ("loss", Truth("cross", "original", {"α": 1.0, "β": 1.2, "γ": 0.15}, {"α": 0.02, "β": 0.2, "γ": 0.05}), LINEAR),
    ("loss", Truth("cross", "original+intercept", WITH_INTERCEPT, {"κ": 0.03, "β": 0.2, "γ": 0.05}), LINEAR),
    ("loss", Truth("cross", "unit-α", {"β": 1.2, "γ": 0.15}, {"β": 0.2, "γ": 0.05}), LINEAR),
    ("loss", Truth("cross", "anchored", {"β": 1.2, "γ": 0.15}, {"β": 0.2, "γ": 0.05}), LINEAR),
    ("loss", Truth("cross", "unit-α×size", {"β": 1.2, "λ": -0.3, "γ": 0.15}, {"β": 0.2, "γ": 0.05}), LINEAR),
    ("accuracy", Truth("cross", "anchored", {"β": -0.9, "γ": -0.1}, {"β": 0.15, "γ": 0.03}), LINEAR),
    ("accuracy", Truth("retention", "retention-linear", {"b": 0.9, "g": 0.3}, {"b": 0.1, "g": 0.08}), LINEAR),
    ("accuracy", Truth("retention", "retention-quadratic", {"b": 0.6, "q": 0.3, "g": 0.3}, {"b": 0.1, "g": 0.08}), LINEAR),
    ("loss", Truth("competing", "linear", {"b": 1.2}, {"b": 0.2}), OTHER),
    ("loss", Truth("competing", "quadratic", {"b": 0.6, "c": 1.0}, {"b": 0.2, "c": 0.2}), OTHER),
    ("loss", Truth("competing", "cubic", {"b": 0.8, "c": -0.5, "d": 1.5}, {"b": 0.2, "c": 0.2}), OTHER),
    ("loss", Truth("competing", "power", {"b": 1.2}, {"b": 0.1}), OTHER),
    ("loss", Truth("competing", "exponential", {"b": 0.9}, {"b": 0.07}), OTHER),
    ("loss", Truth("competing", "power-of-r", {"a": 1.5, "b": 1.6}, {"a": 0.25}), OTHER),
    ("loss", Truth("competing", "plateau", {"p": 2.5, "s": 0.5, "k": 2.0}, {"p": 0.3}), OTHER),
    ("loss", Truth("own", "log-kept", {"a": 0.6}, {"a": 0.1}), LINEAR),
    ("loss", Truth("own", "log-odds", {"a": 0.6, "s": 2.0}, {"a": 0.1}), OTHER),
    ("loss", Truth("own", "capacity", {"a": 0.5, "k": 0.8}, {"a": 0.1}), OTHER),
    ("loss", Truth("own", "log-kept-power", {"a": 0.8, "b": 1.3}, {"a": 0.1}), OTHER),
    ("loss", Truth("own", "half-way", {"p": 3.0, "m": 0.6, "k": 2.0}, {"p": 0.4}), OTHER),
    ("loss", Truth("post-training", "P²", P_SQUARED), OTHER),
    ("speedup", Truth("speed", "speed-power", {"κ": 0.6, "λ": 0.15}, {"κ": 0.08}), LINEAR),
    ("speedup", Truth("speed", "speed-power-one-size", {"κ": 0.6}, {"κ": 0.08}), LINEAR),
    ("speedup", Truth("speed", "amdahl", {"f": 0.6}, {"f": 0.05}), LINEAR),
]
"""Response, law and its truth, kinds of interval."""


def prepared(response: str, truth: Truth, models: int, rng: np.random.Generator):
    """The rows of the design and a sample whose response is filled in per draw."""
    recovered = truth.group in ("cross", "retention", "post-training")
    budgets = {"post-training": (1e6, 5e6, 25e6)}.get(truth.group, (0, 1e6, 5e6, 25e6) if recovered else (0,))
    frame = simulate.rows(Design(models=models, methods=("prunenet",), tokens=budgets), rng)
    frame[response] = simulate.draw(frame, replace(truth, noise=0.0, between={}), response, rng)
    form = catalogue.find_form(truth.form, truth.group)
    sample = gather(read_points(frame.assign(loss=frame.get("loss", 3.0))), form, response, recovered=recovered)
    return form, sample


def simulated(sample, form, response: str, truth: Truth, rng: np.random.Generator):
    """The sample with a fresh response."""
    y = simulate.draw(sample.rows, truth, response, rng)
    return replace(sample, y=y, target=forms.to_scale(form.scale, y, sample.covariates))


def coverage(
    response: str, truth: Truth, kinds: tuple[str, ...], models: int, draws: int, *, ideas: bool, seed: int
) -> pd.DataFrame:
    """One row per coefficient: bias in standard errors, coverage in percent by kind."""
    rng = np.random.default_rng([seed, zlib.crc32(f"{truth.form} {response} {models}".encode())])  # laws share no draws
    form, sample = prepared(response, truth, models, rng)
    target = np.array([truth.theta[name] for name in form.coefficient_names])
    estimates, hits, lost = [], {}, 0
    for _ in range(draws):
        try:
            drawn = simulated(sample, form, response, truth, rng)
            law = pooled.fit_pooled(drawn, level=LEVEL, seed=0, draws=999, kinds=kinds)
        except ValueError:
            lost += 1
            continue
        estimates.append(law.coefficients)
        intervals = dict(law.intervals) | (tried(law) if ideas else {})
        for kind, interval in intervals.items():
            inside = (interval[:, 0] <= target) & (target <= interval[:, 1])
            hits.setdefault(kind, []).append(np.where(np.isnan(interval).any(axis=1), np.nan, inside))
    estimates = np.array(estimates)
    bias = (estimates.mean(axis=0) - target) / estimates.std(axis=0, ddof=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shares = {kind: 100 * np.nanmean(inside, axis=0) for kind, inside in hits.items()}
    frame = {"law": f"{truth.form} ({response})", "models": models, "coefficient": form.coefficient_names, "bias/se": bias}
    return pd.DataFrame(frame).assign(**shares, lost=lost)


def tried(law: pooled.PooledLaw) -> dict[str, np.ndarray]:
    """Intervals that were tried beside those of the package: three for pairs, two for wild, two for mixed."""
    sums, k, g = law.clusters, len(law.coefficients), len(law.clusters.names)
    tail, theta, rng = 0.5 + LEVEL / 2, law.coefficients, np.random.default_rng(0)
    drawn = clusters.pairs(sums, 999, rng)
    reach = stats.norm.cdf(-stats.t.ppf(tail, g - 1) * math.sqrt(g / (g - 1)))
    intervals = {
        "pairs: percentile": np.quantile(drawn, [1 - tail, tail], axis=0).T,
        "pairs: expanded percentile": np.quantile(drawn, [reach, 1 - reach], axis=0).T,
    }
    wide = stats.t.ppf(tail, g - 1) * drawn.std(axis=0) * math.sqrt(g / (g - 1))
    intervals["pairs: standard deviation, t(G-1)"] = np.column_stack([theta - wide, theta + wide])
    weights = clusters.webb(g, 999, rng)
    for name, power in (("wild: unrestricted", 0), ("wild: unrestricted, CR3 scores", 1)):
        intervals[name] = np.array([_unrestricted(sums, c, weights, power) for c in np.eye(k)])
    if law.mixed is not None:
        error = np.sqrt(np.diag(law.mixed.covariance))
        for name, quantile in (("mixed: normal", stats.norm.ppf(tail)), ("mixed: t(G-1)", stats.t.ppf(tail, g - 1))):
            middle = law.mixed.coefficients
            intervals[name] = np.column_stack([middle - quantile * error, middle + quantile * error])
    return intervals


def _unrestricted(sums: clusters.Clusters, c: np.ndarray, weights: np.ndarray, jackknife: bool) -> tuple[float, float]:
    bread, theta = sums.bread, sums.coefficients
    scores = raw = sums.scores(theta)
    if jackknife:
        inverses = [np.linalg.pinv(np.eye(len(c)) - gram @ bread) for gram in sums.gram]
        scores = np.array([inverse @ score for inverse, score in zip(inverses, raw, strict=True)])
    reader = bread @ c
    shift = weights @ scores @ bread
    drawn = np.sqrt((((weights * (scores @ reader)) - shift @ np.einsum("gij,j->gi", sums.gram, reader).T) ** 2).sum(axis=1))
    quantile = np.quantile(np.abs(shift @ c) / np.where(drawn > 0, drawn, np.inf), LEVEL)
    error = math.sqrt(((raw @ reader) ** 2).sum())
    return float(c @ theta - quantile * error), float(c @ theta + quantile * error)


def bands(response: str, truth: Truth, models: int, draws: int) -> pd.DataFrame:
    """Coverage of the three bands over the ratio: the law's mean, a run of a fitted model, a run of a model not fitted."""
    rng = np.random.default_rng(2)
    form, sample = prepared(response, truth, models, rng)
    first = sample.rows["model"].iloc[0]
    dense, hits = float(sample.rows[f"{response}0"].iloc[0]), {"confidence": [], "run": [], "model": []}
    rows = sample.rows
    shown = (rows["model"] == first) & (rows["method"] == rows["method"].iloc[0]) & rows["ratio"].isin(GRID)
    mask = (shown & (rows["recovery_tokens"] == 0)).to_numpy()
    new, rest = sample.rows[mask], sample.take(~mask)
    rest = replace(rest, rows=sample.rows[~mask])
    mean = simulate.draw(new, replace(truth, noise=0.0, between={}), response, rng)
    for _ in range(draws):
        drawn = simulated(sample, form, response, truth, rng)
        others = replace(rest, y=drawn.y[~mask], target=drawn.target[~mask])
        law = pooled.fit_pooled(others, level=LEVEL, draws=999, kinds=("mixed",))
        band = law.predict(GRID, dense, 0.0, chance=simulate.CHANCE, model=first)
        fresh, again = simulate.draw(new, truth, response, rng), drawn.y[mask]
        for kind, value in (("confidence", mean), ("model", fresh), ("run", again)):
            hits[kind].append((band[f"{kind}_low"] <= value) & (value <= band[f"{kind}_high"]))
    shares = {kind: 100 * np.mean(held) for kind, held in hits.items()}
    return pd.DataFrame([{"law": f"{truth.form} ({response})", "models": models, **shares}])


def curve_bands(draws: int) -> pd.DataFrame:
    """Coverage of the coefficients and bands of single curves, quadratic and linear."""
    rng, ratios = np.random.default_rng(3), np.arange(10) / 10
    rows = []
    for form, theta in (("quadratic", [3.0, 1.0, 4.0]), ("linear", [0.6, -0.3])):
        law, response = catalogue.find_form(form), "loss" if form == "quadratic" else "accuracy"
        truth, hits, estimates = law.design({"r": ratios}) @ theta, [], []
        frame = pd.DataFrame({"model": "m", "method": ["dense"] + ["random"] * 9, "ratio": ratios, f"{response}0": truth[0]})
        for _ in range(draws):
            y = truth + rng.normal(0, 0.05, 10)
            fitted = curves.fit_curve(
                frame.assign(**{response: y}), curves.CurveKey("m", "random"), response, form, level=LEVEL
            )
            band, fresh = fitted.predict(GRID), law.design({"r": GRID}) @ theta
            inside = (fitted.intervals[:, 0] <= theta) & (theta <= fitted.intervals[:, 1])
            held = (band["confidence_low"] <= fresh) & (fresh <= band["confidence_high"])
            run = fresh + rng.normal(0, 0.05, len(GRID))
            hits.append([inside.mean(), held.mean(), ((band["run_low"] <= run) & (run <= band["run_high"])).mean()])
            estimates.append(fitted.coefficients)
        estimates = np.array(estimates)
        bias = np.abs((estimates.mean(axis=0) - theta) / estimates.std(axis=0, ddof=1)).max()
        shares = dict(zip(("coefficients", "confidence", "new run"), 100 * np.mean(hits, 0), strict=True))
        rows.append({"law": f"{form} of one curve", "largest |bias|/se": bias, **shares})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--models", type=int, nargs="+", default=[8, 5, 3])
    parser.add_argument("--only", help="group of laws: curve, cross, retention, competing, own, post-training, speed, bands")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=LINEAR, help="only these kinds of interval: faster")
    parser.add_argument("--ideas", action="store_true", help="also the intervals that were tried and not taken")
    chosen = parser.parse_args()
    pd.set_option("display.width", 250, "display.max_columns", 40)
    started = time.perf_counter()
    with threadpool_limits(1):
        if chosen.only in (None, "curve"):
            print(curve_bands(chosen.draws).round(3).to_string(index=False), flush=True)
        for response, truth, kinds in LAWS:
            if chosen.only not in (None, truth.group):
                continue
            for models in chosen.models if truth.group in ("cross", "retention") else chosen.models[:1]:
                if len(truth.theta) > models or (truth.form in ("original+intercept", "unit-α×size") and models < 3):
                    continue
                options = {"ideas": chosen.ideas, "seed": chosen.seed}
                table = coverage(response, truth, tuple(chosen.kinds or kinds), models, chosen.draws, **options)
                print(table.round(2).to_string(index=False), flush=True)
        if chosen.only in (None, "bands"):
            for response, truth, _ in LAWS:
                if truth.form in ("unit-α", "anchored", "retention-linear"):
                    for models in chosen.models:
                        print(bands(response, truth, models, chosen.draws).round(1).to_string(index=False), flush=True)
    print(f"{chosen.draws} draws each, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
