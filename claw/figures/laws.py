"""Figures of laws: every curve with its points, its law and its bands."""

import math

import numpy as np
import pandas as pd

from claw.errors import InputError
from claw.figures import style
from claw.figures.style import Drawing
from claw.laws import Laws, curves
from claw.laws.points import AXES, RESPONSES

LABELS = {"loss": "held-out loss (nats/token)", "accuracy": "accuracy"}
GRID = 101


def label(response: str) -> str:
    """Axis label of a response."""
    return LABELS.get(response) or f"{response.removeprefix('speedup').replace('_', ' ').strip()} speed-up over dense".strip()


def small_multiples(
    laws: Laws,
    response: str = "loss",
    axis: str = "ratio",
    tokens: float = 0,
    columns: int = 3,
    width: str | float = "icml-wide",
) -> Drawing:
    """One panel per model: points, law, confidence band (dark) and new-run band (light); dashed beyond the fitted range."""
    if response not in RESPONSES or axis not in AXES:
        raise InputError(
            f"response is one of {', '.join(RESPONSES)} and axis one of {', '.join(AXES)}; {response}, {axis} given."
        )
    shown = [
        law
        for law in laws.curves
        if (law.response, law.axis, law.form, law.curve.tokens) == (response, axis, curves.DEFAULT[response], tokens)
    ]
    if not shown:
        raise InputError(
            f"No law of {response} against {axis} with {tokens:g} recovery tokens was fitted; laws.unfitted says why."
        )
    models = sorted({law.curve.model for law in shown})
    families = laws.points.rows.drop_duplicates("model").set_index("model")["family"]
    columns = min(columns, len(models))
    rows = math.ceil(len(models) / columns)
    numbers = []
    with style.paper():
        figure = style.figure(width, 0.55 + 2.0 * rows)
        panels = figure.subplots(rows, columns, sharex=True, squeeze=False)
        for panel, model in zip(panels.flat, models, strict=False):
            for law in (law for law in shown if law.curve.model == model):
                numbers.append(_curve(panel, laws, law, style.marker(families[model])))
            panel.set_title(f"{model} ({families[model]})")
            dense = next(law.dense for law in shown if law.curve.model == model)
            if math.isfinite(dense):
                panel.axhline(dense, color=style.BLACK, lw=0.7, ls=":", zorder=1)
            panel.set_xlim(-0.02, 1.0)
        for panel in list(panels.flat)[len(models) :]:
            panel.set_visible(False)
        for panel in panels[-1]:
            panel.set_xlabel("fraction removed r" if axis == "ratio" else "share of parameters removed")
        for panel in panels[:, 0]:
            panel.set_ylabel(LABELS[response])
        _legend(figure, sorted({law.curve.method for law in shown}), laws.level)
    return Drawing(f"{response}_by_{axis}" + (f"_{tokens:g}" if tokens else ""), figure, pd.concat(numbers, ignore_index=True))


def _curve(panel, laws: Laws, law: curves.CurveLaw, marker: str) -> pd.DataFrame:
    """Draw one curve; the numbers drawn."""
    method = law.curve.method
    colour = style.colour(method)
    grid = np.linspace(0, min(0.99, law.high + 0.1), GRID)
    band = law.predict(np.union1d(grid, [law.low, law.high]))
    inside, beyond = band[band["ratio"] <= law.high], band[band["ratio"] >= law.high]
    panel.fill_between(inside["ratio"], inside["run_low"], inside["run_high"], color=colour, alpha=0.08, lw=0)
    panel.fill_between(inside["ratio"], inside["confidence_low"], inside["confidence_high"], color=colour, alpha=0.25, lw=0)
    panel.plot(inside["ratio"], inside["mean"], color=colour, ls=style.line(method))
    panel.plot(beyond["ratio"], beyond["mean"], color=colour, ls=style.EXTRAPOLATED)
    points = laws.measured(law)
    filled = colour if "+" not in method else "white"
    for kind, ink, face in (("cut", colour, filled), ("dense", style.BLACK, style.BLACK)):
        drawn = points[(points["ratio"] == 0) == (kind == "dense")]
        error = drawn["stderr"].fillna(0)
        panel.errorbar(drawn["ratio"], drawn["value"], error, fmt=marker, color=ink, mfc=face, lw=0.6, zorder=3)
    named = {"model": law.curve.model, "method": method, "recovery_tokens": law.curve.tokens}
    measured = points.rename(columns={"value": "mean"}).assign(kind="measured", **named)
    return pd.concat([band.assign(kind="law", **named), measured], ignore_index=True)


def _legend(figure, methods: list[str], level: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    grey = style.COLOURS["random"]
    handles = [Line2D([], [], color=style.colour(m), ls=style.line(m), label=m) for m in methods]
    handles += [
        Patch(color=grey, alpha=0.45, lw=0, label=f"{level:.0%} confidence (the law's)"),
        Patch(color=grey, alpha=0.15, lw=0, label=f"{level:.0%} new run"),
        Line2D([], [], color=grey, ls=style.EXTRAPOLATED, label="extrapolated"),
        Line2D([], [], color=style.BLACK, lw=0.7, ls=":", label="dense"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
