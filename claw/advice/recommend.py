"""What a table of experiments recommends: which methods lose least, what to do with each model, and when to take a smaller one.

Notable choices:
- Advice is by the share truly removed, because that is what a user pays for; a method is named only within its measured range.
"""

import math

import pandas as pd
from scipy import stats

from claw.advice.guide import advise
from claw.errors import InputError
from claw.laws import Laws
from claw.specs.budget import Budget
from claw.specs.methods import is_control
from claw.words import quantity, tokens_text

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
ROUNDING = 0.005  # of all parameters: widths are whole numbers, so a share is met to within so much
RANKED = (0.1, 0.2, 0.3, 0.5)  # at which methods are ranked on either axis
TRUE = "ratio_params"
BEST = 4


def method_orders(laws: Laws) -> pd.DataFrame:
    """The best methods as measured at an equal nominal ratio and at an equal share of parameters; τ compares the orders."""
    rows = []
    for model in laws.points.by_size({one.curve.model for one in laws.readings("loss")}):
        for r in RANKED:
            nominal, true = (_ranked(laws, model, axis, r) for axis in ("ratio", TRUE))
            nominal, true = [name for name in nominal if name in true], [name for name in true if name in nominal]
            if len(nominal) < 2:
                continue
            tau = stats.kendalltau(range(len(nominal)), [true.index(name) for name in nominal]).statistic
            row = {"model": model, "removed": f"{r:.0%}", "methods": len(nominal), "at an equal nominal ratio": _first(nominal)}
            row["at an equal share of parameters"] = "the same" if nominal == true else _first(true)
            rows.append(row | {"Kendall's τ": f"{tau:.2f}"})
    return pd.DataFrame(rows)


def _first(names: list[str]) -> str:
    return " < ".join([*names[:BEST], *(["…"] if len(names) > BEST else [])])


def _ranked(laws: Laws, model: str, axis: str, r: float) -> list[str]:
    """Methods of a model by the loss read off their curves at r, within the measured range, without recovery."""
    losses = {
        one.curve.method: float(one.mean(r)[0])
        for one in laws.readings("loss", axis)
        if one.curve.model == model and one.curve.tokens == 0 and one.low <= r <= one.high
    }
    return sorted(losses, key=losses.__getitem__)


def advice_table(laws: Laws) -> pd.DataFrame:
    """What to do with each model to remove a share of its parameters: method, ratio, expected loss and accuracy, certainty."""
    rows = []
    for model in laws.points.by_size(set(laws.points.rows["model"])):
        dense = laws.points.dense_row(model)
        size = dense.get("parameters0", math.nan)
        for share in SHARES if size > 0 else ():
            budget = Budget(parameters=(1 - share + ROUNDING) * size)
            rows.append({"model": model, "remove": f"{share:.0%}"} | _cut(laws, model, dense, budget))
    return pd.DataFrame(rows)


def _cut(laws: Laws, model: str, dense: pd.Series, budget: Budget) -> dict[str, str]:
    """How to cut one model down to a budget, in cells of a table."""
    try:
        advice = advise(laws, budget, "loss", models=(model,))
    except InputError as error:
        return {"do": str(error)}
    best = advice.best
    if best is None:
        return {"do": "nothing that was measured removes so much"}
    recovered = f", then {tokens_text(best['tokens'])} of recovery" if best["tokens"] else ""
    alone = is_control(best["method"])  # which the advice names only where a model has nothing else
    return {
        "do": f"{'only a control was measured: ' if alone else ''}{best['method']} at r = {best['ratio']:.2f}{recovered}",
        "loss": f"{best['value']:.2f} [{best['low']:.2f}, {best['high']:.2f}], {best['value'] / dense['loss0']:.2f} × dense",
        "accuracy kept": _accuracy(laws, best, dense),
        "best with probability": "–" if alone else f"{best['probability']:.0%}",
        "next": advice.finalists["method"].iloc[1] if len(advice.finalists) > 1 else "–",
    }


def _accuracy(laws: Laws, best: pd.Series, dense: pd.Series) -> str:
    """Share of the accuracy above guessing that the law expects to be left."""
    try:
        band = laws.predict([best["ratio"]], best["model"], best["method"], best["tokens"], response="accuracy")
    except InputError:
        return "–"
    above = float(dense["accuracy0"] - dense["chance"])
    if not above > 0:
        return "–"
    kept, low, high = (band[["mean", "confidence_low", "confidence_high"]].iloc[0] - dense["chance"]) / above
    return f"{kept:.0%} [{low:.0%}, {high:.0%}]"


def large_or_small(laws: Laws) -> list[str]:
    """Compress the largest model or take a smaller one, at shares of the largest model's parameters, in sentences."""
    rows = laws.points.rows
    if "parameters0" not in rows or rows["model"].nunique() < 2:
        return []
    largest = laws.points.by_size(set(rows["model"]))[-1]
    size = float(laws.points.dense_row(largest)["parameters0"])
    sentences = []
    for share in SHARES:
        try:
            first, *others = advise(laws, Budget(parameters=(1 - share + ROUNDING) * size), "loss").sentences
        except InputError as error:
            return [str(error)]
        duels = [sentence for sentence in others if " against " in sentence]
        sentences.append(f"**{share:.0%} of {largest} ({quantity(size)}).** {' '.join([first, *duels])}")
    return sentences
