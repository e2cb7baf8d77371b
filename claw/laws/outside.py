"""Out of sample: how wrong each form is on a model, family, method, ratio or size that it was not fitted to.

Error is |ŷ/y - 1| of the response itself, whatever the scale of the form, on rows that every form could predict. Errors are
averaged over rows of a model, then over models, because the model is the unit; standard errors are over models.

A form is fitted to each method apart (`by="method"`), to each curve (`by="curve"`), or once to all (`by="all"`).
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from claw.errors import InputError, unknown
from claw.laws import catalogue, forms
from claw.laws.forms import Form
from claw.laws.points import Points
from claw.laws.sample import ALL, Sample, gather, kept_terms, solve_form
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
ORIGINAL = ("original", "unit-α")
"""The original paper's form, or where α cannot be fitted the same with α = 1: what errors are divided by."""
COMBINATION = ("power-of-r of y/y0", "log-kept-power")
"""Forms whose geometric mean is the candidate `combination`: one bends too little at large ratios, the other too much."""


def contenders(response: str, recovered: bool) -> list[tuple[str, Form]]:
    """The forms that are compared for a response, with their group: the original ones first, ours last."""
    found = [("cross", form) for form in catalogue.CROSS if recovered or form.name != "anchored"]
    if response == "accuracy":
        found += [("retention", form) for form in catalogue.RETENTION if form.scale != "logit"]  # no value at or below chance
    if not recovered:
        found += [("competing", form) for form in catalogue.COMPETING] + [("own", form) for form in catalogue.OWN]
    return found


def folds(found: Sample, split: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, training mask and test mask of each fold. InputError where a table cannot be split so."""
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if split == "ratio":
        small = found.covariates["r"] <= EDGE
        yield f"r > {EDGE}", small, ~small
        return
    if split == "size":
        sizes = found.rows.get("parameters0", pd.Series(np.nan, found.rows.index)).to_numpy(float)
        distinct = np.unique(sizes[np.isfinite(sizes)])
        if len(distinct) < 2:
            raise InputError("Models of one size only (or no column parameters0): nothing to extrapolate to.")
        small = sizes <= distinct[(len(distinct) - 1) // 2]
        yield "larger models", small, ~small
        return
    names = found.rows[split].to_numpy(str)
    if len(set(names)) < 2:
        raise InputError(f"One {split} only: none can be left out.")
    for name in sorted(set(names)):
        yield name, names != name, names == name


def relative_predictions(
    points: Points,
    response: str,
    split: str,
    *,
    axis: str = "ratio",
    by: str = "method",
    recovered: bool = False,
    only: Sequence[str] | None = None,
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Frame of rows not fitted to (row, model, method, fold, y, one column per form), and why a form has none."""
    if by not in BY:
        raise unknown("grouping", by, BY)
    columns: dict[str, pd.Series] = {}
    base, failed = [], {}
    for group, form in contenders(response, recovered):
        name = form.name if group != "competing" else f"{form.name} of y/y0"
        if only is not None and name not in only:
            continue
        try:
            found = gather(points, form, response, axis, ALL, recovered=recovered)
            columns[name], frame = _predict(found, form, split, by)
            base.append(frame)
        except InputError as error:
            failed[name] = str(error)
    if not columns:
        raise InputError(next(iter(failed.values())) if failed else f"No form to compare on {response}.")
    frame = pd.concat(base).drop_duplicates("row").set_index("row")
    frame = frame.join(pd.DataFrame(columns))
    if all(name in frame for name in COMBINATION):
        parts = frame[list(COMBINATION)]
        frame["combination"] = np.exp(np.log(parts.where(parts > 0)).mean(axis=1, skipna=False))
    return frame.reset_index(), failed


def _predict(found: Sample, form: Form, split: str, by: str) -> tuple[pd.Series, pd.DataFrame]:
    """Predictions of one form by row id, and the rows."""
    predicted, fold_of = np.full(found.n, math.nan), np.full(found.n, "", object)
    keys = found.rows.groupby(BY[by]).ngroup().to_numpy() if BY[by] else np.zeros(found.n, int)
    reason = None
    for name, train, test in folds(found, split):
        for key in np.unique(keys[test]):
            here = keys == key
            fold_of[test & here] = name
            try:
                fitted = found.take(train & here)
                if fitted.n <= len(form.coefficient_names):
                    raise InputError(f"{fitted.n} rows to fit {len(form.coefficient_names)} parameters.")
                kept, _ = kept_terms(form, fitted)
                theta = np.zeros(len(form.coefficient_names))
                theta[list(kept)], _, _ = solve_form(form, fitted, kept)
            except InputError as error:
                reason = error
                continue
            left = found.take(test & here).covariates
            predicted[test & here] = forms.from_scale(form.scale, form.eta(left, theta), left)
    if not np.isfinite(predicted).any():
        raise reason or InputError(f"{form.name}: no row is left to predict.")
    tested = fold_of != ""
    rows = found.rows[tested]
    unit = found.y[tested]
    frame = pd.DataFrame({
        "row": rows["row"], "model": rows["model"], "method": rows["method"], "recovery_tokens": rows["recovery_tokens"],
        "ratio": rows["ratio"], "fold": fold_of[tested], "y": unit,
    })  # fmt: skip
    return pd.Series(predicted[tested] / unit, index=rows["row"]), frame


def compare(
    points: Points, response: str, split: str, *, axis: str = "ratio", by: str = "method", recovered: bool = False
) -> pd.DataFrame:
    """One row per form: parameters, rows, error and its standard error over models, ratio to the original form with its own.

    `best` marks the smallest error, `chosen` the simplest form within one standard error of it (the difference's, paired by
    model). Forms that could not be fitted have NaN and a reason.
    """
    frame, failed = relative_predictions(points, response, split, axis=axis, by=by, recovered=recovered)
    names = [name for name in frame.columns if name not in ("row", "model", "method", "recovery_tokens", "ratio", "fold", "y")]
    usable = [name for name in names if frame[name].notna().mean() > 0.5]
    if not usable:
        raise InputError(f"No form could be fitted on enough folds ({SPLITS[split]}): methods differ from model to model.")
    common = frame[frame[usable].notna().all(axis=1)]
    if not len(common):
        raise InputError(f"No row of {response} is left that every form could predict ({SPLITS[split]}).")
    errors = (common[usable] - 1).abs()
    unit = "model" if split != "method" else "method"
    by_unit = errors.groupby(common[unit]).mean()
    gone = () if recovered else ("γ", "g")
    size = {form.name: sum(p not in gone for p in form.coefficient_names) for _, form in contenders(response, recovered)}
    rows = []
    best = by_unit.mean().idxmin()
    baseline = next((name for name in ORIGINAL if name in usable), None)
    for name in usable:
        error = by_unit[name]
        row = {"form": name, "coefficients": size.get(name.removesuffix(" of y/y0"), 3), "n": len(common), "units": len(error)}
        row |= {"error": error.mean(), "stderr": error.std(ddof=1) / math.sqrt(len(error)) if len(error) > 1 else math.nan}
        if baseline:
            row["ratio"], row["ratio_stderr"] = _ratio(error.to_numpy(), by_unit[baseline].to_numpy())
        gap = error - by_unit[best]
        spread = gap.std(ddof=1) / math.sqrt(len(gap)) if len(gap) > 1 else 0.0
        row |= {"best": name == best, "near": bool(gap.mean() <= spread), "why": ""}
        rows.append(row)
    table = pd.DataFrame(rows)
    near = table[table["near"]].sort_values(["coefficients", "error"])
    table["chosen"] = table["form"] == near["form"].iloc[0]
    lost = [name for name in names if name not in usable] + list(failed)
    missing = [{"form": name, "error": math.nan, "why": failed.get(name, "fitted on too few folds")} for name in lost]
    return pd.concat([table.sort_values("error"), pd.DataFrame(missing)], ignore_index=True)


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
    found = {}
    jobs = list(_comparisons(points))
    for response, split, by, recovered in tqdm(jobs, desc="comparing forms", unit=" comparisons", leave=False, delay=1):
        try:
            table = compare(points, response, split, by=by, recovered=recovered)
        except InputError:
            continue
        found[f"{response}|{split}|{by}" + ("|recovered" if recovered else "")] = table
    return found


def _comparisons(points: Points) -> Iterator[tuple[str, str, str, bool]]:
    """Response, split, whether coefficients are a method's own, and whether recovered rows take part."""
    budgets = points.rows["recovery_tokens"].nunique()
    for response in points.responses:
        for split in SPLITS:
            if split == "family" and points.rows["family"].nunique() == points.rows["model"].nunique():
                continue  # every family has one model: the same as leaving models out
            for by in ("all",) if split == "method" else ("method", "all"):
                yield from ((response, split, by, recovered) for recovered in ((False, True) if budgets > 1 else (False,)))
