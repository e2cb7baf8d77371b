"""Maps, in which each cell is a square of colour: what was removed where, which answers change, how far a study has come."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from claw.errors import InputError
from claw.figures import style
from claw.figures.style import Drawing
from claw.records import PRIMARY
from claw.words import tokens_text

BINS = 64  # stretches of the cut axis that one row of `kept_map` shows
RIGHT_OR_WRONG = ListedColormap(["#f3d9c9", "#4f81b5"])  # wrong, right; they differ in grey too
CURVE = ["model", "method", "ratio_of", "seed", "recipe", "tokens"]  # what makes a curve of `flips`
STATE_COLOURS = {"planned": "#eeeeee", "running": "#f0c808", "done": "#2f7d4f", "failed": "#c23b22"}


@style.paper()
def kept_map(results: Sequence[Mapping[str, Any]]) -> Drawing:
    """Layers × stretches of the cut axis, one panel per ratio; dark is kept, light is cut."""
    points = [record["result"] for record in results if record["stage"] == "compress" and record["result"].get("kept")]
    if not points:
        return _nothing("kept_map", "No point here removed units of a layer.", 2.2, ["ratio", "layer", "stretch", "kept"])
    numbers = []
    figure, panels = style.grid(len(points), width="neurips", sharey=True)
    for panel, point in zip(panels, points, strict=True):
        share = kept_share(point)
        image = panel.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest", origin="lower")
        panel.set(title=f"{point['ratio_params']:.0%} removed\n(r = {point['ratio']:g})", xticks=[])
        panel.grid(False)
        layer, stretch = (index.ravel() for index in np.indices(share.shape))
        numbers.append(pd.DataFrame({"ratio": point["ratio"], "layer": layer, "stretch": stretch, "kept": share.ravel()}))
    panels[0].set_ylabel("layer")
    panels[0].yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.supxlabel("units of the cut axis, in their order", fontsize=8)
    figure.colorbar(image, ax=panels, label="share kept", fraction=0.04)
    return Drawing("kept_map", figure, pd.concat(numbers))


def _nothing(name: str, why: str, height: float, columns: list[str]) -> Drawing:
    """In place of a map: a sentence that says why there is none."""
    figure = style.figure("neurips", height)
    figure.text(0.5, 0.5, why, ha="center", va="center")
    return Drawing(name, figure, pd.DataFrame(columns=columns))


def kept_share(point: Mapping[str, Any]) -> np.ndarray:
    """(layers, stretches) share of units kept in each stretch of a layer's axis; a layer that is gone keeps none."""
    dense, small, depth = point["dense"], point["small"], point["dense"]["depth"]
    if not point["kept"]:  # nothing was cut, or directions of the stream that no unit stands for
        return np.full((depth, 1), 1 - point["ratio_own"])
    if small["depth"] != depth:
        return np.isin(np.arange(depth), point["kept"][0]).astype(float)[:, None]
    size = next((dense[name] for name in ("width", "groups") if dense[name] != small[name]), dense["width"])
    edges = np.linspace(0, size, min(BINS, size) + 1)
    counts = np.histogram(np.arange(size), edges)[0]
    return np.array([np.histogram(kept, edges)[0] / counts for kept in point["kept"]])


@style.paper()
def flips(results: Sequence[Mapping[str, Any]]) -> Drawing:
    """Which questions each model answers rightly: a column per question, a row per ratio, one panel per task and curve.

    Questions stand in the order of the last ratio up to which they were answered as by the dense model, those that it answers
    rightly first. Titles count, against the dense model as it is, what the most compressed one lost and gained. Seeds, and what
    was recovered by other recipes or on other numbers of tokens, are curves of their own.
    """
    answers = _answers(results)
    if answers.empty:
        raise InputError("No record says which questions were answered rightly: score some tasks and evaluate again.")
    grids = list(_grids(answers))
    columns = ["model", "curve", "task", "ratio", "lost", "gained", "n"]
    if not grids:
        return _nothing("flips", "One ratio alone shows no changes; add the dense model and others.", 1.0, columns)
    numbers = []
    figure, panels = style.grid(len(grids), 2, head=0.4, each=1.35)
    for panel, ((model, curve, task), grid) in zip(panels, grids, strict=True):
        ratios = list(grid.columns)
        right = grid.to_numpy(dtype=bool).T[:, _order(grid)]
        panel.imshow(right, cmap=RIGHT_OR_WRONG, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        lost, gained = (right[0] & ~right).sum(axis=1), (~right[0] & right).sum(axis=1)
        panel.set_title(f"{task}, {curve}: r = {ratios[-1]:g} lost {lost[-1]}, gained {gained[-1]}")
        panel.set_yticks(range(len(ratios)), [f"{ratio:g}" for ratio in ratios])
        panel.set_xlim(-0.5, right.shape[1] - 0.5)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(False)
        row = {"model": model, "curve": curve, "task": task, "ratio": ratios}
        numbers.append(pd.DataFrame(row | {"lost": lost, "gained": gained, "n": right.shape[1]}))
    figure.supylabel("ratio r", fontsize=8)
    figure.supxlabel("questions (dark: answered rightly)", fontsize=8)
    return Drawing("flips", figure, pd.concat(numbers, ignore_index=True))


def _answers(results: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per model, task and question: whether it was answered rightly, by the metric that `accuracy` counts."""
    rows = []
    for record in results:
        if (record["stage"], record["status"]) != ("tasks", "done"):
            continue
        compression, recovery = record["spec"]["compression"], record["spec"]["recovery"] or {}
        about = {name: compression[name] for name in ("model", "method", "ratio", "ratio_of", "seed")}
        about |= {"recipe": recovery.get("recipe", ""), "tokens": recovery.get("tokens", 0)}
        for task, metrics in record["result"].get("answered", {}).items():
            sides = next((metrics[metric] for metric in PRIMARY if metric in metrics), "")
            rows += [{**about, "task": task, "question": i, "right": side == "1"} for i, side in enumerate(sides)]
    return pd.DataFrame(rows, columns=[*CURVE, "ratio", "task", "question", "right"])


def _grids(answers: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], pd.DataFrame]]:
    """Questions × ratios of each model, curve and task that has more than one ratio, the dense model's as ratio 0."""
    whole = answers["method"] == "dense"
    dense, cut = answers[whole & (answers["tokens"] == 0)], answers[~whole]
    told = cut.groupby(["model", "method"])[CURVE[2:]].nunique()
    for (*key, task), rows in cut.groupby([*CURVE, "task"], sort=False):
        model, method, ratio_of, seed, recipe, tokens = key
        several = told.loc[(model, method)] > 1
        names = {f"of {ratio_of}": several["ratio_of"], f"seed {seed}": several["seed"]}
        names |= {f"{recipe} {tokens_text(tokens)}": tokens > 0}
        curve = ", ".join([method, *(name for name, said in names.items() if said)])
        own = dense[(dense["model"] == model) & (dense["task"] == task)]
        grid = pd.concat([own, rows]).drop_duplicates(["ratio", "question"])
        grid = grid.pivot(index="question", columns="ratio", values="right")
        if grid.shape[1] > 1 and 0.0 in grid:
            yield (model, curve, task), grid


def _order(grid: pd.DataFrame) -> np.ndarray:
    """Questions by the dense model's answer, then by the number of ratios before the first change of answer."""
    right = grid.to_numpy(dtype=bool)
    changed = right != right[:, :1]
    stayed = np.where(changed.any(axis=1), changed.argmax(axis=1), right.shape[1])
    return np.lexsort((-right.sum(axis=1), np.where(right[:, 0], -stayed, stayed), ~right[:, 0]))


@style.paper()
def sweep_status(cells: pd.DataFrame) -> Drawing:
    """Share of the records of each model, method and ratio that are there, with counts; failed and running cells are framed.

    `cells`: what `claw.sweep.status.cells` returns.
    """
    rows = list(dict.fromkeys(zip(cells["model"], cells["method"], strict=True)))
    ratios = sorted(cells["ratio"].unique())
    names = [f"{Path(model).name} · {method}" for model, method in rows]
    figure = style.figure(max(3.25, 0.3 + 0.065 * max(map(len, names)) + 0.42 * len(ratios)), 0.7 + 0.22 * len(rows))
    panel = figure.subplots()
    for cell in cells.itertuples():
        x, y = ratios.index(cell.ratio), rows.index((cell.model, cell.method))
        panel.add_patch(_square(x, y, STATE_COLOURS["planned"]))
        panel.add_patch(_square(x, y, STATE_COLOURS["done"], cell.finished / cell.records))
        for state in ("running", "failed"):
            if getattr(cell, state):
                panel.add_patch(_square(x, y, "none", edge=STATE_COLOURS[state]))
        text = f"{cell.finished}/{cell.records}" + ("!" if cell.failed else "…" if cell.running else "")
        panel.text(x, y, text, ha="center", va="center", fontsize=6, color="black" if cell.finished < cell.records else "white")
    panel.set(xlim=(-0.5, len(ratios) - 0.5), ylim=(len(rows) - 0.5, -0.5), xlabel="ratio r")
    panel.set_xticks(range(len(ratios)), [f"{ratio:g}" for ratio in ratios])
    panel.set_yticks(range(len(rows)), names)
    panel.set_title("records there / planned   (… running, ! failed)", loc="left")
    panel.grid(False)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    return Drawing("sweep_status", figure, cells)


def _square(x: int, y: int, colour: str, share: float = 1.0, edge: str = "none") -> Rectangle:
    return Rectangle((x - 0.47, y - 0.45), 0.94 * share, 0.9, facecolor=colour, edgecolor=edge, linewidth=1.2)
