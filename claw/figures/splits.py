"""The best split of a budget of compute between calibration and recovery text: tokens on either side, and the loss it gives."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.ticker import FixedLocator, NullLocator

from claw.figures import style
from claw.figures.style import Drawing
from claw.laws.text_split import TextSplit

STEPS = 121  # budgets at which a line is drawn
TERA = 1e12


@style.paper()
def text_splits(splits: Mapping[str, TextSplit], budgets: tuple[float, float], longest: float) -> Drawing:
    """Tokens of the best split against the budget in FLOPs, and its loss beside that of calibration text alone.

    `splits` by the name of the cut, prices in FLOPs; `budgets` from and to; `longest`: tokens of recovery beyond which nothing
    was measured, from where on lines are thin and dashed.
    """
    figure, (tokens, losses) = style.grid(2, width="icml-wide", each=3.1)
    numbers = []
    for (name, split), ink in zip(splits.items(), style.shades(len(splits) + 1), strict=False):
        low = max(budgets[0], split.cost(split.fewest, 0) * (1 + 1e-9))
        x = np.geomspace(low, budgets[1], STEPS)
        calibration, recovery = np.array([split.best(budget) for budget in x]).T
        rows = pd.DataFrame({"cut": name, "flops": x, "calibration": calibration, "recovery": recovery})
        rows["loss"] = split.loss(calibration, recovery)
        alone = np.minimum(x / split.calibration_price, split.most)
        rows["loss_calibration_alone"] = split.loss(alone, 0.0)
        rows["measured"] = recovery <= longest
        numbers.append(rows)
        for known, look in ((True, {"lw": 1.6}), (False, {"lw": 0.9, "ls": style.EXTRAPOLATED})):
            part = rows[rows["measured"] == known]
            if not known:  # joined to the last point that was measured
                part = rows.loc[max(0, int(rows["measured"].sum()) - 1) :] if len(part) else part
            losses.plot(part["flops"] / TERA, part["loss"], color=ink, **look)
            tokens.plot(part["flops"] / TERA, part["recovery"].where(part["recovery"] > 0), color=ink, **look)
        tokens.plot(x / TERA, calibration, color=ink, lw=0.9, marker="o", markevery=12, ms=3)
        losses.plot(x / TERA, rows["loss_calibration_alone"], color=ink, lw=0.9, ls=(0, (1, 1.5)))
        where = (x[-1] / TERA, rows["loss"].iloc[-1])
        losses.annotate(f"{name}\ncut", where, xytext=(3, 0), textcoords="offset points", color=ink, va="center", fontsize=7)
    tokens.set(yscale="log", ylabel="tokens", ylim=(2e3, 2e7), title="best split: tokens of each")
    losses.set(ylabel=style.label("loss"), title="loss: best split, and calibration alone")
    for panel in (tokens, losses):
        panel.set(xscale="log", xlabel="compute (10¹² FLOPs)")
        style.plain_log((1, 3), panel.xaxis)
    decades = [count for count in (1e3, 1e4, 1e5, 1e6, 1e7) if tokens.get_ylim()[0] <= count <= tokens.get_ylim()[1]]
    tokens.yaxis.set_major_locator(FixedLocator(decades))
    tokens.yaxis.set_minor_locator(NullLocator())
    tokens.yaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")
    handles = [
        style.handle("recovery; loss of the split", color=style.BLACK, lw=1.6),
        style.handle("calibration", color=style.BLACK, lw=0.9, marker="o", ms=3),
        style.handle("not measured", color=style.BLACK, lw=0.9, ls=style.EXTRAPOLATED),
        style.handle("loss, all on calibration", color=style.BLACK, lw=0.9, ls=(0, (1, 1.5))),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return Drawing("text_split", figure, pd.concat(numbers, ignore_index=True))
