"""Laws in words and tables: for a terminal and for a notebook."""

import html as markup
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from claw.laws import curves, families
from claw.laws.points import AXES, REASONS

if TYPE_CHECKING:
    from claw.laws.study import Laws


def curve_table(laws: "Laws", response: str, axis: str = "ratio") -> pd.DataFrame:
    """One row per curve: points, range, each coefficient with its interval, R² (centred), error."""
    rows = []
    for law in laws.curves:
        if (law.response, law.axis, law.form) != (response, axis, curves.DEFAULT[response]):
            continue
        row = {"curve": law.curve.title, "n": law.n, "r": f"{law.low:g}–{law.high:.2g}"}
        for name, value, (low, high) in zip(families.find(law.form).parameters, law.coefficients, law.intervals, strict=True):
            row[name] = f"{value:.3f} [{low:.3f}, {high:.3f}]"
        rows.append(row | {"R²": f"{law.quality['r2']:.3f}", "RMSE": f"{law.quality['rmse']:.3f}"})
    return pd.DataFrame(rows)


def exclusion_table(laws: "Laws") -> pd.DataFrame:
    """How many rows each law leaves out, and why."""
    counts = laws.points.excluded.groupby(["response", "reason"], as_index=False).size()
    return counts.assign(meaning=counts["reason"].map(REASONS)).rename(columns={"size": "rows"})


def sections(laws: "Laws") -> list[tuple[str, pd.DataFrame]]:
    """The tables of a summary with their titles."""
    found = []
    for response in laws.points.responses:
        for axis in laws.points.axes:
            form = families.find(curves.DEFAULT[response])
            title = f"{response} ({curves.UNITS[response]}): {form.formula}, r = {AXES[axis]}, {laws.level:.0%} intervals"
            found.append((title, curve_table(laws, response, axis)))
    excluded = exclusion_table(laws)
    if len(excluded):
        found.append(("Left out", excluded))
    if len(laws.unfitted):
        found.append(("Not fitted", laws.unfitted[["model", "method", "tokens", "response", "axis", "form", "why"]]))
    return found


def heading(laws: "Laws") -> str:
    """What the laws rest on, in one line."""
    rows = laws.points.rows
    models, used = rows["model"].nunique(), len(rows)
    return (
        f"{used} of {laws.points.given} rows, {models} model{'s' if models != 1 else ''}, data {laws.source['data']}, "
        f"code {laws.source['code']}"
    )


def summary(laws: "Laws") -> str:
    """Plain text, a table per response and axis."""
    parts = [heading(laws), *laws.points.notes]
    for title, frame in sections(laws):
        shown = frame.to_string(index=False) if len(frame) else "no curve has enough points"
        parts.append(f"{title}\n{shown}")
    return "\n\n".join(parts)


def html(laws: "Laws") -> str:
    """The summary as HTML tables."""
    parts = [f"<p>{markup.escape(line)}</p>" for line in (heading(laws), *laws.points.notes)]
    for title, frame in sections(laws):
        body = frame.replace({np.nan: ""}).to_html(index=False, border=0, escape=True) if len(frame) else ""
        parts.append(f"<h4>{markup.escape(title)}</h4>{body or '<p>No curve has enough points.</p>'}")
    return "\n".join(parts)
