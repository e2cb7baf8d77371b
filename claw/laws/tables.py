"""Laws in words and tables: for a terminal and for a notebook."""

import html as markup
import math

import numpy as np
import pandas as pd

from claw.laws import catalogue, conversion, curves, pooled
from claw.laws.fitted import FittedLaws
from claw.laws.outside import SPLITS
from claw.laws.points import AXES, REASONS
from claw.laws.pooled import PooledLaw
from claw.laws.sample import ALL
from claw.words import number, with_interval

ACROSS = ("cross", "retention", "speed", "post-training")
NAMES = {"ratio": "nominal ratio r", "ratio_params": "share of parameters", "ratio_flops": "share of FLOPs"}


def curve_table(laws: FittedLaws, response: str, axis: str = "ratio") -> pd.DataFrame:
    """One row per curve: points, range, each coefficient with its interval, R² (centred), error."""
    rows = []
    for law in laws.curves:
        if (law.response, law.axis, law.form) != (response, axis, curves.DEFAULT[response]):
            continue
        row = {"curve": law.curve.title, "n": law.n, "r": f"{law.low:.2g}–{law.high:.2g}"}
        for name, value, interval in zip(
            catalogue.find_form(law.form).coefficient_names, law.coefficients, law.intervals, strict=True
        ):
            row[name] = with_interval(value, interval)
        rows.append(row | {"R²": number(law.quality["r2"]), "RMSE": number(law.quality["rmse"])})
    return pd.DataFrame(rows)


def across_table(laws: FittedLaws, response: str, axis: str = "ratio", method: str = ALL) -> pd.DataFrame:
    """One row per law across models: coefficients with the default interval, what it rests on, centred R², errors, BIC."""
    rows = []
    for law in laws.pooled:
        if (law.response, law.axis, law.method) != (response, axis, method) or law.group not in ACROSS:
            continue
        found = law.intervals["ordinary" if law.unit == "run" and "ordinary" in law.intervals else "bias-reduced"]
        shown = [f"{p} {with_interval(*one)}" for p, *one in zip(law.coefficient_names, law.coefficients, found, strict=True)]
        rows.append({
            "law": law.form, "coefficients": ", ".join(shown), "n": law.n, f"{law.unit}s": len(law.models),
            "r": f"{law.low:.2g}–{law.high:.2g}", "R²": number(law.quality["r2"]),
            "R² uncentred": number(law.quality["r2_uncentred"]), "|error|": f"{law.quality['relative_error']:.1%}",
            "anchor error": f"{law.quality['anchor_error']:.1%}" if math.isfinite(law.quality["anchor_error"]) else "–",
            "BIC": number(law.quality["bic"], 1),
        })  # fmt: skip
    return pd.DataFrame(rows)


def interval_table(law: PooledLaw) -> pd.DataFrame:
    """The kinds of interval side by side: a row per parameter."""
    rows = [
        {"coefficient": name, "estimate": number(value)}
        | {kind: with_interval(value, found[i]).partition(" ")[2] or "–" for kind, found in law.intervals.items()}
        for i, (name, value) in enumerate(zip(law.coefficient_names, law.coefficients, strict=True))
    ]
    return pd.DataFrame(rows)


def comparison_table(laws: FittedLaws, name: str) -> pd.DataFrame:
    """Out-of-sample errors of a comparison for reading; `name` as in laws.comparisons."""
    found = laws.comparisons[name]
    found = found[found["error"].notna()]
    shown = found[["form", "coefficients"]].assign(error=[f"{e:.1%}" for e in found["error"]])
    shown["±"] = [f"{e:.1%}" if math.isfinite(e) else "–" for e in found["stderr"]]
    if "ratio" in found:
        shown["of original"] = [
            f"{ratio:.2f} ± {error:.2f}" if math.isfinite(error) else f"{ratio:.2f}"
            for ratio, error in zip(found["ratio"], found["ratio_stderr"], strict=True)
        ]
    mark = ["best, chosen" if b and c else "best" if b else "chosen" if c else "" for b, c in zip(found["best"], found["chosen"], strict=True)]  # fmt: skip
    return shown.assign(mark=mark)


def critical_table(laws: FittedLaws, threshold: float, response: str = "loss") -> pd.DataFrame:
    """One row per curve: the largest ratio at which `threshold` × the dense value is still met, with its interval."""
    rows = []
    for law in laws.curves_of(response):
        if math.isfinite(law.dense):
            found = law.critical_ratio(threshold)
            rows.append(
                {"curve": law.curve.title, "ratio": found.ratio, "low": found.low, "high": found.high, "in words": str(found)}
            )
    return pd.DataFrame(rows, columns=["curve", "ratio", "low", "high", "in words"])


def conversion_text(laws: FittedLaws) -> str:
    """What one unit of the nominal ratio truly removes, in one sentence; empty where no true share was recorded."""
    found = conversion.conversion_table(laws.points)
    if not len(found):
        return ""
    low, high = found["smallest"].min(), found["largest"].max()
    per = f"{low:.2f}" if high - low < 0.005 else f"{low:.2f} to {high:.2f}"
    return f"A nominal ratio of r removes {per} × r of all parameters, so laws against the true share have other coefficients."


def exclusion_table(laws: FittedLaws) -> pd.DataFrame:
    """How many rows each law leaves out, and why."""
    counts = laws.points.excluded.groupby(["response", "reason"], as_index=False).size()
    return counts.assign(meaning=counts["reason"].map(REASONS)).rename(columns={"size": "rows"})


def unfitted_table(laws: FittedLaws) -> pd.DataFrame:
    """What could not be fitted and why: curves one by one, laws across models counted."""
    alone = laws.unfitted["model"].notna()
    found = laws.unfitted[alone][["model", "method", "response", "form", "why"]].drop_duplicates()
    rest = laws.unfitted[~alone].groupby(["form", "why"], as_index=False, sort=True).size()
    rest = rest.assign(model="", method="", response=rest["size"].map(lambda n: f"{n} times"))
    return pd.concat([found, rest[["model", "method", "response", "form", "why"]]], ignore_index=True)


def sections(laws: FittedLaws, full: bool = True) -> list[tuple[str, pd.DataFrame]]:
    """The tables of a summary with their titles; `full` adds the true axis, the kinds of interval, tests and comparisons."""
    found = []
    for response in laws.points.responses:
        for axis in laws.points.axes if full else ("ratio",):
            form = catalogue.find_form(curves.DEFAULT[response])
            title = f"{response} ({curves.UNITS[response]}): {form.formula}, r = {AXES[axis]}, {laws.level:.0%} intervals"
            found.append((title, curve_table(laws, response, axis)))
    pairs = sorted({(law.response, law.axis) for law in laws.pooled if law.group in ACROSS and law.method == ALL})
    for response, axis in pairs:
        if full or axis == "ratio" or response not in laws.points.responses:
            alone = any(
                law.unit == "run" for law in laws.pooled if (law.response, law.axis, law.method) == (response, axis, ALL)
            )
            kind = "ordinary intervals of one curve" if alone else "bias-reduced clustered intervals"
            title = f"{response} across curves, {ALL}, against {NAMES.get(axis, axis)}: {kind}"
            found.append((title, across_table(laws, response, axis)))
    if full:
        found += _evidence(laws)
    if len(laws.points.excluded):
        found.append(("Left out", exclusion_table(laws)))
    if len(laws.unfitted) and (full or laws.unfitted["model"].notna().any()):
        table = unfitted_table(laws)
        found.append(("Not fitted", table if full else table[table["model"] != ""]))
    return found


def _evidence(laws: FittedLaws) -> list[tuple[str, pd.DataFrame]]:
    """Kinds of interval, out-of-sample tables, tests."""
    found = []
    for law in laws.pooled:
        if law.form in ("unit-α", "retention-linear", "speed-power") and law.method == ALL and law.axis != "ratio_params":
            found.append((f"{law.form} law of {law.response}: kinds of interval, the default first", interval_table(law)))
    for name in laws.comparisons:
        response, split, by, *_ = name.split("|")
        if split in ("model", "ratio") and (by == "method" or name.replace("|all", "|method") not in laws.comparisons):
            with_recovery = ", recovered runs too" if name.endswith("recovered") else ""
            found.append((f"{response} out of sample: {SPLITS[split]}{with_recovery}", comparison_table(laws, name)))
    if len(laws.tests):
        shown = laws.tests[["meaning", "response", "law", "term", "estimate", "stderr", "df", "p", "p_holm", "models"]]
        found.append(
            ("Clustered Wald tests, corrected after Holm", shown.map(lambda v: f"{v:.3g}" if isinstance(v, float) else v))
        )
    return found


def heading(laws: FittedLaws) -> str:
    """What the laws rest on, in one line."""
    rows = laws.points.rows
    models, used = rows["model"].nunique(), len(rows)
    return (
        f"{used} of {laws.points.given} rows, {models} model{'s' if models != 1 else ''}, data {laws.source['data']}, "
        f"code {laws.source['code']}"
    )


def remarks(laws: FittedLaws) -> list[str]:
    """Heading, notes on the table, conversion, and what this number of models allows to be claimed."""
    models = laws.points.rows["model"].nunique()
    found = [heading(laws), *laws.points.notes, conversion_text(laws)]
    if models == 1:
        found.append(
            "One model: intervals are over its own curves or runs. They say how sure its laws are, and nothing of any other "
            "model; claims about models in general need at least three."
        )
    else:
        found.append(f"Default interval: {pooled.KINDS['bias-reduced']}; the {models} models are the unit, not the runs.")
    return [line for line in found if line]


def summary(laws: FittedLaws) -> str:
    """Plain text, a table per response, then the verdicts."""
    parts = remarks(laws)
    for title, frame in sections(laws, full=False):
        shown = frame.to_string(index=False) if len(frame) else "no curve has enough points"
        parts.append(f"{title}\n{shown}")
    if laws.verdicts:
        parts.append("\n".join(["Claims of the original paper", *(f"- {verdict.sentence}" for verdict in laws.verdicts)]))
    return "\n\n".join(parts)


def html(laws: FittedLaws) -> str:
    """The summary as HTML, with everything; what is evidence rather than answer is folded."""
    parts = [f"<p>{markup.escape(line)}</p>" for line in remarks(laws)]
    if laws.verdicts:
        items = "".join(f"<li>{markup.escape(verdict.sentence)}</li>" for verdict in laws.verdicts)
        parts.append(f"<h4>Claims of the original paper</h4><ul>{items}</ul>")
    for place, (title, frame) in enumerate(sections(laws)):
        body = frame.replace({np.nan: ""}).to_html(index=False, border=0, escape=True) if len(frame) else ""
        opened = " open" if place < len(laws.points.responses) else ""
        body = body or "<p>No curve has enough points.</p>"
        parts.append(f"<details{opened}><summary>{markup.escape(title)}</summary>{body}</details>")
    return "\n".join(parts)
