"""The figure for somebody who sees claw for the first time: a few methods, one control, one answer."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from claw.errors import InputError
from claw.figures import style
from claw.figures.style import Drawing
from claw.laws.critical import Critical
from claw.laws.points import Points
from claw.laws.reading import Reading, read_curves

ABOVE = 1.65  # the loss axis ends at so many times the dense loss: beyond, a model answers nothing
BELOW = 0.92  # and begins at so many, with room for words
AXIS = "ratio_params"


@style.paper()
def first_figure(
    points: Points,
    model: str = "smollm2-135m",
    methods: Sequence[str] = ("claw", "wanda-sp+ridge", "shortgpt"),
    control: str = "random",
    allowed: float = 1.1,
) -> Drawing:
    """Held-out loss (nats per token) against the share of all parameters removed: a few methods' points, the curves through
    them and their bands, a control in grey, the dense model, and how much may go for `allowed` times the dense loss with the
    method of them that reaches furthest.

    Methods that the table does not have are left out. Letters are large enough to be read at half of its width. InputError
    where the control or all methods are missing.
    """
    readings = [one for one in read_curves(points, "loss", AXIS) if one.curve.model == model and not one.curve.tokens]
    curves = {one.curve.method: one for one in readings if len(one.points) > 1}
    shown = [curves[name] for name in methods if name in curves]
    if missing := [name for name in (control, *(() if shown else methods)) if name not in curves]:
        raise InputError(
            f"The loss of {model} cut by {' or '.join(missing)} without recovery was not measured, so there is nothing to draw."
        )
    best, limit = furthest(shown, allowed)
    dense, end = best.dense, min(max(one.high for one in shown), 0.5)
    figure = style.figure(5.5, 3.6)
    panel = figure.subplots()
    numbers = []
    for reading in (curves[control], *reversed(shown)):
        numbers += _draw(panel, reading, faint=reading.curve.method == control)
    panel.axhline(dense, color=style.BLACK, lw=1, ls=":")
    panel.plot(0, dense, marker="D", ms=7, color=style.BLACK, clip_on=False, zorder=5)
    panel.axhline(allowed * dense, color=style.RED, lw=1, ls=(0, (5, 2)))
    answer = f"+{allowed - 1:.0%} loss"
    if not math.isnan(limit.ratio):
        interval = "" if math.isnan(limit.low + limit.high) else f" ({100 * limit.low:.0f} to {100 * limit.high:.0f})"
        answer += f": {limit.ratio:.0%} may go{interval}"
        panel.plot(limit.ratio, allowed * dense, marker="o", ms=10, mfc="none", mec=style.RED, mew=1.8, zorder=6)
    for text, height, ink in (("whole model", dense, style.BLACK), (answer, allowed * dense, style.RED)):  # curves lie above
        where: dict[str, Any] = {"xytext": (0, -3), "textcoords": "offset points", "ha": "right", "va": "top"}
        panel.annotate(text, (end, height), color=ink, fontsize=12, **where)
    top = ABOVE * dense
    panel.set(xlim=(-0.005, end + 0.005), ylim=(BELOW * dense, top))
    panel.yaxis.set_major_locator(MaxNLocator(5))
    figure.legend(loc="outside upper center", ncols=1 + len(shown), fontsize=11, columnspacing=1.0, handletextpad=0.4)
    panel.set_xlabel("share of all parameters removed", fontsize=12)
    panel.set_ylabel("held-out loss (nats/token)", fontsize=12)
    panel.set_title(model, fontsize=12)
    panel.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    panel.tick_params(labelsize=11)
    return Drawing("readme", figure, pd.concat(numbers, ignore_index=True))


def furthest(readings: Sequence[Reading], allowed: float) -> tuple[Reading, Critical]:
    """The curve of these on which most may go for `allowed` times the dense value, and how much; the first where none says."""
    reached = [(one, one.critical_ratio(allowed)) for one in readings]
    return max(reached, key=lambda pair: -1.0 if math.isnan(pair[1].ratio) else pair[1].ratio)


def _draw(panel: Axes, reading: Reading, *, faint: bool) -> list[pd.DataFrame]:
    """Draw a curve, its band and its points; the numbers drawn."""
    name = reading.curve.method
    look = style.style_of(name) | {"lw": 1.4 if faint else 2.0, "ls": "-", "ms": 6, "mew": 1.4}
    points = reading.points[reading.points["ratio"] > 0]
    grid = reading.predict([*sorted({*(x / 200 for x in range(int(200 * reading.high))), *reading.points["ratio"]})])
    panel.fill_between(grid["ratio"], grid["confidence_low"], grid["confidence_high"], color=look["color"], alpha=0.15, lw=0)
    panel.plot(grid["ratio"], grid["mean"], color=look["color"], lw=look["lw"])
    panel.plot(points["ratio"], points["value"], **(look | {"ls": ""}))
    panel.plot([], [], label=name, **look)
    columns = {"confidence_low": "low", "confidence_high": "high"}
    about = {"model": reading.curve.model, "method": reading.curve.method}
    curve = grid.rename(columns=columns)[["ratio", "mean", "low", "high"]].assign(kind="curve", **about)
    return [points.rename(columns={"value": "mean"})[["ratio", "mean"]].assign(kind="measured", **about), curve]
