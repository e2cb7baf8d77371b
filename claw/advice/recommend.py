"""What a table of experiments recommends: which methods lose least, what to do with each model, and when to take a smaller one.

Notable choices:
- Advice is by the share truly removed, because that is what a user pays for; a method is named only within its measured range.
- Methods are ranked by what was measured; the order that their laws predict stands beside it.
"""

import math
from dataclasses import replace

import pandas as pd
from scipy import stats

from claw.advice import reach
from claw.advice.guide import advise
from claw.advice.options import AS_IS, CURVE
from claw.advice.true_shares import ROUNDING, TRUE, complete_shares, own_ratio, percent
from claw.errors import InputError
from claw.laws import CurveKey, Laws
from claw.specs.budget import Budget
from claw.specs.methods import is_control
from claw.words import quantity

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
RANKED = (0.1, 0.2, 0.3, 0.5)  # at which methods are ranked on either axis
BEST = 4
GUESSING = 0.05  # share of the accuracy kept up to which a model is said to guess, if its interval holds 0


def method_orders(laws: Laws) -> pd.DataFrame:
    """The best methods as measured at an equal nominal ratio and at an equal share of parameters, and as their laws predict.

    τ compares the measured order at an equal share with the one beside it.
    """
    laws, rows = replace(laws, points=complete_shares(laws.points)[0]), []
    for model in laws.points.by_size({one.curve.model for one in laws.readings("loss")}):
        for r in RANKED:
            nominal, true = (_ranked(laws, model, axis, r) for axis in ("ratio", TRUE))
            nominal, true = [name for name in nominal if name in true], [name for name in true if name in nominal]
            if len(nominal) < 2:
                continue
            row = {"model": model, "removed": percent(r), "methods": len(nominal), "at an equal nominal ratio": _first(nominal)}
            row["at an equal share of parameters"] = "the same" if nominal == true else _first(true)
            row["Kendall's τ"] = _tau(nominal, true)
            law = [name for name in _by_law(laws, model, r) if name in true]
            measured = [name for name in true if name in law]
            told = len(law) > 1
            row["as their laws predict it"] = "the same" if told and law == measured else _first(law) if told else "–"
            rows.append(row | {"τ of the laws": _tau(measured, law) if told else "–"})
    return pd.DataFrame(rows)


def _tau(one: list[str], other: list[str]) -> str:
    return f"{stats.kendalltau(range(len(one)), [other.index(name) for name in one]).statistic:.2f}"


def _first(names: list[str]) -> str:
    return " < ".join([*names[:BEST], *(["…"] if len(names) > BEST else [])])


def _ranked(laws: Laws, model: str, axis: str, r: float) -> list[str]:
    """Methods of a model by the loss read off their points at r, within the measured range, without recovery."""
    losses = [
        (float(one.mean(r)[0]), one.curve.method)
        for one in laws.readings("loss", axis)
        if one.curve.model == model and one.curve.tokens == 0 and one.low <= r <= one.high
    ]
    return list(dict.fromkeys(method for _, method in sorted(losses)))


def _by_law(laws: Laws, model: str, r: float) -> list[str]:
    """Methods of a model by the loss that the laws of their curves predict at a share, within the fitted range."""
    losses = [
        (float(law.predict(r)["mean"].iloc[0]), law.curve.method)
        for law in laws.curves_of("loss", TRUE)
        if law.curve.model == model and law.curve.tokens == 0 and law.low <= r <= law.high
    ]
    return list(dict.fromkeys(method for _, method in sorted(losses)))


def advice_table(laws: Laws) -> pd.DataFrame:
    """What to do with each model to remove a share of its parameters: method, ratio, measured loss and accuracy, certainty."""
    laws, rows = replace(laws, points=complete_shares(laws.points)[0]), []
    for model in laws.points.by_size(set(laws.points.rows["model"])):
        dense = laws.points.dense_row(model)
        size = dense.get("parameters0", math.nan)
        for share in SHARES if size > 0 else ():
            budget = Budget(parameters=(1 - share + ROUNDING) * size)
            rows.append({"model": model, "remove": percent(share)} | _cut(laws, model, dense, budget))
    return pd.DataFrame(rows)


def _cut(laws: Laws, model: str, dense: pd.Series, budget: Budget) -> dict[str, str]:
    """How to cut one model down to a budget, in cells of a table."""
    try:
        advice = advise(laws, budget, "loss", models=(model,))
    except InputError as error:
        return {"do": str(error)}
    best = advice.best
    if best is None or best["method"] == AS_IS:
        unknown = " ".join(advice.unjudged)
        return {"do": f"nothing that was measured removes so much{f', as far as can be judged. {unknown}' if unknown else ''}"}
    alone = is_control(best["method"])  # which the advice names only where a model has nothing else
    curve = _curve(laws, best)
    recovered = f", then {curve.training}" if curve.tokens else ""
    wrecked = reach.wrecked(laws, curve, best["ratio"], "ratio")
    warning = "only a control was measured: " if alone else "nothing that still works; nearest: " if wrecked else ""
    source = "measured" if best["measured"] else f"between r = {best['bracket_low']:.2g} and {best['bracket_high']:.2g}"
    others = [name.removeprefix(f"{model} with ").rpartition(", ")[0] for name in advice.equals[1:]]
    return {
        "do": f"{warning}{best['method']}{recovered} ({own_ratio(best['ratio'], best['method'], best['ratio_of'])})",
        "removes": percent(best["share"]),
        "loss": f"{best['value']:.2f} [{best['low']:.2f}, {best['high']:.2f}], {best['value'] / dense['loss0']:.2f} × dense",
        "read off": source,
        "accuracy kept": _accuracy(laws, curve, best["ratio"], dense),
        "best with probability": "–" if alone else f"{best['probability']:.0%}",
        "cannot be told apart from": ", ".join(others[:BEST]) + (" …" if len(others) > BEST else "") or "–",
        "rank: measured / by law": f"{best['rank']:.0f} / {best['predicted_rank']:.0f} of {len(advice.finalists)}"
        if math.isfinite(best["predicted_rank"])
        else f"{best['rank']:.0f} / – of {len(advice.finalists)}",
    }


def _curve(laws: Laws, best: pd.Series) -> CurveKey:
    """The curve that an option is read off."""
    return next(one.curve for one in laws.readings("loss") if all(getattr(one.curve, name) == best[name] for name in CURVE))


def _accuracy(laws: Laws, curve: CurveKey, ratio: float, dense: pd.Series) -> str:
    """Share of the accuracy above guessing that is left, read off the measured points: from 0 (guessing) to 100 %.

    It says so where the model may as well guess, so that nobody takes a wreck that merely loses least.
    """
    one = reach.reading_like(laws, curve, "accuracy", "ratio")
    above = float(dense.get("accuracy0", math.nan) - dense.get("chance", math.nan))
    if one is None or not above > 0 or not one.low <= ratio <= one.high:
        return "–"
    band = one.predict([ratio])[["mean", "confidence_low", "confidence_high"]].iloc[0]
    kept, low, high = ((band - dense["chance"]) / above).clip(0, 1)
    guess = "" if low > 0 else ": may be guessing" if kept > GUESSING else ": no better than guessing"
    return f"{kept:.0%} [{low:.0%}, {high:.0%}]{guess}"


def large_or_small(laws: Laws) -> list[str]:
    """Compress the largest model or take a smaller one, at shares of the largest model's parameters, in sentences."""
    laws = replace(laws, points=complete_shares(laws.points)[0])
    rows = laws.points.rows
    sizes = rows.groupby("model")["parameters0"].first().dropna()
    if len(sizes) < 2:
        return []
    largest, sentences = str(sizes.idxmax()), []
    for share in SHARES:
        try:
            advice = advise(laws, Budget(parameters=(1 - share + ROUNDING) * sizes.max()), "loss")
        except InputError as error:
            return [str(error)]
        first = advice.sentences[0]
        duels = [sentence for sentence in advice.sentences[1:] if " against " in sentence or "told apart" in sentence]
        kept = f"**{percent(1 - share)} of {largest} ({quantity((1 - share) * sizes.max())}).**"
        sentences.append(f"{kept} {' '.join([first, *duels[:2]])}")
    return sentences
