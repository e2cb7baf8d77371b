"""How far can I go? For the loss that somebody accepts, the share of a model that can be removed: one slider, one sentence.

All that the page needs is worked out here and carried in it, so that it answers without Python, network or server. What is
answered is read off the measured points (`claw.laws.reading`); only a speed that was not timed on a curve comes from a law.
"""

import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd

from claw.advice.task_names import few_tasks
from claw.advice.true_shares import cut_rows
from claw.errors import InputError
from claw.laws import Laws, curves, speed_law
from claw.laws.fitted import POOLED
from claw.laws.points import is_dense
from claw.laws.reading import Reading
from claw.laws.storage import plain_json
from claw.records import primary_columns
from claw.show.page_parts import embedded, part
from claw.specs.methods import is_control
from claw.words import plural

ACCEPTED = {"loss": 100, "accuracy": 50}
"""The most that the slider accepts, in percent of the dense value: more loss, or less accuracy."""
USUAL = 10
STEP = 0.005
REACH = 0.95
"""The own ratio of a method at which its slider ends, where no larger one was measured."""
SPEED = "speedup_decode"


def how_far_data(laws: Laws) -> dict[str, Any]:
    """What the page of this question carries, as JSON has it. InputError for a table without a measured curve.

    `curves`: for each model, method and recovery budget the band on a grid of `step`, the measured `points` [share, value,
    standard error, own ratio], `reach` with [share, low, high] for each accepted percent from 0 on, the accuracies at its
    points, and its speed-ups. The best curve of each model comes first: the one that reaches farthest at +10 %.
    """
    points, axis = laws.points, laws.points.leading_axis
    response = points.responses[0]
    known = [one for one in laws.readings(response, axis) if math.isfinite(one.dense) and len(one.points) > 1]
    if not known:
        raise InputError(
            "No curve was measured, so there is nothing to say yet of how far one can go: measure at least one compressed "
            "model beside its dense model (ratio 0)."
        )
    carried = sorted((_curve(laws, one) for one in known), key=_rank)
    models = points.by_size({one["model"] for one in carried})
    carried.sort(key=lambda one: models.index(one["model"]))
    place = {"axis": axis, "response": response, "unit": curves.UNITS[response], "level": laws.level, "usual": USUAL}
    return plain_json(place | {"curves": carried})


def _rank(curve: dict[str, Any]) -> tuple[bool, bool, float]:
    """Best first: methods before controls, as cut before recovered, then by what they reach at the usual loss."""
    reached = curve["reach"][USUAL][0]
    return curve["control"], curve["tokens"] > 0, -reached if math.isfinite(reached) else 1.0


def _curve(laws: Laws, one: Reading) -> dict[str, Any]:
    grid = np.arange(math.floor(one.high / STEP + 1e-9) + 1) * STEP
    band = one.predict(grid)
    worse = np.arange(ACCEPTED[one.response] + 1) / 100
    thresholds = 1 + worse if one.response == "loss" else 1 - worse
    rows = _rows(laws, one)
    own = own_ratios(laws, one.curve.model, one.curve.method, one.curve.ratio_of, one.axis)
    points = [[*map(float, row), _at(own, row[0])] for row in one.points[["ratio", "value", "stderr"]].to_numpy()]
    curve: dict[str, Any] = one.curve._asdict() | {"control": is_control(one.curve.method), "dense": one.dense}
    curve |= {"step": STEP, "noise": one.noise, "points": points, "limit": one.high}
    names = {"mean": "mean", "low": "confidence_low", "high": "confidence_high"}
    curve["grid"] = {name: band[column].round(5).tolist() for name, column in names.items()}
    answers = one.critical_ratios(thresholds.tolist())
    curve["reach"] = [[round(value, 4) for value in (answer.ratio, answer.low, answer.high)] for answer in answers]
    return curve | {"answers": list(_answers(rows, one)), **_speed(laws, rows, one)}


def _rows(laws: Laws, one: Reading) -> pd.DataFrame:
    """The rows of a curve and of its dense model."""
    rows = pd.concat(curves.zeros_and_cut(laws.points.rows, one.curve))
    return rows.assign(**{one.axis: rows[one.axis].where(~is_dense(rows), 0.0)})


def _means(rows: pd.DataFrame, axis: str, name: str) -> list[list[float]]:
    """[share, mean over seeds] of a column, by share, where it is known."""
    if name not in rows:
        return []
    known = rows[[axis, name]].astype(float).dropna()
    return [[float(share), float(mean)] for share, mean in known.groupby(axis)[name].mean().items()]


def _at(pairs: list[list[float]], share: float) -> float:
    """The value of pairs at a share, interpolated; NaN without pairs."""
    places = np.array(pairs, float).reshape(-1, 2)
    return float(np.interp(share, places[:, 0], places[:, 1])) if pairs else math.nan


def own_ratios(laws: Laws, model: str, method: str, ratio_of: str, axis: str) -> list[list[float]]:
    """[share, own ratio] measured of a method on a model, from 0 on by share; empty on the axis of the own ratio."""
    own = [] if axis == "ratio" else _means(cut_rows(laws.points.rows, model, method, ratio_of), axis, "ratio")
    return [[0.0, 0.0], *own] if own and own[0][0] > 0 else own  # a method that first adds parameters has no ratio at 0


def end_of(axis: str, measured: float, own: list[list[float]]) -> float:
    """The share at which a slider over a curve ends: what the method can reach, and no less than what was measured."""
    if axis == "ratio":
        return max(REACH, measured)
    share, ratio = own[-1] if own else (measured, REACH)
    return max(measured, min(0.99, REACH * share / ratio)) if ratio > 0 else measured


def _answers(rows: pd.DataFrame, one: Reading) -> Iterator[dict[str, Any]]:
    """Share of questions answered rightly at each measured point: the mean over tasks first, then each task.

    `named` says of what: "arc_easy and piqa", or how many tasks.
    """
    tasks = primary_columns(rows)
    several = f"the questions of {plural(len(tasks), 'task')}" if len(tasks) > 1 else "the questions"
    mean = few_tasks(rows) or several
    columns = {"accuracy": ("accuracy", "chance")} if len(tasks) != 1 else {}
    columns |= {task: (metric, f"{task}_chance") for task, metric in tasks.items()}
    for name, (metric, chance) in columns.items():
        points = _means(rows, one.axis, metric)
        if len(points) > 1 and points[0][0] == 0:
            guess = float(rows[chance].mean()) if chance in rows else math.nan
            named = mean if name == "accuracy" else name
            yield {"name": name, "named": named, "chance": guess, "points": points}


def _speed(laws: Laws, rows: pd.DataFrame, one: Reading) -> dict[str, Any]:
    """Measured speed-ups of decoding on this curve [share, times], and what the speed law says on a grid where it has none."""
    cut = rows[~is_dense(rows)]
    measured = _means(cut, one.axis, SPEED)
    if measured or SPEED not in speed_law.responses(laws.points):
        return {"speed": sorted([[0.0, 1.0], *measured]) if measured else [], "speed_law": []}
    grid = np.arange(0, one.high + STEP, 10 * STEP)
    with suppress(InputError):
        law = laws.law(POOLED["speed"], SPEED, axis=speed_law.speed_axis(laws.points, SPEED))
        if law.axis == one.axis:
            mean = law.predict(grid, 1.0, model=one.curve.model)["mean"]
            return {"speed": [], "speed_law": [[float(r), round(float(s), 3)] for r, s in zip(grid, mean, strict=True)]}
    return {"speed": [], "speed_law": []}


def how_far_page(laws: Laws) -> str:
    """HTML of the question, its slider and its answer, for a page whose head has plot.js. InputError without a curve."""
    return part("how_far.html", data=embedded(how_far_data(laws)))
