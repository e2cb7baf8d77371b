"""Figure of fitted laws: every curve of a response with its points, its law and its bands."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullLocator

from claw.errors import InputError, unknown
from claw.figures import style as looks
from claw.figures.style import Drawing, Style
from claw.laws import CurveKey, CurveLaw, Laws, curves
from claw.laws.points import RESPONSES, Points, is_dense

AXIS_LABELS = {"ratio": "nominal ratio r", "ratio_params": "true share removed"}
TICKS = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50)
GRID = 61
BEYOND = 0.1  # how far the screen shows a law beyond its fit
EVALUATION = {"loss": "heldout: wikipedia-heldout", "accuracy": "tasks: [arc_easy, hellaswag, piqa]"}
"""What a study's evaluation needs so that a response is measured."""


@looks.paper()
def law_curves(
    laws: Laws, response: str = "loss", *, axis: str | None = None, tokens: float = 0, style: Style = "screen"
) -> Drawing:
    """Points, laws of single curves and their bands at one recovery budget; a panel per model, from small to large.

    On the screen: against the nominal ratio, with the band of a new run (light) around the law's confidence band, and dashes
    beyond the fitted range. On paper: against every axis of the table, a row each, loss on a logarithmic scale, a marker and
    dashes for each method. `axis` picks one axis. InputError: a response or axis that the table does not have, nothing to draw.
    """
    points, paper = laws.points, style == "paper"
    axes = (axis,) if axis else points.axes if paper else ("ratio",)
    for kind, name, accepted in (("response", response, RESPONSES), ("axis", axes[0], points.axes)):
        if name not in accepted:
            raise unknown(kind, name, accepted)
    if response not in points.responses:
        what = EVALUATION[response]
        raise InputError(f"No {response} was measured: put `evaluation: {{{what}}}` into the study and `claw run` it again.")
    measured = {axis: list(_measured(points, response, axis, tokens)) for axis in axes}
    fitted = {axis: {law.curve: law for law in laws.curves_of(response, axis)} for axis in axes}
    drawn = {curve for curve, _ in measured[axes[0]]}
    faces = {name: looks.style_of(name) for name in sorted({curve.method for curve in drawn})}
    if not paper:  # where dashes mean extrapolation
        faces = {name: face | {"ls": looks.line(name)} for name, face in faces.items()}
    if not paper and drawn.isdisjoint(fitted[axes[0]]):
        why = f"No law of {response} against {axes[0]} with {tokens:g} recovery tokens was fitted"
        raise InputError(f"{why}; laws.unfitted says why.")
    if not drawn:
        why = f"No compressed model has a {response}"
        raise InputError(f"{why}: run a study with ratios above 0, such as params/quickstart.yaml.")
    models = points.by_size({curve.model for curve in drawn})
    columns = min(4 if paper else 3, len(models))
    blocks = math.ceil(len(models) / columns)
    figure = looks.figure("icml-wide", (0.75 + 1.75 * len(axes) * blocks) if paper else (0.55 + 2.0 * blocks))
    panels = figure.subplots(len(axes) * blocks, columns, squeeze=False)
    numbers = []
    for number, model in enumerate(models):
        block, column = divmod(number, columns)
        dense = points.dense_row(model)
        for row, axis in enumerate(axes):
            panel = panels[block * len(axes) + row, column]
            own = [(curve, rows) for curve, rows in measured[axis] if curve.model == model]
            values = pd.concat([rows["mean"] for _, rows in own or measured[axis]])
            for curve, rows in own:
                named = {"axis": axis, "model": curve.model, "method": curve.method}
                parts = _draw(panel, rows, fitted[axis].get(curve), faces[curve.method], span=np.ptp(values), paper=paper)
                numbers += [part.assign(**named) for part in parts]
            panel.axhline(dense[f"{response}0"], color=looks.BLACK, lw=0.7, ls=":", zorder=1)
            panel.set(xlim=(-0.02, 1), xlabel=AXIS_LABELS[axis])
            if paper and response == "accuracy":  # one scale, for comparison
                values = pd.concat([rows["mean"] for _, rows in measured[axis]])
            _limit(panel, response, values, paper=paper)
        panels[block * len(axes), column].set_title(model if paper else f"{model} ({dense['family']})")
    for panel in panels[:, 0]:
        panel.set_ylabel(looks.label(response).removeprefix("held-out "))
    for panel in panels[-len(axes) :, len(models) - (blocks - 1) * columns :].flat:
        panel.set_visible(False)
    _legend(figure, faces, laws.level, paper=paper)
    name = f"paper_{response}" if paper else f"{response}_by_{axes[0]}" + (f"_{tokens:g}" if tokens else "")
    return Drawing(name, figure, pd.concat(numbers, ignore_index=True))


def _measured(points: Points, response: str, axis: str, tokens: float) -> Iterator[tuple[CurveKey, pd.DataFrame]]:
    """Each curve with what was measured on it, the dense model included: columns ratio, mean, stderr, seed, dense."""
    for curve, rows in curves.split(points, response, axis):
        if curve.tokens == tokens:
            columns = {
                "ratio": rows[axis],
                "mean": rows[response],
                "stderr": rows.get(f"{response}_stderr"),
                "seed": rows["seed"],
            }
            yield curve, pd.DataFrame(columns | {"dense": is_dense(rows)}).sort_values(["ratio", "seed"])


def _draw(
    panel: Axes, rows: pd.DataFrame, law: CurveLaw | None, face: dict[str, Any], *, span: float, paper: bool
) -> list[pd.DataFrame]:
    """Draw one curve and its law, where there is one; the numbers drawn.

    On paper a band wider than `span`, the range of all that was measured, is left to the numbers: it says that the law is
    unknown, and would only hide the other curves.
    """
    for dense, part in rows.groupby("dense"):
        if dense and paper:
            continue
        dots = (looks.style_of("dense") if dense else face) | {"ls": ""}
        panel.errorbar(part["ratio"], part["mean"], part["stderr"].fillna(0), **dots, ms=3, elinewidth=0.6, zorder=3)
    rows = rows[~rows["dense"]] if paper else rows
    numbers = [rows.drop(columns="dense").assign(kind="measured")]
    if law is None:
        return numbers
    inside = np.linspace(0, law.high, GRID)
    band = law.predict(inside if paper else np.union1d(inside, np.linspace(law.high, min(0.99, law.high + BEYOND), 11)))
    inside, outside = band[band["ratio"] <= law.high], band[band["ratio"] >= law.high]
    if not paper or (inside["confidence_high"] - inside["confidence_low"]).median() <= span:
        for kind, alpha in {"confidence": 0.15}.items() if paper else {"run": 0.08, "confidence": 0.25}.items():
            low, high = inside[f"{kind}_low"], inside[f"{kind}_high"]
            panel.fill_between(inside["ratio"], low, high, color=face["color"], alpha=alpha, lw=0)
    panel.plot(inside["ratio"], inside["mean"], color=face["color"], ls=face["ls"])
    if paper:
        band = band.drop(columns=["run_low", "run_high", "extrapolated"])
    else:
        panel.plot(outside["ratio"], outside["mean"], color=face["color"], ls=looks.EXTRAPOLATED)
    return [*numbers, band.assign(kind="law")]


def _limit(panel: Axes, response: str, measured: pd.Series, *, paper: bool) -> None:
    """Limits of the scale: on paper the measured range, whatever bands do beyond it, and loss on a logarithmic scale."""
    low, high = (measured.min(), measured.max()) if paper else panel.get_ylim()
    if not paper:
        panel.set_ylim(max(0.0, low), min(1.0, high) if response == "accuracy" else high)
    elif response == "accuracy":
        panel.set_ylim(max(0.0, low - 0.05), min(1.0, high + 0.05))
    else:
        panel.set(yscale="log", ylim=(0.93 * low, 1.1 * high))
        looks.plain_log(FixedLocator([tick for tick in TICKS if 0.93 * low <= tick <= 1.1 * high]), panel.yaxis)
        panel.yaxis.set_minor_locator(NullLocator())


def _legend(figure: Figure, faces: dict[str, dict[str, Any]], level: float, *, paper: bool) -> None:
    handles: list[Artist] = [looks.handle(name, ms=4, **face) for name, face in faces.items()]
    handles.append(Patch(color=looks.GREY, alpha=0.3 if paper else 0.45, lw=0, label=f"{level:.0%} confidence of a law"))
    if not paper:
        handles.append(Patch(color=looks.GREY, alpha=0.15, lw=0, label=f"{level:.0%} new run"))
        handles.append(looks.handle("extrapolated", color=looks.GREY, ls=looks.EXTRAPOLATED))
    handles.append(looks.handle("dense", color=looks.BLACK, lw=0.7, ls=":"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5 if paper else 4, handlelength=3.2)
