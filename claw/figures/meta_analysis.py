"""Figures of the published measurements: β by method and paper, sizes within families, predictions of papers left out."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import NullLocator

from claw.errors import InputError
from claw.figures import style as looks
from claw.figures.style import Drawing

FEWEST = 2


@looks.paper()
def slope_forest(forest: pd.DataFrame) -> Drawing:
    """Forest plot of β: a row per method in more than one paper, a grey dot per paper, a diamond with interval for the method.

    `forest` as of `claw.laws.published.forest`. InputError: no method is in two papers.
    """
    papers = forest[forest["paper"] != "all"]
    shared = papers.groupby("method")["paper"].nunique()
    pooled = forest[(forest["paper"] == "all") & forest["method"].isin(shared[shared >= FEWEST].index)].sort_values("beta")
    if pooled.empty:
        raise InputError("No method is in two papers of this table, so there is nothing to compare. Add papers.")
    figure = looks.figure(5.5, 0.9 + 0.27 * len(pooled))
    panel = figure.subplots()
    for place, row in enumerate(pooled.itertuples()):
        own = papers[papers["method"] == row.method]
        panel.plot(own["beta"], np.full(len(own), place), "o", color=looks.GREY, ms=3, alpha=0.8, zorder=2)
        if np.isfinite(row.low):
            panel.plot([row.low, row.high], [place, place], color=looks.BLACK, lw=1.2, zorder=1)
        panel.plot(row.beta, place, "D", color=looks.colour(row.method), mec=looks.BLACK, mew=0.5, ms=5, zorder=3)
    about = [f"{row.method} ({row.curves} curves, {row.df + 1} papers)" for row in pooled.itertuples()]
    panel.set_yticks(range(len(pooled)), about)
    panel.set(xlabel="β in log(L/L0) = β log(1+r), r the share of parameters removed", ylim=(-0.7, len(pooled) - 0.3))
    panel.set_xlim(left=0, right=1.1 * float(papers.loc[papers["method"].isin(pooled["method"]), "beta"].max()))
    panel.legend(
        handles=[
            looks.handle("one paper", marker="o", ls="", color=looks.GREY, ms=3),
            looks.handle("all papers, 95 % interval", marker="D", color=looks.BLACK, ms=4),
        ],
        loc="lower right",
    )
    return Drawing("published_forest", figure, forest)


@looks.paper()
def left_out_papers(left_out: pd.DataFrame) -> Drawing:
    """Measured against foretold L/L0 of points whose paper was left out, on logarithmic axes of the excess, with coverage.

    `left_out` as of `claw.laws.hierarchical.HierarchicalLaw.left_out` or `claw.laws.published.foretold`.
    """
    figure = looks.figure(4.2, 4.0)
    panel = figure.subplots()
    families = sorted(left_out["family"].unique())
    shades = dict(zip(families, looks.shades(len(families)), strict=True))
    inside = left_out["covered"]
    for family, rows in left_out.groupby("family"):
        look: dict[str, Any] = {"color": shades[family], "marker": looks.marker(family), "ls": "", "ms": 2.6, "mew": 0.4}
        panel.plot(rows["predicted"] - 1, rows["measured"] - 1, **look, label=family, alpha=0.75)
    outside = left_out[~inside]
    panel.plot(outside["predicted"] - 1, outside["measured"] - 1, "o", mfc="none", mec=looks.BLACK, ms=5, mew=0.5)
    edges = [0.008, 1.2 * float((left_out[["measured", "predicted"]].max().max()) - 1)]
    panel.plot(edges, edges, color=looks.BLACK, lw=0.7)
    panel.set(xscale="log", yscale="log", xlim=edges, ylim=edges)
    ticks = [tick for tick in (0.01, 0.03, 0.1, 0.3, 1, 3, 10) if edges[0] <= tick <= edges[1]]
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_ticks(ticks, [f"{tick:+.0%}" for tick in ticks])
        axis.set_minor_locator(NullLocator())
    panel.set(xlabel="foretold rise of the loss", ylabel="measured rise of the loss")
    median = left_out["error"].median()
    panel.set_title(
        f"{inside.mean():.1%} of {len(left_out)} points inside their 95 % bands\n(outside: ringed); median error {median:.0%}"
    )
    figure.legend(loc="outside lower center", ncols=4, handletextpad=0.2)
    return Drawing("published_left_out", figure, left_out)


@looks.paper()
def sizes_in_families(curves: pd.DataFrame) -> Drawing:
    """β against size, a line per method, paper and text that measured several sizes of a family; a panel per family.

    `curves` as of `claw.laws.published.slopes`. InputError: no family was measured at two sizes alike.
    """
    key = ["family", "method", "paper", "text"]
    several = curves[curves.groupby(key)["size"].transform("nunique") > 1]
    if several.empty:
        raise InputError("No method, paper and text of this table measured two sizes of one family.")
    families = several.groupby("family")["size"].agg(np.ptp).sort_values(ascending=False).index[:6]
    spread = several[several["family"].isin(families)].groupby("method")["family"].nunique()
    shown = set(spread[spread > 1].index) & set(looks.COLOURS) | {"llm-pruner"} & set(spread.index)
    figure, panels = looks.grid(len(families), 3, each=1.9, head=0.4, sharey=True)
    for family, panel in zip(families, panels, strict=True):
        for (method, *_), rows in several[several["family"] == family].groupby(key[1:]):
            rows = rows.groupby("size", as_index=False)["beta"].mean()
            known = method in shown
            look: dict[str, Any] = {
                "color": looks.colour(method) if known else looks.GREY,
                "alpha": 1 if known else 0.35,
                "zorder": 2 + known,
            }
            panel.plot(10 ** rows["size"], rows["beta"], "o-", ms=2.5, lw=0.8, **look)
        panel.set(xscale="log", yscale="log", title=family)
        looks.plain_log((1, 2, 4), panel.xaxis, panel.yaxis)
    for panel in panels[-3:]:
        panel.set_xlabel("parameters (10⁹)")
    for panel in panels[::3]:
        panel.set_ylabel("β")
    handles = [looks.handle(method, color=looks.colour(method), marker="o", ms=3) for method in sorted(shown)]
    others = looks.handle("other methods", color=looks.GREY, marker="o", ms=3, alpha=0.5)
    figure.legend(handles=[*handles, others], loc="outside lower center", ncols=6)
    return Drawing("published_sizes", figure, several)
