"""Laws across models: fitted by least squares, with every kind of interval side by side and three kinds of band.

The unit of inference is the model, not the run: a hundred runs of three models are three observations of how models differ.
Each law keeps the sums per model that its intervals need, so it predicts with any of them, from JSON too. A law of several
methods says what they share: methods differ far more than models do, so it is a mixed model in which both are random
(`claw.laws.crossed`), and its coefficients are those of that model. It has no other kind of interval, because clustering by
model takes the methods that happened to be measured for all there are.

Notable choices:
- The default interval of one method's law is bias-reduced (CR2, Satterthwaite degrees of freedom); `claw.laws.clusters` says
  why. Below three degrees of freedom no interval is given, but the reason: its length would say more of the table than of
  the law.
- Points at r = 0 are left out: anchored forms satisfy them by construction, so they would only flatter R² and BIC.
- Where the rows have one recovery budget the recovery term is dropped, with a note: it would be an intercept in disguise.
- With one model the curves (method, seed, recovery run) are the clusters, and the law speaks of that model only. With one
  curve the runs are, the dense one among them where the law need not meet it: an anchored one does whatever its coefficients
  are, and with that point counted intervals cover 92 % instead of 94 or 95 (`runs` and `ordinary` of `KINDS`).
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from claw.errors import InputError
from claw.laws import catalogue, crossed, mixed
from claw.laws.crossed import Crossed
from claw.laws.pooled_law import KINDS, PooledLaw
from claw.laws.sample import ALL, Sample, Solution, kept_terms, quality, solve
from claw.words import plural

OF_RUNS = ("runs", "ordinary", "bias-reduced")
"""Kinds of interval of a single curve, whose runs are independent: the others are about clusters."""


def fit_pooled(
    sample: Sample, *, level: float = 0.95, seed: int = 0, draws: int = 2000, kinds: Iterable[str] = KINDS
) -> PooledLaw:
    """One law across models with the asked kinds of interval. InputError: terms that cannot be told apart, too few rows."""
    form, units, kinds = sample.form, len(set(sample.groups)), tuple(kinds)
    _check(sample, units)
    solution = solve(sample)
    several = sample.method == ALL and "mixed" in kinds and sample.rows["method"].nunique() > 1
    as_published = form.name in catalogue.UNIT_BOUND
    common = crossed_fit(solution) if several and not as_published else None
    if common is not None:
        eta = form.eta(sample.covariates, _every(solution, common.coefficients))
        solution = replace(solution, theta=common.coefficients, eta=eta)
    sums, residual, r = solution.clusters, sample.target - solution.eta, sample.covariates["r"]
    varying = tuple(i for i, name in enumerate(solution.names) if name in form.varying)
    random, notes = None, [*solution.notes, *_caveats(sample, units), common.note if common else ""]
    notes += ["It depends on the unit of loss: shown as the paper has it, not judged."] if as_published else []
    if several and not common:
        kinds = ()  # clustered by model, they would take these methods for all there are
    else:
        kinds = tuple(kind for kind in kinds if (kind in OF_RUNS if sample.unit == "run" else kind != "runs"))
    if "mixed" in kinds and units >= 3 and varying and not common:
        root = np.sqrt(sample.weights)
        random = mixed.fit_mixed(root[:, None] * solution.design, root * solution.linearised, sample.groups, varying, sums)
        notes.append(random.note if random else "No mixed model: its restricted likelihood has no regular maximum here.")
    informed = np.any(solution.design != 0, axis=1)  # an anchored law meets the dense point whatever its coefficients are
    squares, free = residual[informed] ** 2, max(1, int(informed.sum()) - len(solution.kept))
    sigma2 = float(np.average(squares, weights=sample.weights[informed]) * informed.sum() / free)
    fields = {name: getattr(sample, name) for name in ("response", "axis", "method", "scope", "n", "unit")}
    fields |= {"form": form.name, "group": form.group, "level": level, "seed": seed, "draws": draws, "sigma2": sigma2}
    fields |= {"kept": solution.kept, "coefficients": solution.theta, "clusters": sums, "intervals": {}, "mixed": random}
    fields |= {"low": float(r.min()), "high": float(r.max()), "quality": quality(solution), "crossed": common, "degrees": {}}
    tokens = tuple(sorted(set(sample.rows["recovery_tokens"].astype(float))))
    law = PooledLaw(**fields, tokens=tokens, notes=tuple(filter(None, notes)))
    unit, kinds = np.eye(len(law.coefficients)), ("mixed",) if common else kinds
    law = replace(law, degrees={kind: law.degrees_of(unit, kind) for kind in kinds})
    return replace(law, intervals={kind: law.coefficient_intervals(kind) for kind in kinds})


def _every(solution: Solution, theta: np.ndarray) -> np.ndarray:
    """All coefficients of the form, zero where one was not fitted."""
    return replace(solution, theta=theta).every


def crossed_fit(solution: Solution) -> Crossed | None:
    """The fit in which methods, models and curves differ; None where the sums are singular.

    What is constant within every model, such as L0^α, can differ between models only.
    """
    sample, design = solution.sample, solution.design
    methods, models = (sample.rows[name].to_numpy(str) for name in ("method", "model"))
    sums = crossed.curve_sums(design, solution.linearised, methods, models, sample.weights)
    spread = np.max([np.ptp(design[models == name], axis=0) for name in set(models)], axis=0)
    varying = [i for i, name in enumerate(solution.names) if name in sample.form.varying]
    constant = [i for i in range(design.shape[1]) if spread[i] <= 1e-9 * np.abs(design[:, i]).max()]
    within = tuple(i for i in varying if i not in constant)
    levels = {"method": within, "model": tuple(varying) if len(set(models)) > 1 else ()}
    levels["curve"] = within if len(sums.names) > max(len(set(methods)), len(set(models))) else ()
    most = np.full(design.shape[1], np.inf)
    most[constant] = max(0, len(set(models)) - len(constant))
    most[[i for i, name in enumerate(solution.names) if name == "λ"]] = max(0, len(set(models)) - 2)  # a slope over models
    try:
        return crossed.fit_crossed(sums, levels, most)
    except np.linalg.LinAlgError:
        return None


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
        notes.append(f"{units} models: what differs between models rests on {units} numbers.")
    if sample.lost:
        notes.append(f"{sample.lost} rows have no value on this scale (no dense value, or at or below zero) and are left out.")
    return tuple(notes)
