"""Figures of the laws across models: predicted against measured, which form errs least, and whether a fit can be trusted."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from claw.errors import InputError
from claw.figures import style as looks
from claw.figures.style import Drawing, Style
from claw.laws import Laws, catalogue, outside
from claw.laws.diagnostics import diagnose
from claw.laws.fitted import POOLED

TENTH = 0.1
SPLITS = {"model": "models left out", "ratio": "from r ≤ 0.5 to r > 0.5"}


@looks.paper()
def out_of_sample(laws: Laws, response: str = "loss", *, style: Style = "screen", width: str | float = "icml-wide") -> Drawing:
    """Error of each form on models left out, and beyond r = 0.5; ours filled, the original in black, one standard error."""
    shown = {}
    for split in SPLITS:
        by_method, by_all = (laws.comparisons.get(f"{response}|{split}|{by}") for by in ("method", "all"))
        table = by_all if by_method is None else by_method
        if table is not None:
            shown[split] = table[table["error"].notna()]
    if not shown:
        raise InputError(
            f"No form of {response} could be judged out of sample: that takes two models, or ratios above 0.5. Add models or "
            "larger ratios to the study and `claw run` it again."
        )
    own = {form.name for form in catalogue.OWN} | {"combination"}
    figure, panels = looks.grid(len(shown), width=width, head=0.7, each=0.17 * max(map(len, shown.values())))
    for panel, (split, frame) in zip(panels, shown.items(), strict=True):
        frame = frame.sort_values("error", ascending=False, ignore_index=True)
        for height, row in enumerate(frame.itertuples()):
            ink, kind = (looks.BLACK, "s") if row.form == "original" else (looks.GREY, "o")
            if row.form in own:
                ink, kind = looks.COLOURS["claw"], "D"
            panel.errorbar(100 * row.error, height, xerr=100 * np.nan_to_num(row.stderr), fmt=kind, color=ink)
        panel.set_yticks(range(len(frame)), frame["form"] + np.where(frame["chosen"], " ←", ""), fontsize=6)
        panel.set(xlabel="absolute relative error (%)", title=SPLITS[split], xscale="log")
        looks.plain_log((1, 2, 5), panel.xaxis)
    numbers = pd.concat([frame.assign(split=split) for split, frame in shown.items()], ignore_index=True)
    return Drawing("paper_forms" if style == "paper" else f"out_of_sample_{response}", figure, numbers)


@looks.paper()
def leave_one_out(laws: Laws) -> Drawing:
    """Loss predicted by laws fitted to the other models, against the loss measured: the original form and the best one.

    With one model only, the law of each method against the points it was fitted to, which the title says.
    """
    shown = _predictions(laws)
    numbers = pd.concat([frame.assign(form=form) for form, frame in shown.items()], ignore_index=True)
    low, high = 0.93 * numbers[["loss", "predicted"]].min().min(), 1.08 * numbers[["loss", "predicted"]].max().max()
    figure, panels = looks.grid(len(shown), width=1.0 + 2.5 * len(shown), each=3.6, sharex=True, sharey=True)
    for panel, (form, frame) in zip(panels, shown.items(), strict=True):
        for method, rows in frame.groupby("method", sort=True):
            panel.plot(rows["loss"], rows["predicted"], ms=3.5, **looks.style_of(method) | {"ls": ""})
        line = np.array([low, high])
        panel.plot(line, line, color=looks.BLACK, lw=0.7)
        panel.fill_between(line, line * (1 - TENTH), line * (1 + TENTH), color=looks.GREY, alpha=0.2, lw=0)
        error = (frame["predicted"] / frame["loss"] - 1).abs().groupby(frame["model"]).mean().mean()
        panel.set_title(f"{form}: mean error {error:.1%}")
        panel.set(xlabel="measured loss (nats/token)", xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
        looks.plain_log((1, 2, 3, 5, 7), panel.xaxis, panel.yaxis)
    where = "law fitted without this model" if numbers["fold"].ne("").all() else "law fitted to these points"
    panels[0].set_ylabel(f"predicted loss, {where}")
    within = Patch(color=looks.GREY, alpha=0.3, lw=0, label="within 10 %")
    handles = [*looks.method_handles(numbers["method"], ls=""), within]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, columnspacing=1.2, handletextpad=0.3)
    return Drawing("paper_left_out", figure, numbers)


def _predictions(laws: Laws) -> dict[str, pd.DataFrame]:
    """By form, frames of model, method, ratio, fold, loss, predicted: of the original form and of the best other."""
    points = laws.points
    if "loss" not in points.responses:
        raise InputError(
            "No loss was measured, so there is no law of it to check: run a study with `claw run params/quickstart.yaml`."
        )
    for by in ("method", "all"):
        try:
            frame, _ = outside.relative_predictions(points, "loss", "model", by=by)
        except InputError:
            continue
        forms = frame.drop(columns=["row", "model", "method", "recovery_tokens", "ratio", "fold", "y"])
        common = forms.loc[:, forms.notna().mean() > 0.5].dropna()
        if common.empty:
            continue
        errors = (common - 1).abs().groupby(frame.loc[common.index, "model"]).mean().mean()
        original = next((name for name in outside.ORIGINAL if name in errors), errors.index[0])
        kept = frame.loc[common.index].merge(points.rows[["row", "loss"]], on="row")
        chosen = dict.fromkeys((original, errors.drop(original).idxmin() if len(errors) > 1 else original))
        base = kept[["model", "method", "ratio", "fold", "loss"]]
        return {name: base.assign(predicted=kept["loss"] * kept[name]) for name in chosen}
    return {f"{POOLED['loss']}, fitted here": _within(laws)}


def _within(laws: Laws) -> pd.DataFrame:
    """Predictions of the default law across curves at the points it was fitted to."""
    parts = []
    for (model, method), own in laws.points.of("loss", recovered=False).groupby(["model", "method"]):
        try:
            band = laws.predict(own["ratio"].to_numpy(), model, method, response="loss", law=POOLED["loss"])
        except InputError as error:
            raise InputError(f"There is no law across curves to check yet: {error}") from error
        parts.append(own[["model", "method", "ratio", "loss"]].assign(fold="", predicted=band["mean"].to_numpy()))
    if not parts:
        raise InputError("No compressed model has a loss: run a study with ratios above 0, such as params/quickstart.yaml.")
    return pd.concat(parts, ignore_index=True)


@looks.paper()
def diagnostic_panels(laws: Laws, response: str = "loss", *, width: str | float = "icml-wide") -> Drawing:
    """Three panels on the default law across curves: residuals by ratio, QQ, and each coefficient without each model.

    The title holds p-values of heteroscedasticity (Breusch-Pagan) and normality (Jarque-Bera), and the condition number.
    """
    form = catalogue.find_form(POOLED[response], "cross" if response == "loss" else "retention")
    diagnostics = diagnose(laws.points, form, response)
    rows, influence, tests = diagnostics.residuals, diagnostics.influence, diagnostics.tests
    figure, (left, middle, right) = looks.grid(3, width=width, each=2.6, width_ratios=(1, 1, 1.2))
    for (method, family), part in rows.groupby(["method", "family"], sort=True):
        look: dict[str, Any] = {"color": looks.colour(method), "marker": looks.marker(family), "ls": "", "ms": 2.5}
        left.plot(part["ratio"], part["standardised"], label=f"{method} ({family})", **look)
        middle.plot(part["normal"], part["standardised"], **look)
    left.axhline(0, color=looks.BLACK, lw=0.6)
    ends = [rows["normal"].min(), rows["normal"].max()]
    middle.plot(ends, ends, color=looks.BLACK, lw=0.6)
    left.set(xlabel="fraction removed r", ylabel="standardised residual")
    middle.set(xlabel="normal quantile", ylabel="standardised residual")
    _influence(right, influence)
    title = (
        f"{form.name} law of {response}: Breusch-Pagan p = {tests['breusch_pagan_p']:.2g}, "
        f"Jarque-Bera p = {tests['jarque_bera_p']:.2g}, condition number {tests['condition_number']:.1f}"
    )
    figure.suptitle(title, fontsize=8)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    numbers = pd.concat([rows.assign(kind="residual"), influence.assign(kind="influence")], ignore_index=True)
    return Drawing(f"diagnostics_{response}", figure, numbers)


def _influence(panel: Axes, influence: pd.DataFrame) -> None:
    """How far each coefficient moves, in standard errors, when a model (or curve, or run) is left out."""
    names = sorted(set(influence["without"]))
    for number, (name, part) in enumerate(influence.groupby("coefficient", sort=False)):
        height = [names.index(gone) for gone in part["without"]]
        panel.plot(part["in_stderr"], height, "s" if number else "o", label=name)
    panel.axvline(0, color=looks.BLACK, lw=0.6)
    panel.set_yticks(range(len(names)), names, fontsize=6)
    panel.set(xlabel="change (standard errors)")
    if len(influence):
        panel.legend(loc="best")
