"""Figure of speed: what was got of the speed-up that FLOPs and bytes allow."""

import pandas as pd

from claw.errors import InputError
from claw.figures import style
from claw.figures.style import Drawing


def speedups(timings: pd.DataFrame) -> Drawing:
    """Measured speed-up with its interval against the ratio, one panel per phase and batch; a tick marks the ideal."""
    if timings.empty:
        raise InputError("There are no timings to draw: measure at least one checkpoint.")
    kinds = list(timings.groupby(["phase", "batch"], sort=False).groups)
    with style.paper():
        figure = style.figure("neurips", 2.2)
        panels = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
        for panel, (phase, batch) in zip(panels, kinds, strict=True):
            for method, rows in timings[(timings["phase"] == phase) & (timings["batch"] == batch)].groupby("method"):
                rows = rows.sort_values("ratio")
                colour = style.colour(method)
                error = [rows["speedup"] - rows["low"], rows["high"] - rows["speedup"]]
                panel.errorbar(
                    rows["ratio"], rows["speedup"], error, color=colour, ls=style.line(method), marker="o", ms=3, label=method
                )
                panel.plot(rows["ratio"], rows["ideal"], color=colour, ls="", marker="_", ms=8)
            panel.axhline(1, color=style.BLACK, ls=":", lw=0.7)
            panel.set_yscale("log")
            panel.set_title(f"{phase}, batch {batch}")
            panel.set_xlabel("ratio asked for")
        panels[0].set_ylabel("speed-up over dense (tick: ideal)")
        panels[0].legend(loc="upper left")
    columns = ["method", "ratio", "phase", "batch", "speedup", "low", "high", "ideal"]
    return Drawing("speedups", figure, timings[columns].reset_index(drop=True))
