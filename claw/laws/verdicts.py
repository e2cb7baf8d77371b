"""Verdicts on the claims of the original paper, generated from numbers: supported, not distinguishable, contradicted.

The claims are those of Sengupta, Chaudhary, Chakraborty 2025. A claim about a form collects votes:

    ΔBIC            +1 if the form beats its best rival by 10, -1 if it loses by 10 (sum over curves, Jacobian included)
    left-out model  +1 if the one-standard-error rule chooses it, -1 if it is not within one standard error of the best
    extrapolation   the same from r ≤ 0.5 to r > 0.5
    Wald test       +1 / -1 if the term that tells it from its simpler or richer rival speaks for / against it (Holm, 5 %)

and is supported with at least two votes for and none against, contradicted with at least two more against than for. A claim
about a number is supported if the interval over models holds the number and is no wider than ±0.15, contradicted if the
interval does not hold it. What the table cannot answer is not distinguishable, and says why.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from claw.errors import InputError
from claw.laws import catalogue, curves, nonlinear, speed_law
from claw.laws.forms import Form
from claw.laws.points import Points
from claw.words import tokens_text

SUPPORTED, OPEN, CONTRADICTED = "supported", "not distinguishable", "contradicted"
BIC_STRONG = 10.0
ALPHA = 0.05
FEWEST_RATIOS = 5  # above 0, on one curve: the richest form has three parameters
WIDE = 0.15
HALF = 0.5
SERVES = 0.10  # relative error up to which a law may be said to serve a model
CLAIMED = {"recovery": 0.55, "kept without recovery": 0.57, "kept with recovery": 0.84, "largest": 0.60, "7B and below": 0.35}
FORMS = (
    ("loss", "quadratic", ("quadratic of y/y0",), "loss is quadratic in the ratio"),
    ("accuracy", "linear", ("linear of y/y0", "retention-linear"), "accuracy is linear in the ratio"),
)
"""Response, form of one curve, the laws across models that are of this form, and the claim."""
SEVEN_BILLION = 8e9  # a model sold as 7B has up to 8e9 parameters


@dataclass(frozen=True)
class Verdict:
    """One claim judged."""

    claim: str
    verdict: str
    sentence: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def judge(points: Points, comparisons: Mapping[str, pd.DataFrame], tests: pd.DataFrame, level: float = 0.95) -> list[Verdict]:
    """A verdict on every claim. `comparisons` as of `claw.laws.outside.compare_all`, `tests` as of `claw.laws.wald.ask_all`."""
    found = []
    for response, form, names, claim in FORMS:
        if response in points.responses:
            found.append(_form(points, response, form, names, claim, comparisons, tests))
    if "loss" in points.responses:
        found += [_cross(comparisons), _recovery(points), _ours(comparisons)]
    if "accuracy" in points.responses:
        found += [_kept(points, False, level), _kept(points, True, level)]
    for response in speed_law.responses(points):
        found += _speed(points, response, tests)
    for response in points.responses:
        found.append(_size(response, tests))
    return found


def curve_bic(points: Points, response: str) -> pd.DataFrame:
    """BIC of each form fitted to every curve without recovery alone, all of one response, y/y0.

    The noise is one variance for all curves: with a variance for each, five points and three parameters look perfect.
    Columns form, bic, curves, delta (to the best).
    """
    forms = (*catalogue.COMPETING, *catalogue.OWN)
    square, curves_used, n = dict.fromkeys((form.name for form in forms), 0.0), 0, 0
    every = points.of(response)
    every = every[(every["recovery_tokens"] == 0) & every[f"{response}0"].gt(0)]
    for _, rows in every.groupby(list(curves.KEY), sort=True):
        r, y = rows["ratio"].to_numpy(float), (rows[response] / rows[f"{response}0"]).to_numpy(float)
        if len(set(r)) < FEWEST_RATIOS:
            continue
        c = {"r": r} | dict.fromkeys(("d", "size", "chance"), np.zeros(len(r))) | {"dense": np.ones(len(r))}
        try:
            found = {form.name: float(((form.eta(c, _least_squares(form, c, y)) - y) ** 2).sum()) for form in forms}
        except (InputError, np.linalg.LinAlgError):
            continue
        curves_used, n = curves_used + 1, n + len(r)
        square = {name: square[name] + found[name] for name in square}
    rows = []
    for form in forms if n else ():
        parameters = curves_used * len(form.coefficient_names) + 1
        bic = n * math.log(max(square[form.name] / n, 1e-20)) + parameters * math.log(n)
        rows.append({"form": form.name, "bic": bic, "curves": curves_used})
    frame = pd.DataFrame(rows, columns=["form", "bic", "curves"]).sort_values("bic", ignore_index=True)
    return frame.assign(delta=frame["bic"] - frame["bic"].min())


def _least_squares(form: Form, c: Mapping[str, np.ndarray], y: np.ndarray) -> np.ndarray:
    if form.linear:
        return np.linalg.lstsq(form.design(c), y - form.offset(c), rcond=None)[0]
    return nonlinear.variable_projection(form, c, y, np.ones(len(y)))


def _form(
    points: Points, response: str, form: str, names: tuple, claim: str, comparisons: Mapping, tests: pd.DataFrame
) -> Verdict:
    """Votes on a form of one curve; `names` are the laws across models that have this form."""
    votes, evidence = {}, {}
    bic = curve_bic(points, response)
    if len(bic):
        own = bic.set_index("form")["bic"]
        rival = own.drop(form).idxmin()
        delta = float(own[rival] - own[form])
        votes["ΔBIC"] = int(delta >= BIC_STRONG) - int(delta <= -BIC_STRONG)
        evidence |= {"delta_bic": delta, "rival": rival, "curves": int(bic["curves"].iloc[0])}
    for name, split in (("left-out model", "model"), ("extrapolation", "ratio")):
        table = _comparison(comparisons, response, split)
        line = None if table is None else table[table["form"].isin(names) & table["error"].notna()].sort_values("error")
        if line is None or not len(line) or line["units"].iloc[0] < 2:
            continue
        chosen, near = bool(line["chosen"].any()), bool(line["near"].any())
        votes[name] = int(chosen) - int(not near)
        best = table.loc[table["best"] == True]  # noqa: E712
        evidence[name] = {
            "error": float(line["error"].iloc[0]),
            "best": best["form"].iloc[0],
            "best_error": float(best["error"].iloc[0]),
        }
    test = tests[tests["name"] == ("curvature" if response == "loss" else "accuracy curvature")]
    if len(test):
        p, estimate = float(test["p_holm"].iloc[0]), float(test["estimate"].iloc[0])
        wanted = response == "loss"
        votes["Wald test"] = (1 if wanted else -1) * int(p < ALPHA)
        evidence |= {"p_holm": p, "term": estimate}
    verdict = _count(votes)
    words = _form_words(evidence, votes)
    if not votes:
        words = "the table has no curve with enough ratios"
    return Verdict(claim, verdict, f"That {claim} is {verdict}: {words}.", evidence | {"votes": votes})


def _comparison(comparisons: Mapping, response: str, split: str) -> pd.DataFrame | None:
    """A comparison with each method fitted apart; with all together where models were compressed by different methods."""
    return comparisons.get(f"{response}|{split}|method", comparisons.get(f"{response}|{split}|all"))


def _count(votes: Mapping[str, int]) -> str:
    plus, minus = sum(v > 0 for v in votes.values()), sum(v < 0 for v in votes.values())
    if plus >= 2 and not minus:
        return SUPPORTED
    return CONTRADICTED if minus - plus >= 2 else OPEN


def _form_words(evidence: Mapping, votes: Mapping[str, int]) -> str:
    words = []
    if "delta_bic" in evidence:
        side = "better" if evidence["delta_bic"] > 0 else "worse"
        words.append(
            f"BIC over {evidence['curves']} curve{'s' if evidence['curves'] != 1 else ''} is {abs(evidence['delta_bic']):.0f} {side} than of its best rival "
            f"({evidence['rival']})"
        )
    for name in ("left-out model", "extrapolation"):
        if name in evidence:
            one = evidence[name]
            where = "on models left out" if name == "left-out model" else "beyond r = 0.5"
            words.append(f"{where} it errs by {one['error']:.1%}, the best ({one['best']}) by {one['best_error']:.1%}")
    if "p_holm" in evidence:
        words.append(f"the r² term is {evidence['term']:.3g} (Holm p = {evidence['p_holm']:.2g})")
    return "; ".join(words)


def _cross(comparisons: Mapping) -> Verdict:
    claim = "one law L0^α (1+r)^β (1+1/(D+1))^γ serves models that were not fitted"
    table = _comparison(comparisons, "loss", "model")
    if table is None or "original" not in set(table["form"].dropna()) or table["units"].max() < 2:
        return Verdict(claim, OPEN, f"That {claim} is {OPEN}: no form could be judged on a model left out.", {})
    line, best = table[table["form"] == "original"].iloc[0], table[table["best"] == True].iloc[0]  # noqa: E712
    if not math.isfinite(line["error"]):
        return Verdict(claim, OPEN, f"That {claim} is {OPEN}: it could not be fitted ({line['why']}).", {})
    near = bool(line["near"])
    worse = line["error"] - best["error"]
    if line["units"] < 3 or (near and not line["chosen"]):
        verdict = OPEN
    else:
        verdict = SUPPORTED if line["chosen"] and line["error"] <= SERVES else CONTRADICTED if not near else OPEN
    sentence = (
        f"That {claim} is {verdict}: on {int(line['units'])} models left out one by one it errs by {line['error']:.1%}, the "
        f"best form ({best['form']}) by {best['error']:.1%}, {worse:.1%} less."
    )
    return Verdict(
        claim, verdict, sentence, {"error": float(line["error"]), "best": best["form"], "best_error": float(best["error"])}
    )


def _ours(comparisons: Mapping) -> Verdict:
    """Whether our best candidate halves the original form's error, on models left out and beyond r = 0.5, and which do not."""
    claim = "a form of ours errs half as much out of sample as the original paper's"
    own = {form.name for form in catalogue.OWN} | {"combination"}
    words, edges, evidence = [], [], {}
    for split, where in (("model", "on models left out"), ("ratio", "beyond r = 0.5")):
        table = _comparison(comparisons, "loss", split)
        if table is None or "ratio" not in table:
            continue
        ours = table[table["form"].isin(own) & table["ratio"].notna()].sort_values("error")
        if not len(ours):
            continue
        best, spread = ours.iloc[0], float(ours["ratio_stderr"].iloc[0])
        if math.isfinite(spread):
            edges.append((float(best["ratio"]) - 2 * spread, float(best["ratio"]) + 2 * spread))
        error = f" ± {spread:.2f}" if math.isfinite(spread) else ""
        behind = ours.loc[(ours["ratio"] >= 1) & (ours["form"] != best["form"]), "form"]
        lost = f", while {', '.join(behind)} {'are' if len(behind) > 1 else 'is'} no better than it" if len(behind) else ""
        words.append(f"{where} {best['form']} errs {best['ratio']:.2f}{error} times as much{lost}")
        evidence[split] = {"best": best["form"], "ratio": float(best["ratio"]), "stderr": spread, "no better": list(behind)}
    verdict = OPEN
    if len(edges) == 2 and all(high <= HALF for _, high in edges):
        verdict = SUPPORTED
    elif any(low > HALF for low, _ in edges):
        verdict = CONTRADICTED
    if not words:
        words = ["the table has one model and no ratio above 0.5, or too few below"]
    return Verdict(claim, verdict, f"That {claim} is {verdict}: {'; '.join(words)}.", evidence)


def gains(points: Points, response: str = "loss") -> pd.DataFrame:
    """Relative improvement by recovery of each experiment over the same one without: gain, stderr, model, method, ratio, D."""
    rows = points.of(response)
    key = ["model", "method", "ratio", "ratio_of"]
    rows = rows.assign(se=rows.get(f"{response}_stderr", math.nan))
    before = rows[rows["recovery_tokens"] == 0].groupby(key).agg(before=(response, "mean"), before_se=("se", "mean"))
    after = rows[rows["recovery_tokens"] > 0].merge(before, on=key)
    gain = 1 - after[response] / after["before"]
    share = np.sqrt((after["se"] / after[response]) ** 2 + (after["before_se"] / after["before"]) ** 2)
    return after[[*key, "recovery_tokens", "before"]].assign(after=after[response], gain=gain, stderr=(1 - gain) * share)


def _recovery(points: Points) -> Verdict:
    claim = "recovery improves loss by up to 55 %"
    found = gains(points)
    if not len(found):
        return Verdict(
            claim, OPEN, f"That {claim} is {OPEN}: the table has no recovered experiment beside an unrecovered one.", {}
        )
    best = found.loc[found["gain"].idxmax()]
    error = 0.0 if math.isnan(best["stderr"]) else float(best["stderr"])
    low, high = best["gain"] - 1.96 * error, best["gain"] + 1.96 * error
    bound = CLAIMED["recovery"]
    verdict = CONTRADICTED if low > bound else SUPPORTED if high >= bound else OPEN
    more = "" if verdict != OPEN else f"; with at most {tokens_text(found['recovery_tokens'].max())} the bound was not reached"
    sentence = (
        f"That {claim} is {verdict}: the largest of {len(found)} improvements is {best['gain']:.1%} [{low:.1%}, {high:.1%}] ("
        f"{best['model']}, {best['method']}, r = {best['ratio']:g}, {tokens_text(best['recovery_tokens'])}), the median "
        f"{found['gain'].median():.1%}{more}."
    )
    return Verdict(
        claim, verdict, sentence, {"gain": float(best["gain"]), "low": float(low), "high": float(high), "n": len(found)}
    )


def _kept(points: Points, recovered: bool, level: float) -> Verdict:
    share = CLAIMED["kept with recovery" if recovered else "kept without recovery"]
    claim = f"models compressed below 50 % keep {share:.0%} of their accuracy {'with' if recovered else 'without'} recovery"
    rows = points.of("accuracy")
    rows = rows[(rows["ratio"] < 0.5) & ((rows["recovery_tokens"] > 0) == recovered) & rows["accuracy0"].notna()]
    means = (rows["accuracy"] / rows["accuracy0"]).groupby(rows["model"]).mean()
    if len(means) < 2:
        return Verdict(
            claim, OPEN, f"That {claim} is {OPEN}: {len(means)} model{'s' if len(means) != 1 else ''} with such rows.", {}
        )
    middle, error = float(means.mean()), float(means.std(ddof=1) / math.sqrt(len(means)))
    half = float(stats.t.ppf(0.5 + level / 2, len(means) - 1)) * error
    outside = not middle - half <= share <= middle + half
    verdict = CONTRADICTED if outside else SUPPORTED if half <= WIDE else OPEN
    sentence = (
        f"That {claim} is {verdict}: they keep {middle:.1%} [{middle - half:.1%}, {middle + half:.1%}] ("
        f"{len(rows)} experiments, {len(means)} models)."
    )
    return Verdict(claim, verdict, sentence, {"kept": middle, "low": middle - half, "high": middle + half, "n": len(rows)})


def _speed(points: Points, response: str, tests: pd.DataFrame) -> list[Verdict]:
    """Speed at 90 %: the bound for models of 7B and below, the figure for the largest, dependence on size."""
    found, kind = speed_law.at_ninety(points, response), response.removeprefix("speedup_").replace("_", " ")
    small = [one for one in found if one["parameters0"] <= SEVEN_BILLION]
    large = [one for one in found if one["parameters0"] > SEVEN_BILLION]
    verdicts = []
    for claim, bound, group, none in (
        (
            f"at 90 % {kind} is at most 35 % faster for 7B and below",
            CLAIMED["7B and below"],
            small,
            "no such model was measured at 90 %",
        ),
        (
            f"at 90 % {kind} is up to 60 % faster for the largest",
            CLAIMED["largest"],
            large,
            "no model above 7B was measured at 90 %",
        ),
    ):
        if not group:
            verdicts.append(Verdict(claim, OPEN, f"That {claim} is {OPEN}: {none}.", {}))
            continue
        best = max(group, key=lambda one: one["speedup"])
        low = best["low"] if math.isfinite(best["low"]) else best["speedup"]
        high = best["high"] if math.isfinite(best["high"]) else best["speedup"]
        verdict = CONTRADICTED if low - 1 > bound else SUPPORTED if high - 1 <= bound or "largest" not in claim else OPEN
        sentence = (
            f"That {claim} is {verdict}: the fastest of {len(group)} models is {best['speedup'] - 1:+.0%} [{low - 1:+.0%}, "
            f"{high - 1:+.0%}] ({best['model']}, {best['method']})."
        )
        verdicts.append(Verdict(claim, verdict, sentence, best))
    claim = f"larger models gain more {kind} speed"
    test = tests[(tests["name"] == "speed size") & (tests["response"] == response)]
    return [*verdicts, _signed(claim, test, +1, "λ of the speed law")]


def _size(response: str, tests: pd.DataFrame) -> Verdict:
    """Whether larger models lose less when compressed."""
    claim = f"larger models compress better, by {response}"
    test = tests[tests["name"] == ("size" if response == "loss" else "accuracy size")]
    return _signed(claim, test, -1 if response == "loss" else +1, "change of β per tenfold size")


def _signed(claim: str, test: pd.DataFrame, sign: int, what: str) -> Verdict:
    """A claim that one parameter has a sign."""
    if not len(test) or test["models"].iloc[0] < 3:
        return Verdict(claim, OPEN, f"That {claim} is {OPEN}: fewer than three models of known size.", {})
    one = test.iloc[0]
    clear = one["p_holm"] < ALPHA
    verdict = OPEN if not clear else SUPPORTED if sign * one["estimate"] > 0 else CONTRADICTED
    sentence = (
        f"That {claim} is {verdict}: {what} is {one['estimate']:+.3g} ± {one['stderr']:.2g} over {int(one['models'])} models "
        f"(Holm p = {one['p_holm']:.2g})."
    )
    return Verdict(claim, verdict, sentence, {"estimate": float(one["estimate"]), "p_holm": float(one["p_holm"])})
