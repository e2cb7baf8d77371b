"""What was foretold of a model before it was measured, beside what was then measured: a panel per method."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import FixedLocator

from claw.errors import InputError
from claw.figures import style
from claw.figures.style import Drawing

COLUMNS = 4
TICKS = (1, 1.5, 2, 3, 5, 8, 12)  # of L/L0


@style.paper()
def foretold_points(both: pd.DataFrame, law: str = "curves") -> Drawing:
    """Compressed over dense loss against the share of all parameters removed: what one law foretold with its band, what the
    other laws did (thin), and what was measured; points outside their band are ringed. Without recovery only.

    `both` as of `claw.sweep.foretell.compared`. A method of which this law says nothing has no band. InputError: nothing of
    it is without recovery, or no law of this name.
    """
    both = both[(both["recovery_tokens"] == 0) & both["foretold"].notna()]
    if both.empty:
        raise InputError("Nothing of what was foretold and measured is without recovery, so there is nothing to draw.")
    if law not in set(both["law"]):
        raise InputError(f"No point was foretold by the law {law!r}; there are {', '.join(sorted(set(both['law'])))}.")
    axis = style.leading_axis(both)
    methods = sorted(set(both["method"]))
    figure, panels = style.grid(len(methods), COLUMNS, each=1.75, head=0.5, sharex=True, sharey=True)
    for method, panel in zip(methods, panels, strict=True):
        own = both[both["method"] == method].sort_values(axis)
        for name, rows in own.groupby("law"):
            mean = rows.groupby(axis)[["foretold", "low", "high"]].mean()
            alone: dict[str, Any] = {"marker": "_", "ms": 14} if len(mean) == 1 else {}  # a line needs two points
            if name != law:
                panel.plot(mean.index, mean["foretold"], color=style.GREY, lw=0.6, alpha=0.8, zorder=1, **alone)
                continue
            ink = style.colour(method)
            panel.fill_between(mean.index, mean["low"], mean["high"], color=ink, alpha=0.15, lw=0)
            if alone:
                panel.vlines(mean.index, mean["low"], mean["high"], color=ink, alpha=0.15, lw=8)
            panel.plot(mean.index, mean["foretold"], color=ink, lw=1.3, zorder=2, **alone)
        look: dict[str, Any] = style.style_of(method) | {"ls": "", "ms": 4}
        panel.plot(own[axis], own["measured"], **look, zorder=3)
        outside = own[(own["law"] == law) & (own["covered"] == 0)]
        panel.plot(outside[axis], outside["measured"], "o", mfc="none", mec=style.BLACK, ms=8, mew=0.7, zorder=4)
        panel.set_title(method)
    top = 1.15 * max(both["measured"].max(), both.loc[both["law"] == law, "foretold"].max())
    bottom = 0.95 * min(1.0, both["measured"].min())
    panels[0].set(yscale="log", ylim=(bottom, top))
    panels[0].yaxis.set_major_locator(FixedLocator([tick for tick in TICKS if bottom <= tick <= top]))
    for panel in panels:
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter("")
        style.removed_axis(panel, axis, both[axis])
        panel.set_xlabel("")
    for panel in panels[-COLUMNS:]:  # the last of each column
        panel.set_xlabel("parameters removed" if axis == "ratio_params" else style.AXIS_LABELS[axis])
        panel.tick_params(labelbottom=True)
    for panel in panels[::COLUMNS]:
        panel.set_ylabel("loss over dense")
    chosen = both[both["law"] == law]
    error = float(np.median(np.abs(chosen["foretold"] / chosen["measured"] - 1)))
    bands, level = chosen["covered"].dropna(), float(both["level"].iloc[0])
    inside = f"{bands.mean():.0%} of {len(bands)} points inside their {level:.0%} bands" if len(bands) else "no bands"
    figure.suptitle(f"{', '.join(dict.fromkeys(both['model']))}: {inside}; median error {error:.0%}", fontsize=8)
    handles = [
        style.handle("measured", color=style.BLACK, marker="o", ls="", ms=4),
        style.handle("outside its band", color=style.BLACK, marker="o", ls="", ms=7, mfc="none", mew=0.7),
        style.handle(f"foretold by the law “{law}”", color=style.BLACK, lw=1.3),
        style.handle("by the others", color=style.GREY, lw=0.6),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    columns = ["model", "method", "ratio", "ratio_params", "law", "foretold", "low", "high", "measured", "covered"]
    return Drawing("foretold", figure, both[columns].reset_index(drop=True))
