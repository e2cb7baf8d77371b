"""Figures of what was measured, without laws: loss and accuracy over the ratio, recovery as it runs, speed-ups."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from claw.errors import InputError
from claw.figures import style
from claw.figures.style import Drawing
from claw.records import primary_columns
from claw.words import training_text

NUMBERS = "model method ratio_of recovery recovery_tokens ratio share measure value stderr chance n".split()
CURVE = ["model", "method", "ratio_of", "recovery_tokens", "recovery"]
LETTERS, ROW = 100, 0.16  # in a row of a legend, and its height in inches
WITHOUT = {"ratio_of": "own", "recovery": "none", "recovery_tokens": 0}  # for tables that do not say
LOSS = style.LABELS["loss"]
EMPTY = "There is nothing to draw: evaluate some checkpoints first."


@style.paper()
def loss_curve(table: pd.DataFrame) -> Drawing:
    """Loss against the share of all parameters removed and against the method's own ratio, with two standard errors."""
    if table.empty:
        raise InputError("There are no points to draw: run the compression first.")
    columns = ["method", "axis", "r", "loss", "loss_stderr"]
    numbers = []
    figure, panels = style.grid(2, width="neurips", each=2.3, sharey=True)
    for panel, axis in zip(panels, ("ratio_params", "ratio"), strict=True):
        for method, rows in table[table["method"] != "dense"].groupby("method"):
            rows, look = rows.sort_values(axis), style.style_of(method) | {"ls": style.line(method)}
            band = 2 * rows["loss_stderr"].fillna(0)
            means = rows.groupby("ratio")[[axis, "loss"]].mean()  # over seeds
            panel.fill_between(rows[axis], rows["loss"] - band, rows["loss"] + band, color=look["color"], alpha=0.2, lw=0)
            panel.plot(means[axis], means["loss"], **look | {"marker": ""})
            panel.plot(rows[axis], rows["loss"], **look | {"ls": ""})
            panel.plot([], [], label=method, **look)
            numbers.append(rows.assign(axis=axis, r=rows[axis])[columns])
        for dense in table["loss0"].dropna().unique():
            panel.axhline(dense, color=style.BLACK, ls=":", lw=0.7)
            panel.annotate("dense", (0.98, dense), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7)
        style.removed_axis(panel, axis, table[axis])
    panels[0].set_ylabel(LOSS)
    if numbers:
        panels[0].legend(loc="upper left")
    return Drawing("loss_curve", figure, pd.concat(numbers) if numbers else pd.DataFrame(columns=columns))


def evaluation(table: pd.DataFrame) -> Drawing:
    """Loss and mean accuracy over the share removed, with two standard errors; dashed is dense, dotted is guessing."""
    if table.empty:
        raise InputError(EMPTY)
    titles = {"loss": LOSS, "accuracy": "accuracy, mean over tasks"}
    measured = {name: title for name, title in titles.items() if table[name].notna().any()}
    return _over_ratio("evaluation", table, measured, columns=2)


def accuracy_by_task(table: pd.DataFrame) -> Drawing:
    """Accuracy over the share removed, one panel per task, by the task's first metric of acc_norm and acc."""
    if table.empty:
        raise InputError(EMPTY)
    primary = primary_columns(table)
    measures = {column: f"{task} ({column.removeprefix(f'{task}_')})" for task, column in primary.items()}
    if not measures:
        raise InputError("No task was scored for these checkpoints: name some tasks and evaluate again.")
    return _over_ratio("accuracy_by_task", table, measures, columns=3)


@style.paper()
def _over_ratio(name: str, table: pd.DataFrame, measures: Mapping[str, str], columns: int) -> Drawing:
    """One panel per measure; a curve per model, method and training from the dense model on, through the means over seeds."""
    figure, panels = style.grid(len(measures), columns, head=0.3, each=2.1)
    numbers = [_measure(panel, table, measure) for panel, measure in zip(panels, measures, strict=True)]
    for panel, title in zip(panels, measures.values(), strict=True):
        panel.set_title(title)
        axis = style.leading_axis(table)
        style.removed_axis(panel, axis, table[axis])
    named = {text: handle for panel in panels for handle, text in zip(*panel.get_legend_handles_labels(), strict=True)}
    if named:
        wide = LETTERS // (max(map(len, named)) + 8)  # as many as go beside each other
        columns = max(1, min(6, wide, len(named)))
        figure.set_figheight(figure.get_figheight() + ROW * (math.ceil(len(named) / columns) - 1))
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=columns)
    return Drawing(name, figure, pd.concat(numbers, ignore_index=True))


def _measure(panel: Axes, table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Draw one measure; the numbers drawn."""
    task = measure.rsplit("_acc", 1)[0]
    chance = {"loss": None, "accuracy": "chance"}.get(measure, f"{task}_chance")
    columns = {"value": measure, "stderr": f"{measure}_stderr", "chance": chance, "n": f"{task}_n"}
    share = table[style.leading_axis(table)].where(table["method"] != "dense", 0.0)
    shown = table.assign(
        measure=measure, share=share, **{name: table.get(column, math.nan) for name, column in columns.items()}
    )
    shown = shown[shown["value"].notna()]
    shown = shown.assign(**{name: shown.get(name, value) for name, value in WITHOUT.items()})
    whole = shown["method"] == "dense"
    dense, cut = shown[whole & (shown["recovery_tokens"] == 0)], shown[~whole]
    trainings = sorted(
        set(cut.loc[cut["recovery_tokens"] > 0, ["recovery_tokens", "recovery"]].itertuples(index=False, name=None))
    )
    several = cut.groupby(["model", "method"])["ratio_of"].nunique() > 1
    for (model, method, ratio_of, *training), rows in cut.groupby(CURVE, sort=False):
        alike = shown[whole & (shown[CURVE[3:]] == training).all(axis=1)]  # trained as a control
        start = (alike if len(alike) else dense).query("model == @model")
        look, names = style.style_of(method) | {"ls": style.line(method)}, [method]
        names += [f"of {ratio_of}"] if several[model, method] else []
        if tuple(training) in trainings:
            look |= {"ls": style.BROKEN[trainings.index(tuple(training)) % len(style.BROKEN)]}
            names.append(training_text(*training))
        look |= {} if shown["model"].nunique() == 1 else {"marker": style.marker(str(rows["family"].iloc[-1]))}
        text = ", ".join(names if shown["model"].nunique() == 1 else [*names, model])
        rows = pd.concat([start, rows])
        means = rows.groupby("ratio")[["share", "value"]].mean().sort_values("share")  # over seeds
        panel.plot(means["share"], means["value"], **look | {"marker": ""})
        panel.errorbar(
            rows["share"], rows["value"], 2 * rows["stderr"].fillna(0), capsize=1.5, elinewidth=0.7, **look | {"ls": ""}
        )
        panel.plot([], [], label=text, **look)
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
            colour = style.colour(method)
            for _, rows in runs.groupby("budget"):
                rows = rows.sort_values("tokens")
                panel.plot(rows["tokens"], rows["heldout"], color=colour, ls=style.line(method))
                panel.plot(rows["tokens"].iloc[-1], rows["heldout"].iloc[-1], color=colour, marker="o", ms=3)
        panel.set(title=_cut(moments, ratio), xlabel="tokens of recovery")
    panels[0].set_ylabel(LOSS)
    methods = sorted(set(moments["method"]))
    handles = [style.handle(name, color=style.colour(name), ls=style.line(name), marker="o", ms=3) for name in methods]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return Drawing("recovery_progress", figure, moments.reset_index(drop=True))


def _cut(moments: pd.DataFrame, ratio: float) -> str:
    """What was removed before a recovery: shares of all parameters, the method's own ratio in brackets."""
    shares = moments.loc[moments["ratio"] == ratio].get("ratio_params", pd.Series(dtype=float)).dropna().unique()
    if not len(shares):
        return f"r = {ratio:g}"
    low, high = f"{min(shares):.0%}", f"{max(shares):.0%}"
    return f"{low if low == high else f'{low} to {high}'} removed (r = {ratio:g})"


@style.paper()
def speedups(timings: pd.DataFrame) -> Drawing:
    """Measured speed-up with its interval against the share removed, one panel per phase and batch; a tick marks the ideal."""
    if timings.empty:
        raise InputError("There are no timings to draw: measure at least one checkpoint.")
    parts, axis = timings.groupby(["phase", "batch"], sort=False), style.leading_axis(timings)
    figure, panels = style.grid(len(parts), width="neurips", sharey=True)
    for panel, ((phase, batch), part) in zip(panels, parts, strict=True):
        for method, rows in part.groupby("method"):
            rows, look = rows.sort_values(axis), style.style_of(method) | {"ls": style.line(method)}
            error = [rows["speedup"] - rows["low"], rows["high"] - rows["speedup"]]
            panel.errorbar(rows[axis], rows["speedup"], error, label=method, **look | {"ms": 3})
            panel.plot(rows[axis], rows["ideal"], color=look["color"], ls="", marker="_", ms=8)
        panel.axhline(1, color=style.BLACK, ls=":", lw=0.7)
        panel.set(title=f"{phase}, batch {batch}", yscale="log")
        style.removed_axis(panel, axis, part[axis])
        style.plain_log((1, 2, 3, 5), panel.yaxis)
    panels[0].set_ylabel("speed-up over dense (tick: ideal)")
    panels[0].legend(loc="upper left")
    names = "method ratio ratio_params phase batch speedup low high ideal".split()
    numbers = timings[[name for name in names if name in timings]]
    return Drawing("speedups", figure, numbers.reset_index(drop=True))
