"""What a table holds, as Markdown: what was run on what and when, how complete it is, what was left out and why, every column."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from claw.laws import Laws
from claw.laws.points import REASONS, is_dense
from claw.records import COLUMNS
from claw.specs.experiment import Experiment
from claw.words import markdown


def planned(study: Path) -> dict[str, Experiment]:
    """The experiments that a study plans, by id."""
    from claw.specs import study as studies

    return {experiment.id: experiment for experiment in studies.load_study(study).experiments}


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """Experiments by method (rows) and model (columns), recovered ones in brackets."""
    recovered = table["recovery_tokens"] > 0
    cells = {}
    for (method, model), rows in table.groupby(["method", "model"], sort=True):
        more = int(recovered[rows.index].sum())
        cells[method, model] = f"{len(rows) - more}" + (f" (+{more})" if more else "")
    frame = pd.Series(cells).unstack().fillna("–").rename_axis("method").reset_index()
    total = {model: str(int((table["model"] == model).sum())) for model in frame.columns[1:]}
    return pd.concat([frame, pd.DataFrame([{"method": "all", **total}])], ignore_index=True)


def completeness(table: pd.DataFrame, plan: Mapping[str, Experiment]) -> pd.DataFrame:
    """Planned experiments by model and method, and how many of them have a loss and an accuracy; recovery apart."""
    have = {name: set(table.loc[table[name].notna(), "experiment"]) for name in ("loss", "accuracy") if name in table}
    have["row"] = set(table["experiment"])
    rows = []
    for id_, experiment in plan.items():
        compression = experiment.compression
        method = compression.method + (", recovered" if experiment.recovery else "")
        rows.append({"model": compression.model, "method": method, "planned": 1, "run": id_ in have["row"]}
                    | {f"with {name}": id_ in found for name, found in have.items() if name != "row"})  # fmt: skip
    frame = pd.DataFrame(rows).groupby(["model", "method"], as_index=False).sum()
    return frame.astype(dict.fromkeys(frame.columns[2:], int))


def points_grid(found: Laws) -> pd.DataFrame:
    """Usable experiments without recovery by model and method (rows) and nominal ratio (columns)."""
    rows = found.points.of("loss") if "loss" in found.points.responses else found.points.of("accuracy")
    rows = rows[rows["recovery_tokens"] == 0]
    frame = rows.pivot_table(index=["model", "method"], columns="ratio", values="row", aggfunc="size", fill_value=0)
    frame.columns = [f"r = {r:g}" for r in frame.columns]
    return frame.replace(0, "·").reset_index()


def exclusions(found: Laws) -> pd.DataFrame:
    """Rows left out of the laws, by response and reason."""
    gone = found.points.excluded.groupby(["response", "reason"], as_index=False).size()
    return gone.assign(meaning=gone["reason"].map(REASONS)).rename(columns={"size": "rows"})


def how_measured(table: pd.DataFrame) -> list[str]:
    """How it was measured: held-out text, tasks, machine, time, code; one line each."""
    lines = []
    for label, names in {
        "Held-out loss": ("heldout", "context", "loss_tokens"), "Tasks": ("tasks", "limit", "num_fewshot"),
        "Machine": ("device", "dtype"), "Code": ("code",), "Days (UTC)": ("day",),
    }.items():  # fmt: skip
        values = {name: sorted({_plain(value) for value in table[name].dropna()}) for name in names if name in table}
        said = [f"{name} {', '.join(found)}" for name, found in values.items() if found]
        if said:
            lines.append(f"- {label}: {'; '.join(said)}.")
    if "seconds" in table and table["seconds"].notna().any():
        hours = table["seconds"].sum() / 3600
        lines.append(f"- Time: {hours:.1f} hours of work in all, {table['seconds'].median():.0f} s for the median experiment.")
    return lines


def _plain(value: object) -> str:
    """A value as a person writes it: whole numbers, which a column with gaps holds as floats, without a point."""
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def datasheet_page(
    table: pd.DataFrame, found: Laws, name: str, study: Path | None, plan: Mapping[str, Experiment] | None
) -> str:
    """README.md of a folder of results."""
    cut, models = table[~is_dense(table)], table["model"].nunique()
    parts = [
        f"# What was run\n\n{len(table)} experiments in `{Path(name).name}`: {len(cut)} compressed models and {len(table) - len(cut)} dense "
        f"ones, {models} model{'s' if models != 1 else ''}, {cut['method'].nunique()} method{'s' if cut['method'].nunique() != 1 else ''}, "
        f"{int((cut['recovery_tokens'] > 0).sum())} of them recovered. "
        + (f"Planned by `{study.as_posix()}`, run by `claw run {study.as_posix()}`. " if study else "")
        + f"This page is written by `claw findings {name}`; so is [findings.md](findings.md), what it means.",
        "## How it was measured\n\n" + ("\n".join(how_measured(table)) or "The table does not say."),
        "## Experiments by method and model\n\nIn brackets, recovered ones.\n\n" + markdown(counts(table)),
    ]
    if plan is not None and "experiment" in table:
        frame = completeness(table, plan)
        done, more = int(frame["run"].sum()), len(set(table["experiment"]) - set(plan))
        beyond = f" {more} rows are of experiments that the study does not plan." if more else ""
        parts.append(f"## Completeness\n\n{done} of {len(plan)} planned experiments are here.{beyond}\n\n{markdown(frame)}")
    parts.append("## Usable points without recovery\n\nReplicates (seeds) are counted.\n\n" + markdown(points_grid(found)))
    gone = exclusions(found)
    left = markdown(gone) if len(gone) else "Nothing was left out."
    parts.append(
        f"## Left out of the laws\n\nRows used and rows left out add up to the {found.points.given} rows given.\n\n{left}"
    )
    known = pd.DataFrame(
        [{"column": f"`{column}`", "meaning": COLUMNS[column]} for column in table.columns if column in COLUMNS]
    )
    others = [f"`{column}`" for column in table.columns if column not in COLUMNS]
    by_task = f"\n\nBy task: {', '.join(others)}." if others else ""
    parts.append(
        "## Files\n\n"
        f"- `{Path(name).name}`: one row per experiment; the columns are below.\n"
        "- `laws.json`: every coefficient and covariance, unrounded, with the points; `claw.laws.from_json` reads it.\n"
        "- `findings.md`: verdicts, laws with intervals, advice, limits.\n"
        "- `published_dense.csv`, where there is one: accuracies of the dense models as others published them, with the source."
    )
    parts.append(f"## Columns\n\n{markdown(known)}{by_task}")
    return "\n\n".join(parts) + "\n"
