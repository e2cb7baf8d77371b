"""Figures of recovery: held-out loss along the way, and what it bought back."""

import numpy as np
import pandas as pd

from claw.errors import InputError
from claw.figures import style
from claw.figures.style import Drawing


def recovery_progress(moments: pd.DataFrame) -> Drawing:
    """Held-out loss against tokens seen, one panel per ratio; the budgets of one run lie on one trunk."""
    found = moments[np.isfinite(moments["heldout"])]
    if found.empty:
        raise InputError("There is no held-out loss to draw: no recovery has been run, or all broke at their first step.")
    ratios = sorted(found["ratio"].unique())
    with style.paper():
        figure = style.figure("neurips", 2.2)
        panels = figure.subplots(1, len(ratios), squeeze=False)[0]
        for panel, ratio in zip(panels, ratios, strict=True):
            for (method, budget), rows in found[found["ratio"] == ratio].groupby(["method", "budget"]):
                rows = rows.sort_values("tokens")
                colour = style.colour(method)
                longest = budget == found.loc[(found["ratio"] == ratio) & (found["method"] == method), "budget"].max()
                panel.plot(
                    rows["tokens"], rows["heldout"], color=colour, ls=style.line(method), label=method if longest else None
                )
                panel.plot(rows["tokens"].iloc[-1], rows["heldout"].iloc[-1], color=colour, marker="o", ms=3)
            panel.set_title(f"r = {ratio:g}")
            panel.set_xlabel("tokens of recovery")
        panels[0].set_ylabel("held-out loss (nats/token)")
        panels[0].legend(loc="upper right")
    return Drawing("recovery_progress", figure, found.reset_index(drop=True))
