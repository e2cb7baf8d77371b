"""Figures of what compression buys: speed-up beside the ideal, loss against time, and advice against its costs."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from claw.advice.guide import AS_IS, Advice
from claw.errors import InputError, unknown
from claw.figures import style
from claw.figures.style import Drawing
from claw.laws import Laws
from claw.laws import speed_law as speeds
from claw.laws.points import is_dense, unrecovered
from claw.specs.budget import LIMITS
from claw.words import quantity

TO_MEASURE = "put `speed: {prompt: 256, generate: 32, batches: [1]}` into the study and `claw run` it again."
PHASES = {"speedup_prefill": "prefill", "speedup_decode": "decoding"}
SHARES = {
    "ratio_params": "share of parameters removed",
    "ratio_flops": "share of FLOPs removed",
    "ratio_nonembedding": "share removed without embedding",
    "ratio": "nominal ratio r",
}
LOG_TICKS = (1, 1.5, 2, 3, 5, 7)


@style.paper()
def speed_against_share(laws: Laws) -> Drawing:
    """Measured speed-up with its interval against the share truly removed, prefill and decoding; the ideal is 1/(1-share)."""
    phases = {name: phase for name, phase in PHASES.items() if name in speeds.responses(laws.points)}
    if not phases:
        raise InputError(f"No speed was measured: {TO_MEASURE}")
    rows = laws.points.rows[~is_dense(laws.points.rows)]
    numbers = []
    figure, panels = style.grid(len(phases), width="icml-wide" if len(phases) > 1 else "icml", each=3.1)
    for panel, (name, phase) in zip(panels, phases.items(), strict=True):
        axis = speeds.speed_axis(laws.points, name)
        timed = rows[np.isfinite(rows[name].astype(float))]
        for method, own in timed.groupby("method", sort=True):
            own = own.sort_values(axis)
            low, high = (own.get(f"{name}_{edge}", own[name]).fillna(own[name]) for edge in ("low", "high"))
            error = np.maximum([own[name] - low, high - own[name]], 0)
            panel.errorbar(own[axis], own[name], error, ms=3.5, elinewidth=0.6, **style.style_of(method) | {"ls": ""})
            ideal = own.get(name.replace("speedup", "ideal"))
            known = pd.DataFrame({"phase": phase, "axis": axis, "model": own["model"], "method": method})
            known = known.assign(share=own[axis], speedup=own[name], low=low, high=high, ideal=ideal, kind="measured")
            numbers.append(known)
        lines = _ideal_and_law(panel, laws, name, float(timed[axis].max()))
        numbers += [frame.assign(phase=phase, axis=axis) for frame in lines]
        panel.axhline(1, color=style.BLACK, ls=":", lw=0.7)
        panel.set(title=f"{phase}, batch 1", xlabel=SHARES[axis], yscale="log")
        style.plain_log(LOG_TICKS, panel.yaxis)
    panels[0].set_ylabel("times as fast as dense")
    handles = style.method_handles(rows.loc[rows[list(phases)].notna().any(axis=1), "method"], ls="")
    handles.append(style.handle("speed law", color=style.BLACK, lw=1.4))
    handles.append(style.handle("ideal", color=style.BLACK, lw=1.0, ls="--"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, columnspacing=1.5)
    return Drawing("paper_speed", figure, pd.concat(numbers, ignore_index=True))


def _ideal_and_law(panel: Axes, laws: Laws, response: str, high: float) -> list[pd.DataFrame]:
    """Draw 1/(1-share) and the speed law with its band; their numbers."""
    share = np.linspace(0, high, 61)
    ideal = pd.DataFrame({"share": share, "ideal": 1 / (1 - share), "kind": "ideal"})
    panel.plot(share, ideal["ideal"], color=style.BLACK, lw=1.0, ls="--")
    law = next((law for law in laws.pooled if law.response == response and law.form == "speed-power-one-size"), None)
    if law is None:
        return [ideal]
    band = law.predict(share, 1.0)
    band = band.rename(columns={"mean": "speedup", "confidence_low": "low", "confidence_high": "high"})
    panel.plot(share, band["speedup"], color=style.BLACK, lw=1.4)
    panel.fill_between(share, band["low"], band["high"], color=style.GREY, alpha=0.3, lw=0)
    return [ideal, band[["speedup", "low", "high"]].assign(share=share, kind="law")]


@style.paper()
def loss_against_time(laws: Laws) -> Drawing:
    """Loss against milliseconds per generated token, dense models among them; the grey line is what nothing else beats.

    Bits per byte where models have different tokenizers, whose losses per token do not compare.
    """
    points = laws.points
    rows = unrecovered(points.rows)
    if "milliseconds_decode" not in rows or rows["milliseconds_decode"].isna().all():
        raise InputError(f"No milliseconds were measured: {TO_MEASURE}")
    response, title = "loss", "loss (nats/token)"
    if not points.one_tokenizer and "bits_per_byte" in rows:
        response, title = "bits_per_byte", "loss (bits/byte)"
    timed = rows[rows["milliseconds_decode"].notna() & rows[response].notna()]
    timed = timed.assign(milliseconds=timed["milliseconds_decode"], value=timed[response])
    cut = timed.groupby(["model", "method", "ratio"], as_index=False)[["milliseconds", "value"]].mean()  # over seeds
    models = points.by_size(set(cut["model"]))
    dense = pd.DataFrame({"model": models, "method": "dense", "ratio": 0.0}).assign(
        milliseconds=timed.groupby("model")["milliseconds0_decode"].median()[models].to_numpy(),
        value=[points.dense_row(model)[f"{response}0"] for model in models],
    )
    every = pd.concat([dense, cut], ignore_index=True).sort_values(["milliseconds", "value"], ignore_index=True)
    every["frontier"] = every["value"] < every["value"].cummin().shift(fill_value=math.inf)
    figure, (panel,) = style.grid(1, width="neurips", each=3.5)
    for (method, _), own in cut.groupby(["method", "model"], sort=True):
        own = own.sort_values("ratio")
        panel.plot(own["milliseconds"], own["value"], ms=3, lw=0.8, **style.style_of(method))
    best = every[every["frontier"]]
    panel.plot(best["milliseconds"], best["value"], color=style.BLACK, lw=4, alpha=0.2, zorder=1)
    for row in dense.itertuples():
        here = (row.milliseconds, row.value)
        panel.plot(*here, "o", color=style.BLACK, ms=5, zorder=4)
        panel.annotate(row.model, here, xytext=(2, -5), textcoords="offset points", fontsize=6.5, ha="right", va="top")
    panel.set(xlabel="milliseconds per generated token, batch 1", ylabel=title, xscale="log", yscale="log")
    panel.set_ylim(0.75 * every["value"].min(), 1.08 * every["value"].max())  # room for the names below
    style.plain_log(LOG_TICKS, panel.xaxis, panel.yaxis)
    frontier = style.handle("not beaten (Pareto)", color=style.BLACK, lw=4, alpha=0.2)
    handles = [*style.method_handles(cut["method"]), frontier]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, handlelength=3.2)
    return Drawing("paper_pareto", figure, every)


@style.paper()
def advice_pareto(advice: Advice, cost: str = "parameters", *, width: str | float = "icml-wide") -> Drawing:
    """Worth against cost: a line per curve, models as they are, the frontier, the budget, and what is advised (a star)."""
    if cost not in LIMITS or advice.options[cost].isna().all():
        raise unknown("cost", cost, [name for name in LIMITS if advice.options[name].notna().any()])
    rows, frontier = advice.options[advice.options[cost].notna()], advice.pareto(cost)
    cut, dense = rows[rows["method"] != AS_IS], rows[rows["method"] == AS_IS]
    frontier_look: dict[str, Any] = {"color": style.BLACK, "lw": 2.4, "alpha": 0.25}
    budget_look: dict[str, Any] = {"color": style.RED, "lw": 1.0, "ls": "--"}
    figure, (panel,) = style.grid(1, width=width, each=3.4)
    methods = sorted(set(cut["method"]))
    handles = [style.handle(name, color=style.colour(name), ls=style.line(name)) for name in methods]
    handles.append(style.handle("model as it is", marker="s", ls="", color=style.BLACK))
    handles.append(style.handle("not beaten (Pareto)", **frontier_look))
    handles.append(style.handle("advised", marker="*", ls="", ms=9, color=style.RED))
    for (_, method, _), part in cut.groupby(["model", "method", "tokens"], sort=True):
        part, ink = part.sort_values(cost), style.colour(method)
        panel.plot(part[cost], part["value"], color=ink, ls=style.line(method), lw=1.0, alpha=0.8)
        panel.fill_between(part[cost], part["low"], part["high"], color=ink, alpha=0.07, lw=0)
    panel.plot(dense[cost], dense["value"], "s", color=style.BLACK, ms=5, zorder=4)
    for model, here in zip(dense["model"], dense[[cost, "value"]].to_numpy(), strict=True):
        panel.annotate(model, here, xytext=(4, -8), textcoords="offset points", fontsize=6)
    panel.plot(frontier[cost], frontier["value"], zorder=1, **frontier_look)
    if cost in advice.budget.limits:
        panel.axvline(advice.budget.limits[cost], **budget_look)
        handles.append(style.handle("budget", **budget_look))
    if advice.best is not None:
        panel.plot([advice.best[cost]], [advice.best["value"]], "*", color=style.RED, ms=12, zorder=5)
    panel.set_xlabel(LIMITS[cost])
    panel.set_ylabel(style.label(advice.response) if advice.unit != "bits per byte" else "held-out loss (bits/byte)")
    panel.xaxis.set_major_formatter(lambda value, _: quantity(value))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    kinds = {"option": rows, "frontier": frontier, "finalist": advice.finalists}
    numbers = pd.concat([frame.assign(kind=kind) for kind, frame in kinds.items()], ignore_index=True)
    return Drawing(f"guide_{advice.response}_by_{cost}", figure, numbers)
