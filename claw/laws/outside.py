"""Out-of-sample errors (cross-validation): each form on a model, family, method, ratio or size that it was not fitted to.

The error is |ŷ/y - 1| of the response itself, whatever the scale of the form, on rows that every form could predict. Errors
are averaged over the rows of a model, then over models, because the model is the unit; standard errors are over models.

A form is fitted to each method apart (`by="method"`), to each curve (`by="curve"`), or once to all (`by="all"`).
"""

import math
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from claw.errors import InputError, unknown
from claw.laws import catalogue
from claw.laws.forms import Form, from_scale
from claw.laws.points import Points
from claw.laws.sample import ALL, Sample, select, solve
from claw.progress import tqdm

SPLITS = {
    "model": "leave one model out",
    "family": "leave one family out",
    "method": "leave one method out",
    "ratio": "from r ≤ 0.5 to r > 0.5",
    "size": "from the smaller half of the models to the larger",
}
BY = {"curve": ["model", "method", "recovery_tokens"], "method": ["method"], "all": []}
EDGE = 0.5
ORIGINAL = ("unit-α",)
"""The original paper's form with α = 1, which is what errors are divided by."""
COMBINATION = ("power-of-r of y/y0", "log-kept-power")
"""Forms whose geometric mean is the candidate `combination`: one bends too little at large ratios, the other too much."""


def contenders(response: str, recovered: bool) -> dict[str, Form]:
    """The forms that are compared for a response, by name: the original ones first, ours last."""
    forms = [form for form in catalogue.CROSS if recovered or form.name != "anchored"]
    if response == "accuracy":
        forms += [form for form in catalogue.RETENTION if form.scale != "logit"]  # no value at or below chance
    named = {form.name: form for form in forms}
    if not recovered:
        named |= {f"{form.name} of y/y0": form for form in catalogue.COMPETING}
        named |= {form.name: form for form in catalogue.OWN}
    return named


def folds(sample: Sample, split: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, training mask and test mask of each fold. InputError where a table cannot be split so."""
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if split == "ratio":
        small = sample.covariates["r"] <= EDGE
        yield f"r > {EDGE}", small, ~small
    elif split == "size":
        sizes = sample.covariates["size"]
        distinct = np.unique(sizes[np.isfinite(sizes)])
        if len(distinct) < 2:
            raise InputError("Models of one size only (or no column parameters0): nothing to extrapolate to.")
        small = sizes <= distinct[(len(distinct) - 1) // 2]
        yield "larger models", small, ~small
    else:
        names = sample.rows[split].to_numpy(str)
        if len(set(names)) < 2:
            raise InputError(f"One {split} only: none can be left out.")
        for name in sorted(set(names)):
            yield name, names != name, names == name


def relative_predictions(
    points: Points, response: str, split: str, *, axis: str = "ratio", by: str = "method", recovered: bool = False
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Predicted over measured, ŷ/y, on rows not fitted to; and why a form has none.

    Columns row, model, method, recovery_tokens, ratio, fold, y (measured), then one per form. InputError where no form has any.
    """
    if by not in BY:
        raise unknown("grouping", by, BY)
    selection = select(points, response, axis, ALL, recovered=recovered)
    columns: dict[str, pd.Series] = {}
    tested, failed = [], {}
    for name, form in contenders(response, recovered).items():
        try:
            columns[name], rows = _predict(selection.sample(form), split, by)
            tested.append(rows)
        except InputError as error:
            failed[name] = str(error)
    if not columns:
        raise InputError(next(iter(failed.values())))
    frame = pd.concat(tested).drop_duplicates("row").set_index("row").join(pd.DataFrame(columns))
    if all(name in frame for name in COMBINATION):
        parts = frame[list(COMBINATION)]
        frame["combination"] = np.exp(np.log(parts.where(parts > 0)).mean(axis=1, skipna=False))
    return frame.reset_index(), failed


def _predict(sample: Sample, split: str, by: str) -> tuple[pd.Series, pd.DataFrame]:
    """ŷ/y of one form by row id, and the rows it was tested on."""
    form, predicted, fold_of = sample.form, np.full(sample.n, math.nan), np.full(sample.n, "", object)
    keys = sample.rows.groupby(BY[by]).ngroup().to_numpy() if BY[by] else np.zeros(sample.n, int)
    reason = InputError(f"{form.name}: no row is left to predict.")
    for name, train, test in folds(sample, split):
        for key in np.unique(keys[test]):
            here = keys == key
            fold_of[test & here] = name
            fitted, c = sample.take(train & here), sample.take(test & here).covariates
            try:
                if fitted.n <= len(form.coefficient_names):
                    raise InputError(f"{fitted.n} rows to fit {len(form.coefficient_names)} coefficients.")
                predicted[test & here] = from_scale(form.scale, form.eta(c, solve(fitted).every), c)
            except InputError as error:
                reason = error
    if not np.isfinite(predicted).any():
        raise reason
    tested = fold_of != ""
    rows = sample.rows[tested]
    frame = rows[["row", "model", "method", "recovery_tokens", "ratio"]].assign(fold=fold_of[tested], y=sample.y[tested])
    return pd.Series(predicted[tested] / sample.y[tested], index=rows["row"]), frame


def compare(points: Points, response: str, split: str, *, recovered: bool = False, **choices: Any) -> pd.DataFrame:
    """One row per form: coefficients, rows, error and its standard error over models, ratio to the original's, with its own.

    `best` marks the smallest error of forms that do not depend on the unit of loss, `chosen` the simplest form within one
    standard error of it (the difference's, paired by model). Forms that could not be fitted have NaN and a reason. `choices`
    as in `relative_predictions`.
    """
    frame, failed = relative_predictions(points, response, split, recovered=recovered, **choices)
    names = list(frame.columns)[list(frame.columns).index("y") + 1 :]
    usable = [name for name in names if frame[name].notna().mean() > 0.5]
    if not set(usable) - set(catalogue.UNIT_BOUND):
        raise InputError(f"No form could be fitted on enough folds ({SPLITS[split]}): methods differ from model to model.")
    common = frame[frame[usable].notna().all(axis=1)]
    if not len(common):
        raise InputError(f"No row of {response} is left that every form could predict ({SPLITS[split]}).")
    errors = (common[usable] - 1).abs().groupby(common["model" if split != "method" else "method"]).mean()
    gone = set[str]() if recovered else {"γ", "g"}
    size = {name: len(set(form.coefficient_names) - gone) for name, form in contenders(response, recovered).items()}
    best = errors.drop(columns=[name for name in catalogue.UNIT_BOUND if name in errors]).mean().idxmin()
    baseline = next((name for name in ORIGINAL if name in usable), None)
    rows = []
    for name in usable:
        error = errors[name]
        row = {"form": name, "coefficients": size.get(name, 3), "n": len(common), "units": len(error)}
        row |= {"error": error.mean(), "stderr": _stderr(error, math.nan)}
        if baseline:
            row["ratio"], row["ratio_stderr"] = _ratio(error.to_numpy(), errors[baseline].to_numpy())
        gap = error - errors[best]
        near = bool(gap.mean() <= _stderr(gap, 0.0)) and name not in catalogue.UNIT_BOUND
        rows.append(row | {"best": name == best, "near": near, "why": ""})
    table = pd.DataFrame(rows)
    near = table[table["near"]].sort_values(["coefficients", "error"])
    table["chosen"] = table["form"] == near["form"].iloc[0]
    lost = [name for name in names if name not in usable] + list(failed)
    missing = [{"form": name, "error": math.nan, "why": failed.get(name, "fitted on too few folds")} for name in lost]
    reported = table["form"].isin(catalogue.UNIT_BOUND)
    ranked = [table[~reported].sort_values("error"), table[reported]]
    return pd.concat([*ranked, pd.DataFrame(missing)], ignore_index=True)


def _stderr(values: pd.Series, alone: float) -> float:
    """Standard error of a mean; `alone` for one value."""
    return values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else alone


def _ratio(error: np.ndarray, baseline: np.ndarray) -> tuple[float, float]:
    """Ratio of mean errors and its jackknife standard error over units."""
    n = len(error)
    if not baseline.mean() > 0:
        return math.nan, math.nan
    ratio = error.mean() / baseline.mean()
    if n < 2:
        return float(ratio), math.nan
    left = np.array([np.delete(error, i).mean() / np.delete(baseline, i).mean() for i in range(n)])
    return float(ratio), float(np.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum()))


def compare_all(points: Points) -> dict[str, pd.DataFrame]:
    """Every comparison a table allows, by `response|split|by`, with `|recovered` where recovered rows take part.

    Without recovery all forms compete; with it those that have a recovery term.
    """
    tables, rows = {}, points.rows
    one_each = rows["family"].nunique() == rows["model"].nunique()  # leaving families out is the same as leaving models out
    jobs = [
        (response, split, by, recovered)
        for response, split in product(points.responses, SPLITS)
        for by in (("all",) if split == "method" else ("method", "all"))
        for recovered in (False, True)[: rows["recovery_tokens"].nunique()]
        if split != "family" or not one_each
    ]
    for response, split, by, recovered in tqdm(jobs, desc="comparing forms", unit=" comparisons", leave=False, delay=1):
        with suppress(InputError):
            table = compare(points, response, split, by=by, recovered=recovered)
            tables[f"{response}|{split}|{by}" + ("|recovered" if recovered else "")] = table
    return tables
