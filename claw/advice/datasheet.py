"""What a table holds, as Markdown: what was run and when, how complete it is, what was left out and why, every column."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from claw.laws import Laws
from claw.laws.points import is_dense
from claw.laws.tables import exclusion_table
from claw.records import COLUMNS
from claw.specs.experiment import Experiment
from claw.specs.study import load_study
from claw.words import code_span, markdown, plural, setting_text

MEASURED = {
    "Held-out loss": "heldout context loss_tokens",
    "Tasks": "tasks limit num_fewshot",
    "Calibration": "calibration calibration_tokens calibration_length",
    "Machine": "device dtype",
    "Speed": "speed_setting",
    "Code": "code",
    "Days (UTC)": "day",
}
"""Columns that say how the numbers were measured."""
FILES = """\
- {table}: one row per experiment; the columns are below.
- `laws.json`, which the command above writes: every coefficient and covariance, unrounded, with the points;
  `claw.laws.from_json` reads it.
- `findings.md`: verdicts, laws with intervals, advice, limits.
- `published_dense.csv`, where there is one: accuracies of the dense models as others published them, with the source."""


def planned(study: Path) -> dict[str, Experiment]:
    """The experiments that a study plans, by id."""
    return {experiment.id: experiment for experiment in load_study(study).experiments}


def experiment_counts(table: pd.DataFrame) -> pd.DataFrame:
    """Experiments by method (rows) and model (columns), recovered ones in brackets."""
    recovered = table.groupby(["method", "model"])["recovery_tokens"].agg([lambda tokens: (tokens > 0).sum(), "size"])
    cells = {key: f"{size - more}" + (f" (+{more})" if more else "") for key, more, size in recovered.itertuples()}
    frame = pd.Series(cells).unstack().fillna("–").rename_axis("method").reset_index()
    total = table["model"].value_counts().astype(str)
    return pd.concat([frame, pd.DataFrame([{"method": "all", **total}])], ignore_index=True)


def completeness(table: pd.DataFrame, plan: Mapping[str, Experiment]) -> pd.DataFrame:
    """Planned experiments by model and method, and how many of them have a loss and an accuracy; recovery apart."""
    parts = {"run": table} | {f"with {name}": table.dropna(subset=name) for name in ("loss", "accuracy") if name in table}
    curves = [(each.compression.model, each.compression.method + ", recovered" * bool(each.recovery)) for each in plan.values()]
    frame = pd.DataFrame(curves, index=list(plan), columns=["model", "method"]).assign(planned=1)
    frame = frame.assign(**{name: frame.index.isin(part["experiment"]).astype(int) for name, part in parts.items()})
    return frame.groupby(["model", "method"], as_index=False).sum()


def how_measured(table: pd.DataFrame) -> list[str]:
    """How it was measured: held-out text, tasks, machine, time, code; one line each."""
    lines = []
    for title, names in MEASURED.items():
        values = {name: sorted(set(table[name].dropna().map(setting_text))) for name in names.split() if name in table}
        if parts := [f"{name} {', '.join(texts)}" for name, texts in values.items() if texts]:
            lines.append(f"- {title}: {'; '.join(parts)}.")
    if "seconds" in table and table["seconds"].notna().any():
        hours = table["seconds"].sum() / 3600
        lines.append(f"- Time: {hours:.1f} hours of work in all, {table['seconds'].median():.0f} s for the median experiment.")
    return lines


def datasheet_page(
    table: pd.DataFrame, laws: Laws, name: str, study: Path | None, plan: Mapping[str, Experiment] | None, *, file: str = ""
) -> str:
    """README.md of a folder of results; `file` is the path of the table from there."""
    file, cut = file or Path(name).name, table[~is_dense(table)]
    run = f"Planned by `{study.as_posix()}`, run by `claw run {study.as_posix()}`. " if study else ""
    sections = {
        "How it was measured": "\n".join(how_measured(table)) or "The table does not say.",
        "Experiments by method and model": f"In brackets, recovered ones.\n\n{markdown(experiment_counts(table))}",
    }
    if plan is not None and "experiment" in table:
        frame = completeness(table, plan)
        more = len(set(table["experiment"]) - set(plan))
        beyond = f" {more} rows are of experiments that the study does not plan." if more else ""
        done = f"{frame['run'].sum()} of {len(plan)} planned experiments are here.{beyond}"
        sections["Completeness"] = f"{done}\n\n{markdown(frame)}"
    excluded = exclusion_table(laws)
    used = laws.points.of("loss" if "loss" in laws.points.responses else "accuracy", recovered=False)
    counts = used.pivot_table(index=["model", "method"], columns="ratio", values="row", aggfunc="size", fill_value=0)
    usable = counts.rename(columns="r = {:g}".format).replace(0, "·").reset_index()
    known = pd.DataFrame({"column": f"`{name}`", "meaning": COLUMNS[name]} for name in table.columns if name in COLUMNS)
    others = ", ".join(code_span(name) for name in table.columns if name not in COLUMNS)
    sections |= {
        "Usable points without recovery": f"Replicates (seeds) are counted.\n\n{markdown(usable)}",
        "Left out of the laws": f"Rows used and rows left out add up to the {laws.points.given} rows given.\n\n"
        + (markdown(excluded) if len(excluded) else "Nothing was left out."),
        "Files": FILES.format(table=code_span(file)),
        "Columns": markdown(known) + (f"\n\nBy task: {others}." if others else ""),
    }
    command = code_span(f"claw findings {name}")
    intro = (
        f"{len(table)} experiments in {code_span(file)}: {len(cut)} compressed models and {len(table) - len(cut)} dense ones, "
        f"{plural(table['model'].nunique(), 'model')}, {plural(cut['method'].nunique(), 'method')}, "
        f"{(cut['recovery_tokens'] > 0).sum()} of them recovered. {run}This page is written by {command}; so is "
        "[findings.md](findings.md), what it means."
    )
    return "\n\n".join([f"# What was run\n\n{intro}", *(f"## {title}\n\n{text}" for title, text in sections.items())]) + "\n"
