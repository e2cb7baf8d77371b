"""Laws in words and tables: for a terminal and for a notebook."""

import html
import math
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from claw.errors import InputError
from claw.laws import catalogue, curves, pooled_law
from claw.laws.changepoint import find_changepoint
from claw.laws.fitted import POOLED, FittedLaws
from claw.laws.left_out import left_out_ratios
from claw.laws.outside import SPLITS
from claw.laws.points import AXES, REASONS
from claw.laws.pooled_law import PooledLaw, plural_df
from claw.laws.reading import Reading
from claw.laws.sample import ALL, EVERY, WORKING
from claw.laws.verdicts import CONTRADICTED, NOT_JUDGED, OPEN, SUPPORTED, not_judged
from claw.words import number, plural, with_interval

ACROSS = ("cross", "retention", "speed", "post-training")
NAMES = {"ratio": "nominal ratio r", "ratio_params": "share of parameters", "ratio_flops": "share of FLOPs"}
ALONE = """One model: intervals are over its own curves or runs. They say how sure its laws are, and nothing of any other \
model; claims about models in general need at least three."""


def _percent(value: float) -> str:
    return f"{value:.1%}" if math.isfinite(value) else "–"


def curve_table(laws: FittedLaws, response: str, axis: str = "ratio") -> pd.DataFrame:
    """One row per curve: points, range, each coefficient with its interval, R² (centred), error."""
    rows = []
    for law in laws.curves_of(response, axis):
        row = {"curve": law.curve.title, "n": law.n, "r": f"{law.low:.2g}–{law.high:.2g}"}
        coefficients = map(with_interval, law.coefficients, law.intervals)
        row |= dict(zip(catalogue.find_form(law.form).coefficient_names, coefficients, strict=True))
        rows.append(row | {"R²": number(law.quality["r2"]), "RMSE": number(law.quality["rmse"])})
    return pd.DataFrame(rows)


def across_table(laws: FittedLaws, response: str, axis: str = "ratio", method: str = ALL) -> pd.DataFrame:
    """One row per law across models: coefficients with their interval and its degrees of freedom, what it rests on, errors."""
    laws_of = [law for scope in (WORKING, EVERY) for law in laws.across(response, axis, method, scope) if law.group in ACROSS]
    rows = [_row(law) for law in laws_of]
    table = pd.DataFrame(rows)
    return table.drop(columns=["rows"] if len({law.scope for law in laws_of}) < 2 and rows else [])


def _row(law: PooledLaw) -> dict[str, Any]:
    coefficients = zip(law.coefficient_names, map(with_interval, law.coefficients, law.interval), strict=True)
    row: dict[str, Any] = {"law": law.form, "rows": law.scope, "coefficients": ", ".join(map(" ".join, coefficients))}
    row |= {"df": ", ".join(number(df, 1) for df in law.df), "rests on": law.basis, "no interval": law.without_interval}
    row |= {"n": law.n, "r": f"{law.low:.2g}–{law.high:.2g}"}
    quality = law.quality
    row |= {"R²": number(quality["r2"]), "R² uncentred": number(quality["r2_uncentred"])}
    row |= {"|error|": f"{quality['relative_error']:.1%}", "anchor error": _percent(quality["anchor_error"])}
    return row | {"BIC": number(quality["bic"], 1)}


def method_table(laws: FittedLaws, response: str, axis: str = "ratio") -> pd.DataFrame:
    """One row per method: its own law in the default form, and last what methods share."""
    chosen = [law for law in laws.across(response, axis) if law.form == POOLED[response] and law.group in ACROSS]
    chosen = sorted(chosen, key=lambda law: (law.method == ALL, law.coefficients[0]))
    rows = [{"method": law.method if law.method != ALL else "what methods share"} | _row(law) for law in chosen]
    return pd.DataFrame(rows).drop(columns=["law", "rows", "R² uncentred", "BIC", "anchor error"], errors="ignore")


def decomposition_table(laws: FittedLaws, response: str, axis: str = "ratio", method: str = ALL) -> pd.DataFrame:
    """Where the variance around the default law comes from: between methods, models, models within a method, within curves."""
    frame = laws.law(POOLED[response], response, method, axis).decomposition
    shares = frame["share of variance"].map(lambda share: f"{share:.0%}")
    return frame.map(lambda value: number(value) if isinstance(value, float) else value).assign(**{"share of variance": shares})


def interval_table(law: PooledLaw) -> pd.DataFrame:
    """The kinds of interval that hold their level side by side, with their degrees of freedom: a row per coefficient."""
    edges = lambda pair, df: f"{with_interval(0, pair).partition(' ')[2] or '–'} (df {number(df, 1)})"
    table = {"coefficient": law.coefficient_names, "estimate": map(number, law.coefficients)}
    shown = {kind: pairs for kind, pairs in law.intervals.items() if kind != "ordinary" or law.unit == "run"}
    return pd.DataFrame(table | {kind: map(edges, pairs, law.degrees[kind]) for kind, pairs in shown.items()})


def comparison_table(laws: FittedLaws, name: str) -> pd.DataFrame:
    """Out-of-sample errors of a comparison for reading; `name` as in laws.comparisons."""
    errors = laws.comparisons[name]
    errors = errors[errors["error"].notna()]
    shown = errors[["form", "coefficients"]].assign(error=errors["error"].map(_percent))
    shown["±"] = errors["stderr"].map(_percent)
    if "ratio" in errors:
        spread = [f" ± {error:.2f}" if math.isfinite(error) else "" for error in errors["ratio_stderr"]]
        shown["of original"] = [f"{ratio:.2f}{text}" for ratio, text in zip(errors["ratio"], spread, strict=True)]
    marks = [["best"] * bool(best) + ["chosen"] * bool(chosen) for best, chosen in errors[["best", "chosen"]].to_numpy()]
    return shown.assign(mark=[", ".join(mark) for mark in marks])


def critical_table(laws: FittedLaws, threshold: float, response: str = "loss") -> pd.DataFrame:
    """One row per curve: the largest ratio at which `threshold` × the dense value is still met, with its interval.

    For losses also where the curve changes from slow to fast (`claw.laws.changepoint`), if it was measured at six ratios.
    """
    reach = [(one, one.critical_ratio(threshold)) for one in laws.readings(response) if math.isfinite(one.dense)]
    rows = [(one.curve.title, critical.ratio, critical.low, critical.high, str(critical)) for one, critical in reach]
    frame = pd.DataFrame(rows, columns=["curve", "ratio", "low", "high", "in words"])
    return frame.assign(**{"change of regime": [_change(laws, one) for one, _ in reach]}) if response == "loss" else frame


def _change(laws: FittedLaws, one: Reading) -> str:
    """Where a curve changes, in words; a dash where it has too few ratios."""
    runs = curves.rows_of(laws.points, one.curve, "loss", one.axis)
    runs = runs[runs[one.axis] > 0]
    try:
        return str(find_changepoint(runs[one.axis].to_numpy(), runs["loss"].to_numpy(), one.dense, laws.level))
    except InputError:
        return "–"


def conversion_text(laws: FittedLaws) -> str:
    """What one unit of the nominal ratio truly removes, and which methods add; empty where no true share was recorded."""
    shares, sentences = laws.conversion(), []
    adding = shares[shares["smallest"] < 0]
    if len(removing := shares.drop(adding.index)):
        low, high = removing["smallest"].min(), removing["largest"].max()
        per = f"{low:.2f}" if high - low < 0.005 else f"{low:.2f} to {high:.2f}"
        removes = f"A nominal ratio of r removes {per} × r of all parameters"
        sentences.append(f"{removes}, so laws against the true share have other coefficients.")
    for method, rows in adding.groupby("method"):
        low, high = rows["smallest"].min(), rows["largest"].max()
        most = f"{abs(high):.2f} × r {'removed' if high > 0 else 'added'}"
        sentences.append(f"{method} adds parameters at some ratios: from {-low:.2f} × r added to {most}.")
    return " ".join(sentences)


def exclusion_table(laws: FittedLaws) -> pd.DataFrame:
    """How many rows each law leaves out, and why."""
    counts = laws.points.excluded.groupby(["response", "reason"], as_index=False).size()
    return counts.assign(meaning=counts["reason"].map(REASONS)).rename(columns={"size": "rows"})


def unfitted_table(laws: FittedLaws) -> pd.DataFrame:
    """What could not be fitted and why: curves one by one, laws across models counted."""
    columns = ["model", "method", "response", "form", "why"]
    alone = laws.unfitted["model"].notna()
    counts = laws.unfitted[~alone].groupby(["form", "why"], as_index=False, sort=True).size()
    counts = counts.assign(model="", method="", response=counts["size"].map(lambda n: f"{n} times"))
    return pd.concat([laws.unfitted[alone][columns].drop_duplicates(), counts[columns]], ignore_index=True)


def sections(laws: FittedLaws, full: bool = True) -> list[tuple[str, pd.DataFrame]]:
    """The tables of a summary with their titles; `full` adds the true axis, the kinds of interval, tests and comparisons."""
    tables = []
    for response, axis in product(laws.points.responses, laws.points.axes if full else ("ratio",)):
        form = catalogue.find_form(laws.form_of(response, axis))
        title = f"{response} ({curves.UNITS[response]}): {form.formula}, r = {AXES[axis]}, {laws.level:.0%} intervals"
        tables.append((title, curve_table(laws, response, axis)))
    for response, axis in product(laws.points.responses, laws.points.axes if full else ("ratio",)):
        if len(own := method_table(laws, response, axis)) > 1:
            tables.append((f"{response} by method, {POOLED[response]} law, against {NAMES[axis]}", own))
            tables.append((f"{response}: where methods and models differ", decomposition_table(laws, response, axis)))
    pairs = {(law.response, law.axis) for law in laws.pooled if law.group in ACROSS and law.method == ALL}
    for response, axis in sorted(pairs):
        if full or axis == "ratio" or response not in laws.points.responses:
            title = f"{response} across curves, {ALL}, against {NAMES.get(axis, axis)}: {_kind(laws, response, axis)}"
            tables.append((title, across_table(laws, response, axis)))
    if full:
        tables += _evidence(laws)
    if len(laws.points.excluded):
        tables.append(("Left out", exclusion_table(laws)))
    if len(laws.unfitted) and (full or laws.unfitted["model"].notna().any()):
        unfitted = unfitted_table(laws)
        tables.append(("Not fitted", unfitted if full else unfitted[unfitted["model"] != ""]))
    return tables


def _kind(laws: FittedLaws, response: str, axis: str) -> str:
    """The kind of interval that stands in a table of laws across models."""
    kinds = {law.default_kind for law in laws.across(response, axis, ALL) if law.group in ACROSS}
    return "; ".join(pooled_law.KINDS[kind] for kind in sorted(kinds))


def _evidence(laws: FittedLaws) -> list[tuple[str, pd.DataFrame]]:
    """What curves miss at left-out ratios, kinds of interval, out-of-sample tables, tests."""
    tables = []
    if "loss" in laws.points.responses and (judged := left_out_ratios(laws.points))["curves"].max():
        judged = judged.assign(**{name: judged[name].map(_percent) for name in ("error", "stderr", "median")})
        tables.append(("loss at each measured ratio, predicted from the other ratios of its curve", judged))
    for law in laws.pooled:
        chosen = law.form in ("unit-α", "retention-linear", "speed-power") and law.axis != "ratio_params"
        if chosen and len(law.intervals) > 1 and law.scope == WORKING and law.unit == "model":
            tables.append((f"{law.form} law of {law.response}, {law.method}: kinds of interval", interval_table(law)))
    for name in laws.comparisons:
        response, split, by, *_ = name.split("|")
        if split in ("model", "ratio") and (by == "method" or name.replace("|all", "|method") not in laws.comparisons):
            with_recovery = ", recovered runs too" if name.endswith("recovered") else ""
            tables.append((f"{response} out of sample: {SPLITS[split]}{with_recovery}", comparison_table(laws, name)))
    if len(laws.tests):
        tests = laws.tests["meaning response law term estimate stderr df p p_holm models".split()]
        tests = tests.map(lambda value: f"{value:.3g}" if isinstance(value, float) else value)
        tables.append(("Tests with Holm's correction", tests))
    return tables


def remarks(laws: FittedLaws) -> list[str]:
    """What the laws rest on, notes on the table, conversion, and what this number of models allows to be claimed."""
    models, source = laws.points.rows["model"].nunique(), laws.source
    used = f"{len(laws.points.rows)} of {laws.points.given} rows, {plural(models, 'model')}"
    lines = [f"{used}, data {source['data']}, code {source['code']}", *laws.points.notes, conversion_text(laws)]
    several = f"Intervals of one method's law: {pooled_law.KINDS['bias-reduced']}; of what methods share: "
    several += f"{pooled_law.KINDS['mixed']}. Models and methods are the unit, not the runs."
    return [line for line in (*lines, ALONE if models == 1 else several) if line]


def claim_lines(laws: FittedLaws) -> list[str]:
    """A line per verdict, and one per reason for what could not be judged."""
    return [one.sentence for one in laws.verdicts if one.verdict != NOT_JUDGED] + not_judged(laws.verdicts)


def summary(laws: FittedLaws) -> str:
    """Plain text, a table per response, then the verdicts."""
    parts = remarks(laws)
    for title, frame in sections(laws, full=False):
        parts.append(f"{title}\n{frame.to_string(index=False) if len(frame) else 'no curve has enough points'}")
    if laws.verdicts:
        parts.append("\n- ".join(["Claims of the original paper", *claim_lines(laws)]))
    return "\n\n".join(parts)


def brief(laws: FittedLaws) -> str:
    """A dozen lines: what was measured, what methods share, how they differ, what was judged, where to look."""
    rows, methods = laws.points.rows, len(set(laws.points.of(laws.points.responses[0])["method"]))
    models = plural(rows["model"].nunique(), "model")
    lines = [f"Laws of {plural(len(rows), 'row')}: {plural(methods, 'method')} on {models}, {len(laws.curves)} laws of curves."]
    for response in laws.points.responses:
        lines += _shared(laws, response)
    words = {word: [one.claim for one in laws.verdicts if one.verdict == word] for word in (SUPPORTED, CONTRADICTED, OPEN)}
    lines += [f"{word.capitalize()}: {'; '.join(claims)}." for word, claims in words.items() if claims]
    if count := sum(one.verdict == NOT_JUDGED for one in laws.verdicts):
        lines.append(f"Not judged with this table: {plural(count, 'claim')}; laws.verdicts says why.")
    lines.append('Ask: laws.predict([0.3], model, method), laws.law("anchored", method=...); read: print(laws.summary()).')
    return "\n".join(lines)


def _shared(laws: FittedLaws, response: str) -> list[str]:
    """What methods share of a response, and which bend it least and most."""
    chosen = {law.method: law for law in laws.across(response) if law.form == POOLED[response]}
    if (law := chosen.get(ALL)) is None:
        return [f"{response.capitalize()}: no law across curves; laws.unfitted says why."]
    name = law.coefficient_names[0]  # of both default laws the larger, the worse
    value = with_interval(law.coefficients[0], law.interval[0], 2)
    why = f", {plural_df(law.df[0])}" + ("" if math.isfinite(law.interval[0, 0]) else ": too few for an interval")
    formula = catalogue.find_form(law.form, law.group).formula
    lines = [f"{response.capitalize()}, {formula}: {name} = {value} ({law.basis}{why})."]
    if law.crossed:
        spread = {level: float(law.crossed.spread[level][0]) for level in ("method", "curve")}
        lines.append(
            f"  {name} differs by {spread['method']:.2f} between methods and {spread['curve']:.2f} between models "
            "within a method (standard deviations)."
        )
    own = sorted((law.coefficients[0], method) for method, law in chosen.items() if method != ALL)
    if own:
        ends = own if len(own) <= 4 else [*own[:3], own[-1]]
        lines.append(
            f"  Of each method, from the mildest: {', '.join(f'{method} {value:.2f}' for value, method in ends[:-1])}"
            f"{' … ' if len(own) > 4 else ', ' if len(ends) > 1 else ''}{ends[-1][1]} {ends[-1][0]:.2f}."
        )
    return lines


def html_summary(laws: FittedLaws) -> str:
    """The summary as HTML, with everything; what is evidence rather than answer is folded."""
    parts = [f"<p>{html.escape(line)}</p>" for line in remarks(laws)]
    if laws.verdicts:
        items = "".join(f"<li>{html.escape(line)}</li>" for line in claim_lines(laws))
        parts.append(f"<h4>Claims of the original paper</h4><ul>{items}</ul>")
    for place, (title, frame) in enumerate(sections(laws)):
        shown = frame.replace({np.nan: ""}).to_html(index=False, border=0)
        body = shown if len(frame) else "<p>No curve has enough points.</p>"
        opened = " open" if place < len(laws.points.responses) else ""
        parts.append(f"<details{opened}><summary>{html.escape(title)}</summary>{body}</details>")
    return "\n".join(parts)
