"""What recovery won back: against tokens where few ratios were recovered, else against what was removed."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from claw.errors import InputError
from claw.figures import style
from claw.figures.style import Drawing
from claw.laws import Laws
from claw.laws.points import DENSE
from claw.laws.recovered import gains, text_gains
from claw.words import tokens_text

RECIPES = ("-", *style.BROKEN)  # dashes of each recipe, where there are several
MOST_COLUMNS = 4  # of panels


@style.paper()
def recovery_gains(laws: Laws) -> Drawing:
    """Share of the loss that recovery won back, against tokens; a line per method and recipe, a row per model, a column per
    ratio. In black what the same training gains on the dense model, where that was measured: as much is the text, no recovery.

    With one method, a panel holds all ratios of a model, named at the ends of their lines. With several methods and more than
    `MOST_COLUMNS` ratios, there is a column per budget, and the share won back stands against what was removed.
    """
    won = gains(laws.points) if "loss" in laws.points.responses else pd.DataFrame()
    if won.empty:
        raise InputError(
            "No compressed model was recovered: put `recovery:` into the study, or `claw run params/recovery.yaml`."
        )
    models = laws.points.by_size(set(won["model"]))
    won = won.groupby(["model", "method", "ratio", "recovery", "recovery_tokens"], as_index=False)[["gain", "stderr"]].mean()
    recipes = sorted(set(won["recovery"]))
    alone = text_gains(laws.points)
    alone = alone[alone["model"].isin(models) & alone["recovery"].isin(recipes)].assign(method=DENSE, ratio=0.0)
    ratios = sorted(won["ratio"].unique())
    apart = won["method"].nunique() > 1 and len(ratios) > 1
    if apart and len(ratios) > MOST_COLUMNS:
        return _gains_over_ratios(laws, won, alone)
    shown = [(model, ratio) for model in models for ratio in ratios] if apart else [(model, None) for model in models]
    columns = len(ratios) if apart else min(MOST_COLUMNS, len(models))
    width = "icml-wide" if columns > 1 else "icml"
    figure, panels = style.grid(len(shown), columns, width=width, head=0.6, each=2.0, sharey=True)
    for place, (panel, (model, ratio)) in enumerate(zip(panels, shown, strict=True)):
        rows = won[(won["model"] == model) & (won["ratio"].eq(ratio) if apart else True)]
        panel.set_visible(not rows.empty)  # a ratio at which this model was not recovered
        _gains(panel, rows, recipes, named=not apart)
        _gains(panel, alone[alone["model"] == model], recipes, named=False)
        panel.set_title(f"{model}, r = {ratio:g}" if apart else model)
        panel.set_xlim(0, (1.05 if apart else 1.22) * 1e-6 * won["recovery_tokens"].max())
        panel.axhline(0, color=style.BLACK, lw=0.6)
        if not any(left.get_visible() for left in panels[place - place % columns : place]):
            panel.set_ylabel("loss won back (%)")
            panel.tick_params(labelleft=True)
        panel.set_xlabel("recovery D (M tokens)")
    return _recovery_drawing(figure, won, alone, recipes, columns=2 * columns)


def _recovery_drawing(
    figure: Figure, won: pd.DataFrame, alone: pd.DataFrame, recipes: list[str], *, columns: int, marker: str | None = None
) -> Drawing:
    """The figure with its legend, and its numbers; `marker` of the whole model, where it has another than elsewhere."""
    handles = style.method_handles(won["method"])
    whole = style.style_of(DENSE) | ({} if marker is None else {"marker": marker})
    handles += [style.handle("the whole model, trained alike", ms=4, **whole)] if len(alone) else []
    dashes = RECIPES if len(recipes) > 1 else ()
    handles += [style.handle(recipe, color=style.BLACK, ls=ls, lw=1) for recipe, ls in zip(recipes, dashes, strict=False)]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=3.2)
    return Drawing("paper_recovery", figure, pd.concat([won, alone.reindex(columns=won.columns)], ignore_index=True))


def _gains_over_ratios(laws: Laws, won: pd.DataFrame, alone: pd.DataFrame) -> Drawing:
    """Share of the loss won back against what was removed: a line per method and recipe; rows of models, columns of budgets."""
    axis, recipes = style.leading_axis(laws.points.rows), sorted(set(won["recovery"]))
    removed = laws.points.rows.groupby(["model", "method", "ratio"])[axis].mean().rename("removed")
    won = won.join(removed, on=["model", "method", "ratio"])
    budgets = sorted(set(won["recovery_tokens"]))
    shown = [(model, budget) for model in laws.points.by_size(set(won["model"])) for budget in budgets]
    width = "icml-wide" if len(budgets) > 1 else "icml"
    figure, panels = style.grid(len(shown), len(budgets), width=width, head=0.6, each=2.0, sharey=True)
    for place, (panel, (model, budget)) in enumerate(zip(panels, shown, strict=True)):
        rows, whole = (frame[(frame["model"] == model) & (frame["recovery_tokens"] == budget)] for frame in (won, alone))
        panel.set_visible(not rows.empty)  # a budget that this model was not trained with
        for (method, recipe), part in rows.sort_values("removed").groupby(["method", "recovery"]):
            look = style.style_of(method) | _dashes(recipe, recipes)
            panel.errorbar(part["removed"], 100 * part["gain"], 100 * part["stderr"].fillna(0), ms=3.5, elinewidth=0.6, **look)
        for recipe, gain in whole[["recovery", "gain"]].itertuples(index=False):
            panel.axhline(100 * gain, color=style.BLACK, lw=1.1, **_dashes(recipe, recipes))
        panel.axhline(0, color=style.BLACK, lw=0.6)
        panel.set_title(f"{model}, {tokens_text(budget)}")
        style.removed_axis(panel, axis, won["removed"])
        if place % len(budgets) == 0:
            panel.set_ylabel("loss won back (%)")
    return _recovery_drawing(figure, won, alone, recipes, columns=MOST_COLUMNS, marker="")


def _dashes(recipe: str, recipes: list[str]) -> dict[str, Any]:
    """The dashes of a recipe; none of its own where there is one only."""
    return {"ls": RECIPES[recipes.index(recipe) % len(RECIPES)]} if len(recipes) > 1 else {}


def _gains(panel: Axes, rows: pd.DataFrame, recipes: list[str], *, named: bool) -> None:
    """Lines from no recovery on; `named`: their ratio at the end, where names that would lie on each other move apart."""
    ends = []
    for (method, ratio, recipe), part in rows.sort_values("recovery_tokens").groupby(["method", "ratio", "recovery"]):
        x, y = np.append(0, part["recovery_tokens"] / 1e6), np.append(0, 100 * part["gain"])
        error = np.append(0, 100 * part["stderr"].fillna(0))
        panel.errorbar(x, y, error, ms=3.5, elinewidth=0.6, **style.style_of(method) | _dashes(recipe, recipes))
        ends.append((y[-1], x[-1], ratio, style.colour(method)))
    step, last = max(1e-9, 100 * rows["gain"].abs().max() / 12), -np.inf
    for y, x, ratio, ink in sorted(ends) if named else ():
        last = max(y, last + step)
        text: Any = {"color": ink, "fontsize": 6, "va": "center"}
        panel.annotate(f"r = {ratio:g}", (x, last), xytext=(5, 0), textcoords="offset points", **text)
