"""Figure of a study's progress: how much of each model × method × ratio is there."""

from pathlib import Path

import pandas as pd

from claw.figures import style
from claw.figures.style import Drawing

COLOURS = {"planned": "#eeeeee", "running": "#f0c808", "done": "#2f7d4f", "failed": "#c23b22"}


def sweep_status(cells: pd.DataFrame) -> Drawing:
    """Heat map of `claw.sweep.status.cells`: the share of records that are there, with counts; failed and running cells framed."""
    rows = list(dict.fromkeys(zip(cells["model"], cells["method"], strict=True)))
    ratios = sorted(cells["ratio"].unique())
    labels = [f"{Path(model).name} · {method}" for model, method in rows]
    with style.paper():
        figure = style.figure(max(3.25, 0.3 + 0.065 * max(map(len, labels)) + 0.42 * len(ratios)), 0.7 + 0.22 * len(rows))
        panel = figure.subplots()
        for one in cells.itertuples():
            x, y = ratios.index(one.ratio), rows.index((one.model, one.method))
            panel.add_patch(_cell(x, y, COLOURS["planned"]))
            panel.add_patch(_cell(x, y, COLOURS["done"], one.finished / one.records))
            for state in ("running", "failed"):
                if getattr(one, state):
                    panel.add_patch(_cell(x, y, "none", edge=COLOURS[state]))
            words = f"{one.finished}/{one.records}" + ("!" if one.failed else "…" if one.running else "")
            panel.text(
                x, y, words, ha="center", va="center", fontsize=6, color="white" if one.finished == one.records else "black"
            )
        panel.set_xlim(-0.5, len(ratios) - 0.5)
        panel.set_ylim(len(rows) - 0.5, -0.5)
        panel.set_xticks(range(len(ratios)), [f"{ratio:g}" for ratio in ratios])
        panel.set_yticks(range(len(rows)), labels)
        panel.set_xlabel("ratio r")
        panel.set_title("records there / planned   (… running, ! failed)", loc="left")
        panel.grid(False)
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
    return Drawing("sweep_status", figure, cells)


def _cell(x: int, y: int, colour: str, share: float = 1.0, edge: str = "none"):
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.47, y - 0.45), 0.94 * share, 0.9, facecolor=colour, edgecolor=edge, linewidth=1.2)
