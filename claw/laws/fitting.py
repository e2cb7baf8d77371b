"""Fit every law that a table can carry, and hold them: ask, print, show in a notebook, write down, read back."""

from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from threadpoolctl import threadpool_limits

from claw.errors import InputError, unknown
from claw.laws import anchored, catalogue, curves, outside, pooled, speed_law, storage, tables, verdicts, wald
from claw.laws.comparable import rows_alike
from claw.laws.curves import CurveLaw
from claw.laws.fitted import FittedLaws
from claw.laws.points import Points, read_points
from claw.laws.pooled_law import PooledLaw
from claw.laws.sample import ALL, EVERY, WORKING, select
from claw.laws.tidy import OwnTable
from claw.laws.working import DESTROYED
from claw.progress import tqdm
from claw.provenance import code_hash

UNFITTED = "model method recovery tokens response axis form why".split()

SHARED = ("cross", "retention")
"""Groups whose laws are fitted to every row too, for comparison."""
GROUPS = {"loss": ("cross", "post-training", "competing", "own"), "accuracy": ("cross", "retention", "competing", "own")}
"""Groups of forms that are fitted to a response across models."""


class Laws(FittedLaws):
    """What `claw.laws.fit` returns; `FittedLaws` documents its fields and what it answers."""

    slider_json = storage.slider_data
    to_json = storage.to_json
    summary = tables.summary
    __repr__ = tables.brief  # what print shows: a dozen lines
    _repr_html_ = tables.html_summary


def from_json(source: str | Path) -> Laws:
    """The laws that `to_json` wrote, from its text or its file. InputError for anything else."""
    return Laws(**storage.read_fields(source))


def fit(table: pd.DataFrame | OwnTable, *, level: float = 0.95, seed: int = 0, draws: int = 2000, compare: bool = True) -> Laws:
    """Every law that a table can carry, with every kind of interval, the comparison of forms, tests and verdicts.

    `table`: what `claw.laws.read` returns, or a tidy frame with the columns model, method, ratio, and loss or accuracy;
    `claw.records.COLUMNS` names all that are understood.
    `level` is that of all intervals, `draws` the number of bootstrap draws, `seed` theirs; equal arguments give equal laws.
    compare=False leaves out comparison, tests and verdicts. InputError: see `claw.laws.points.read_points`.
    """
    if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0.5 <= level < 1:
        raise InputError(f"level = {level!r} is not accepted: the share of intervals that should hold the truth, such as 0.95.")
    if isinstance(draws, bool) or not isinstance(draws, int) or not 100 <= draws <= 100_000:
        raise InputError(f"draws = {draws!r} is not accepted: a whole number of bootstrap draws from 100 to 100000.")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InputError(f"seed = {seed!r} is not accepted: a whole number from 0 to 4294967295.")
    points = read_points(table)
    settings: dict[str, Any] = {"level": level, "seed": seed, "draws": draws}
    with threadpool_limits(1):  # thousands of tiny matrices: threads only wait for each other
        single, curves_unfitted = _curves(points, level)
        across, across_unfitted = _pooled(points, settings)
        comparisons = outside.compare_all(points) if compare else {}
        tests = wald.ask_all(points) if compare else pd.DataFrame(columns=wald.COLUMNS)
        judged = verdicts.judge(points, comparisons, tests, level) if compare else []
    unfitted = pd.DataFrame(curves_unfitted + across_unfitted, columns=UNFITTED)
    source = {"data": points.digest, "code": code_hash(), "laws": code_hash("laws")}
    evidence: dict[str, Any] = {"comparisons": comparisons, "tests": tests, "verdicts": tuple(judged), "unfitted": unfitted}
    return Laws(points=points, curves=tuple(single), pooled=tuple(across), **evidence, source=source, **settings)


def fit_or_read(
    table: pd.DataFrame | OwnTable, source: str | Path, *, level: float = 0.95, seed: int = 0, draws: int = 2000
) -> Laws:
    """The laws of a table: from laws.json beside `source` if it holds those of exactly this table and choices, else fitted.

    Laws that another version of `claw.laws` fitted are fitted again. `source` is the table's CSV file or the folder of its run;
    the file beside it is only read.
    """
    source = Path(source)
    beside = (source if source.is_dir() else source.parent) / "laws.json"
    with suppress(InputError):  # no laws there, or of another version
        stored = from_json(beside)
        asked = (read_points(table).digest, code_hash("laws"), level, seed, draws)
        have = (stored.source["data"], stored.source.get("laws"), stored.level, stored.seed, stored.draws)
        if have == asked and stored.verdicts:
            return stored
    return fit(table, level=level, seed=seed, draws=draws)


def judge_table(table: pd.DataFrame | OwnTable, level: float = 0.95) -> list[verdicts.Verdict]:
    """The verdicts that `fit` gives on a table, without its laws."""
    points = read_points(table)
    with threadpool_limits(1):
        return verdicts.judge(points, outside.compare_all(points), wald.ask_all(points), level)


def fit_each(table: pd.DataFrame | OwnTable, by: str, **options: Any) -> dict[str, Laws]:
    """Laws of each group of a table that must not be pooled, by the value of a column, such as heldout.

    Rows without calibration text (the dense model, random) are in every group by `calibration`, `calibration_tokens` or
    `calibration_length`; an empty `limit` is the group "all documents".
    """
    frame = table.table if isinstance(table, OwnTable) else table
    if by not in frame:
        raise unknown("column", by, map(str, frame.columns))
    groups = rows_alike(frame, by).items()
    return {name: fit(replace(table, table=rows) if isinstance(table, OwnTable) else rows, **options) for name, rows in groups}


def _curves(points: Points, level: float) -> tuple[list[CurveLaw], list[dict]]:
    """The laws of every curve, and why others could not be fitted."""
    fitted, unfitted = list[CurveLaw](), list[dict]()
    for response, axis in product(points.responses, points.axes):
        place = {"response": response, "axis": axis}
        every = list(curves.split(points, response, axis))
        for (curve, rows), form in product(every, catalogue.CLAIMED):
            try:
                fitted.append(curves.fit_curve(rows, curve, response, form.name, axis=axis, level=level))
            except InputError as error:
                unfitted.append(curve._asdict() | place | {"form": form.name, "why": str(error)})
        if response == "loss":
            rises = [anchored.Ascent.of(rows, curve, axis) for curve, rows in every]
            for form in catalogue.ANCHORED:
                laws, failed = anchored.fit_anchored(rises, form, level)
                fitted += laws
                unfitted += [one.curve._asdict() | place | {"form": form.name, "why": why} for one, why in failed]
    return fitted, unfitted


def _pooled(points: Points, settings: dict[str, Any]) -> tuple[list[PooledLaw], list[dict]]:
    """Laws across models, of each response, axis and method, of all methods, and of speed; and why others were not fitted.

    Where rows are flagged (`claw.laws.working`) the laws of loss and accuracy are fitted without and with them.
    """
    fitted, unfitted, places = [], [], list[tuple[str, str, str, tuple[str, ...]]]()
    for response, axis in product(points.responses, points.axes):
        methods = sorted(set(points.of(response, axis)["method"]))
        places += [(response, axis, ALL, GROUPS[response])]
        groups = GROUPS[response] if axis == "ratio" else SHARED  # forms that only compete: of each method at its own ratio
        places += [(response, axis, method, groups) for method in methods if len(methods) > 1]
    places += [(name, speed_law.speed_axis(points, name), ALL, ("speed",)) for name in speed_law.responses(points)]
    jobs = [(place, form) for *place, groups in places for group in groups for form in catalogue.GROUPS[group]]
    select_once = cache(partial(select, points))
    bent = {ALL, *points.rows.loc[points.rows["flag"] == DESTROYED, "method"]} if points.rows["flag"].any() else set()
    for (response, axis, method), form in tqdm(jobs, desc="laws", unit=" laws", leave=False, delay=1):
        kinds = pooled.KINDS if form.group in ("cross", "retention", "speed") else ("bias-reduced",)  # others only compete
        try:
            place = partial(select_once, response, axis, method, recovered=form.group not in catalogue.UNRECOVERED)
            selection = place(scope=WORKING)
            fitted.append(pooled.fit_pooled(selection.sample(form), kinds=kinds, **settings))
            if form.group in SHARED and method in bent and len(place(scope=EVERY).rows) > len(selection.rows):
                only = fitted[-1].default_kind
                fitted.append(pooled.fit_pooled(place(scope=EVERY).sample(form), kinds=(only,), **settings))
        except InputError as error:
            unfitted.append({"method": method, "response": response, "axis": axis, "form": form.name, "why": str(error)})
    return fitted, unfitted
