"""Figure of advice: what every option costs and what it is worth."""

import pandas as pd

from claw.advice.guide import AS_IS, Advice
from claw.errors import unknown
from claw.figures import style
from claw.figures.laws import LABELS
from claw.figures.style import Drawing
from claw.specs.budget import LIMITS
from claw.words import quantity


def advice_pareto(advice: Advice, cost: str = "parameters", width: str | float = "icml-wide") -> Drawing:
    """Worth against cost: a line per curve, models as they are, the frontier, the budget, and what is advised (a star)."""
    if cost not in LIMITS or advice.options[cost].isna().all():
        raise unknown("cost", cost, [name for name in LIMITS if advice.options[name].notna().any()])
    rows = advice.options[advice.options[cost].notna()]
    frontier = advice.pareto(cost)
    with style.paper():
        figure = style.figure(width, 3.4)
        axes = figure.subplots()
        for (_, method, _), part in rows.groupby(["model", "method", "tokens"], sort=True):
            if method == AS_IS:
                continue
            part = part.sort_values(cost)
            ink = style.colour(method)
            axes.plot(part[cost], part["value"], color=ink, ls=style.line(method), lw=1.0, alpha=0.8)
            axes.fill_between(part[cost], part["low"], part["high"], color=ink, alpha=0.07, lw=0)
        dense = rows[rows["method"] == AS_IS]
        axes.plot(dense[cost], dense["value"], "s", color=style.BLACK, ms=5, zorder=4)
        for _, one in dense.iterrows():
            axes.annotate(one["model"], (one[cost], one["value"]), xytext=(4, -8), textcoords="offset points", fontsize=6)
        axes.plot(frontier[cost], frontier["value"], color=style.BLACK, lw=2.4, alpha=0.25, zorder=1)
        if cost in advice.budget.limits:
            axes.axvline(advice.budget.limits[cost], color=style.COLOURS["prunenet"], lw=1.0, ls="--")
        if advice.best is not None:
            axes.plot([advice.best[cost]], [advice.best["value"]], "*", color=style.COLOURS["prunenet"], ms=12, zorder=5)
        axes.set_xlabel(LIMITS[cost])
        axes.set_ylabel(LABELS[advice.response] if advice.unit != "bits per byte" else "held-out loss (bits/byte)")
        axes.xaxis.set_major_formatter(lambda value, _: quantity(value))
        _legend(figure, rows, cost in advice.budget.limits)
    numbers = pd.concat(
        [rows.assign(kind="option"), frontier.assign(kind="frontier"), advice.finalists.assign(kind="finalist")],
        ignore_index=True,
    )
    return Drawing(f"guide_{advice.response}_by_{cost}", figure, numbers)


def _legend(figure, rows: pd.DataFrame, limited: bool) -> None:
    from matplotlib.lines import Line2D

    methods = sorted(set(rows["method"]) - {AS_IS})
    handles = [Line2D([], [], color=style.colour(m), ls=style.line(m), label=m) for m in methods]
    red = style.COLOURS["prunenet"]
    handles += [
        Line2D([], [], marker="s", ls="", color=style.BLACK, label="model as it is"),
        Line2D([], [], color=style.BLACK, lw=2.4, alpha=0.25, label="not beaten (Pareto)"),
        Line2D([], [], marker="*", ls="", ms=9, color=red, label="advised"),
    ]
    if limited:
        handles.append(Line2D([], [], color=red, lw=1.0, ls="--", label="budget"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
