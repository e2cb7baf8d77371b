"""Figures of a paper on what is won and kept: speed-up beside the ideal, accuracy kept per task, loss against time."""

import math

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from claw.errors import InputError
from claw.figures import style
from claw.figures.paper_curves import marker_handles, method_handles
from claw.figures.style import Drawing
from claw.laws import Laws
from claw.laws import speed_law as speeds
from claw.laws.points import is_dense
from claw.records import PRIMARY

TO_MEASURE = "put `speed: {prompt: 256, generate: 32, batches: [1]}` into the study and `claw run` it again."
TASKS = {"hellaswag": "Hella-\nSwag", "winogrande": "Wino-\nGrande", "arc_easy": "ARC\neasy", "arc_challenge": "ARC\nchall.",
         "piqa": "PIQA", "mmlu": "MMLU"}  # fmt: skip
WORTH = 3  # tasks that make a radar
SHARE = {"ratio_params": "share of parameters removed", "ratio_flops": "share of FLOPs removed",
         "ratio_nonembedding": "share removed without embedding", "ratio": "nominal ratio r"}  # fmt: skip


def speed(laws: Laws) -> Drawing:
    """Measured speed-up with its interval against the share truly removed, prefill and decoding, beside the ideal 1/(1-share)."""
    found = {name: label for name, label in (("speedup_prefill", "prefill"), ("speedup_decode", "decoding"))
             if name in speeds.responses(laws.points)}  # fmt: skip
    if not found:
        raise InputError(f"No speed was measured: {TO_MEASURE}")
    rows = laws.points.rows[~is_dense(laws.points.rows)]
    numbers = []
    with style.paper():
        figure = style.figure("icml-wide" if len(found) > 1 else "icml", 3.1)
        panels = figure.subplots(1, len(found), squeeze=False)[0]
        for panel, (name, label) in zip(panels, found.items(), strict=True):
            axis = speeds.speed_axis(laws.points, name)
            part = rows[np.isfinite(rows[name].astype(float))]
            for method, own in part.groupby("method", sort=True):
                own = own.sort_values(axis)
                edges = [own.get(f"{name}{edge}", own[name]).fillna(own[name]) for edge in ("_low", "_high")]
                error = np.maximum([own[name] - edges[0], edges[1] - own[name]], 0)
                panel.errorbar(own[axis], own[name], error, ms=3.5, elinewidth=0.6, **style.style_of(method) | {"ls": ""})
                numbers.append(pd.DataFrame({
                    "phase": label, "axis": axis, "model": own["model"], "method": method, "share": own[axis], "speedup": own[name],
                    "low": edges[0], "high": edges[1], "ideal": own.get(name.replace("speedup", "ideal")), "kind": "measured",
                }))  # fmt: skip
            numbers.append(_ideal_and_law(panel, laws, name, axis, label, float(part[axis].max())))
            panel.axhline(1, color=style.BLACK, ls=":", lw=0.7)
            panel.set(title=f"{label}, batch 1", xlabel=SHARE[axis], yscale="log")
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
            panel.yaxis.set_major_formatter("{x:g}")
            panel.yaxis.set_minor_formatter(NullFormatter())
        panels[0].set_ylabel("times as fast as dense")
        handles = marker_handles(sorted(set(rows.loc[rows[list(found)].notna().any(axis=1), "method"])))
        handles.append(Line2D([], [], color=style.BLACK, lw=1.4, label="speed law"))
        handles.append(Line2D([], [], color=style.BLACK, lw=1.0, ls="--", label="ideal"))
        figure.legend(handles=handles, loc="outside lower center", ncols=5, columnspacing=1.5)
    return Drawing("paper_speed", figure, pd.concat(numbers, ignore_index=True))


def _ideal_and_law(panel, laws: Laws, name: str, axis: str, label: str, high: float) -> pd.DataFrame:
    """Draw 1/(1-share) and the speed law with its band; their numbers."""
    share = np.linspace(0, high, 61)
    panel.plot(share, 1 / (1 - share), color=style.BLACK, lw=1.0, ls="--")
    frame = pd.DataFrame({"phase": label, "axis": axis, "share": share, "ideal": 1 / (1 - share), "kind": "ideal"})
    law = next((one for one in laws.pooled if one.response == name and one.form == "speed-power-one-size"), None)
    if law is None:
        return frame
    band = law.predict(share, 1.0)
    panel.plot(share, band["mean"], color=style.BLACK, lw=1.4)
    panel.fill_between(share, band["confidence_low"], band["confidence_high"], color=style.COLOURS["random"], alpha=0.3, lw=0)
    fitted = pd.DataFrame({"phase": label, "axis": axis, "share": share, "speedup": band["mean"], "kind": "law"})
    return pd.concat([frame, fitted.assign(low=band["confidence_low"], high=band["confidence_high"])])


def radar(laws: Laws, ratio: float = 0.5) -> Drawing:
    """Share of the accuracy above guessing that is kept on each task at the measured ratio nearest to `ratio`; a radar per model.

    The outer ring is the dense model. What is below guessing is drawn in the centre and kept as it is in the numbers. Tasks on
    which a dense model is within two standard errors of guessing are left out: a share of nothing says nothing.
    """
    kept = _kept(laws, ratio)
    models = laws.points.by_size(set(kept["model"]))
    columns = min(3, len(models))
    with style.paper():
        figure = style.figure(0.75 + 2 * columns, 0.9 + 2.0 * math.ceil(len(models) / columns))
        grid = (math.ceil(len(models) / columns), columns)
        panels = figure.subplots(*grid, squeeze=False, subplot_kw={"projection": "polar"})
        for panel, model in zip(panels.flat, models, strict=False):
            rows = kept[kept["model"] == model]
            tasks = sorted(set(rows["task"]))
            angle = np.linspace(0, 2 * np.pi, len(tasks), endpoint=False)
            for method, own in rows.groupby("method", sort=True):
                values = own.set_index("task")["kept"].reindex(tasks).clip(lower=0)
                look = style.style_of(method)
                panel.plot(np.append(angle, angle[0]), np.append(values, values.iloc[0]), ms=3, **look)
            panel.set_theta_offset(np.pi / 2)
            panel.set_xticks(angle, [TASKS.get(task, task.replace("_", "\n")) for task in tasks], fontsize=6.5)
            panel.tick_params(axis="x", pad=0)
            for name, a in zip(panel.get_xticklabels(), angle, strict=True):  # away from the ring on either side
                name.set_ha("center" if abs(np.sin(a)) < 0.1 else "right" if np.sin(a) > 0 else "left")
            panel.set_yticks([0.25, 0.5, 0.75, 1.0], [""] * 4)
            for value, word in ((0.5, "50 %"), (1.0, "dense")):
                box = {"facecolor": "white", "alpha": 0.8, "lw": 0, "pad": 0.5}
                panel.text(np.pi / len(tasks), value, word, fontsize=6, ha="center", va="center", bbox=box, zorder=5)
            panel.set_ylim(0, max(1.05, kept["kept"].max()))
            panel.set_title(f"{model}, r = {rows['ratio'].iloc[0]:g}", pad=8)
        for panel in list(panels.flat)[len(models) :]:
            panel.set_visible(False)
        handles = method_handles(sorted(set(kept["method"])))
        figure.legend(handles=handles, loc="outside lower center", ncols=min(1 + columns, len(handles)), handlelength=3.2)
    return Drawing("paper_radar", figure, kept)


def _kept(laws: Laws, ratio: float) -> pd.DataFrame:
    """Share kept of accuracy above guessing by model, method and task, at each model's ratio nearest to the one asked for."""
    rows = laws.points.rows[laws.points.rows["recovery_tokens"] == 0]
    names = [str(name).removesuffix("_chance") for name in rows.columns if str(name).endswith("_chance")]
    metrics = {task: next((f"{task}_{m}" for m in PRIMARY if f"{task}_{m}" in rows and rows[f"{task}_{m}"].notna().any()), None)
               for task in names}  # fmt: skip
    parts = []
    for _, own in rows.groupby("model"):
        dense, cut = own[is_dense(own)], own[~is_dense(own)]
        if dense.empty or cut.empty:
            continue
        cut = cut[cut["ratio"] == min(cut["ratio"].unique(), key=lambda r: (abs(r - ratio), r))]
        for task, metric in metrics.items():
            if metric is None or dense[metric].isna().all():
                continue
            above = float((dense[metric] - dense[f"{task}_chance"]).mean())
            if above <= 2 * float(dense[f"{metric}_stderr"].mean()):
                continue
            share = (cut[metric] - cut[f"{task}_chance"]) / above
            frame = cut[["model", "method", "ratio"]].assign(task=task, kept=share, stderr=cut[f"{metric}_stderr"] / above)
            parts.append(frame[frame["kept"].notna()])
    kept = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["model", "task"])
    enough = kept.groupby("model")["task"].nunique()
    kept = kept[kept["model"].isin(enough[enough >= WORTH].index)]
    if kept.empty:
        raise InputError(
            f"No model has {WORTH} tasks on which it is better than guessing: put `tasks: [arc_easy, hellaswag, piqa]` and a larger "
            "`limit` into the study's evaluation and `claw run` it again."
        )
    return kept.groupby(["model", "method", "task"], as_index=False)[["ratio", "kept", "stderr"]].mean()


def loss_against_time(laws: Laws) -> Drawing:
    """Loss against milliseconds per generated token, dense models among them; the grey line is what nothing else beats.

    Bits per byte where models have different tokenizers, whose losses per token do not compare.
    """
    rows = laws.points.rows[laws.points.rows["recovery_tokens"] == 0]
    if "milliseconds_decode" not in rows or rows["milliseconds_decode"].isna().all():
        raise InputError(f"No milliseconds were measured: {TO_MEASURE}")
    response, label = "loss", "loss (nats/token)"
    if not laws.points.one_tokenizer and "bits_per_byte" in rows:
        response, label = "bits_per_byte", "loss (bits/byte)"
    timed = rows[rows["milliseconds_decode"].notna() & rows[response].notna()]
    timed = timed.assign(milliseconds=timed["milliseconds_decode"], value=timed[response])
    cut = timed.groupby(["model", "method", "ratio"], as_index=False)[["milliseconds", "value"]].mean()  # over seeds
    models = laws.points.by_size(set(cut["model"]))
    times = timed.groupby("model")["milliseconds0_decode"].median()
    dense = pd.DataFrame({
        "model": models, "method": "dense", "ratio": 0.0, "milliseconds": [times[model] for model in models],
        "value": [laws.points.dense_row(model)[f"{response}0"] for model in models],
    })  # fmt: skip
    every = pd.concat([dense, cut], ignore_index=True).sort_values(["milliseconds", "value"], ignore_index=True)
    every["frontier"] = every["value"] < every["value"].cummin().shift(fill_value=math.inf)
    with style.paper():
        figure = style.figure("neurips", 3.5)
        panel = figure.subplots()
        for (method, _), own in cut.groupby(["method", "model"], sort=True):
            own = own.sort_values("ratio")
            panel.plot(own["milliseconds"], own["value"], ms=3, lw=0.8, **style.style_of(method))
        best = every[every["frontier"]]
        panel.plot(best["milliseconds"], best["value"], color=style.BLACK, lw=4, alpha=0.2, zorder=1)
        for _, one in dense.iterrows():
            panel.plot(one["milliseconds"], one["value"], "o", color=style.BLACK, ms=5, zorder=4)
            here = (one["milliseconds"], one["value"])
            panel.annotate(one["model"], here, xytext=(2, -5), textcoords="offset points", fontsize=6.5, ha="right", va="top")
        panel.set(xlabel="milliseconds per generated token, batch 1", ylabel=label, xscale="log", yscale="log")
        panel.set_ylim(0.75 * every["value"].min(), 1.08 * every["value"].max())  # room for the names below
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        handles = method_handles(sorted(set(cut["method"])))
        handles.append(Line2D([], [], color=style.BLACK, lw=4, alpha=0.2, label="not beaten (Pareto)"))
        figure.legend(handles=handles, loc="outside lower center", ncols=4, handlelength=3.2)
    return Drawing("paper_pareto", figure, every)
