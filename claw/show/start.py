"""What results there are in a project: runs and tables, what was measured in each, and what to open next.

Looking is cheap: tables are read, records are only counted, and nothing is computed.
"""

import html
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pandas as pd

from claw import records
from claw.errors import InputError
from claw.project import project_folder

PLACES = ("results", "runs")
MEASURED = {"loss": "loss", "accuracy": "accuracy", "speedup_decode": "speed", "recovery_tokens": "recovery"}
"""Columns of a table, and what to call the measurement that fills them."""
HOW = (
    (
        "look around",
        "open 00_tour.ipynb: a live lesson on one small model, a minute after its weights are there",
        "00_tour.ipynb",
    ),
    ("measure a small study", "in a terminal: make demo, about ten minutes on two cores; then come back here", None),
    ("measure your own", "open 10_compress.ipynb, then 20, 30 and 40 one after the other", "10_compress.ipynb"),
)
"""What to do where there are no results yet: aim, way, notebook."""


@dataclass(frozen=True)
class Found:
    """One run or table. `contents` counts what there is; `table`, `report`: files to open, None where they are not."""

    path: Path
    models: tuple[str, ...]
    methods: tuple[str, ...]
    experiments: int
    measured: tuple[str, ...]
    changed: datetime
    table: Path | None
    report: Path | None


@dataclass(frozen=True)
class Overview:
    """Results below `root`, the newest first."""

    root: Path
    found: tuple[Found, ...]

    def __str__(self) -> str:
        if not self.found:
            return "No results here yet. " + " ".join(f"To {aim}: {way}." for aim, way, _ in HOW)
        return "\n".join(
            f"{self._name(one.path)}: {one.experiments} experiments, {', '.join(one.measured)}" for one in self.found
        )

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)

    def _repr_html_(self) -> str:
        if not self.found:
            rows = "".join(f"<li>To <b>{aim}</b>: {_way(way, notebook)}.</li>" for aim, way, notebook in HOW)
            return f"<p>No results here yet. There are three ways to get some:</p><ul>{rows}</ul>"
        head = ("results", "models", "methods", "experiments", "measured", "last change", "open")
        return (
            f"<table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{''.join(map(self._row, self.found))}</table>"
            "<p>Give a table to <a href='50_laws.ipynb'>50_laws</a> or <a href='60_guide.ipynb'>60_guide</a> as their parameter "
            "<code>table</code>. A report opens in your browser without network and without Python.</p>"
        )

    def _row(self, one: Found) -> str:
        many = lambda names: html.escape(", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else ""))
        links = [_link(self.root, path) for path in (one.table, one.report) if path]
        cells = (
            f"<b>{html.escape(self._name(one.path))}</b>", many(one.models), many(one.methods), one.experiments,
            ", ".join(one.measured) or "nothing yet", f"{one.changed:%Y-%m-%d %H:%M}", ", ".join(links) or "–",
        )  # fmt: skip
        return "<tr>" + "".join(f"<td style='text-align: left'>{cell}</td>" for cell in cells) + "</tr>"


def find_results(places: Sequence[str] = PLACES) -> Overview:
    """The runs and tables below `places`, folders of the project."""
    root = project_folder()
    paths = []
    for place in places:
        for path in sorted((root / place).glob("*")):
            if (path / "records").is_dir() or (path / "table.csv").is_file() or path.suffix == ".csv":
                paths.append(path)
    found = [one for one in map(_found, paths) if one is not None]
    return Overview(root, tuple(sorted(found, key=lambda one: one.changed, reverse=True)))


def _found(path: Path) -> Found | None:
    """What is at a path; None for a file that is no tidy table."""
    table = path if path.suffix == ".csv" else path / "table.csv"
    report = path / "report.html"
    table, report = (one if one.is_file() else None for one in (table, report))
    changed = datetime.fromtimestamp((table or path / "records").stat().st_mtime)
    if table is None:
        stages = Counter(name.split(".")[1].partition("-")[0] for name in os.listdir(path / "records") if name.count(".") >= 2)
        measured = tuple(f"{stages[stage]} {stage}" for stage in records.STAGES if stages[stage])
        return Found(path, (), (), stages["compress"] + stages["recover"], measured, changed, None, report)
    try:
        rows = records.table(table)
    except InputError:
        return None
    if not {"model", "method", "ratio"} <= set(rows):
        return None
    return Found(
        path, _names(rows["model"]), tuple(name for name in _names(rows["method"]) if name != "dense"), len(rows),
        tuple(word for column, word in MEASURED.items() if column in rows and (rows[column].fillna(0) != 0).any()),
        changed, table, report,
    )  # fmt: skip


def _names(values: pd.Series) -> tuple[str, ...]:
    return tuple(sorted(map(str, values.dropna().unique())))


def _way(way: str, notebook: str | None) -> str:
    return way.replace(notebook, f"<a href='{notebook}'>{notebook}</a>") if notebook else way


def _link(root: Path, path: Path) -> str:
    """A link from a notebook of the project to a file of it."""
    address = os.path.relpath(path, root / "notebooks").replace(os.sep, "/")
    return f'<a href="{html.escape(address)}">{html.escape(path.name)}</a>'
