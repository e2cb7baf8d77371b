"""Verdicts on the claims of the original paper, generated from numbers: supported, not distinguishable, contradicted.

The claims are those of Sengupta, Chaudhary, Chakraborty 2025. A claim about a form collects votes:

    ΔBIC            +1 if the form beats its best rival by 10, -1 if it loses by 10 (sum over curves, Jacobian included)
    left-out model  +1 if the one-standard-error rule chooses it, -1 if it is not within one standard error of the best
    extrapolation   the same from r ≤ 0.5 to r > 0.5
    Wald test       for loss, +1 if the r² term is significant; for accuracy, -1 if it is (Holm, 5 %)

and is supported with at least two votes for and none against, contradicted with at least two more against than for. A claim
about a number is supported if the interval over models holds the number and is no wider than ±0.15, contradicted if the
interval does not hold it. What the table cannot answer is not distinguishable, and its sentence says why.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from claw.errors import InputError
from claw.laws import catalogue, curves, speed_law
from claw.laws.forms import Form, variable_projection
from claw.laws.points import Points, unrecovered
from claw.words import plural, tokens_text

SUPPORTED, OPEN, CONTRADICTED = "supported", "not distinguishable", "contradicted"
BIC_STRONG = 10.0
ALPHA = 0.05
FEWEST_RATIOS = 5  # above 0, on one curve: the richest form has three coefficients
WIDE = 0.15
HALF = 0.5
SERVES = 0.10  # relative error up to which a law may be said to serve a model
CLAIMED = {"recovery": 0.55, "kept without recovery": 0.57, "kept with recovery": 0.84, "largest": 0.60, "7B and below": 0.35}
SEVEN_BILLION = 8e9  # a model sold as 7B has up to 8e9 parameters
PLACES = {"model": "on models left out", "ratio": "beyond r = 0.5"}
VOTES = {"left-out model": "model", "extrapolation": "ratio"}
"""Votes by errors out of sample, and their split."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One claim judged."""

    claim: str
    verdict: str
    sentence: str
    evidence: Mapping[str, Any]


def _judged(claim: str, verdict: str, why: str, evidence: Mapping[str, Any] | None = None) -> Verdict:
    return Verdict(claim=claim, verdict=verdict, sentence=f"That {claim} is {verdict}: {why}.", evidence=evidence or {})


def judge(points: Points, comparisons: Mapping[str, pd.DataFrame], tests: pd.DataFrame, level: float = 0.95) -> list[Verdict]:
    """A verdict on every claim. `comparisons` as of `claw.laws.outside.compare_all`, `tests` as of `claw.laws.wald.ask_all`."""
    verdicts = [_form(points, response, comparisons, tests) for response in points.responses]
    if "loss" in points.responses:
        verdicts += [_cross(comparisons), _recovery(points), _ours(comparisons)]
    if "accuracy" in points.responses:
        verdicts += [_kept(points, False, level), _kept(points, True, level)]
    for response in speed_law.responses(points):
        verdicts += _speed(points, response, tests)
    for response, name, sign in (("loss", "size", -1), ("accuracy", "accuracy size", +1)):
        if response in points.responses:
            claim, test = f"larger models compress better, by {response}", tests[tests["name"] == name]
            verdicts.append(_signed(claim, test, sign, "change of β per tenfold size"))
    return verdicts


def curve_bic(points: Points, response: str) -> pd.DataFrame:
    """BIC of each form fitted to each unrecovered curve alone, all of one response, y/y0.

    The noise is one variance for all curves: with a variance for each, five points and three coefficients look perfect.
    Columns form, bic, curves, delta (to the best).
    """
    forms = (*catalogue.COMPETING, *catalogue.OWN)
    square, count, n = dict.fromkeys((form.name for form in forms), 0.0), 0, 0
    every, dense = points.of(response, recovered=False), f"{response}0"
    for _, rows in every[every[dense].gt(0)].groupby(list(curves.KEY), sort=True):
        r, y = rows["ratio"].to_numpy(float), (rows[response] / rows[dense]).to_numpy(float)
        if len(set(r)) < FEWEST_RATIOS:
            continue
        c = {"r": r} | dict.fromkeys(("d", "size", "chance"), np.zeros(len(r))) | {"dense": np.ones(len(r))}
        try:
            errors = {form.name: float(((form.eta(c, _least_squares(form, c, y)) - y) ** 2).sum()) for form in forms}
        except (InputError, np.linalg.LinAlgError):
            continue
        count, n = count + 1, n + len(r)
        square = {name: square[name] + errors[name] for name in square}
    mean = {form: max(square[form.name] / n, 1e-20) for form in forms if n}
    terms = {form: count * len(form.coefficient_names) + 1 for form in forms}
    table = [{"form": form.name, "bic": n * math.log(mean[form]) + terms[form] * math.log(n)} for form in mean]
    frame = pd.DataFrame(table, columns=["form", "bic"]).sort_values("bic", ignore_index=True)
    return frame.assign(curves=count, delta=frame["bic"] - frame["bic"].min())


def _least_squares(form: Form, c: Mapping[str, np.ndarray], y: np.ndarray) -> np.ndarray:
    if form.linear:
        return np.linalg.lstsq(form.design(c), y - form.offset(c), rcond=None)[0]
    return variable_projection(form, c, y, np.ones(len(y)))


def _form(points: Points, response: str, comparisons: Mapping[str, pd.DataFrame], tests: pd.DataFrame) -> Verdict:
    """Votes on the form of one curve: loss quadratic, accuracy linear."""
    quadratic, form = response == "loss", curves.CLAIM[response]
    across = [f"{form} of y/y0"] if quadratic else [f"{form} of y/y0", "retention-linear"]  # laws across models of this form
    votes, words, evidence = dict[str, int](), list[str](), dict[str, Any]()
    bic = curve_bic(points, response)
    if len(bic):
        by_form, count = bic.set_index("form")["bic"], int(bic["curves"].iloc[0])
        rival = by_form.drop(form).idxmin()
        delta = float(by_form[rival] - by_form[form])
        votes["ΔBIC"] = int(delta >= BIC_STRONG) - int(delta <= -BIC_STRONG)
        evidence |= {"delta_bic": delta, "rival": rival, "curves": count}
        side = "better" if delta > 0 else "worse"
        words.append(f"BIC over {plural(count, 'curve')} is {abs(delta):.0f} {side} than that of its best rival ({rival})")
    for name, split in VOTES.items():
        table = _comparison(comparisons, response, split)
        judged = table[table["form"].isin(across) & table["error"].notna()].sort_values("error")
        if not len(judged) or judged["units"].iloc[0] < 2:
            continue
        votes[name] = int(judged["chosen"].any()) - int(not judged["near"].any())
        error, best = float(judged["error"].iloc[0]), _best(table)
        evidence[name] = {"error": error, "best": best["form"], "best_error": float(best["error"])}
        words.append(f"{PLACES[split]} its error is {error:.1%}, that of the best ({best['form']}) {best['error']:.1%}")
    test = tests[tests["name"] == ("curvature" if quadratic else "accuracy curvature")]
    if len(test):
        p, term = float(test["p_holm"].iloc[0]), float(test["estimate"].iloc[0])
        votes["Wald test"] = (1 if quadratic else -1) * int(p < ALPHA)
        evidence |= {"p_holm": p, "term": term}
        words.append(f"the r² term is {term:.3g} (Holm p = {p:.2g})")
    plus, minus = (sum(sign * vote > 0 for vote in votes.values()) for sign in (1, -1))
    verdict = SUPPORTED if plus >= 2 and not minus else CONTRADICTED if minus - plus >= 2 else OPEN
    why = "; ".join(words) if votes else "the table has no curve with enough ratios"
    return _judged(f"{response} is {form} in the ratio", verdict, why, evidence | {"votes": votes})


def _comparison(comparisons: Mapping[str, pd.DataFrame], response: str, split: str) -> pd.DataFrame:
    """A comparison with each method fitted apart, else with all together, as models were compressed by different methods."""
    none = pd.DataFrame(columns=["form", "error", "units"])
    return comparisons.get(f"{response}|{split}|method", comparisons.get(f"{response}|{split}|all", none))


def _best(table: pd.DataFrame) -> pd.Series:
    """The form with the smallest error; `best` is NaN for a form that could not be fitted."""
    return table[table["best"].eq(True)].iloc[0]


def _cross(comparisons: Mapping[str, pd.DataFrame]) -> Verdict:
    claim = "one law L0^α (1+r)^β (1+1/(D+1))^γ serves models that were not fitted"
    table = _comparison(comparisons, "loss", "model")
    if "original" not in set(table["form"].dropna()) or table["units"].max() < 2:
        return _judged(claim, OPEN, "no form could be judged on a model left out")
    original, best = table[table["form"] == "original"].iloc[0], _best(table)
    if not math.isfinite(original["error"]):
        return _judged(claim, OPEN, f"it could not be fitted ({original['why']})")
    serves = original["chosen"] and original["error"] <= SERVES
    verdict = OPEN if original["units"] < 3 else CONTRADICTED if not original["near"] else SUPPORTED if serves else OPEN
    error, least = float(original["error"]), float(best["error"])
    why = f"on {int(original['units'])} models left out one at a time its error is {error:.1%}, that of the best "
    why += f"form ({best['form']}) {least:.1%}, {error - least:.1%} less"
    evidence = {"error": error, "best": best["form"], "best_error": least}
    return _judged(claim, verdict, why, evidence)


def _ours(comparisons: Mapping[str, pd.DataFrame]) -> Verdict:
    """Whether our best candidate halves the original form's error, on models left out and beyond r = 0.5, and which do not."""
    own = {form.name for form in catalogue.OWN} | {"combination"}
    words, edges, evidence = [], [], {}
    for split, where in PLACES.items():
        table = _comparison(comparisons, "loss", split).reindex(columns=["form", "error", "ratio", "ratio_stderr"])
        ours = table[table["form"].isin(own) & table["ratio"].notna()].sort_values("error")
        if not len(ours):
            continue
        best, ratio, spread = ours["form"].iloc[0], float(ours["ratio"].iloc[0]), float(ours["ratio_stderr"].iloc[0])
        edges += [(ratio - 2 * spread, ratio + 2 * spread)] if math.isfinite(spread) else []
        error = f" ± {spread:.2f}" if math.isfinite(spread) else ""
        behind = list(ours.loc[(ours["ratio"] >= 1) & (ours["form"] != best), "form"])
        lost = f", while {', '.join(behind)} {'are' if len(behind) > 1 else 'is'} no better than it" if behind else ""
        words.append(f"{where} {best} errs {ratio:.2f}{error} times as much{lost}")
        evidence[split] = {"best": best, "ratio": ratio, "stderr": spread, "no better": behind}
    halves, worse = len(edges) == 2 and all(high <= HALF for _, high in edges), any(low > HALF for low, _ in edges)
    verdict = SUPPORTED if halves else CONTRADICTED if worse else OPEN
    why = "; ".join(words) or "the table has one model and no ratio above 0.5, or too few below"
    return _judged("a form of ours errs half as much out of sample as the original paper's", verdict, why, evidence)


def gains(points: Points, response: str = "loss") -> pd.DataFrame:
    """Relative improvement by recovery of each experiment over the same one without: gain, stderr, model, method, ratio, D."""
    rows = points.of(response)
    key = ["model", "method", "ratio", "ratio_of"]
    rows = rows.assign(se=rows.get(f"{response}_stderr", math.nan))
    before = unrecovered(rows).groupby(key).agg(before=(response, "mean"), before_se=("se", "mean"))
    after = rows[rows["recovery_tokens"] > 0].merge(before, on=key)
    gain = 1 - after[response] / after["before"]
    share = np.sqrt((after["se"] / after[response]) ** 2 + (after["before_se"] / after["before"]) ** 2)
    return after[[*key, "recovery_tokens", "before"]].assign(after=after[response], gain=gain, stderr=(1 - gain) * share)


def _recovery(points: Points) -> Verdict:
    claim = "recovery improves loss by up to 55 %"
    table, bound = gains(points), CLAIMED["recovery"]
    if not len(table):
        return _judged(claim, OPEN, "the table has no recovered experiment beside an unrecovered one")
    best = table.loc[table["gain"].idxmax()]
    error = 0.0 if math.isnan(best["stderr"]) else float(best["stderr"])
    low, high = best["gain"] - 1.96 * error, best["gain"] + 1.96 * error
    verdict = CONTRADICTED if low > bound else SUPPORTED if high >= bound else OPEN
    more = "" if verdict != OPEN else f"; with at most {tokens_text(table['recovery_tokens'].max())} the bound was not reached"
    where = f"{best['model']}, {best['method']}, r = {best['ratio']:g}, {tokens_text(best['recovery_tokens'])}"
    largest, median = f"{best['gain']:.1%} [{low:.1%}, {high:.1%}] ({where})", f"{table['gain'].median():.1%}{more}"
    why = f"the largest of {len(table)} improvements is {largest}, the median {median}"
    evidence = {"gain": float(best["gain"]), "low": float(low), "high": float(high), "n": len(table)}
    return _judged(claim, verdict, why, evidence)


def _kept(points: Points, recovered: bool, level: float) -> Verdict:
    recovery = "with recovery" if recovered else "without recovery"
    share = CLAIMED[f"kept {recovery}"]
    claim = f"models compressed below 50 % keep {share:.0%} of their accuracy {recovery}"
    rows = points.of("accuracy")
    rows = rows[(rows["ratio"] < 0.5) & ((rows["recovery_tokens"] > 0) == recovered) & rows["accuracy0"].notna()]
    means = (rows["accuracy"] / rows["accuracy0"]).groupby(rows["model"]).mean()
    if len(means) < 2:
        return _judged(claim, OPEN, f"{plural(len(means), 'model')} with such rows")
    middle, error = float(means.mean()), float(means.std(ddof=1) / math.sqrt(len(means)))
    half = float(stats.t.ppf(0.5 + level / 2, len(means) - 1)) * error
    low, high = middle - half, middle + half
    verdict = CONTRADICTED if not low <= share <= high else SUPPORTED if half <= WIDE else OPEN
    why = f"they keep {middle:.1%} [{low:.1%}, {high:.1%}] ({len(rows)} experiments, {len(means)} models)"
    return _judged(claim, verdict, why, {"kept": middle, "low": low, "high": high, "n": len(rows)})


def _speed(points: Points, response: str, tests: pd.DataFrame) -> list[Verdict]:
    """Speed at 90 %: the bound for models of 7B and below, the figure for the largest, dependence on size."""
    fastest, kind = speed_law.at_ninety(points, response), response.removeprefix("speedup_").replace("_", " ")
    small = [row for row in fastest if row["parameters0"] <= SEVEN_BILLION]
    large = [row for row in fastest if row["parameters0"] > SEVEN_BILLION]
    test = tests[(tests["name"] == "speed size") & (tests["response"] == response)]
    return [
        _fastest(f"at 90 % {kind} is at most 35 % faster for 7B and below", "7B and below", small, "no such model"),
        _fastest(f"at 90 % {kind} is up to 60 % faster for the largest", "largest", large, "no model above 7B"),
        _signed(f"larger models gain more {kind} speed", test, +1, "λ of the speed law"),
    ]


def _fastest(claim: str, name: str, rows: list[dict], none: str) -> Verdict:
    """A claim that bounds the speed-up of some models."""
    if not rows:
        return _judged(claim, OPEN, f"{none} was measured at 90 %")
    best, bound = max(rows, key=lambda row: row["speedup"]), CLAIMED[name]
    speedup = best["speedup"] - 1
    low, high = (best[edge] - 1 if math.isfinite(best[edge]) else speedup for edge in ("low", "high"))
    verdict = CONTRADICTED if low > bound else SUPPORTED if high <= bound or name != "largest" else OPEN
    where = f"{best['model']}, {best['method']}"
    why = f"the fastest of {plural(len(rows), 'model')} is {speedup:+.0%} [{low:+.0%}, {high:+.0%}] ({where})"
    return _judged(claim, verdict, why, best)


def _signed(claim: str, test: pd.DataFrame, sign: int, what: str) -> Verdict:
    """A claim that one coefficient has a sign."""
    if not len(test) or test["models"].iloc[0] < 3:
        return _judged(claim, OPEN, "fewer than three models of known size")
    estimate, stderr, p, models = (test[name].iloc[0] for name in ("estimate", "stderr", "p_holm", "models"))
    verdict = OPEN if not p < ALPHA else SUPPORTED if sign * estimate > 0 else CONTRADICTED
    why = f"{what} is {estimate:+.3g} ± {stderr:.2g} over {int(models)} models (Holm p = {p:.2g})"
    return _judged(claim, verdict, why, {"estimate": float(estimate), "p_holm": float(p)})
