"""Figures of curves and laws: through points, foretold against measured, which form errs least, what fits rest on."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullLocator

from claw.errors import InputError, unknown
from claw.figures import style as looks
from claw.figures.style import Drawing, Style
from claw.laws import CurveKey, CurveLaw, Laws, catalogue, curves, outside
from claw.laws.diagnostics import diagnose
from claw.laws.fitted import POOLED
from claw.laws.points import RESPONSES, Points, is_dense
from claw.laws.reading import Reading
from claw.specs.methods import is_control

TICKS = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50)
GRID = 61
WIDELY = 3  # losses that differ by this factor are drawn on a log scale
FEW, PRINTED = 3, {"confidence": 0.15}  # curves that have room for two bands each; bands in print
BEYOND = 0.1  # how far the screen shows a curve beyond its points
MORE_RATIOS = "run a study with ratios above 0, such as params/quickstart.yaml."
EVALUATION = {"loss": "{heldout: wikipedia-heldout}", "accuracy": "{tasks: [arc_easy, hellaswag, piqa]}"}
"""What a study needs so that a response is measured."""
TENTH = 0.1
SPLITS = {"model": "models left out", "ratio": "from r ≤ 0.5 to r > 0.5"}


@looks.paper()
def law_curves(
    laws: Laws, response: str = "loss", *, axis: str | None = None, tokens: float = 0, style: Style = "screen", form: str = ""
) -> Drawing:
    """Points, the curves through them and their bands at one recovery budget; a panel per model, from small to large.

    On the screen: against the share of all parameters where the table has it, else the methods' own ratio, with the band of a
    new run (light) around the confidence band, and beyond the measured range dashes, where the law of a curve goes on; many
    curves have only their confidence bands, controls none. On paper: against every axis of the table, a row each, loss on a
    logarithmic scale, a marker and dashes for each method. `axis` picks one axis. `form` draws laws of this name instead of
    curves through the points, such as quadratic, the original paper's claim, with its own bands.
    InputError: a response, axis or form that the table does not have, nothing to draw.
    """
    points, paper = laws.points, style == "paper"
    axes = (axis,) if axis else points.axes[::-1] if paper else (points.leading_axis,)
    for kind, name, accepted in (("response", response, RESPONSES), ("axis", axes[0], points.axes)):
        if name not in accepted:
            raise unknown(kind, name, accepted)
    if response not in points.responses:
        raise InputError(
            f"No {response} was measured: put `evaluation: {EVALUATION[response]}` into the study and `claw run` it again."
        )
    measured = {axis: list(_measured(points, response, axis, tokens)) for axis in axes}
    if form:
        catalogue.find_form(form)
    fitted = {axis: {one.curve: one for one in _drawn_curves(laws, response, axis, form)} for axis in axes}
    drawn = {curve for curve, _ in measured[axes[0]]}
    faces = {name: looks.style_of(name) for name in sorted({curve.method for curve in drawn})}
    if not paper:  # where dashes mean extrapolation
        faces = {name: face | {"ls": looks.line(name)} for name, face in faces.items()}
    if not paper and drawn.isdisjoint(fitted[axes[0]]):
        missing = f"No {form or 'curve'} of {response} against {axes[0]} with {tokens:g} recovery tokens is there to draw"
        raise InputError(f"{missing}; laws.unfitted says why.")
    if not drawn:
        raise InputError(f"No compressed model has a {response}: {MORE_RATIOS}")
    models = points.by_size({curve.model for curve in drawn})
    columns = min(4 if paper else 3, len(models))
    blocks = math.ceil(len(models) / columns)
    each = 1.75 * len(axes) if paper else 2.0 if columns > 1 else 3.0
    figure = looks.figure("icml-wide", 0.75 + each * blocks)
    panels = figure.subplots(len(axes) * blocks, columns, squeeze=False)
    numbers = []
    for number, model in enumerate(models):
        block, column = divmod(number, columns)
        dense = points.dense_row(model)
        for row, axis in enumerate(axes):
            panel = panels[block * len(axes) + row, column]
            own = [(curve, rows) for curve, rows in measured[axis] if curve.model == model]
            values = pd.concat([rows["mean"] for _, rows in own or measured[axis]])
            for curve, rows in own:
                band = _band(laws, fitted[axis].get(curve), beyond=0 if paper else BEYOND)
                kinds = PRINTED if paper else _kinds(curve.method, len(own))
                span = np.ptp(values) / max(1.0, len(own) / FEW)
                parts = _draw(panel, rows, band, faces[curve.method], kinds, span=span, paper=paper)
                numbers += [part.assign(axis=axis, model=curve.model, method=curve.method) for part in parts]
            panel.axhline(dense[f"{response}0"], color=looks.BLACK, lw=0.7, ls=":", zorder=1)
            removed = pd.concat([rows["ratio"] for _, rows in own or measured[axis]])
            looks.removed_axis(panel, axis, removed, narrow=columns > 3)
            if paper and response == "accuracy":  # one scale, for comparison
                values = pd.concat([rows["mean"] for _, rows in measured[axis]])
            _limit(panel, response, values, paper=paper)
        panels[block * len(axes), column].set_title(model if paper else f"{model} ({dense['family']})")
    for panel in panels[:, 0]:
        panel.set_ylabel(looks.label(response).removeprefix("held-out "))
    for panel in panels[-len(axes) :, len(models) - (blocks - 1) * columns :].flat:
        panel.set_visible(False)
    _legend(figure, faces, laws.level, paper=paper)
    name = f"paper_{response}" if paper else f"{response}_by_{axes[0]}" + (f"_{tokens:g}" if tokens else "")
    name += f"_{form}" if form else ""
    return Drawing(name, figure, pd.concat(numbers, ignore_index=True))


def _measured(points: Points, response: str, axis: str, tokens: float) -> Iterator[tuple[CurveKey, pd.DataFrame]]:
    """Each curve with what was measured on it, the dense model included: columns ratio, mean, stderr, seed, dense."""
    for curve, rows in curves.split(points, response, axis):
        if curve.tokens == tokens:
            measured = {"ratio": rows[axis], "mean": rows[response], "stderr": rows.get(f"{response}_stderr")}
            frame = pd.DataFrame(measured | {"seed": rows["seed"], "dense": is_dense(rows)})
            yield curve, frame.sort_values(["ratio", "seed"])


def _drawn_curves(laws: Laws, response: str, axis: str, form: str) -> Sequence[CurveLaw | Reading]:
    """Laws of a form, or without one what is read off the measured points."""
    if not form:
        return [one for one in laws.readings(response, axis) if len(one.points) > 1]
    return [law for law in laws.curves if (law.response, law.axis, law.form) == (response, axis, form)]


def _band(laws: Laws, one: CurveLaw | Reading | None, beyond: float) -> pd.DataFrame | None:
    """What a curve says from 0 to its largest ratio, at its points too, and so far beyond."""
    if one is None:
        return None
    grid = np.linspace(max(one.low, 0.0), max(one.high, 0.0), GRID)
    far = np.linspace(one.high, min(0.99, one.high + beyond), 11)[1:] if beyond else np.empty(0)
    if isinstance(one, CurveLaw):
        return one.predict(np.append(grid, far))
    r = np.union1d(grid, one.points["ratio"].clip(lower=0))
    if one.curve not in {law.curve for law in laws.curves_of(one.response, one.axis)}:
        return one.predict(r)
    key = one.curve
    return laws.predict(np.append(r, far), key.model, key.method, key.tokens, one.response, axis=one.axis, **key.apart)


def _draw(
    panel: Axes,
    rows: pd.DataFrame,
    band: pd.DataFrame | None,
    face: dict[str, Any],
    kinds: dict[str, float],
    *,
    span: float,
    paper: bool,
) -> list[pd.DataFrame]:
    """Draw one curve and its band, where there is one; the numbers drawn.

    On paper a band wider than `span`, a part of the measured range, is left to the numbers: it would only hide the others.
    """
    rows = rows[~rows["dense"]] if paper else rows
    for dense, part in rows.groupby("dense"):
        dots = (looks.style_of("dense") if dense else face) | {"ls": ""}
        panel.errorbar(part["ratio"], part["mean"], part["stderr"].fillna(0), **dots, ms=3, elinewidth=0.6, zorder=3)
    numbers = [rows.drop(columns="dense").assign(kind="measured")]
    if band is None:
        return numbers
    inside = band[~band["extrapolated"]]
    outside = pd.concat([inside.tail(1), band[band["extrapolated"]]])
    if not paper or (inside["confidence_high"] - inside["confidence_low"]).median() <= span:
        for kind, alpha in kinds.items():
            low, high = inside[f"{kind}_low"], inside[f"{kind}_high"]
            panel.fill_between(inside["ratio"], low, high, color=face["color"], alpha=alpha, lw=0)
    panel.plot(inside["ratio"], inside["mean"], color=face["color"], ls=face["ls"])
    columns = ["ratio", "mean", "confidence_low", "confidence_high"]
    if not paper:
        panel.plot(outside["ratio"], outside["mean"], color=face["color"], ls=looks.EXTRAPOLATED)
        columns += ["run_low", "run_high", "extrapolated"]
    return [*numbers, band[columns].assign(kind="curve")]


def _kinds(method: str, curves: int) -> dict[str, float]:
    """Bands of a curve among so many in a panel, with their opacity: what lies on top of each other is only mud."""
    return (
        {}
        if is_control(method) and curves > 1
        else {"run": 0.08, "confidence": 0.25}
        if curves <= FEW
        else {"confidence": 0.12}
    )


def _limit(panel: Axes, response: str, measured: pd.Series, *, paper: bool) -> None:
    """Limits of the scale: the measured range, whatever bands do; loss on paper, and where it differs widely, in logarithms."""
    low, high = measured.min(), measured.max()
    if response == "accuracy":
        panel.set_ylim(max(0.0, low - 0.05), min(1.0, high + 0.05))
    elif not paper and high < WIDELY * low:
        panel.set_ylim(max(0.0, low - 0.15 * (high - low)), high + 0.15 * (high - low))
    else:
        panel.set(yscale="log", ylim=(0.93 * low, 1.1 * high))
        looks.plain_log(FixedLocator([tick for tick in TICKS if 0.93 * low <= tick <= 1.1 * high]), panel.yaxis)
        panel.yaxis.set_minor_locator(NullLocator())


def _legend(figure: Figure, faces: dict[str, dict[str, Any]], level: float, *, paper: bool) -> None:
    handles: list[Artist] = [looks.handle(name, ms=4, **face) for name, face in faces.items()]
    handles.append(Patch(color=looks.GREY, alpha=0.3 if paper else 0.45, lw=0, label=f"{level:.0%} confidence"))
    if not paper:
        handles.append(Patch(color=looks.GREY, alpha=0.15, lw=0, label=f"{level:.0%} new run"))
        handles.append(looks.handle("extrapolated", color=looks.GREY, ls=looks.EXTRAPOLATED))
    handles.append(looks.handle("dense", color=looks.BLACK, lw=0.7, ls=":"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5 if paper else 4, handlelength=3.2)


@looks.paper()
def out_of_sample(laws: Laws, response: str = "loss", *, style: Style = "screen", width: str | float = "icml-wide") -> Drawing:
    """Error of each form on models left out, and beyond r = 0.5; ours filled, the original in black, one standard error."""
    shown = {}
    for split in SPLITS:
        table = laws.comparisons.get(f"{response}|{split}|method", laws.comparisons.get(f"{response}|{split}|all"))
        if table is not None:
            shown[split] = table[table["error"].notna()]
    if not shown:
        raise InputError(
            f"No form of {response} could be judged out of sample: that takes two models, or ratios above 0.5. Add models or "
            "larger ratios to the study and `claw run` it again."
        )
    names = [*(form.name for form in catalogue.OWN), "combination"]
    faces = {"original": (looks.BLACK, "s")} | dict.fromkeys(names, (looks.COLOURS["claw"], "D"))
    figure, panels = looks.grid(len(shown), width=width, head=0.7, each=0.17 * max(map(len, shown.values())))
    for panel, (split, frame) in zip(panels, shown.items(), strict=True):
        frame = frame.sort_values("error", ascending=False, ignore_index=True)
        for height, row in enumerate(frame.itertuples()):
            ink, kind = faces.get(row.form, (looks.GREY, "o"))
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
        raise InputError("No loss was measured, so there is no law of it to check: `claw run params/quickstart.yaml`.")
    for by in ("method", "all"):
        try:
            frame, _ = outside.relative_predictions(points, "loss", "model", by=by)
        except InputError:
            continue
        forms = frame.drop(columns=["row", "model", "method", "recovery_tokens", "ratio", "fold", "y"])
        common = forms.loc[:, forms.notna().mean() > 0.5].dropna()
        if common.empty:
            continue
        judged = common.drop(columns=[name for name in catalogue.UNIT_BOUND if name in common])
        errors = (judged - 1).abs().groupby(frame.loc[common.index, "model"]).mean().mean()
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
        raise InputError(f"No compressed model has a loss: {MORE_RATIOS}")
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
    middle.plot(*[[rows["normal"].min(), rows["normal"].max()]] * 2, color=looks.BLACK, lw=0.6)
    left.set(xlabel=looks.AXIS_LABELS["ratio"], ylabel="standardised residual")
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
        panel.plot(part["in_stderr"], [names.index(gone) for gone in part["without"]], "s" if number else "o", label=name)
    panel.axvline(0, color=looks.BLACK, lw=0.6)
    panel.set_yticks(range(len(names)), names, fontsize=6)
    panel.set(xlabel="change (standard errors)")
    if len(influence):
        panel.legend(loc="best")
