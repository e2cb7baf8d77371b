"""Claims of the original paper about numbers: what recovery wins, how much accuracy is kept, speed, and what size changes."""

import math

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from claw.laws import curves, sizes, speed_law
from claw.laws.claim import CONTRADICTED, OPEN, SUPPORTED, Verdict, cannot_judge, judged
from claw.laws.clusters import FEWEST_DF
from claw.laws.over_curves import mean_over_curves
from claw.laws.points import Points
from claw.laws.recovered import p_exchanged, paired
from claw.laws.working import CONTROL
from claw.words import plural, quantity, tokens_text

ALPHA = 0.05
CLAIMED = {"recovery": 0.55, "kept without recovery": 0.57, "kept with recovery": 0.84, "largest": 0.60, "7B and below": 0.35}
WIDE = 0.15
HALF_REMOVED = 0.5
MOST = 6  # groups that a sentence names
SEVEN_BILLION = 8e9  # a model sold as 7B has up to 8e9 parameters


def recovery_verdicts(points: Points, level: float) -> list[Verdict]:
    """Whether recovery lowers the loss, and by up to 55 %."""
    lowers, most = "recovery lowers loss", "recovery improves loss by up to 55 %"
    mean, table = paired(points, "loss", level)
    if not len(table):
        nothing = "no recovered experiment beside an unrecovered one"
        return [cannot_judge(lowers, nothing), cannot_judge(most, nothing)]
    better, (p, least) = int((table["gain"] > 0).sum()), p_exchanged(points, "loss")
    low, high, change = table["gain"].min(), table["gain"].max(), math.expm1(mean.value)
    words = f"{better} of {plural(len(table), 'recovered run')} have a lower loss than the same model without recovery "
    words += f"({-low:+.1%} to {-high:+.1%}, {change:+.1%} on average over {mean.of('experiment')})"
    if len(known := table[table["text"].notna()]):
        no_more = int((known["gain"] <= known["text"]).sum())
        text = " to ".join(f"{-share:+.1%}" for share in sorted({known["text"].min(), known["text"].max()}))
        words += f"; whole models trained alike change by {text}, and {no_more} of {len(known)} recovered runs gain no more"
    evidence = {"pairs": len(table), "better": better, "change": change, "p": p}
    if least >= ALPHA:
        first = cannot_judge(lowers, f"{plural(mean.curves, 'recovered experiment')}: too few for any test")
    else:
        verdict = OPEN if p >= ALPHA else SUPPORTED if change < 0 else CONTRADICTED
        first = judged(lowers, verdict, f"{words}; permutation test within experiments p = {p:.2g}", evidence)
    return [first, _largest_gain(table, most)]


def _largest_gain(table: pd.DataFrame, claim: str) -> Verdict:
    """Whether the largest measured improvement is at most the claimed one, and reaches it."""
    best, bound = table.loc[table["gain"].idxmax()], CLAIMED["recovery"]
    error = 0.0 if math.isnan(best["stderr"]) else float(best["stderr"])
    low, high = best["gain"] - 1.96 * error, best["gain"] + 1.96 * error
    verdict = CONTRADICTED if low > bound else SUPPORTED if high >= bound else OPEN
    more = "" if verdict != OPEN else f"; with at most {tokens_text(table['recovery_tokens'].max())} the bound was not reached"
    where = f"{best['model']}, {best['method']}, r = {best['ratio']:g}, {tokens_text(best['recovery_tokens'])}"
    largest, median = f"{best['gain']:.1%} [{low:.1%}, {high:.1%}] ({where})", f"{table['gain'].median():.1%}{more}"
    noise = ", interval from the noise of both measurements" if error else ""
    why = f"the largest of {plural(len(table), 'improvement')} is {largest}{noise}; the median is {median}"
    return judged(claim, verdict, why, {"gain": float(best["gain"]), "low": float(low), "high": float(high), "n": len(table)})


def kept_verdict(points: Points, recovered: bool, level: float) -> Verdict:
    """How much accuracy is kept below 50 %, averaged over the same range of ratios for every curve."""
    recovery = "with recovery" if recovered else "without recovery"
    share = CLAIMED[f"kept {recovery}"]
    claim = f"models compressed below 50 % keep {share:.0%} of their accuracy {recovery}"
    kept, low, high = kept_accuracy(points, recovered)
    if not len(kept):
        return cannot_judge(claim, f"no accuracy {recovery} below 50 % beside a dense one")
    methods, models = (kept[name].to_numpy(str) for name in ("method", "model"))
    mean = mean_over_curves(kept["kept"].to_numpy(float), methods, models, level)
    evidence = {"kept": mean.value, "low": mean.low, "high": mean.high, "n": mean.curves, "df": mean.df}
    evidence |= {"from": low, "to": high}
    if mean.too_few:
        return cannot_judge(claim, mean.too_few, "curves")
    half = mean.high - mean.value
    verdict = CONTRADICTED if not mean.low <= share <= mean.high else SUPPORTED if half <= WIDE else OPEN
    where = f"at r = {low:g}" if low == high else f"on average from r = {low:g} to {high:g}"
    why = f"{where} they keep {mean.value:.1%} [{mean.low:.1%}, {mean.high:.1%}]"
    return judged(claim, verdict, f"{why} ({mean.basis}, {mean.df:.1f} degrees of freedom)", evidence)


def kept_accuracy(points: Points, recovered: bool) -> tuple[pd.DataFrame, float, float]:
    """Mean of A/A0 of each curve over one range of r below 0.5, and this range: that of the typical curve.

    Curves that do not span it are left out, so that no curve is compared at milder ratios than another. Straight lines between
    measured ratios. Destroyed models count: they kept nothing. Controls do not, unless there is nothing else.
    """
    rows = points.of("accuracy")
    rows = rows[(rows["ratio"] > 0) & ((rows["recovery_tokens"] > 0) == recovered) & (rows["accuracy0"] > 0)]
    rows = rows[rows["flag"] != CONTROL] if (rows["flag"] != CONTROL).any() else rows
    rows = rows.assign(share=rows["accuracy"] / rows["accuracy0"])
    lines = []
    for key, curve in rows.groupby(list(curves.KEY), sort=True):
        averaged = curve.groupby("ratio")["share"].mean()
        if len(below := averaged[averaged.index < HALF_REMOVED]):
            r, end = averaged.index.to_numpy(float), averaged.index.max()
            high = HALF_REMOVED if end >= HALF_REMOVED and len(r) > 1 else below.index.max()
            lines.append((key, r, averaged.to_numpy(float), below.index.min(), high))
    if not lines:
        return pd.DataFrame(columns=["model", "method", "kept"]), math.nan, math.nan
    low, high = (float(np.median([line[i] for line in lines])) for i in (3, 4))
    low, high = min(low, high), max(low, high)
    grid = np.linspace(low, high, 1 if low == high else 101)
    spans = [line for line in lines if line[1].min() <= low + 1e-9 and line[1].max() >= high - 1e-9]
    table = [(key[0], key[1], float(np.interp(grid, r, y).mean())) for key, r, y, *_ in spans]
    return pd.DataFrame(table, columns=["model", "method", "kept"]), low, high


def speed_verdicts(points: Points, response: str, tests: pd.DataFrame) -> list[Verdict]:
    """Speed at 90 %: the bound for models of 7B and below, the figure for the largest, dependence on size."""
    fastest, kind = speed_law.at_ninety(points, response), response.removeprefix("speedup_").replace("_", " ")
    small = [row for row in fastest if row["parameters0"] <= SEVEN_BILLION]
    large = [row for row in fastest if row["parameters0"] > SEVEN_BILLION]
    test = tests[(tests["name"] == "speed size") & (tests["response"] == response)]
    return [
        _fastest(f"at 90 % {kind} is at most 35 % faster for 7B and below", "7B and below", small, "no model of 7B or below"),
        _fastest(f"at 90 % {kind} is up to 60 % faster for the largest", "largest", large, "no model above 7B"),
        _faster_with_size(f"larger models gain more {kind} speed", test),
    ]


def _fastest(claim: str, name: str, rows: list[dict], none: str) -> Verdict:
    """A claim that bounds the speed-up of some models."""
    if not rows:
        return cannot_judge(claim, f"{none} was measured at 90 %")
    best, bound = max(rows, key=lambda row: row["speedup"]), CLAIMED[name]
    speedup = best["speedup"] - 1
    low, high = (best[edge] - 1 if math.isfinite(best[edge]) else speedup for edge in ("low", "high"))
    verdict = CONTRADICTED if low > bound else SUPPORTED if high <= bound or name != "largest" else OPEN
    where = f"{best['model']}, {best['method']}"
    why = f"the fastest of {plural(len(rows), 'model')} is {speedup:+.0%} [{low:+.0%}, {high:+.0%}] ({where})"
    return judged(claim, verdict, why, best)


def _faster_with_size(claim: str, test: pd.DataFrame) -> Verdict:
    """Whether λ of the speed law is positive."""
    if not len(test) or test["models"].iloc[0] < 3:
        return cannot_judge(claim, "fewer than three models of known size", "models")
    estimate, stderr, df, p, models = (float(test[name].iloc[0]) for name in ("estimate", "stderr", "df", "p_holm", "models"))
    if not df >= FEWEST_DF - 1e-6:
        return cannot_judge(claim, f"{plural(int(models), 'model')} of known size: too few to tell")
    verdict = OPEN if not p < ALPHA else SUPPORTED if estimate > 0 else CONTRADICTED
    why = f"λ of the speed law is {estimate:+.3g} ± {stderr:.2g} over {plural(int(models), 'model')}"
    return judged(claim, verdict, f"{why} (Holm p = {p:.2g}, {df:.1f} degrees of freedom)", {"estimate": estimate, "p_holm": p})


def size_verdict(points: Points, response: str) -> Verdict:
    """Whether larger models of one family lose less by one method; contradicted if a family shows the opposite."""
    claim, sign = f"larger models compress better, by {response}", -1 if response == "loss" else +1
    table = sizes.size_effects(points, response)
    table = table[table["p"].notna()]
    if not len(table):
        return cannot_judge(claim, "no family with three sizes compressed by one method", "models")
    p = np.minimum(multipletests(table["p"].astype(float), method="holm")[1], 1.0)
    agree = (p < ALPHA) & (sign * table["estimate"] > 0).to_numpy()
    against = (p < ALPHA) & (sign * table["estimate"] < 0).to_numpy()
    rest = (sign * table["estimate"] < 0).any()
    verdict = CONTRADICTED if against.any() else SUPPORTED if agree.any() and not rest else OPEN
    words = [
        f"{row.family} by {row.method} {row.estimate:+.3f} ± {row.stderr:.3f} ({plural(row.models, 'model')}, "
        f"{quantity(row.smallest)} to {quantity(row.largest)}, {row.df:.1f} degrees of freedom, Holm p = {one:.2g})"
        for row, one in zip(table.itertuples(), p, strict=True)
    ]
    shown = "; ".join(words[:MOST]) + (f"; and {len(words) - MOST} more" if len(words) > MOST else "")
    negative = int((table["estimate"] < 0).sum())
    signs = f"; negative in {negative} of {len(table)} groups" if len(table) > 1 else ""
    why = f"the change of β per tenfold size is {shown}{signs}"
    return judged(claim, verdict, why, {"groups": table.to_dict("records"), "p_holm": [float(one) for one in p]})
