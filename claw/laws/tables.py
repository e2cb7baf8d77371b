"""Laws in words and tables: for a terminal and for a notebook."""

import html
import math
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from claw.laws import catalogue, curves, pooled
from claw.laws.fitted import FittedLaws
from claw.laws.outside import SPLITS
from claw.laws.points import AXES, REASONS
from claw.laws.pooled_law import PooledLaw
from claw.laws.sample import ALL
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
    """One row per law across models: coefficients with the default interval, what it rests on, centred R², errors, BIC."""
    rows = []
    for law in laws.across(response, axis, method):
        if law.group not in ACROSS:
            continue
        interval = law.intervals["ordinary" if law.unit == "run" and "ordinary" in law.intervals else "bias-reduced"]
        coefficients = zip(law.coefficient_names, map(with_interval, law.coefficients, interval), strict=True)
        row: dict[str, Any] = {"law": law.form, "coefficients": ", ".join(map(" ".join, coefficients))}
        row |= {"n": law.n, f"{law.unit}s": len(law.models), "r": f"{law.low:.2g}–{law.high:.2g}"}
        quality = law.quality
        row |= {"R²": number(quality["r2"]), "R² uncentred": number(quality["r2_uncentred"])}
        row |= {"|error|": f"{quality['relative_error']:.1%}", "anchor error": _percent(quality["anchor_error"])}
        rows.append(row | {"BIC": number(quality["bic"], 1)})
    return pd.DataFrame(rows)


def interval_table(law: PooledLaw) -> pd.DataFrame:
    """The kinds of interval side by side: a row per coefficient."""
    edges = lambda pair: with_interval(0, pair).partition(" ")[2] or "–"
    table = {"coefficient": law.coefficient_names, "estimate": map(number, law.coefficients)}
    return pd.DataFrame(table | {kind: map(edges, intervals) for kind, intervals in law.intervals.items()})


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
    """One row per curve: the largest ratio at which `threshold` × the dense value is still met, with its interval."""
    reach = [(law, law.critical_ratio(threshold)) for law in laws.curves_of(response) if math.isfinite(law.dense)]
    rows = [(law.curve.title, critical.ratio, critical.low, critical.high, str(critical)) for law, critical in reach]
    return pd.DataFrame(rows, columns=["curve", "ratio", "low", "high", "in words"])


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
        form = catalogue.find_form(curves.DEFAULT[response])
        title = f"{response} ({curves.UNITS[response]}): {form.formula}, r = {AXES[axis]}, {laws.level:.0%} intervals"
        tables.append((title, curve_table(laws, response, axis)))
    pairs = {(law.response, law.axis) for law in laws.pooled if law.group in ACROSS and law.method == ALL}
    for response, axis in sorted(pairs):
        if full or axis == "ratio" or response not in laws.points.responses:
            alone = any(law.unit == "run" for law in laws.across(response, axis, ALL))
            kind = "ordinary intervals of one curve" if alone else "bias-reduced clustered intervals"
            title = f"{response} across curves, {ALL}, against {NAMES.get(axis, axis)}: {kind}"
            tables.append((title, across_table(laws, response, axis)))
    if full:
        tables += _evidence(laws)
    if len(laws.points.excluded):
        tables.append(("Left out", exclusion_table(laws)))
    if len(laws.unfitted) and (full or laws.unfitted["model"].notna().any()):
        unfitted = unfitted_table(laws)
        tables.append(("Not fitted", unfitted if full else unfitted[unfitted["model"] != ""]))
    return tables


def _evidence(laws: FittedLaws) -> list[tuple[str, pd.DataFrame]]:
    """Kinds of interval, out-of-sample tables, tests."""
    tables = []
    for law in laws.pooled:
        if law.form in ("unit-α", "retention-linear", "speed-power") and law.method == ALL and law.axis != "ratio_params":
            tables.append((f"{law.form} law of {law.response}: kinds of interval, the default first", interval_table(law)))
    for name in laws.comparisons:
        response, split, by, *_ = name.split("|")
        if split in ("model", "ratio") and (by == "method" or name.replace("|all", "|method") not in laws.comparisons):
            with_recovery = ", recovered runs too" if name.endswith("recovered") else ""
            tables.append((f"{response} out of sample: {SPLITS[split]}{with_recovery}", comparison_table(laws, name)))
    if len(laws.tests):
        tests = laws.tests["meaning response law term estimate stderr df p p_holm models".split()]
        tests = tests.map(lambda value: f"{value:.3g}" if isinstance(value, float) else value)
        tables.append(("Clustered Wald tests with Holm's correction", tests))
    return tables


def remarks(laws: FittedLaws) -> list[str]:
    """What the laws rest on, notes on the table, conversion, and what this number of models allows to be claimed."""
    models, source = laws.points.rows["model"].nunique(), laws.source
    used = f"{len(laws.points.rows)} of {laws.points.given} rows, {plural(models, 'model')}"
    lines = [f"{used}, data {source['data']}, code {source['code']}", *laws.points.notes, conversion_text(laws)]
    several = f"Default interval: {pooled.KINDS['bias-reduced']}; the {models} models are the unit, not the runs."
    return [line for line in (*lines, ALONE if models == 1 else several) if line]


def summary(laws: FittedLaws) -> str:
    """Plain text, a table per response, then the verdicts."""
    parts = remarks(laws)
    for title, frame in sections(laws, full=False):
        parts.append(f"{title}\n{frame.to_string(index=False) if len(frame) else 'no curve has enough points'}")
    if laws.verdicts:
        parts.append("\n- ".join(["Claims of the original paper", *(verdict.sentence for verdict in laws.verdicts)]))
    return "\n\n".join(parts)


def html_summary(laws: FittedLaws) -> str:
    """The summary as HTML, with everything; what is evidence rather than answer is folded."""
    parts = [f"<p>{html.escape(line)}</p>" for line in remarks(laws)]
    if laws.verdicts:
        items = "".join(f"<li>{html.escape(verdict.sentence)}</li>" for verdict in laws.verdicts)
        parts.append(f"<h4>Claims of the original paper</h4><ul>{items}</ul>")
    for place, (title, frame) in enumerate(sections(laws)):
        shown = frame.replace({np.nan: ""}).to_html(index=False, border=0)
        body = shown if len(frame) else "<p>No curve has enough points.</p>"
        opened = " open" if place < len(laws.points.responses) else ""
        parts.append(f"<details{opened}><summary>{html.escape(title)}</summary>{body}</details>")
    return "\n".join(parts)
