"""What could be done within a budget: every option with its costs and its worth, which of them compare, and which is best.

An option is a model as it is, or a curve at a ratio, read off its measured points. What an option costs is known only where the
table says what was removed of this very model by this very method; another's share is no answer.

Notable choices:
- The best option is the likeliest to be best among those whose interval for a new run ends well: no more than `MARGIN` worse
  than the end that is best, so that a curve that is hardly known promises nothing.
- Losses compare per token only between models that are known to share a tokenizer and a text: of one `heldout_data`, or of one
  family in a table without that column. Others compare in bits per byte, or not at all.
"""

import contextlib
import math

import numpy as np
import pandas as pd

from claw.advice.true_shares import ROUNDING, TRUE, share_of_ratio
from claw.errors import InputError
from claw.laws import CurveKey, Laws, Reading
from claw.laws.points import DEFAULTS, is_dense
from claw.laws.sizes import named_family
from claw.specs.budget import LIMITS, Budget

AS_IS = "as it is"
CURVE = list(CurveKey._fields)
GRID = 0.01
MARGIN = 0.1
LEAST = 0.05  # probability of being best below which nothing is recommended
SAME = 1e-9
NEEDS = {
    "parameters": "the columns parameters0 and ratio_params",
    "memory": "the columns parameters0 and ratio_params",
    "flops": "the columns flops_per_token and ratio_flops",
    "milliseconds": "the measured milliseconds per token of each dense model (dense_milliseconds), and a speed law for "
    "compressed ones",
}
"""What a table must have so that an option can be held against a limit."""


def groups_of(laws: Laws, response: str, models: tuple[str, ...]) -> tuple[str, dict[str, float], dict[str, str], str]:
    """Unit in which options compare, each model's factor to it, the group in which each compares, and what that rests on."""
    ones = dict.fromkeys(models, 1.0)
    if response != "loss" or len(models) == 1:
        return "nats per token" if response == "loss" else "", ones, dict.fromkeys(models, ""), ""
    dense = {model: laws.points.dense_row(model) for model in models}
    text = {model: row.get("heldout_data") for model, row in dense.items()}
    told = all(isinstance(value, str) or (value is not None and value == value) for value in text.values())
    family = {model: str(row["family"]) for model, row in dense.items()}
    family = {model: named_family(model) if name == DEFAULTS["family"] else name for model, name in family.items()}
    groups = {model: str(text[model]) for model in models} if told else family
    if len(set(groups.values())) == 1:
        note = "" if told else "models of one family are taken to share a tokenizer and a text (column heldout_data would tell)"
        return "nats per token", ones, dict.fromkeys(models, ""), note
    factors = {model: float(row.get("bits_per_byte0", math.nan)) / float(row["loss0"]) for model, row in dense.items()}
    if all(math.isfinite(value) for value in factors.values()):
        return "bits per byte", factors, dict.fromkeys(models, ""), ""
    titles = dict[str, str]()
    for model in models:
        titles.setdefault(groups[model], family[model])
    named = {model: titles[groups[model]] if len(set(titles.values())) == len(titles) else groups[model] for model in models}
    why = (
        "have different tokenizers or texts" if told else "may have different tokenizers (the table has no column heldout_data)"
    )
    gone = ", ".join(sorted(model for model, value in factors.items() if not math.isfinite(value))[:6])
    note = (
        f"{' and '.join(sorted(set(named.values())))} {why}, so their losses per token do not compare. A column bits_per_byte"
    )
    return "nats per token", ones, named, f"{note} would make them compare ({gone} lacks it); so would asking for accuracy"


def dense_options(laws: Laws, models: tuple[str, ...], response: str, most_recovery: float | None = None) -> pd.DataFrame:
    """Models as they are, and trained on as much as compressed ones where that was measured: only as unsure as that is."""
    rows = laws.points.of(response, dense=True)
    rows = rows[is_dense(rows) & rows["model"].isin(models)]
    rows = rows if most_recovery is None else rows[rows["recovery_tokens"] <= most_recovery]
    error = rows.get(f"{response}_stderr", pd.Series(0.0, rows.index)).fillna(0.0).astype(float)
    amounts = rows.assign(value=rows[response].astype(float), error=error)
    rows = amounts.groupby(["model", "recovery_tokens", "recovery"], as_index=False)[["value", "error"]].mean()
    tokens, value, error = (rows[name].astype(float) for name in ("recovery_tokens", "value", "error"))
    frame = pd.DataFrame({"model": rows["model"], "method": AS_IS, "tokens": tokens, "ratio": 0.0, "value": value})
    frame = frame.assign(low=value - 1.96 * error, high=value + 1.96 * error, scale=error, df=math.inf, share=0.0)
    frame = frame.assign(ratio_of="own", measured=True, bracket_low=0.0, bracket_high=0.0, predicted=value)
    frame["recovery"] = rows["recovery"]
    keys = [
        CurveKey(model, AS_IS, recipe, int(count))
        for model, recipe, count in zip(rows["model"], rows["recovery"], tokens, strict=True)
    ]
    trained = [f", trained on {key.training}" if key.tokens else "" for key in keys]
    return frame.assign(option=frame["model"] + f" {AS_IS}" + pd.Series(trained, rows.index, dtype=object))


def curve_options(laws: Laws, one: Reading) -> pd.DataFrame:
    """A curve on a grid of ratios and at its measured ones, read off its points; `predicted` is what its law says there."""
    points = one.points["ratio"].to_numpy(float)
    grid = np.arange(1, math.floor(one.high / GRID + 1e-9) + 1) * GRID
    apart = np.abs(grid[:, None] - points).min(axis=1) > SAME
    ratios = np.sort(np.concatenate([grid[apart], points[points > 0]]))
    ratios = ratios[(ratios >= one.low) & (ratios < 1)]
    band = one.predict(ratios)
    value, low, high = (band[name].to_numpy(float) for name in ("mean", "run_low", "run_high"))
    model, method, recipe, tokens, ratio_of = one.curve
    law = next((law for law in laws.curves_of(one.response, one.axis) if law.curve == one.curve), None)
    recovery = f" and {one.curve.training}" if tokens else ""
    frame = pd.DataFrame({"model": model, "method": method, "tokens": float(tokens), "ratio": ratios, "value": value})
    frame = frame.assign(low=low, high=high, scale=(high - low) / 2 / one.quantile, df=one.df, ratio_of=ratio_of)
    frame["recovery"], frame["share"] = recipe, share_of_ratio(laws.points, ratios, model, method, ratio_of)
    frame["measured"] = np.abs(ratios[:, None] - points).min(axis=1) <= SAME if len(ratios) else np.empty(0, bool)
    frame[["bracket_low", "bracket_high"]] = band[["bracket_low", "bracket_high"]]
    frame["predicted"] = law.predict(ratios)["mean"].to_numpy() if law is not None and len(ratios) else math.nan
    return frame.assign(option=f"{model} with {method}{recovery}")


def with_costs(laws: Laws, options: pd.DataFrame, budget: Budget) -> pd.DataFrame:
    """Costs of each option; NaN where the table does not tell. InputError if a limit needs what is nowhere."""
    times = dict(budget.dense_milliseconds)
    options = options.assign(**dict.fromkeys(LIMITS, math.nan))
    for (model, method, ratio_of), index in options.groupby(["model", "method", "ratio_of"]).groups.items():
        r = options.loc[index, "ratio"].to_numpy(float)
        rows = laws.points.rows[laws.points.rows["model"] == model]
        amounts = rows.reindex(columns=["parameters0", "parameters", "flops_per_token"]).astype(float)
        dense = amounts[is_dense(rows)].head(1)
        sizes = pd.concat([dense["parameters0"], dense["parameters"], amounts["parameters0"]]).dropna()
        size, work = (next(iter(known), math.nan) for known in (sizes, dense["flops_per_token"]))
        for cost, full, axis in (("parameters", size, TRUE), ("flops", work, "ratio_flops")):
            removed = 0.0 if method == AS_IS else share_of_ratio(laws.points, r, str(model), str(method), str(ratio_of), axis)
            options.loc[index, cost] = full * (1 - removed)
        if model in times and method == AS_IS:
            options.loc[index, "milliseconds"] = times[model]
        elif model in times:
            with contextlib.suppress(InputError):  # without a speed law the time is not known
                gained = laws.predict(r, model, method, response="speedup_decode")["mean"].to_numpy()
                options.loc[index, "milliseconds"] = times[model] / gained
    options["memory"] = options["parameters"] * budget.bytes_per_parameter / 1e9
    for name in budget.limits:
        if options[name].isna().all():
            raise InputError(f"A limit on {LIMITS[name]} needs {NEEDS[name]}, which this table lacks. Limit something else.")
    return options


def unjudged(options: pd.DataFrame, budget: Budget) -> tuple[str, ...]:
    """Options that a limit cannot be held against, in sentences that name the columns that would tell."""
    sentences, columns = list[str](), {"parameters": TRUE, "memory": TRUE, "flops": "ratio_flops"}
    for name in budget.limits:
        gone = options.groupby("option")[name].apply(lambda cost: cost.isna().all())
        if names := sorted(gone.index[gone]):
            shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
            column = f"a column {columns[name]}" if name in columns else NEEDS[name]
            size = " (and parameters0)" if name in ("parameters", "memory") else ""
            sentences.append(f"Not judged, as the table does not tell their {LIMITS[name]}: {shown}. It takes {column}{size}.")
    return tuple(sentences)


def best_of_curves(options: pd.DataFrame, budget: Budget, response: str, draws: int, seed: int) -> pd.DataFrame:
    """The best option of each curve within the budget, by group: its probability of being best of the group, the advised first.

    A measured point within rounding of a curve's best is taken in its place. `rank` is by the values read off the points,
    `predicted_rank` by those of the curves' laws.
    """
    fits, whole = pd.Series(True, options.index), options["method"] == AS_IS
    for name, limit in budget.limits.items():
        fits &= options[name] <= limit * (1 + 1e-12)
    within = options[fits & (whole | ~options["model"].isin(options.loc[fits & whole, "model"]))]
    sign = 1 if response == "loss" else -1
    chosen = []
    for _, own in within.groupby(CURVE, sort=True):
        best = own.loc[(sign * own["value"]).idxmin()]
        axis = "share" if math.isfinite(best["share"]) else "ratio"
        near = own[own["measured"] & ((own[axis] - best[axis]).abs() <= ROUNDING)]
        chosen.append(best.name if best["measured"] or not len(near) else (near[axis] - best[axis]).abs().idxmin())
    finalists = within.loc[chosen]
    parts = [_ranked(own, sign, draws, seed) for _, own in finalists.groupby("group", sort=True)]
    columns = ("probability", "rank", "predicted_rank", "counts")
    return pd.concat(parts, ignore_index=True) if parts else finalists.assign(**dict.fromkeys(columns, math.nan))


def _ranked(finalists: pd.DataFrame, sign: int, draws: int, seed: int) -> pd.DataFrame:
    """Finalists that compare with each other: the advised first, then by probability. `counts`: whether one can count on it."""
    rng = np.random.default_rng(seed)
    noise = [rng.standard_normal(draws) if math.isinf(df) else rng.standard_t(df, draws) for df in finalists["df"]]
    value, scale = finalists[["value", "scale"]].to_numpy(float).T[..., None]
    winners = (sign * (value + scale * noise)).argmin(axis=0)
    probability = np.bincount(winners, minlength=len(finalists)) / draws
    end = finalists["high" if sign > 0 else "low"].to_numpy(float)
    well = end <= (1 + MARGIN) * end.min() if sign > 0 else end >= (1 - MARGIN) * end.max()
    counts = well & (probability >= LEAST)
    counts = counts if counts.any() else probability == probability.max()
    frame = finalists.assign(probability=probability, counts=counts, advised=counts * probability, order=sign * end)
    for name, of in (("rank", "value"), ("predicted_rank", "predicted")):
        frame[name] = (sign * frame[of]).rank(method="min")
    frame = frame.sort_values(["advised", "probability", "order"], ascending=[False, False, True], ignore_index=True)
    return frame.drop(columns=["advised", "order"])
