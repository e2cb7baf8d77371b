"""What is planned, running, done and failed, from the disk alone: it works beside any run, and afterwards."""

import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

import pandas as pd

from claw import records, words
from claw.specs import on_disk
from claw.sweep import locks
from claw.sweep.plan import Plan

STATES = ("done", "nan", "failed", "running", "planned", "damaged", "refused")
"""Of a record. A damaged one is measured again; one that only another claw can read is refused, and `claw run` with it."""
RARE = ("running", "damaged", "refused")  # not spoken of where there are none
SHOWN = 10  # unusable records that are named
CLEAR = "\x1b[H\x1b[2J"
RED, YELLOW, GREY, GREENS = 160, 178, 236, (22, 28, 34)  # of a terminal's 256 colours; greens from few to all done


class Watcher:
    """Statuses of a study's records; those that are final are read from disk once."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.problems: dict[str, on_disk.Unusable] = {}  # why records cannot be used, by name
        self._final: dict[str, str] = {}

    def frame(self) -> pd.DataFrame:
        """One row per record: model, method, ratio, seed, recovery tokens, stage, status (one of STATES)."""
        running = {str(name) for about in locks.marks(self.plan.folder).values() for name in about["makes"]}
        rows = []
        for name, (stage, e) in self.plan.wanted.items():
            point = [e.compression.model, e.compression.method, e.compression.ratio, e.compression.seed]
            rows.append((*point, e.recovery.tokens if e.recovery else 0, stage, self._status(name, running)))
        return pd.DataFrame(rows, columns="model method ratio seed recovery_tokens stage status".split())

    def _status(self, name: str, running: set[str]) -> str:
        if name not in self._final:
            if name in self.plan.spared:
                return "done"
            try:
                content = records.open_record(self.plan.folder / "records" / name)
            except on_disk.Unusable as problem:
                self.problems[name] = problem
                return "running" if name in running else "refused" if problem.precious else "damaged"
            if not content or content["status"] == "failed":
                return "running" if name in running else "failed" if content else "planned"
            self._final[name] = content["status"]
        return self._final[name]


def cells(statuses: pd.DataFrame) -> pd.DataFrame:
    """One row per model, method and ratio of a status frame: number of records, and how many are finished, running, failed."""
    status = statuses["status"]
    flags = {"finished": status.isin(["done", "nan"]), "running": status == "running", "failed": status == "failed"}
    counted = statuses.assign(records=1, **flags).groupby(["model", "method", "ratio"], sort=False)
    return counted[["records", *flags]].sum().reset_index()


def heat_map(plan: Plan):
    """A figure of the study's progress, as a notebook shows it."""
    from claw.figures import sweep_status

    return sweep_status(cells(Watcher(plan).frame()))


def status_text(plan: Plan, statuses: pd.DataFrame | None = None, *, colour: bool = False) -> str:
    """A heat map for a terminal: per model, method and ratio how many records are there; `!` failed, `*` running."""
    watcher = Watcher(plan)
    statuses = watcher.frame() if statuses is None else statuses
    at = {(row.model, row.method, row.ratio): row for row in cells(statuses).itertuples()}
    ratios = sorted({ratio for *_, ratio in at})
    wide = max(len(f"{row.finished}/{row.records}") for row in at.values()) + 3
    curves = dict.fromkeys((model, method) for model, method, _ in at)
    label = max(len(f"{model}  {method}") for model, method in curves)
    lines = [_summary(plan, statuses), ""]
    lines.append(" " * label + "".join(f"{f'r={ratio:g}':>{wide}}" for ratio in ratios))
    for model, method in curves:
        shown = (_cell(at.get((model, method, ratio)), wide, colour) for ratio in ratios)
        lines.append(f"{f'{model}  {method}':<{label}}" + "".join(shown))
    lines += [f"{name} cannot be used: {problem}." for name, problem in [*watcher.problems.items()][:SHOWN]]
    return "\n".join(lines)


def _summary(plan: Plan, statuses: pd.DataFrame) -> str:
    totals = statuses["status"].value_counts()
    summary = ", ".join(f"{totals.get(name, 0)} {name}" for name in STATES if totals.get(name, 0) or name not in RARE)
    return f"{plan.study.name}: {words.plural(len(statuses), 'record')}: {summary}"


def _cell(row: Any, wide: int, colour: bool) -> str:
    if row is None:
        return " " * wide
    sign = "!" if row.failed else "*" if row.running else " "
    counts = f"{f'{row.finished}/{row.records}{sign}':>{wide - 1}}"
    green = GREENS[min(2, 3 * row.finished // row.records - (row.finished == row.records))]
    background = RED if row.failed else YELLOW if row.running else green if row.finished else GREY
    return f" \x1b[97;48;5;{background}m{counts}\x1b[0m" if colour else f" {counts}"


def watch(
    plan: Plan, seconds: float = 2.0, write: Callable[[str], object] = sys.stdout.write, *, terminal: bool = True
) -> None:
    """Show the status until every record is there or somebody interrupts: again and again, off a terminal a line per change."""
    watcher, before = Watcher(plan), ""
    while True:
        statuses = watcher.frame()
        lines = status_text(plan, statuses, colour=True).splitlines()
        height = shutil.get_terminal_size().lines - 2
        if len(lines) > height:
            lines = [*lines[:height], f"… {len(lines) - height} more rows; `claw status` without --watch shows all"]
        shown = CLEAR + "\n".join(lines) + "\n" if terminal else _summary(plan, statuses) + "\n"
        if terminal or shown != before:
            write(shown)
            sys.stdout.flush()
        before = shown
        if statuses["status"].isin(["done", "nan"]).all():
            return
        time.sleep(seconds)
