"""Figures of a compression: what it costs in loss, and what was removed where."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from claw.errors import InputError
from claw.figures import style
from claw.figures.style import Drawing

BINS = 64  # stretches of the axis that one row of the map shows


def loss_curve(table: pd.DataFrame) -> Drawing:
    """Loss against the ratio asked for and against the true ratio, with two standard errors, one line per method."""
    if table.empty:
        raise InputError("There are no points to draw: run the compression first.")
    axes = {"ratio": "ratio asked for", "ratio_params": "share of all parameters removed"}
    drawn = []
    with style.paper():
        figure = style.figure("neurips", 2.3)
        panels = figure.subplots(1, 2, sharey=True)
        for panel, (axis, label) in zip(panels, axes.items(), strict=True):
            for method, rows in table[table["method"] != "dense"].groupby("method"):
                rows = rows.sort_values(axis)
                colour, marker = style.colour(method), style.marker(str(rows["family"].iloc[0]))
                band = 2 * rows["loss_stderr"].fillna(0)
                panel.fill_between(rows[axis], rows["loss"] - band, rows["loss"] + band, color=colour, alpha=0.2, lw=0)
                panel.plot(rows[axis], rows["loss"], color=colour, ls=style.line(method), marker=marker, label=method)
                drawn.append(
                    rows.assign(axis=axis)[["method", "axis", axis, "loss", "loss_stderr"]].rename(columns={axis: "r"})
                )
            for dense in table["loss0"].dropna().unique():
                panel.axhline(dense, color=style.BLACK, ls=":", lw=0.7)
                panel.annotate("dense", (0.98, dense), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7)
            panel.set_xlabel(label)
            panel.set_xlim(0, 1)
        panels[0].set_ylabel("held-out loss (nats/token)")
        if drawn:
            panels[0].legend(loc="upper left")
    numbers = pd.concat(drawn) if drawn else pd.DataFrame(columns=["method", "axis", "r", "loss", "loss_stderr"])
    return Drawing("loss_curve", figure, numbers)


def kept_map(results: Sequence[Mapping[str, Any]]) -> Drawing:
    """Layers × stretches of the cut axis, one panel per ratio; dark is kept, light is cut."""
    points = [r["result"] for r in results if r["stage"] == "compress" and r["result"].get("kept")]
    numbers = []
    with style.paper():
        figure = style.figure("neurips", 2.2)
        if not points:
            figure.text(0.5, 0.5, "No point here removed units of a layer.", ha="center", va="center")
            return Drawing("kept_map", figure, pd.DataFrame(columns=["ratio", "layer", "stretch", "kept"]))
        panels = figure.subplots(1, len(points), sharey=True, squeeze=False)[0]
        for panel, point in zip(panels, points, strict=True):
            share = kept_share(point)
            image = panel.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest", origin="lower")
            panel.set_title(f"r = {point['ratio']:g}")
            panel.set_xticks([])
            panel.grid(False)
            rows, columns = np.indices(share.shape)
            flat = {"ratio": point["ratio"], "layer": rows.ravel(), "stretch": columns.ravel(), "kept": share.ravel()}
            numbers.append(pd.DataFrame(flat))
        panels[0].set_ylabel("layer")
        panels[0].yaxis.set_major_locator(MaxNLocator(integer=True))
        figure.supxlabel("units of the cut axis, in their order", fontsize=8)
        figure.colorbar(image, ax=list(panels), label="share kept", fraction=0.04)
    return Drawing("kept_map", figure, pd.concat(numbers))


def kept_share(point: Mapping[str, Any]) -> np.ndarray:
    """(layers, stretches) share of units kept in each stretch of a layer's axis; a layer that is gone keeps none."""
    depth = point["dense"]["depth"]
    if not point["kept"]:  # nothing was cut, or directions of the stream that no unit stands for
        return np.full((depth, 1), 1 - point["ratio_own"])
    if point["small"]["depth"] != depth:
        return np.isin(np.arange(depth), point["kept"][0]).astype(float)[:, None]
    size = _axis_size(point)
    bins = min(BINS, size)
    edges = np.linspace(0, size, bins + 1)
    counts = np.histogram(np.arange(size), edges)[0]
    return np.array([np.histogram(kept, edges)[0] / counts for kept in point["kept"]])


def _axis_size(point: Mapping[str, Any]) -> int:
    """Units per layer on the axis that was cut."""
    dense, small = point["dense"], point["small"]
    return next((dense[name] for name in ("width", "groups") if dense[name] != small[name]), dense["width"])
