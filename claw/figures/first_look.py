"""The figure for somebody who sees claw for the first time: one curve, one control, one answer."""

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from claw.errors import InputError
from claw.figures import style
from claw.figures.style import Drawing
from claw.laws.points import Points
from claw.laws.reading import Reading, read_curves

ABOVE = 1.65  # the loss axis ends at so many times the dense loss: beyond, a model answers nothing
AXIS = "ratio_params"
BLUE = style.COLOURS["claw"]


@style.paper()
def first_figure(
    points: Points, model: str = "smollm2-135m", method: str = "wanda-sp+ridge", control: str = "random", allowed: float = 1.1
) -> Drawing:
    """Held-out loss (nats per token) against the share of all parameters removed: a method's measured points, the curve
    through them and its band, a control in grey, the dense model, and how much may go for `allowed` times the dense loss.

    Letters are large enough to be read at half of its width. InputError where the table has no such curves.
    """
    readings = [one for one in read_curves(points, "loss", AXIS) if one.curve.model == model and not one.curve.tokens]
    curves = {one.curve.method: one for one in readings if len(one.points) > 1}
    for name in (method, control):
        if name not in curves:
            raise InputError(
                f"The loss of {model} cut by {name} without recovery was not measured, so there is nothing to draw."
            )
    main, other = curves[method], curves[control]
    dense, end = main.dense, min(main.high, 0.5)
    figure = style.figure(5.5, 3.3)
    panel = figure.subplots()
    numbers = []
    for reading, ink in ((other, style.GREY), (main, BLUE)):
        numbers += _draw(panel, reading, ink, faint=reading is other)
    panel.axhline(dense, color=style.BLACK, lw=1, ls=":")
    panel.plot(0, dense, marker="D", ms=7, color=style.BLACK, clip_on=False, zorder=5)
    panel.axhline(allowed * dense, color=style.RED, lw=1, ls=(0, (5, 2)))
    limit = main.critical_ratio(allowed)
    answer = f"{allowed - 1:.0%} more loss"
    if not math.isnan(limit.ratio):
        interval = "" if math.isnan(limit.low + limit.high) else f" ({100 * limit.low:.0f} to {100 * limit.high:.0f})"
        answer += f": {limit.ratio:.0%} may go{interval}"
        panel.plot(limit.ratio, allowed * dense, marker="o", ms=10, mfc="none", mec=style.RED, mew=1.8, zorder=6)
    top = ABOVE * dense
    said: dict[str, Any] = {"fontsize": 12, "textcoords": "offset points"}
    for text, height, ink in (("whole model", dense, style.BLACK), (answer, allowed * dense, style.RED)):
        panel.annotate(text, (end, height), xytext=(0, 3), ha="right", va="bottom", color=ink, **said)
    for reading, ink, text, share in ((main, BLUE, method, 0.62), (other, style.GREY, f"{control} neurons", 0.9)):
        shown = reading.predict([x / 400 for x in range(int(400 * min(reading.high, end)))])
        shown = shown[shown["mean"] <= dense + share * (top - dense)].iloc[-1]
        panel.annotate(text, (shown["ratio"], shown["mean"]), xytext=(12, -10), ha="left", color=ink, **said)
    panel.set(xlim=(-0.005, end), ylim=(0.96 * dense, top))
    panel.set_xlabel("share of all parameters removed", fontsize=12)
    panel.set_ylabel("held-out loss (nats/token)", fontsize=12)
    panel.set_title(model, fontsize=12)
    panel.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    panel.tick_params(labelsize=11)
    return Drawing("readme", figure, pd.concat(numbers, ignore_index=True))


def _draw(panel: Axes, reading: Reading, ink: str, *, faint: bool) -> list[pd.DataFrame]:
    """Draw a curve, its band and its points; the numbers drawn."""
    points = reading.points[reading.points["ratio"] > 0]
    grid = reading.predict([*sorted({*(x / 200 for x in range(int(200 * reading.high))), *reading.points["ratio"]})])
    panel.fill_between(grid["ratio"], grid["confidence_low"], grid["confidence_high"], color=ink, alpha=0.15, lw=0)
    panel.plot(grid["ratio"], grid["mean"], color=ink, lw=1.4 if faint else 2.2)
    panel.plot(points["ratio"], points["value"], ls="", marker="X" if faint else "o", ms=6, color=ink)
    columns = {"confidence_low": "low", "confidence_high": "high"}
    about = {"model": reading.curve.model, "method": reading.curve.method}
    curve = grid.rename(columns=columns)[["ratio", "mean", "low", "high"]].assign(kind="curve", **about)
    return [points.rename(columns={"value": "mean"})[["ratio", "mean"]].assign(kind="measured", **about), curve]
