"""Figures of a paper on the laws across models: predicted against measured, and which form errs least."""

import numpy as np
import pandas as pd
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter

from claw.errors import InputError
from claw.figures import laws as figures
from claw.figures import style
from claw.figures.paper_curves import marker_handles
from claw.figures.style import Drawing
from claw.laws import Laws, outside
from claw.laws.fitted import POOLED

TENTH = 0.1


def left_out(laws: Laws) -> Drawing:
    """Loss predicted by laws fitted to the other models, against the loss measured: the original form and the best one.

    With one model only, the law of each method against the points it was fitted to, which the title says.
    """
    shown = _predictions(laws)
    numbers = pd.concat([frame.assign(form=form) for form, frame in shown.items()], ignore_index=True)
    low, high = 0.93 * numbers[["loss", "predicted"]].min().min(), 1.08 * numbers[["loss", "predicted"]].max().max()
    with style.paper():
        figure = style.figure(1.0 + 2.5 * len(shown), 3.6)
        panels = figure.subplots(1, len(shown), squeeze=False, sharex=True, sharey=True)[0]
        for panel, (form, frame) in zip(panels, shown.items(), strict=True):
            for method, rows in frame.groupby("method", sort=True):
                panel.plot(rows["loss"], rows["predicted"], ms=3.5, **style.style_of(method) | {"ls": ""})
            line = np.array([low, high])
            panel.plot(line, line, color=style.BLACK, lw=0.7)
            panel.fill_between(line, line * (1 - TENTH), line * (1 + TENTH), color=style.COLOURS["random"], alpha=0.2, lw=0)
            error = (frame["predicted"] / frame["loss"] - 1).abs().groupby(frame["model"]).mean().mean()
            panel.set_title(f"{form}: mean error {error:.1%}")
            panel.set(xlabel="measured loss (nats/token)", xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
            for axis in (panel.xaxis, panel.yaxis):
                axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter(NullFormatter())
        where = "law fitted without this model" if numbers["fold"].ne("").all() else "law fitted to these points"
        panels[0].set_ylabel(f"predicted loss, {where}")
        handles = marker_handles(sorted(set(numbers["method"])))
        handles.append(Patch(color=style.COLOURS["random"], alpha=0.3, lw=0, label="within 10 %"))
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
        names = [
            name for name in frame.columns if name not in ("row", "model", "method", "recovery_tokens", "ratio", "fold", "y")
        ]
        common = frame[names].loc[:, frame[names].notna().mean() > 0.5].dropna()
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
    rows = laws.points.of("loss")
    rows = rows[rows["recovery_tokens"] == 0]
    parts = []
    for (model, method), own in rows.groupby(["model", "method"]):
        try:
            found = laws.predict(own["ratio"].to_numpy(), model, method, response="loss", law=POOLED["loss"])
        except InputError as error:
            raise InputError(f"There is no law across curves to check yet: {error}") from error
        parts.append(own[["model", "method", "ratio", "loss"]].assign(fold="", predicted=found["mean"].to_numpy()))
    if not parts:
        raise InputError("No compressed model has a loss: run a study with ratios above 0, such as params/quickstart.yaml.")
    return pd.concat(parts, ignore_index=True)


def forms(laws: Laws) -> Drawing:
    """Error of every form of the law of loss out of sample; see `claw.figures.laws.out_of_sample`."""
    try:
        drawing = figures.out_of_sample(laws, "loss")
    except InputError as error:
        raise InputError(f"{error} Add models or larger ratios to the study and `claw run` it again.") from error
    return Drawing("paper_forms", drawing.figure, drawing.numbers)
