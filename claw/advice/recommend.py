"""What a table of experiments recommends: which methods lose least, what to do with each model, and when to take a smaller one.

Notable choices:
- Advice is by the share truly removed, because that is what a user pays for; a method is named only within its measured range.
"""

import math

import pandas as pd
from scipy import stats

from claw import laws
from claw.advice.guide import advise
from claw.errors import InputError
from claw.laws import Laws
from claw.specs.budget import Budget
from claw.specs.methods import is_control
from claw.words import quantity

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
ROUNDING = 0.005  # of all parameters: widths are whole numbers, so a share is met to within so much
EQUAL = (0.1, 0.2, 0.3, 0.5)  # at which methods are ranked on either axis
TRUE = "ratio_params"
BEST = 4


def orders(found: Laws) -> pd.DataFrame:
    """The best methods at an equal nominal ratio and at an equal share of parameters, by their laws; τ compares the whole orders."""
    rows = []
    for model in found.points.by_size({law.curve.model for law in found.curves_of("loss")}):
        for r in EQUAL:
            nominal, true = (_ranked(found, model, axis, r) for axis in ("ratio", TRUE))
            common = [name for name in nominal if name in true]
            if len(common) < 2:
                continue
            true = [name for name in true if name in common]
            tau = stats.kendalltau(range(len(common)), [true.index(name) for name in common]).statistic
            rows.append({
                "model": model, "removed": f"{r:.0%}", "methods": len(common), "at an equal nominal ratio": _first(common),
                "at an equal share of parameters": "the same" if common == true else _first(true), "Kendall's τ": f"{tau:.2f}",
            })  # fmt: skip
    return pd.DataFrame(rows)


def _first(names: list[str]) -> str:
    return " < ".join([*names[:BEST], *(["…"] if len(names) > BEST else [])])


def _ranked(found: Laws, model: str, axis: str, r: float) -> list[str]:
    """Methods of a model by the loss that their laws predict at r, within the measured range, without recovery."""
    values = {}
    for law in found.curves_of("loss", axis):
        if law.curve.model == model and law.curve.tokens == 0 and r <= law.high:
            values[law.curve.method] = float(law.predict(r)["mean"].iloc[0])
    return sorted(values, key=values.get)


def advice(found: Laws) -> pd.DataFrame:
    """What to do with each model to remove a share of its parameters: method, ratio, expected loss and accuracy, certainty."""
    rows = []
    for model in found.points.by_size(set(found.points.rows["model"])):
        dense = found.points.rows[found.points.rows["model"] == model].iloc[0]
        size = dense.get("parameters0", math.nan)
        for share in SHARES if size > 0 else ():
            row = {"model": model, "remove": f"{share:.0%}"}
            try:
                options = advise(found, _without(share, size), "loss", models=(model,))
            except InputError as error:
                rows.append(row | {"do": str(error)})
                continue
            best = options.best
            if best is None:
                rows.append(row | {"do": "nothing that was measured removes so much"})
                continue
            recovered = f", then {laws.curves.tokens_text(best['tokens'])} of recovery" if best["tokens"] else ""
            unit = best["value"] / float(dense["loss0"])
            alone = is_control(best["method"])  # which the advice names only where a model has nothing else
            rows.append(row | {
                "do": f"{'only a control was measured: ' if alone else ''}{best['method']} at r = {best['ratio']:.2f}{recovered}",
                "loss": f"{best['value']:.2f} [{best['low']:.2f}, {best['high']:.2f}], {unit:.2f} × dense",
                "accuracy kept": _accuracy(found, best, dense),
                "best with probability": "–" if alone else f"{best['probability']:.0%}",
                "next": options.finalists["method"].iloc[1] if len(options.finalists) > 1 else "–",
            })  # fmt: skip
    return pd.DataFrame(rows)


def _without(share: float, size: float) -> Budget:
    """The parameters that are left when `share` of them is removed, with room for widths that were rounded."""
    return Budget(parameters=(1 - share + ROUNDING) * size)


def _accuracy(found: Laws, best: pd.Series, dense: pd.Series) -> str:
    """Share of the accuracy above guessing that the law expects to be left."""
    try:
        band = found.predict([best["ratio"]], best["model"], best["method"], best["tokens"], response="accuracy", law="curve")
    except InputError:
        return "–"
    above = float(dense["accuracy0"] - dense["chance"])
    if not above > 0:
        return "–"
    kept = [(float(band[name].iloc[0]) - dense["chance"]) / above for name in ("mean", "confidence_low", "confidence_high")]
    return f"{kept[0]:.0%} [{kept[1]:.0%}, {kept[2]:.0%}]"


def across(found: Laws) -> list[str]:
    """Compress the largest model or take a smaller one, at shares of the largest model's parameters, in sentences."""
    rows = found.points.rows
    if "parameters0" not in rows or rows["model"].nunique() < 2:
        return []
    largest = found.points.by_size(set(rows["model"]))[-1]
    size = float(rows.loc[rows["model"] == largest, "parameters0"].iloc[0])
    sentences = []
    for share in SHARES:
        try:
            answer = advise(found, _without(share, size), "loss")
        except InputError as error:
            return [str(error)]
        duel = [s for s in answer.sentences if " against " in s]
        sentences.append(f"**{share:.0%} of {largest} ({quantity(size)}).** " + " ".join([answer.sentences[0], *duel]))
    return sentences
