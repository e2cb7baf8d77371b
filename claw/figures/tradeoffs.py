"""Figures of what compression costs and buys: accuracy kept, loss won back, speed, loss against time, advice against cost."""

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
from claw.laws.fitted import POOLED
from claw.laws.points import is_dense, unrecovered
from claw.records import primary_columns
from claw.specs.budget import LIMITS
from claw.words import quantity

TO_MEASURE = "put `speed: {prompt: 256, generate: 32, batches: [1]}` into the study and `claw run` it again."
PHASES = {"speedup_prefill": "prefill", "speedup_decode": "decoding"}
SHARES = {
    "ratio_params": "share of all parameters removed",
    "ratio_flops": "share of FLOPs removed",
    "ratio_nonembedding": "share removed without embedding",
    "ratio": "the method's own ratio r",
}
LOG_TICKS = (1, 1.5, 2, 3, 5, 7)
FEWEST_TASKS = 3  # that make a radar
TASKS = {
    "hellaswag": "Hella-\nSwag",
    "winogrande": "Wino-\nGrande",
    "arc_easy": "ARC\neasy",
    "arc_challenge": "ARC\nchall.",
    "piqa": "PIQA",
    "mmlu": "MMLU",
}


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
            known = {"share": own[axis], "speedup": own[name], "low": low, "high": high, "ideal": ideal, "kind": "measured"}
            numbers.append(pd.DataFrame({"phase": phase, "axis": axis, "model": own["model"], "method": method} | known))
        lines = _ideal_and_law(panel, laws, name, timed[axis].max())
        numbers += [frame.assign(phase=phase, axis=axis) for frame in lines]
        panel.axhline(1, color=style.BLACK, ls=":", lw=0.7)
        panel.set(title=f"{phase}, batch 1", xlabel=SHARES[axis], yscale="log")
        style.plain_log(LOG_TICKS, panel.yaxis)
    panels[0].set_ylabel("times as fast as dense")
    handles = style.method_handles(rows.loc[rows[list(phases)].notna().any(axis=1), "method"], ls="")
    handles += [style.handle("speed law", color=style.BLACK, lw=1.4), style.handle("ideal", color=style.BLACK, lw=1.0, ls="--")]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, columnspacing=1.5)
    return Drawing("paper_speed", figure, pd.concat(numbers, ignore_index=True))


def _ideal_and_law(panel: Axes, laws: Laws, response: str, high: float) -> list[pd.DataFrame]:
    """Draw 1/(1-share) and the speed law with its band; their numbers."""
    share = np.linspace(0, high, 61)
    ideal = pd.DataFrame({"share": share, "ideal": 1 / (1 - share), "kind": "ideal"})
    panel.plot(share, ideal["ideal"], color=style.BLACK, lw=1.0, ls="--")
    law = next((law for law in laws.pooled if (law.response, law.form) == (response, POOLED["speed"])), None)
    if law is None:
        return [ideal]
    band = law.predict(share, 1.0)[["mean", "confidence_low", "confidence_high"]].set_axis(["speedup", "low", "high"], axis=1)
    panel.plot(share, band["speedup"], color=style.BLACK, lw=1.4)
    panel.fill_between(share, band["low"], band["high"], color=style.GREY, alpha=0.3, lw=0)
    return [ideal, band.assign(share=share, kind="law")]


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
    handles = [*style.method_handles(cut["method"]), style.handle("not beaten (Pareto)", color=style.BLACK, lw=4, alpha=0.2)]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, handlelength=3.2)
    return Drawing("paper_pareto", figure, every)


@style.paper()
def advice_pareto(advice: Advice, cost: str = "parameters", *, width: str | float = "icml-wide") -> Drawing:
    """Worth against cost: a line per curve, models as they are, the frontier, the budget, and what is advised (a star)."""
    if cost not in LIMITS or advice.options[cost].isna().all():
        raise unknown("cost", cost, [name for name in LIMITS if advice.options[name].notna().any()])
    rows, frontier = advice.options[advice.options[cost].notna()], advice.pareto(cost)
    cut, dense = rows[rows["method"] != AS_IS], rows[rows["method"] == AS_IS]
    looks: dict[str, dict[str, Any]] = {
        **{name: {"color": style.colour(name), "ls": style.line(name)} for name in sorted(set(cut["method"]))},
        "model as it is": {"marker": "s", "ls": "", "color": style.BLACK},
        "not beaten (Pareto)": {"color": style.BLACK, "lw": 2.4, "alpha": 0.25},
        "advised": {"marker": "*", "ls": "", "ms": 9, "color": style.RED},
    }
    if cost in advice.budget.limits:
        looks["budget"] = {"color": style.RED, "lw": 1.0, "ls": "--"}
    figure, (panel,) = style.grid(1, width=width, each=3.4)
    for (_, method, _), part in cut.groupby(["model", "method", "tokens"], sort=True):
        part = part.sort_values(cost)
        panel.plot(part[cost], part["value"], **looks[method], lw=1.0, alpha=0.8)
        panel.fill_between(part[cost], part["low"], part["high"], color=looks[method]["color"], alpha=0.07, lw=0)
    panel.plot(dense[cost], dense["value"], "s", color=style.BLACK, ms=5, zorder=4)
    for model, here in zip(dense["model"], dense[[cost, "value"]].to_numpy(), strict=True):
        panel.annotate(model, here, xytext=(4, -8), textcoords="offset points", fontsize=6)
    panel.plot(frontier[cost], frontier["value"], zorder=1, **looks["not beaten (Pareto)"])
    if "budget" in looks:
        panel.axvline(advice.budget.limits[cost], **looks["budget"])
    if advice.best is not None:
        panel.plot([advice.best[cost]], [advice.best["value"]], "*", color=style.RED, ms=12, zorder=5)
    panel.set_xlabel(LIMITS[cost])
    panel.set_ylabel(style.label(advice.response) if advice.unit != "bits per byte" else "held-out loss (bits/byte)")
    panel.xaxis.set_major_formatter(lambda value, _: quantity(value))
    figure.legend(handles=[style.handle(name, **look) for name, look in looks.items()], loc="outside lower center", ncols=4)
    kinds = {"option": rows, "frontier": frontier, "finalist": advice.finalists}
    numbers = pd.concat([frame.assign(kind=kind) for kind, frame in kinds.items()], ignore_index=True)
    return Drawing(f"guide_{advice.response}_by_{cost}", figure, numbers)


@style.paper()
def radar(laws: Laws, ratio: float = 0.5) -> Drawing:
    """Share of the accuracy above guessing that is kept on each task at the measured ratio nearest to `ratio`, by model.

    The outer ring is the dense model. What is below guessing is drawn in the centre and kept as it is in the numbers. Tasks on
    which a dense model is within two standard errors of guessing are left out: a share of nothing says nothing.
    """
    kept = _kept(laws, ratio)
    models = laws.points.by_size(set(kept["model"]))
    columns, polar = min(3, len(models)), {"projection": "polar"}
    figure, panels = style.grid(len(models), columns, width=0.75 + 2 * columns, head=0.9, each=2.0, subplot_kw=polar)
    for panel, model in zip(panels, models, strict=True):
        rows = kept[kept["model"] == model]
        _web(panel, rows)
        panel.set_ylim(0, max(1.05, kept["kept"].max()))
        panel.set_title(f"{model}, own ratio {rows['ratio'].iloc[0]:g}", pad=8)
    handles = style.method_handles(kept["method"])
    figure.legend(handles=handles, loc="outside lower center", ncols=min(1 + columns, len(handles)), handlelength=3.2)
    return Drawing("paper_radar", figure, kept)


def _web(panel: Any, rows: pd.DataFrame) -> None:
    """Draw one model: a spoke per task, a closed line per method."""
    tasks = sorted(set(rows["task"]))
    angles = np.linspace(0, 2 * np.pi, len(tasks), endpoint=False)
    for method, own in rows.groupby("method", sort=True):
        values = own.set_index("task")["kept"].reindex(tasks).clip(lower=0)
        panel.plot(np.append(angles, angles[0]), np.append(values, values.iloc[0]), ms=3, **style.style_of(method))
    panel.set_theta_offset(np.pi / 2)
    panel.set_xticks(angles, [TASKS.get(task, task.replace("_", "\n")) for task in tasks], fontsize=6.5)
    panel.tick_params(axis="x", pad=0)
    for text, angle in zip(panel.get_xticklabels(), angles, strict=True):  # away from the ring on either side
        text.set_ha("center" if abs(np.sin(angle)) < 0.1 else "right" if np.sin(angle) > 0 else "left")
    panel.set_yticks([0.25, 0.5, 0.75, 1.0], [""] * 4)
    box = {"facecolor": "white", "alpha": 0.8, "lw": 0, "pad": 0.5}
    for value, word in ((0.5, "50 %"), (1.0, "dense")):
        panel.text(np.pi / len(tasks), value, word, fontsize=6, ha="center", va="center", bbox=box, zorder=5)


def _kept(laws: Laws, ratio: float) -> pd.DataFrame:
    """Share kept of accuracy above guessing by model, method and task, at each model's ratio nearest to the one asked for."""
    rows = unrecovered(laws.points.rows)
    metrics = primary_columns(rows.dropna(axis="columns", how="all"))
    unmeasured = [f"{metric}_stderr" for metric in metrics.values() if f"{metric}_stderr" not in rows]
    rows, parts = rows.assign(**dict.fromkeys(unmeasured, math.nan)), []
    for _, own in rows.groupby("model"):
        dense, cut = own[is_dense(own)], own[~is_dense(own)]
        if dense.empty or cut.empty:
            continue
        cut = cut[cut["ratio"] == min(cut["ratio"].unique(), key=lambda r: (abs(r - ratio), r))]
        for task, metric in metrics.items():
            above = (dense[metric] - dense[f"{task}_chance"]).mean()
            if dense[metric].isna().all() or above <= 2 * dense[f"{metric}_stderr"].mean():
                continue
            share = (cut[metric] - cut[f"{task}_chance"]) / above
            frame = cut[["model", "method", "ratio"]].assign(task=task, kept=share, stderr=cut[f"{metric}_stderr"] / above)
            parts.append(frame[frame["kept"].notna()])
    kept = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["model", "task"])
    kept = kept[kept.groupby("model")["task"].transform("nunique") >= FEWEST_TASKS]
    if kept.empty:
        raise InputError(
            f"No model has {FEWEST_TASKS} tasks on which it is better than guessing: put `tasks: [arc_easy, hellaswag, piqa]` "
            "and a larger `limit` into the study's evaluation and `claw run` it again."
        )
    return kept.groupby(["model", "method", "task"], as_index=False)[["ratio", "kept", "stderr"]].mean()
