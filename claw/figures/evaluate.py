"""Figures of an evaluation: loss and accuracy over the ratio, every task by itself, and which questions change sides."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.ticker import MaxNLocator

from claw.errors import InputError
from claw.figures import style
from claw.figures.style import Drawing
from claw.records import PRIMARY

COLUMNS = 3  # panels beside one another
SIDES = ListedColormap(["#f3d9c9", "#4f81b5"])  # wrong, right; they differ in grey too
NUMBERS = ["model", "method", "ratio", "measure", "value", "stderr", "chance", "n"]


def evaluation(table: pd.DataFrame) -> Drawing:
    """Loss and mean accuracy over the ratio, with two standard errors; dashed is the dense model, dotted is guessing."""
    _refuse_empty(table)
    measures = {"loss": "held-out loss (nats/token)", "accuracy": "accuracy, mean over tasks"}
    measures = {name: label for name, label in measures.items() if table[name].notna().any()}
    return _panels("evaluation", table, measures, columns=2)


def accuracy_by_task(table: pd.DataFrame) -> Drawing:
    """Accuracy over the ratio, one panel per task, by the task's first metric of acc_norm and acc."""
    _refuse_empty(table)
    measures = {}
    for column in (name.removesuffix("_chance") for name in table.columns if name.endswith("_chance")):
        metric = next((metric for metric in PRIMARY if f"{column}_{metric}" in table), None)
        if metric:
            measures[f"{column}_{metric}"] = f"{column} ({metric})"
    if not measures:
        raise InputError("No task was scored for these checkpoints: name some tasks and evaluate again.")
    return _panels("accuracy_by_task", table, measures, columns=COLUMNS)


def flips(results: Sequence[Mapping[str, Any]]) -> Drawing:
    """Which questions each model answers rightly: a column per question, a row per ratio, one panel per task and curve.

    Questions stand in the order of the last ratio up to which they were answered as by the dense model, those that it answers
    rightly first. Titles count, against the dense model, what the most compressed one lost and gained.
    """
    sides = answers(results)
    if sides.empty:
        raise InputError("No record says which questions were answered rightly: score some tasks and evaluate again.")
    found = [(key, rows.pivot(index="question", columns="ratio", values="right")) for key, rows in _curves(sides)]
    found = [(key, grid) for key, grid in found if grid.shape[1] > 1 and 0.0 in grid]
    numbers = []
    with style.paper():
        if not found:
            figure = style.figure("neurips", 1.0)
            figure.text(0.5, 0.5, "One ratio alone shows no changes; add the dense model and others.", ha="center", va="center")
            return Drawing("flips", figure, pd.DataFrame(columns=["model", "method", "task", "ratio", "lost", "gained", "n"]))
        rows = math.ceil(len(found) / 2)
        figure = style.figure("icml-wide", 0.4 + 1.35 * rows)
        panels = figure.subplots(rows, min(2, len(found)), squeeze=False)
        for panel, ((model, method, task), grid) in zip(panels.flat, found, strict=False):
            ratios = list(grid.columns)
            right = grid.to_numpy(dtype=bool).T[:, _order(grid)]
            panel.imshow(right, cmap=SIDES, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
            lost, gained = (right[0] & ~right).sum(axis=1), (~right[0] & right).sum(axis=1)
            panel.set_title(f"{task}, {method}: r = {ratios[-1]:g} lost {lost[-1]}, gained {gained[-1]}")
            panel.set_yticks(range(len(ratios)), [f"{ratio:g}" for ratio in ratios])
            panel.set_xlim(-0.5, right.shape[1] - 0.5)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.grid(False)
            known = {"model": model, "method": method, "task": task, "ratio": ratios}
            numbers.append(pd.DataFrame(known | {"lost": lost, "gained": gained, "n": right.shape[1]}))
        for panel in list(panels.flat)[len(found) :]:
            panel.set_visible(False)
        figure.supylabel("ratio r", fontsize=8)
        figure.supxlabel("questions (dark: answered rightly)", fontsize=8)
    return Drawing("flips", figure, pd.concat(numbers, ignore_index=True))


def answers(results: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per model, task and question: whether it was answered rightly, by the metric that `accuracy` counts."""
    rows = []
    for record in results:
        if record["stage"] != "tasks" or record["status"] != "done":
            continue
        compression = record["spec"]["compression"]
        for task, metrics in record["result"].get("answered", {}).items():
            said = next((metrics[metric] for metric in PRIMARY if metric in metrics), "")
            same = {name: compression[name] for name in ("model", "method", "ratio")}
            rows += [{**same, "task": task, "question": i, "right": side == "1"} for i, side in enumerate(said)]
    return pd.DataFrame(rows, columns=["model", "method", "ratio", "task", "question", "right"])


def _curves(sides: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], pd.DataFrame]]:
    """Questions of each model, method and task, those of the dense model among them as ratio 0."""
    dense = sides[sides["method"] == "dense"]
    for (model, method, task), rows in sides[sides["method"] != "dense"].groupby(["model", "method", "task"], sort=False):
        own = dense[(dense["model"] == model) & (dense["task"] == task)]
        yield (model, method, task), pd.concat([own, rows]).drop_duplicates(["ratio", "question"])


def _order(grid: pd.DataFrame) -> np.ndarray:
    """Questions by the dense model's side, then by the number of ratios before the first change of side."""
    right = grid.to_numpy(dtype=bool)
    changed = right != right[:, :1]
    stayed = np.where(changed.any(axis=1), changed.argmax(axis=1), right.shape[1])
    return np.lexsort((-right.sum(axis=1), np.where(right[:, 0], -stayed, stayed), ~right[:, 0]))


def _panels(name: str, table: pd.DataFrame, measures: Mapping[str, str], columns: int) -> Drawing:
    """One panel per measure, a curve per model and method that starts at the dense model."""
    rows = math.ceil(len(measures) / columns)
    numbers = []
    with style.paper():
        figure = style.figure("icml-wide", 0.3 + 2.1 * rows)
        panels = figure.subplots(rows, min(columns, len(measures)), squeeze=False)
        for panel, (measure, label) in zip(panels.flat, measures.items(), strict=False):
            numbers.append(_draw(panel, table, measure))
            panel.set_title(label)
            panel.set_xlabel("ratio r")
            panel.set_xlim(-0.02, max(0.05, 1.05 * table["ratio"].max()))
        for panel in list(panels.flat)[len(measures) :]:
            panel.set_visible(False)
        named = {name: handle for panel in panels.flat for handle, name in zip(*panel.get_legend_handles_labels(), strict=True)}
        if named:
            figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=min(6, len(named)))
    return Drawing(name, figure, pd.concat(numbers, ignore_index=True))


def _draw(panel, table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """One panel; its numbers."""
    task = measure.rsplit("_acc", 1)[0]
    chance = {"loss": None, "accuracy": "chance"}.get(measure, f"{task}_chance")
    counts = table.get(f"{task}_n", pd.Series(math.nan, index=table.index))
    shown = table.assign(
        measure=measure, value=table[measure], stderr=table[f"{measure}_stderr"],
        chance=table[chance] if chance else math.nan, n=counts,
    )[[*NUMBERS, "family"]]  # fmt: skip
    shown = shown[shown["value"].notna()]
    dense = shown[shown["method"] == "dense"]
    for (model, method), rows in shown[shown["method"] != "dense"].groupby(["model", "method"], sort=False):
        rows = pd.concat([dense[dense["model"] == model], rows]).sort_values("ratio")
        name = method if shown["model"].nunique() == 1 else f"{method}, {model}"
        panel.errorbar(
            rows["ratio"], rows["value"], yerr=2 * rows["stderr"].fillna(0), color=style.colour(method), capsize=1.5,
            elinewidth=0.7, ls=style.line(method), marker=style.marker(str(rows["family"].iloc[-1])), label=name,
        )  # fmt: skip
    for _, row in dense.iterrows():
        panel.errorbar(
            0, row["value"], yerr=2 * row["stderr"], color=style.BLACK, marker=style.marker(str(row["family"])), capsize=1.5
        )
        panel.axhline(row["value"], color=style.BLACK, ls="--", lw=0.7, label="dense")
    if chance and shown["chance"].notna().any():
        panel.axhline(shown["chance"].mean(), color=style.BLACK, ls=":", lw=0.7, label="guessing")
    return shown[NUMBERS]


def _refuse_empty(table: pd.DataFrame) -> None:
    if table.empty:
        raise InputError("There is nothing to draw: evaluate some checkpoints first.")
