"""Figures of a paper: loss and accuracy against the ratio for all models and methods, and what recovery wins back.

Everything comes from the laws of a table and its points. A figure whose data are missing is an InputError that says in one
sentence what to run. A method has a colour, a marker and dashes of its own, so that print in grey can be read.
"""

import math

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from claw.errors import InputError
from claw.figures import style
from claw.figures.style import Drawing
from claw.laws import Laws, curves
from claw.laws.points import is_dense
from claw.laws.verdicts import gains

LABELS = {"loss": "loss (nats/token)", "accuracy": "accuracy"}
AXES = {"ratio": "nominal ratio r", "ratio_params": "true share removed"}
TICKS = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50)
GRID = 61
COLUMNS = 4  # models beside each other; more go below


def loss(laws: Laws) -> Drawing:
    """Held-out loss against the ratio asked for (above) and the share truly removed (below), a column per model."""
    return _against_ratio(laws, "loss")


def accuracy(laws: Laws) -> Drawing:
    """Accuracy against the ratio asked for (above) and the share truly removed (below), a column per model."""
    return _against_ratio(laws, "accuracy")


def _against_ratio(laws: Laws, response: str) -> Drawing:
    """Points, laws of single curves and their confidence bands, without recovery."""
    if response not in laws.points.responses:
        what = "tasks: [arc_easy, hellaswag, piqa]" if response == "accuracy" else "heldout: wikipedia-heldout"
        raise InputError(f"No {response} was measured: put `evaluation: {{{what}}}` into the study and `claw run` it again.")
    axes = laws.points.axes
    found = {axis: [one for one in curves.split(laws.points, response, axis) if one[0].tokens == 0] for axis in axes}
    models = laws.points.by_size({curve.model for curve, _ in found["ratio"]})
    if not models:
        raise InputError(
            f"No compressed model has a {response}: run a study with ratios above 0, such as params/quickstart.yaml."
        )
    methods = sorted({curve.method for curve, _ in found["ratio"]})
    numbers = []
    columns, blocks = min(COLUMNS, len(models)), math.ceil(len(models) / COLUMNS)
    with style.paper():
        figure = style.figure("icml-wide", 0.75 + 1.75 * len(axes) * blocks)
        panels = figure.subplots(len(axes) * blocks, columns, squeeze=False)
        for number, model in enumerate(models):
            block, column = divmod(number, COLUMNS)
            for row, axis in enumerate(axes):
                panel = panels[block * len(axes) + row, column]
                shown = [one for one in found[axis] if one[0].model == model]
                span = np.ptp(pd.concat([rows[response] for _, rows in shown])) if shown else 0.0
                numbers += [_curve(panel, laws, curve, rows, response, axis, span) for curve, rows in shown]
                panel.axhline(laws.points.dense_row(model)[f"{response}0"], color=style.BLACK, lw=0.7, ls=":", zorder=1)
                panel.set(xlim=(-0.02, 1), xlabel=AXES[axis], title="" if row else model)
                everywhere = found[axis] if response == "accuracy" else shown  # accuracy has one scale, for comparison
                _limit(panel, response, pd.concat([rows[response] for _, rows in everywhere]))
                if column == 0:
                    panel.set_ylabel(LABELS[response])
        for panel in panels[-len(axes) :, len(models) - (blocks - 1) * COLUMNS :].flat:
            panel.set_visible(False)
        _legend(figure, methods, laws.level)
    return Drawing(f"paper_{response}", figure, pd.concat(numbers, ignore_index=True))


def _curve(
    panel, laws: Laws, curve: curves.CurveKey, rows: pd.DataFrame, response: str, axis: str, span: float
) -> pd.DataFrame:
    """Draw one curve and its law, where there is one; the numbers drawn.

    A band wider than the span of all that was measured says that the law is unknown, and would only hide the other curves: it
    is left to the numbers.
    """
    look = style.style_of(curve.method)
    named = {"axis": axis, "model": curve.model, "method": curve.method}
    cut = rows[~is_dense(rows)]
    points = pd.DataFrame(
        {"ratio": cut[axis], "mean": cut[response], "stderr": cut.get(f"{response}_stderr"), "seed": cut["seed"]}
    )
    points = points.assign(kind="measured", **named).sort_values(["ratio", "seed"])
    panel.errorbar(
        points["ratio"], points["mean"], points["stderr"].fillna(0), **look | {"ls": ""}, ms=3, elinewidth=0.6, zorder=3
    )
    law = next((one for one in laws.curves_of(response, axis) if one.curve == curve), None)
    if law is None:
        return points
    band = law.predict(np.linspace(0, law.high, GRID))
    low, high = band["confidence_low"], band["confidence_high"]
    if (high - low).median() <= span:
        panel.fill_between(band["ratio"], low, high, color=look["color"], alpha=0.15, lw=0)
    panel.plot(band["ratio"], band["mean"], color=look["color"], ls=look["ls"])
    return pd.concat([points, band.drop(columns=["run_low", "run_high", "extrapolated"]).assign(kind="law", **named)])


def _limit(panel, response: str, measured: pd.Series) -> None:
    """Show the measured range, whatever bands do beyond it; loss on a logarithmic scale."""
    low, high = measured.min(), measured.max()
    if response == "accuracy":
        panel.set_ylim(max(0.0, low - 0.05), min(1.0, high + 0.05))
        return
    panel.set_yscale("log")
    panel.set_ylim(0.93 * low, 1.1 * high)
    panel.yaxis.set_major_locator(FixedLocator([tick for tick in TICKS if 0.93 * low <= tick <= 1.1 * high]))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_formatter(NullFormatter())


def method_handles(methods: list[str]) -> list[Line2D]:
    """Legend entries of methods."""
    return [Line2D([], [], label=name, ms=4, **style.style_of(name)) for name in methods]


def marker_handles(methods: list[str]) -> list[Line2D]:
    """Legend entries of methods whose points are not joined."""
    return [Line2D([], [], label=name, ms=4, **style.style_of(name) | {"ls": ""}) for name in methods]


def _legend(figure, methods: list[str], level: float) -> None:
    handles = method_handles(methods)
    handles.append(Patch(color=style.COLOURS["random"], alpha=0.3, lw=0, label=f"{level:.0%} confidence of a law"))
    handles.append(Line2D([], [], color=style.BLACK, lw=0.7, ls=":", label="dense"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, handlelength=3.2)


def recovery(laws: Laws) -> Drawing:
    """Share of the loss that recovery won back, against tokens; a panel per model, a line per method and ratio."""
    found = gains(laws.points) if "loss" in laws.points.responses else pd.DataFrame()
    if not len(found):
        raise InputError(
            "No compressed model was recovered: `claw run params/recovery.yaml`, or put `recovery:` with its token budgets into the "
            "study."
        )
    models = laws.points.by_size(set(found["model"]))
    found = found.groupby(["model", "method", "ratio", "recovery_tokens"], as_index=False)[["gain", "stderr"]].mean()
    with style.paper():
        columns, blocks = min(COLUMNS, len(models)), math.ceil(len(models) / COLUMNS)
        figure = style.figure("icml-wide" if columns > 1 else "icml", 0.6 + 2.0 * blocks)
        panels = figure.subplots(blocks, columns, squeeze=False, sharey=True)
        for panel in list(panels.flat)[len(models) :]:
            panel.set_visible(False)
        for panel, model in zip(panels.flat, models, strict=False):
            _gains(panel, found[found["model"] == model])
            panel.set(title=model, xlabel="recovery D (million tokens)", xlim=(0, 1.22e-6 * found["recovery_tokens"].max()))
            panel.axhline(0, color=style.BLACK, lw=0.6)
        for panel in panels[:, 0]:
            panel.set_ylabel("loss won back (%)")
        handles = method_handles(sorted(set(found["method"])))
        figure.legend(handles=handles, loc="outside lower center", ncols=2 * columns, handlelength=3.2)
    return Drawing("paper_recovery", figure, found)


def _gains(panel, rows: pd.DataFrame) -> None:
    """Lines from no recovery on, each with its ratio at the end; names that would lie on each other move apart."""
    ends = []
    for (method, ratio), part in rows.sort_values("recovery_tokens").groupby(["method", "ratio"]):
        x, y = np.append(0, part["recovery_tokens"] / 1e6), np.append(0, 100 * part["gain"])
        error = np.append(0, 100 * part["stderr"].fillna(0))
        panel.errorbar(x, y, error, ms=3.5, elinewidth=0.6, **style.style_of(method))
        ends.append((y[-1], x[-1], ratio, style.colour(method)))
    step, last = max(1e-9, 100 * rows["gain"].abs().max() / 12), -np.inf
    for y, x, ratio, ink in sorted(ends):
        last = max(y, last + step)
        panel.annotate(
            f"r = {ratio:g}", (x, last), xytext=(5, 0), textcoords="offset points", fontsize=6, color=ink, va="center"
        )
