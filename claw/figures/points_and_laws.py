"""Figure of fitted laws: every curve of a response with its points, its law and its bands."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullLocator

from claw.errors import InputError, unknown
from claw.figures import style as looks
from claw.figures.style import Drawing, Style
from claw.laws import CurveKey, CurveLaw, Laws, curves
from claw.laws.points import RESPONSES, is_dense

AXIS_LABELS = {"ratio": "nominal ratio r", "ratio_params": "true share removed"}
TICKS = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50)
GRID = 61
EVALUATION = {"loss": "heldout: wikipedia-heldout", "accuracy": "tasks: [arc_easy, hellaswag, piqa]"}
"""What a study's evaluation needs so that a response is measured."""


class _Layout(NamedTuple):
    """How a style is laid out: panels beside each other, inches, opacity of each band, and how far laws are drawn beyond the fit."""

    columns: int
    head: float
    each: float
    bands: dict[str, float]
    beyond: float


_LAYOUTS = {
    "screen": _Layout(3, 0.55, 2.0, {"run": 0.08, "confidence": 0.25}, 0.1),
    "paper": _Layout(4, 0.75, 1.75, {"confidence": 0.15}, 0.0),
}


class _Curve(NamedTuple):
    """A curve with its measured rows, the dense model's among them, and its law where it has one."""

    key: CurveKey
    rows: pd.DataFrame
    law: CurveLaw | None


def law_curves(
    laws: Laws, response: str = "loss", *, axis: str | None = None, tokens: float = 0, style: Style = "screen"
) -> Drawing:
    """Points, laws of single curves and their bands at one recovery budget; a panel per model, from small to large.

    On the screen: against the nominal ratio, with the band of a new run (light) around the law's confidence band, and dashes
    beyond the fitted range. On paper: against every axis of the table, a row each, loss on a logarithmic scale, a marker and
    dashes for each method. `axis` picks one axis. InputError: a response or axis that the table does not have, nothing to draw.
    """
    points, layout = laws.points, _LAYOUTS[style]
    axes = (axis,) if axis else points.axes if style == "paper" else ("ratio",)
    for kind, name, accepted in (("response", response, RESPONSES), ("axis", axes[0], points.axes)):
        if name not in accepted:
            raise unknown(kind, name, accepted)
    if response not in points.responses:
        what = EVALUATION[response]
        raise InputError(f"No {response} was measured: put `evaluation: {{{what}}}` into the study and `claw run` it again.")
    shown = {axis: _curves(laws, response, axis, tokens) for axis in axes}
    first = shown[axes[0]]
    if not first:
        raise InputError(
            f"No compressed model has a {response}: run a study with ratios above 0, such as params/quickstart.yaml."
        )
    if style == "screen" and all(curve.law is None for curve in first):
        why = f"No law of {response} against {axes[0]} with {tokens:g} recovery tokens was fitted"
        raise InputError(f"{why}; laws.unfitted says why.")
    models = points.by_size({curve.key.model for curve in first})
    columns, blocks = min(layout.columns, len(models)), math.ceil(len(models) / layout.columns)
    numbers = []
    with looks.paper():
        figure = looks.figure("icml-wide", layout.head + layout.each * len(axes) * blocks)
        panels = figure.subplots(len(axes) * blocks, columns, squeeze=False)
        for number, model in enumerate(models):
            block, column = divmod(number, columns)
            dense = points.dense_row(model)
            for row, axis in enumerate(axes):
                panel = panels[block * len(axes) + row, column]
                own = [curve for curve in shown[axis] if curve.key.model == model]
                span = np.ptp(_values(own, response)) if own else 0.0
                numbers += [_draw(panel, curve, response, axis, style, span=span) for curve in own]
                panel.axhline(dense[f"{response}0"], color=looks.BLACK, lw=0.7, ls=":", zorder=1)
                panel.set(xlim=(-0.02, 1), xlabel=AXIS_LABELS[axis])
                if style == "paper":  # accuracy has one scale, for comparison
                    _limit(panel, response, _values(shown[axis] if response == "accuracy" else own, response))
                else:  # bands know no bounds, the scale does
                    low, high = panel.get_ylim()
                    panel.set_ylim(max(0.0, low), min(1.0, high) if response == "accuracy" else high)
            panels[block * len(axes), column].set_title(model if style == "paper" else f"{model} ({dense['family']})")
        for panel in panels[:, 0]:
            panel.set_ylabel(looks.label(response).removeprefix("held-out "))
        for panel in panels[-len(axes) :, len(models) - (blocks - 1) * columns :].flat:
            panel.set_visible(False)
        _legend(figure, (curve.key.method for curve in first), laws.level, style)
    name = f"paper_{response}" if style == "paper" else f"{response}_by_{axes[0]}" + (f"_{tokens:g}" if tokens else "")
    return Drawing(name, figure, pd.concat(numbers, ignore_index=True))


def _curves(laws: Laws, response: str, axis: str, tokens: float) -> list[_Curve]:
    fitted = {law.curve: law for law in laws.curves_of(response, axis)}
    measured = curves.split(laws.points, response, axis)
    return [_Curve(key, rows, fitted.get(key)) for key, rows in measured if key.tokens == tokens]


def _values(shown: list[_Curve], response: str) -> pd.Series:
    return pd.concat([curve.rows[response] for curve in shown])


def _draw(panel: Axes, curve: _Curve, response: str, axis: str, style: Style, *, span: float) -> pd.DataFrame:
    """Draw one curve and its law, where there is one; the numbers drawn.

    On paper a band wider than `span`, the range of all that was measured, is left to the numbers: it says that the law is
    unknown, and would only hide the other curves.
    """
    key, rows, law = curve
    layout, look = _LAYOUTS[style], looks.style_of(key.method)
    named: dict[str, object] = {"axis": axis, "model": key.model, "method": key.method}
    rows = rows.sort_values([axis, "seed"])
    if style == "paper":
        rows = rows[~is_dense(rows)]
    else:
        look["ls"] = looks.line(key.method)
        named["recovery_tokens"] = key.tokens
    stderr = rows.get(f"{response}_stderr")
    points = pd.DataFrame({"ratio": rows[axis], "mean": rows[response], "stderr": stderr, "seed": rows["seed"]})
    points = points.assign(kind="measured", **named)
    for dense, part in points.groupby(is_dense(rows)):
        dots = (looks.style_of("dense") if dense else look) | {"ls": ""}
        panel.errorbar(part["ratio"], part["mean"], part["stderr"].fillna(0), **dots, ms=3, elinewidth=0.6, zorder=3)
    if law is None:
        return points
    beyond = np.linspace(law.high, min(0.99, law.high + layout.beyond), 11) if layout.beyond else [law.high]
    band = law.predict(np.union1d(np.linspace(0, law.high, GRID), beyond))
    inside, outside = band[band["ratio"] <= law.high], band[band["ratio"] >= law.high]
    if style == "screen" or (inside["confidence_high"] - inside["confidence_low"]).median() <= span:
        for kind, alpha in layout.bands.items():
            low, high = inside[f"{kind}_low"], inside[f"{kind}_high"]
            panel.fill_between(inside["ratio"], low, high, color=look["color"], alpha=alpha, lw=0)
    panel.plot(inside["ratio"], inside["mean"], color=look["color"], ls=look["ls"])
    if layout.beyond:
        panel.plot(outside["ratio"], outside["mean"], color=look["color"], ls=looks.EXTRAPOLATED)
    else:
        band = band.drop(columns=["run_low", "run_high", "extrapolated"])
    return pd.concat([points, band.assign(kind="law", **named)])


def _limit(panel: Axes, response: str, measured: pd.Series) -> None:
    """Show the measured range, whatever bands do beyond it; loss on a logarithmic scale."""
    low, high = measured.min(), measured.max()
    if response == "accuracy":
        panel.set_ylim(max(0.0, low - 0.05), min(1.0, high + 0.05))
        return
    panel.set_yscale("log")
    panel.set_ylim(0.93 * low, 1.1 * high)
    looks.plain_log(panel.yaxis, FixedLocator([tick for tick in TICKS if 0.93 * low <= tick <= 1.1 * high]))
    panel.yaxis.set_minor_locator(NullLocator())


def _legend(figure: Figure, methods: Iterable[str], level: float, style: Style) -> None:
    bands, grey = {"confidence": f"{level:.0%} confidence of a law", "run": f"{level:.0%} new run"}, looks.GREY
    alphas = {"confidence": 0.3} if style == "paper" else {"confidence": 0.45, "run": 0.15}
    handles = looks.method_handles(methods)
    if style == "screen":
        for entry in handles:
            entry.set_linestyle(looks.line(str(entry.get_label())))
    patches = [Patch(color=grey, alpha=alpha, lw=0, label=bands[kind]) for kind, alpha in alphas.items()]
    lines = [] if style == "paper" else [looks.handle("extrapolated", color=grey, ls=looks.EXTRAPOLATED)]
    lines.append(looks.handle("dense", color=looks.BLACK, lw=0.7, ls=":"))
    columns = 5 if style == "paper" else 4
    figure.legend(handles=[*handles, *patches, *lines], loc="outside lower center", ncols=columns, handlelength=3.2)
