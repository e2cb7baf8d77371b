"""Figures of laws: every curve with its points, its law and its bands."""

import math

import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, NullFormatter

from claw.errors import InputError
from claw.figures import style
from claw.figures.style import Drawing
from claw.laws import Laws, catalogue, curves
from claw.laws import diagnostics as checks
from claw.laws.fitted import POOLED
from claw.laws.points import AXES, RESPONSES

LABELS = {"loss": "held-out loss (nats/token)", "accuracy": "accuracy"}
GRID = 101


def label(response: str) -> str:
    """Axis label of a response."""
    return LABELS.get(response) or f"{response.removeprefix('speedup').replace('_', ' ').strip()} speed-up over dense".strip()


def small_multiples(
    laws: Laws,
    response: str = "loss",
    axis: str = "ratio",
    tokens: float = 0,
    columns: int = 3,
    width: str | float = "icml-wide",
) -> Drawing:
    """One panel per model: points, law, confidence band (dark) and new-run band (light); dashed beyond the fitted range."""
    if response not in RESPONSES or axis not in AXES:
        raise InputError(
            f"response is one of {', '.join(RESPONSES)} and axis one of {', '.join(AXES)}; {response}, {axis} given."
        )
    shown = [
        law
        for law in laws.curves
        if (law.response, law.axis, law.form, law.curve.tokens) == (response, axis, curves.DEFAULT[response], tokens)
    ]
    if not shown:
        raise InputError(
            f"No law of {response} against {axis} with {tokens:g} recovery tokens was fitted; laws.unfitted says why."
        )
    models = sorted({law.curve.model for law in shown})
    families = laws.points.rows.drop_duplicates("model").set_index("model")["family"]
    columns = min(columns, len(models))
    rows = math.ceil(len(models) / columns)
    numbers = []
    with style.paper():
        figure = style.figure(width, 0.55 + 2.0 * rows)
        panels = figure.subplots(rows, columns, sharex=True, squeeze=False)
        for panel, model in zip(panels.flat, models, strict=False):
            for law in (law for law in shown if law.curve.model == model):
                numbers.append(_curve(panel, laws, law, style.marker(families[model])))
            panel.set_title(f"{model} ({families[model]})")
            dense = next(law.dense for law in shown if law.curve.model == model)
            if math.isfinite(dense):
                panel.axhline(dense, color=style.BLACK, lw=0.7, ls=":", zorder=1)
            panel.set_xlim(-0.02, 1.0)
            low, high = panel.get_ylim()
            panel.set_ylim(
                max(0.0, low), min(1.0, high) if response == "accuracy" else high
            )  # bands know no bounds, the scale does
        for panel in list(panels.flat)[len(models) :]:
            panel.set_visible(False)
        for panel in list(panels.flat)[max(0, len(models) - columns) : len(models)]:  # the last of each column
            panel.tick_params(labelbottom=True)
            panel.set_xlabel("fraction removed r" if axis == "ratio" else "share of parameters removed")
        for panel in panels[:, 0]:
            panel.set_ylabel(LABELS[response])
        _legend(figure, sorted({law.curve.method for law in shown}), laws.level)
    return Drawing(f"{response}_by_{axis}" + (f"_{tokens:g}" if tokens else ""), figure, pd.concat(numbers, ignore_index=True))


def _curve(panel, laws: Laws, law: curves.CurveLaw, marker: str) -> pd.DataFrame:
    """Draw one curve; the numbers drawn."""
    method = law.curve.method
    colour = style.colour(method)
    grid = np.linspace(0, min(0.99, law.high + 0.1), GRID)
    band = law.predict(np.union1d(grid, [law.low, law.high]))
    inside, beyond = band[band["ratio"] <= law.high], band[band["ratio"] >= law.high]
    panel.fill_between(inside["ratio"], inside["run_low"], inside["run_high"], color=colour, alpha=0.08, lw=0)
    panel.fill_between(inside["ratio"], inside["confidence_low"], inside["confidence_high"], color=colour, alpha=0.25, lw=0)
    panel.plot(inside["ratio"], inside["mean"], color=colour, ls=style.line(method))
    panel.plot(beyond["ratio"], beyond["mean"], color=colour, ls=style.EXTRAPOLATED)
    points = laws.measured(law)
    filled = colour if "+" not in method else "white"
    for kind, ink, face in (("cut", colour, filled), ("dense", style.BLACK, style.BLACK)):
        drawn = points[(points["ratio"] == 0) == (kind == "dense")]
        error = drawn["stderr"].fillna(0)
        panel.errorbar(drawn["ratio"], drawn["value"], error, fmt=marker, color=ink, mfc=face, lw=0.6, zorder=3)
    named = {"model": law.curve.model, "method": method, "recovery_tokens": law.curve.tokens}
    measured = points.rename(columns={"value": "mean"}).assign(kind="measured", **named)
    return pd.concat([band.assign(kind="law", **named), measured], ignore_index=True)


def _legend(figure, methods: list[str], level: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    grey = style.COLOURS["random"]
    handles = [Line2D([], [], color=style.colour(m), ls=style.line(m), label=m) for m in methods]
    handles += [
        Patch(color=grey, alpha=0.45, lw=0, label=f"{level:.0%} confidence (the law's)"),
        Patch(color=grey, alpha=0.15, lw=0, label=f"{level:.0%} new run"),
        Line2D([], [], color=grey, ls=style.EXTRAPOLATED, label="extrapolated"),
        Line2D([], [], color=style.BLACK, lw=0.7, ls=":", label="dense"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)


def diagnostics(laws: Laws, response: str = "loss", width: str | float = "icml-wide") -> Drawing:
    """Three panels on the default law across curves: residuals by ratio, QQ, and each parameter without each model.

    The title holds p-values of heteroscedasticity (Breusch-Pagan) and normality, and the condition number.
    """
    form = next(form for group in ("cross", "retention") for form in catalogue.GROUPS[group] if form.name == POOLED[response])
    found = checks.diagnose(laws.points, form, response)
    rows, influence = found.residuals, found.influence
    with style.paper():
        figure = style.figure(width, 2.6)
        left, middle, right = figure.subplots(1, 3, gridspec_kw={"width_ratios": [1, 1, 1.2]})
        for (method, family), part in rows.groupby(["method", "family"], sort=True):
            look = {"color": style.colour(method), "marker": style.marker(family), "ls": "", "ms": 2.5}
            left.plot(part["ratio"], part["standardised"], label=f"{method} ({family})", **look)
            middle.plot(part["normal"], part["standardised"], **look)
        left.axhline(0, color=style.BLACK, lw=0.6)
        ends = [rows["normal"].min(), rows["normal"].max()]
        middle.plot(ends, ends, color=style.BLACK, lw=0.6)
        left.set(xlabel="fraction removed r", ylabel="standardised residual")
        middle.set(xlabel="normal quantile", ylabel="standardised residual")
        _influence(right, influence)
        tests = found.tests
        figure.suptitle(
            f"{form.name} law of {response}: Breusch-Pagan p = {tests['breusch_pagan_p']:.2g}, Jarque-Bera p = "
            f"{tests['jarque_bera_p']:.2g}, condition number {tests['condition_number']:.1f}", fontsize=8,
        )  # fmt: skip
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    numbers = pd.concat([rows.assign(kind="residual"), influence.assign(kind="influence")], ignore_index=True)
    return Drawing(f"diagnostics_{response}", figure, numbers)


def _influence(panel, influence: pd.DataFrame) -> None:
    """How far each parameter moves, in standard errors, when a model (or curve, or run) is left out."""
    names = sorted(set(influence["without"]))
    for parameter, part in influence.groupby("coefficient", sort=False):
        height = [names.index(name) for name in part["without"]]
        panel.plot(part["in_stderr"], height, "o" if parameter == influence["coefficient"].iloc[0] else "s", label=parameter)
    panel.axvline(0, color=style.BLACK, lw=0.6)
    panel.set_yticks(range(len(names)), names, fontsize=6)
    panel.set(xlabel="change (standard errors)")
    if len(influence):
        panel.legend(loc="best")


def out_of_sample(laws: Laws, response: str = "loss", width: str | float = "icml-wide") -> Drawing:
    """Error of each form on models left out, and beyond r = 0.5; ours filled, the original in black, one standard error."""
    names = {"model": "models left out", "ratio": "from r ≤ 0.5 to r > 0.5"}
    by = {
        split: next((way for way in ("method", "all") if f"{response}|{split}|{way}" in laws.comparisons), "")
        for split in names
    }
    shown = {split: laws.comparisons.get(f"{response}|{split}|{way}") for split, way in by.items()}
    shown = {split: frame[frame["error"].notna()] for split, frame in shown.items() if frame is not None}
    if not shown:
        raise InputError(f"No form of {response} could be judged out of sample: that takes two models, or ratios above 0.5.")
    own = {form.name for form in catalogue.OWN} | {"combination"}
    with style.paper():
        figure = style.figure(width, 0.7 + 0.17 * max(map(len, shown.values())))
        for panel, (split, frame) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
            frame = frame.sort_values("error", ascending=False, ignore_index=True)
            for i, one in frame.iterrows():
                ink = style.COLOURS["claw"] if one["form"] in own else style.COLOURS["random"]
                ink = style.BLACK if one["form"] == "original" else ink
                kind = "D" if one["form"] in own else "s" if one["form"] == "original" else "o"
                panel.errorbar(100 * one["error"], i, xerr=100 * np.nan_to_num(one["stderr"]), fmt=kind, color=ink)
            panel.set_yticks(range(len(frame)), frame["form"] + np.where(frame["chosen"], " ←", ""), fontsize=6)
            panel.set(xlabel="absolute relative error (%)", title=names[split])
            panel.set_xscale("log")
            panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.xaxis.set_major_formatter("{x:g}")
            panel.xaxis.set_minor_formatter(NullFormatter())
    numbers = pd.concat([frame.assign(split=split) for split, frame in shown.items()], ignore_index=True)
    return Drawing(f"out_of_sample_{response}", figure, numbers)
