"""Figures of what is kept and won back: accuracy task by task after a cut, loss by recovery."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from claw.errors import InputError
from claw.figures import style
from claw.figures.style import Drawing
from claw.laws import Laws
from claw.laws.points import is_dense, unrecovered
from claw.laws.verdicts import gains
from claw.records import PRIMARY

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
def radar(laws: Laws, ratio: float = 0.5) -> Drawing:
    """Share of the accuracy above guessing that is kept on each task at the measured ratio nearest to `ratio`, by model.

    The outer ring is the dense model. What is below guessing is drawn in the centre and kept as it is in the numbers. Tasks on
    which a dense model is within two standard errors of guessing are left out: a share of nothing says nothing.
    """
    kept = _kept(laws, ratio)
    models = laws.points.by_size(set(kept["model"]))
    columns = min(3, len(models))
    polar = {"projection": "polar"}
    figure, panels = style.grid(len(models), columns, width=0.75 + 2 * columns, head=0.9, each=2.0, subplot_kw=polar)
    for panel, model in zip(panels, models, strict=True):
        rows = kept[kept["model"] == model]
        _web(panel, rows)
        panel.set_ylim(0, max(1.05, kept["kept"].max()))
        panel.set_title(f"{model}, r = {rows['ratio'].iloc[0]:g}", pad=8)
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
    tasks = [str(name).removesuffix("_chance") for name in rows.columns if str(name).endswith("_chance")]
    scored = {name for name in rows.columns if rows[name].notna().any()}
    metrics = {task: next((f"{task}_{metric}" for metric in PRIMARY if f"{task}_{metric}" in scored), "") for task in tasks}
    parts = []
    for _, own in rows.groupby("model"):
        dense, cut = own[is_dense(own)], own[~is_dense(own)]
        if dense.empty or cut.empty:
            continue
        cut = cut[cut["ratio"] == min(cut["ratio"].unique(), key=lambda r: (abs(r - ratio), r))]
        for task, metric in metrics.items():
            if not metric or dense[metric].isna().all():
                continue
            above = float((dense[metric] - dense[f"{task}_chance"]).mean())
            if above <= 2 * float(dense[f"{metric}_stderr"].mean()):
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


@style.paper()
def recovery_gains(laws: Laws) -> Drawing:
    """Share of the loss that recovery won back, against tokens; a panel per model, a line per method and ratio."""
    won = gains(laws.points) if "loss" in laws.points.responses else pd.DataFrame()
    if won.empty:
        raise InputError(
            "No compressed model was recovered: `claw run params/recovery.yaml`, or put `recovery:` with its token budgets "
            "into the study."
        )
    models = laws.points.by_size(set(won["model"]))
    won = won.groupby(["model", "method", "ratio", "recovery_tokens"], as_index=False)[["gain", "stderr"]].mean()
    columns = min(4, len(models))
    width = "icml-wide" if columns > 1 else "icml"
    figure, panels = style.grid(len(models), columns, width=width, head=0.6, each=2.0, sharey=True)
    for panel, model in zip(panels, models, strict=True):
        _gains(panel, won[won["model"] == model])
        panel.set(title=model, xlabel="recovery D (million tokens)", xlim=(0, 1.22e-6 * won["recovery_tokens"].max()))
        panel.axhline(0, color=style.BLACK, lw=0.6)
    for panel in panels[::columns]:
        panel.set_ylabel("loss won back (%)")
    handles = style.method_handles(won["method"])
    figure.legend(handles=handles, loc="outside lower center", ncols=2 * columns, handlelength=3.2)
    return Drawing("paper_recovery", figure, won)


def _gains(panel: Axes, rows: pd.DataFrame) -> None:
    """Lines from no recovery on, each with its ratio at the end; names that would lie on each other move apart."""
    ends = []
    for (method, ratio), part in rows.sort_values("recovery_tokens").groupby(["method", "ratio"]):
        x, y = np.append(0, part["recovery_tokens"] / 1e6), np.append(0, 100 * part["gain"])
        error = np.append(0, 100 * part["stderr"].fillna(0))
        panel.errorbar(x, y, error, ms=3.5, elinewidth=0.6, **style.style_of(method))
        ends.append((y[-1], x[-1], ratio, style.colour(method)))
    step, last = max(1e-9, 100 * rows["gain"].abs().max() / 12), -np.inf
    for y, x, ratio, ink in sorted(ends):
        last = max(y, last + step)
        look: Any = {"color": ink, "fontsize": 6, "va": "center"}
        panel.annotate(f"r = {ratio:g}", (x, last), xytext=(5, 0), textcoords="offset points", **look)
