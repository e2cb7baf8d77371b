"""Figures of what was measured, without laws: loss and accuracy over the ratio, recovery as it runs, speed-ups."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from claw.errors import InputError
from claw.figures import style
from claw.figures.style import Drawing
from claw.records import PRIMARY

NUMBERS = ["model", "method", "ratio", "measure", "value", "stderr", "chance", "n"]
LOSS = style.LABELS["loss"]
EMPTY = "There is nothing to draw: evaluate some checkpoints first."


@style.paper()
def loss_curve(table: pd.DataFrame) -> Drawing:
    """Loss against the ratio asked for and against the true ratio, with two standard errors, one line per method."""
    if table.empty:
        raise InputError("There are no points to draw: run the compression first.")
    columns = ["method", "axis", "r", "loss", "loss_stderr"]
    numbers = []
    figure, panels = style.grid(2, width="neurips", each=2.3, sharey=True)
    for panel, axis in zip(panels, ("ratio", "ratio_params"), strict=True):
        for method, rows in table[table["method"] != "dense"].groupby("method"):
            rows = rows.sort_values(axis)
            colour, marker = style.colour(method), style.marker(str(rows["family"].iloc[0]))
            band = 2 * rows["loss_stderr"].fillna(0)
            panel.fill_between(rows[axis], rows["loss"] - band, rows["loss"] + band, color=colour, alpha=0.2, lw=0)
            panel.plot(rows[axis], rows["loss"], color=colour, ls=style.line(method), marker=marker, label=method)
            numbers.append(rows.assign(axis=axis, r=rows[axis])[columns])
        for dense in table["loss0"].dropna().unique():
            panel.axhline(dense, color=style.BLACK, ls=":", lw=0.7)
            panel.annotate("dense", (0.98, dense), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7)
        panel.set(xlim=(0, 1), xlabel="ratio asked for" if axis == "ratio" else "share of all parameters removed")
    panels[0].set_ylabel(LOSS)
    if numbers:
        panels[0].legend(loc="upper left")
    return Drawing("loss_curve", figure, pd.concat(numbers) if numbers else pd.DataFrame(columns=columns))


def evaluation(table: pd.DataFrame) -> Drawing:
    """Loss and mean accuracy over the ratio, with two standard errors; dashed is the dense model, dotted is guessing."""
    if table.empty:
        raise InputError(EMPTY)
    titles = {"loss": LOSS, "accuracy": "accuracy, mean over tasks"}
    measured = {name: title for name, title in titles.items() if table[name].notna().any()}
    return _over_ratio("evaluation", table, measured, columns=2)


def accuracy_by_task(table: pd.DataFrame) -> Drawing:
    """Accuracy over the ratio, one panel per task, by the task's first metric of acc_norm and acc."""
    if table.empty:
        raise InputError(EMPTY)
    primary = primary_columns(table)
    measures = {column: f"{task} ({column.removeprefix(f'{task}_')})" for task, column in primary.items()}
    if not measures:
        raise InputError("No task was scored for these checkpoints: name some tasks and evaluate again.")
    return _over_ratio("accuracy_by_task", table, measures, columns=3)


def primary_columns(table: pd.DataFrame) -> dict[str, str]:
    """By task of a table, the column of the metric that counts: piqa_acc_norm of piqa."""
    tasks = [str(name).removesuffix("_chance") for name in table.columns if str(name).endswith("_chance")]
    return {task: f"{task}_{metric}" for task in tasks for metric in PRIMARY[::-1] if f"{task}_{metric}" in table}


@style.paper()
def _over_ratio(name: str, table: pd.DataFrame, measures: Mapping[str, str], columns: int) -> Drawing:
    """One panel per measure, a curve per model and method that starts at the dense model."""
    figure, panels = style.grid(len(measures), columns, head=0.3, each=2.1)
    numbers = [_measure(panel, table, measure) for panel, measure in zip(panels, measures, strict=True)]
    for panel, title in zip(panels, measures.values(), strict=True):
        panel.set(title=title, xlabel="ratio r", xlim=(-0.02, max(0.05, 1.05 * table["ratio"].max())))
    named = {text: handle for panel in panels for handle, text in zip(*panel.get_legend_handles_labels(), strict=True)}
    if named:
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=min(6, len(named)))
    return Drawing(name, figure, pd.concat(numbers, ignore_index=True))


def _measure(panel: Axes, table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Draw one measure; the numbers drawn."""
    task = measure.rsplit("_acc", 1)[0]
    chance = {"loss": None, "accuracy": "chance"}.get(measure, f"{task}_chance")
    columns = {"value": measure, "stderr": f"{measure}_stderr", "chance": chance, "n": f"{task}_n"}
    shown = table.assign(measure=measure, **{name: table.get(column, math.nan) for name, column in columns.items()})
    shown = shown[shown["value"].notna()]
    dense = shown[shown["method"] == "dense"]
    for (model, method), rows in shown[shown["method"] != "dense"].groupby(["model", "method"], sort=False):
        rows = pd.concat([dense[dense["model"] == model], rows]).sort_values("ratio")
        look = {"color": style.colour(method), "ls": style.line(method), "marker": style.marker(str(rows["family"].iloc[-1]))}
        text = method if shown["model"].nunique() == 1 else f"{method}, {model}"
        error = 2 * rows["stderr"].fillna(0)
        panel.errorbar(rows["ratio"], rows["value"], error, capsize=1.5, elinewidth=0.7, label=text, **look)
    for row in dense.itertuples():
        panel.errorbar(0, row.value, 2 * row.stderr, capsize=1.5, color=style.BLACK, marker=style.marker(str(row.family)))
        panel.axhline(row.value, color=style.BLACK, ls="--", lw=0.7, label="dense")
    if chance and shown["chance"].notna().any():
        panel.axhline(shown["chance"].mean(), color=style.BLACK, ls=":", lw=0.7, label="guessing")
    return shown[NUMBERS]


@style.paper()
def recovery_progress(moments: pd.DataFrame) -> Drawing:
    """Held-out loss against tokens seen, one panel per ratio; budgets of one run share its phase of constant learning rate."""
    moments = moments[np.isfinite(moments["heldout"])]
    if moments.empty:
        raise InputError("There is no held-out loss to draw: no recovery has been run, or all broke at their first step.")
    ratios = sorted(moments["ratio"].unique())
    figure, panels = style.grid(len(ratios), width="neurips")
    for panel, ratio in zip(panels, ratios, strict=True):
        for method, runs in moments[moments["ratio"] == ratio].groupby("method"):
            colour, longest = style.colour(method), runs["budget"].max()
            for budget, rows in runs.groupby("budget"):
                rows = rows.sort_values("tokens")
                text = method if budget == longest else None
                panel.plot(rows["tokens"], rows["heldout"], color=colour, ls=style.line(method), label=text)
                panel.plot(rows["tokens"].iloc[-1], rows["heldout"].iloc[-1], color=colour, marker="o", ms=3)
        panel.set(title=f"r = {ratio:g}", xlabel="tokens of recovery")
    panels[0].set_ylabel(LOSS)
    panels[0].legend(loc="upper right")
    return Drawing("recovery_progress", figure, moments.reset_index(drop=True))


@style.paper()
def speedups(timings: pd.DataFrame) -> Drawing:
    """Measured speed-up with its interval against the ratio, one panel per phase and batch; a tick marks the ideal."""
    if timings.empty:
        raise InputError("There are no timings to draw: measure at least one checkpoint.")
    parts = timings.groupby(["phase", "batch"], sort=False)
    figure, panels = style.grid(len(parts), width="neurips", sharey=True)
    for panel, ((phase, batch), part) in zip(panels, parts, strict=True):
        for method, rows in part.groupby("method"):
            rows, colour = rows.sort_values("ratio"), style.colour(method)
            error = [rows["speedup"] - rows["low"], rows["high"] - rows["speedup"]]
            panel.errorbar(
                rows["ratio"], rows["speedup"], error, label=method, color=colour, fmt="o", ms=3, ls=style.line(method)
            )
            panel.plot(rows["ratio"], rows["ideal"], color=colour, ls="", marker="_", ms=8)
        panel.axhline(1, color=style.BLACK, ls=":", lw=0.7)
        panel.set(title=f"{phase}, batch {batch}", xlabel="ratio asked for", yscale="log")
        style.plain_log((1, 2, 3, 5), panel.yaxis)
    panels[0].set_ylabel("speed-up over dense (tick: ideal)")
    panels[0].legend(loc="upper left")
    numbers = timings["method ratio phase batch speedup low high ideal".split()]
    return Drawing("speedups", figure, numbers.reset_index(drop=True))
