"""Fit every law that a table can carry."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from threadpoolctl import threadpool_limits

from claw.errors import InputError, unknown
from claw.laws import catalogue, curves, outside, points, pooled, speed_law, verdicts, wald
from claw.laws.curves import CurveLaw
from claw.laws.forms import Form
from claw.laws.laws import Laws, from_json
from claw.laws.points import Points
from claw.laws.pooled import PooledLaw
from claw.laws.sample import ALL, gather
from claw.progress import tqdm
from claw.provenance import code_hash

UNFITTED = ("model", "method", "recovery", "tokens", "response", "axis", "form", "why")
SHAPES = ("bias-reduced",)  # kinds of interval of forms that only compete


def fit(table: pd.DataFrame, *, level: float = 0.95, seed: int = 0, draws: int = 2000, compare: bool = True) -> Laws:
    """Every law that a table can carry, with every kind of interval, the comparison of forms, tests and verdicts.

    Needed columns: model, method, ratio, and loss or accuracy; `claw.records.COLUMNS` names all that are understood.
    `level` is that of all intervals, `draws` the number of bootstrap draws, `seed` theirs; equal arguments give equal laws.
    compare=False leaves out comparison, tests and verdicts. InputError: see `claw.laws.points.read_points`.
    """
    if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0.5 <= level < 1:
        raise InputError(f"level = {level!r} is not accepted: the share of intervals that should hold the truth, such as 0.95.")
    if isinstance(draws, bool) or not isinstance(draws, int) or not 100 <= draws <= 100_000:
        raise InputError(f"draws = {draws!r} is not accepted: a whole number of bootstrap draws from 100 to 100000.")
    found = points.read_points(table)
    options = {"level": level, "seed": seed, "draws": draws}
    with threadpool_limits(1):  # thousands of tiny matrices: threads only wait for each other
        fitted, alone = _curves(found, level)
        across, together = _pooled(found, options)
        fast, slow = speed_law.fit_speed_laws(found, **options)
        comparisons = outside.compare_all(found) if compare else {}
        tests = wald.ask_all(found) if compare else pd.DataFrame(columns=wald.COLUMNS)
        judged = verdicts.judge(found, comparisons, tests, level) if compare else []
    unfitted = pd.DataFrame([*alone, *together, *slow], columns=UNFITTED)
    source = {"data": found.digest, "code": code_hash(), "laws": code_hash("laws")}
    return Laws(found, tuple(fitted), (*across, *fast), comparisons, tests, tuple(judged), unfitted, level, seed, draws, source)


def fit_or_read(table: pd.DataFrame, source: str | Path, *, level: float = 0.95, seed: int = 0, draws: int = 2000) -> Laws:
    """The laws of a table: those in laws.json beside `source`, if they are of exactly this table and these choices; else fitted.

    Laws that another version of `claw.laws` fitted are fitted again. `source` is the table's CSV file or the folder of its run;
    the file beside it is only read.
    """
    source = Path(source)
    beside = (source if source.is_dir() else source.parent) / "laws.json"
    if beside.is_file():
        try:
            stored = from_json(beside)
        except InputError:  # of another version: fitting takes a minute, a wrong answer takes longer
            stored = None
        asked = (points.read_points(table).digest, code_hash("laws"), level, seed, draws)
        have = stored and (stored.source["data"], stored.source.get("laws"), stored.level, stored.seed, stored.draws)
        if have == asked and stored.verdicts:
            return stored
    return fit(table, level=level, seed=seed, draws=draws)


def judge_table(table: pd.DataFrame, level: float = 0.95) -> list[verdicts.Verdict]:
    """The verdicts that `fit` gives on a table, without its laws."""
    found = points.read_points(table)
    with threadpool_limits(1):
        return verdicts.judge(found, outside.compare_all(found), wald.ask_all(found), level)


def fit_each(table: pd.DataFrame, by: str, **options: Any) -> dict[str, Laws]:
    """Laws of each group of a table that must not be pooled, by the value of a column, such as heldout."""
    if by not in table:
        raise unknown("column", by, map(str, table.columns))
    return {str(name): fit(rows, **options) for name, rows in table.groupby(by, sort=True)}


def _curves(found: Points, level: float) -> tuple[list[CurveLaw], list[dict]]:
    fitted, failed = [], []
    for response in found.responses:
        for axis in found.axes:
            for curve, rows in curves.split(found, response, axis):
                for form in catalogue.CURVE:
                    try:
                        fitted.append(curves.fit_curve(rows, curve, response, form.name, axis, level))
                    except InputError as error:
                        place = {"response": response, "axis": axis, "form": form.name, "why": str(error)}
                        failed.append(curve._asdict() | place)
    return fitted, failed


def law_candidates(found: Points, response: str) -> Iterator[tuple[str, Form, bool, tuple[str, ...]]]:
    """Group, form, whether recovered rows enter, and kinds of interval, of every law across models of a response."""
    kinds = tuple(pooled.KINDS)
    for form in catalogue.CROSS:
        yield "cross", form, True, kinds
    if response == "accuracy":
        for form in catalogue.RETENTION:
            yield "retention", form, True, kinds
    if response == "loss":
        for form in catalogue.POST_TRAINING:
            yield "post-training", form, True, SHAPES
    for group in ("competing", "own"):
        for form in catalogue.GROUPS[group]:
            yield group, form, False, SHAPES


def _pooled(found: Points, options: dict[str, Any]) -> tuple[list[PooledLaw], list[dict]]:
    """Laws across models: each response, axis and method, and all methods together."""
    fitted, failed = [], []
    jobs = [(response, axis, method, *candidate) for response, axis, method in _groups(found)
            for candidate in law_candidates(found, response)]  # fmt: skip
    for response, axis, method, group, form, recovered, kinds in tqdm(jobs, desc="laws", unit=" laws", leave=False, delay=1):
        try:
            sample = gather(found, form, response, axis, method, recovered=recovered)
            fitted.append(pooled.fit_pooled(sample, form, group, response, axis, method, kinds=kinds, **options))
        except InputError as error:
            failed.append({"method": method, "response": response, "axis": axis, "form": form.name, "why": str(error)})
    return fitted, failed


def _groups(found: Points) -> Iterator[tuple[str, str, str]]:
    """Response, axis and method of every group of rows that laws across models are fitted to."""
    for response in found.responses:
        for axis in found.axes:
            methods = sorted(set(found.of(response, axis)["method"]))
            yield from ((response, axis, method) for method in ((ALL, *methods) if len(methods) > 1 else (ALL,)))
