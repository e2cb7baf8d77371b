"""Verdicts on the claims of the original paper, generated from numbers (Sengupta, Chaudhary, Chakraborty 2025).

Supported, contradicted, or not distinguishable: the 95 % interval of what the claim is about lies on one side of its bound,
on the other, or holds it. What the table cannot answer at all is not judged, and `not_judged` says so in a line per reason.

- The shape of a curve has three verdicts, from errors on ratios left out, paired by curve (`claw.laws.adequacy`): is it bent,
  is the claimed form good enough, is it the best? Being good enough is an equivalence: no other form is better by a margin.
- One law for models that were not fitted: its error on models left out, over models, is below 10 %. The paper's law is
  judged with α = 1: L0^α without an intercept depends on the unit of loss, and so would the verdict.
- Numbers and sizes: `claw.laws.claims`.

No interval has fewer than three degrees of freedom, and no verdict follows from one that would.
"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from claw.laws import adequacy, catalogue, speed_law
from claw.laws.adequacy import FEWEST_BENT, FEWEST_RATIOS, Shapes
from claw.laws.claim import (
    CONTRADICTED,
    NOT_JUDGED,
    OPEN,
    SUPPORTED,
    Verdict,
    by_interval,
    cannot_judge,
    judged,
    not_judged,
    of_one_model,
)
from claw.laws.claims import kept_verdict, recovery_verdicts, size_verdict, speed_verdicts
from claw.laws.clusters import FEWEST_DF, student
from claw.laws.over_curves import Mean
from claw.laws.points import Points
from claw.words import plural

__all__ = ["CONTRADICTED", "NOT_JUDGED", "OPEN", "SUPPORTED", "Verdict", "judge", "not_judged"]
HALF = 0.5
SERVES = 0.10  # relative error up to which a law may be said to serve a model
BASELINE = "unit-α"
MODELS, CURVES = "models", "curves"
PLACES = {"model": "on models left out", "ratio": "beyond r = 0.5"}
SHAPE = {
    "loss": ("quadratic", "loss rises faster than in proportion to the ratio", "a quadratic"),
    "accuracy": ("linear", "accuracy falls in proportion to the ratio", "a straight line"),
}
"""The form that the paper claims for a response, what it says of its bend, and its name in a sentence."""


def judge(points: Points, comparisons: Mapping[str, pd.DataFrame], tests: pd.DataFrame, level: float = 0.95) -> list[Verdict]:
    """A verdict on every claim. `comparisons` as of `claw.laws.outside.compare_all`, `tests` as of `claw.laws.wald.ask_all`."""
    verdicts = [one for response in points.responses for one in shape_verdicts(points, response, level)]
    if "loss" in points.responses:
        verdicts += [_cross(comparisons, level), *recovery_verdicts(points, level), _ours(comparisons, level)]
    if "accuracy" in points.responses:
        verdicts += [kept_verdict(points, False, level), kept_verdict(points, True, level)]
    for response in speed_law.responses(points):
        verdicts += speed_verdicts(points, response, tests)
    verdicts += [size_verdict(points, response) for response in points.responses]
    return [of_one_model(one) for one in verdicts] if points.rows["model"].nunique() == 1 else verdicts


def shape_verdicts(points: Points, response: str, level: float) -> list[Verdict]:
    """Three verdicts on the shape of curves: bent as claimed, good enough, best."""
    form, bent, name = SHAPE[response]
    enough = f"{name} describes {response} in the ratio well enough"
    best = f"no form describes {response} in the ratio better than {name}"
    shapes = adequacy.shapes(points, response, level)
    few = shapes.bends(shapes.bend).too_few if len(shapes.bend) else f"no curve of {response} with {FEWEST_BENT} ratios"
    first = cannot_judge(bent, few, CURVES) if few else _bent(shapes, bent)
    few = (
        shapes.mean(shapes.errors[form]).too_few
        if len(shapes.errors)
        else f"no curve of {response} with {FEWEST_RATIOS} ratios"
    )
    if few:
        return [first, cannot_judge(enough, few, CURVES), cannot_judge(best, few, CURVES)]
    return [first, _enough(shapes, form, enough), _best_form(shapes, form, best)]


def _bent(shapes: Shapes, claim: str) -> Verdict:
    """Whether b of y/y0 = 1 + a r^b is above 1 (loss), or is 1 (accuracy)."""
    mean = shapes.bends(shapes.bend)
    b, low, high = np.exp([mean.value, mean.low, mean.high])
    above = int((shapes.bend > 0).sum())
    straight = SUPPORTED if low >= 1 / BEND and high <= BEND else CONTRADICTED if not low <= 1 <= high else OPEN
    verdict = by_interval(mean.low, mean.high, 0.0) if shapes.response == "loss" else straight
    why = f"y/y0 = 1 + a r^b has b = {b:.2f} [{low:.2f}, {high:.2f}] over {mean.basis} ({mean.df:.1f} degrees of freedom), "
    why += f"and b > 1 on {above} of {plural(mean.curves, 'curve')}"
    return judged(claim, verdict, why, {"b": float(b), "low": float(low), "high": float(high), "above": above, "df": mean.df})


BEND = 1.25
"""b of y/y0 = 1 + a r^b up to which, and down to whose inverse, a curve counts as straight."""


def _enough(shapes: Shapes, form: str, claim: str) -> Verdict:
    """Equivalence: no other form is better by the margin, over curves."""
    behind, margin = shapes.behind(form), shapes.margin
    known = {other: mean for other, mean in behind.items() if not mean.too_few}
    p = min((mean.p_above(margin) for mean in known.values()), default=1.0) * len(behind)
    within = len(known) == len(behind) and all(mean.high < margin for mean in known.values())
    verdict = CONTRADICTED if p < adequacy.ALPHA else SUPPORTED if within else OPEN
    why = f"{_against_best(shapes, form, behind)}; a difference of {margin:.1%} or less cannot be seen or does not matter"
    return judged(claim, verdict, why, {"error": _error(shapes, form), "margin": margin, "p": p, **_named(shapes, form)})


def _best_form(shapes: Shapes, form: str, claim: str) -> Verdict:
    """Whether every other form is worse, or one is better, beyond doubt."""
    behind = shapes.behind(form)
    known = {other: mean for other, mean in behind.items() if not mean.too_few}
    better = {other: mean.p_above(0.0) * len(behind) for other, mean in known.items()}
    first = len(known) == len(behind) and all(mean.high < 0 for mean in known.values())
    beaten = [other for other, p in better.items() if p < adequacy.ALPHA]
    verdict = CONTRADICTED if beaten else SUPPORTED if first else OPEN
    lower = sum(mean.value > 0 for mean in behind.values())
    why = f"{_against_best(shapes, form, behind)}; {lower} of {len(behind)} other forms have a lower error"
    why += f", {', '.join(beaten)} beyond doubt" if beaten else ", none beyond doubt" if lower else ""
    return judged(claim, verdict, why, {"error": _error(shapes, form), "better": beaten, **_named(shapes, form)})


def _error(shapes: Shapes, form: str) -> float:
    return float(shapes.errors[form].mean())


def _named(shapes: Shapes, form: str) -> dict[str, object]:
    best = str(shapes.errors.drop(columns=form).mean().idxmin())
    return {"best": best, "best_error": _error(shapes, best), "curves": len(shapes.errors)}


def _against_best(shapes: Shapes, form: str, behind: Mapping[str, Mean]) -> str:
    """Its error on ratios left out, and that of the best other form, with the paired difference."""
    best = str(_named(shapes, form)["best"])
    mean = behind[best]
    interval = "" if mean.too_few else f" [{mean.low:+.1%}, {mean.high:+.1%}], {mean.df:.1f} degrees of freedom"
    text = f"on ratios left out its error is {_error(shapes, form):.1%}, that of the best other form ({best}) "
    return text + f"{_error(shapes, best):.1%} (difference {mean.value:+.1%}{interval}; {mean.basis})"


def _comparison(comparisons: Mapping[str, pd.DataFrame], response: str, split: str) -> pd.DataFrame:
    """A comparison with each method fitted apart, else with all together, as models were compressed by different methods."""
    none = pd.DataFrame(columns=["form", "error", "stderr", "units"])
    return comparisons.get(f"{response}|{split}|method", comparisons.get(f"{response}|{split}|all", none))


def _cross(comparisons: Mapping[str, pd.DataFrame], level: float) -> Verdict:
    claim = "one law L0^α (1+r)^β (1+1/(D+1))^γ serves models that were not fitted"
    table = _comparison(comparisons, "loss", "model")
    table = table[table["error"].notna()]
    if BASELINE not in set(table["form"]):
        return cannot_judge(claim, "no form could be judged on a model left out", MODELS)
    law, best = table[table["form"] == BASELINE].iloc[0], table[table["best"].eq(True)].iloc[0]
    units, error, least = int(law["units"]), float(law["error"]), float(best["error"])
    half = float(student(units - 1, level)) * float(law["stderr"]) if units > 1 else math.nan
    if not math.isfinite(half):
        return cannot_judge(claim, f"{plural(units, 'model')} to leave out", MODELS)
    verdict = SUPPORTED if error + half <= SERVES else CONTRADICTED if error - half > SERVES else OPEN
    why = f"with α = 1 its error on {units} models left out one at a time is {error:.1%} "
    why += f"[{max(0.0, error - half):.1%}, {error + half:.1%}] ({units - 1} degrees of freedom), that of the best form "
    why += f"({best['form']}) {least:.1%}"
    return judged(claim, verdict, why, {"error": error, "best": best["form"], "best_error": least, "df": units - 1})


def _ours(comparisons: Mapping[str, pd.DataFrame], level: float) -> Verdict:
    """Whether our best candidate halves the original form's error, on models left out and beyond r = 0.5, and which do not."""
    claim = "a form of ours errs half as much out of sample as the original paper's"
    own = {form.name for form in catalogue.OWN} | {"combination"}
    words, edges, evidence, units = [], [], {}, 0
    for split, where in PLACES.items():
        table = _comparison(comparisons, "loss", split).reindex(columns=["form", "error", "ratio", "ratio_stderr", "units"])
        ours = table[table["form"].isin(own) & table["ratio"].notna()].sort_values("error")
        if not len(ours):
            continue
        best, ratio, spread = ours["form"].iloc[0], float(ours["ratio"].iloc[0]), float(ours["ratio_stderr"].iloc[0])
        units = max(units, int(ours["units"].iloc[0]))
        half = float(student(ours["units"].iloc[0] - 1, level)) * spread
        edges += [(ratio - half, ratio + half)] if math.isfinite(half) else []
        interval = f" [{max(0.0, ratio - half):.2f}, {ratio + half:.2f}]" if math.isfinite(half) else ""
        behind = list(ours.loc[(ours["ratio"] >= 1) & (ours["form"] != best), "form"])
        lost = f", while {', '.join(behind)} {'are' if len(behind) > 1 else 'is'} no better than it" if behind else ""
        words.append(f"{where} {best} errs {ratio:.2f}{interval} times as much{lost}")
        evidence[split] = {"best": best, "ratio": ratio, "stderr": spread, "no better": behind}
    if len(edges) < len(PLACES):
        few = f"{plural(units, 'model')} to leave out" if 0 < units <= FEWEST_DF else "too few models, or no ratio above 0.5"
        return cannot_judge(claim, few, MODELS)
    halves, worse = all(high <= HALF for _, high in edges), any(low > HALF for low, _ in edges)
    return judged(claim, SUPPORTED if halves else CONTRADICTED if worse else OPEN, "; ".join(words), evidence)
