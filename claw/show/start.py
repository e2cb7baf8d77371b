"""What results there are in a project: runs and tables, what was measured in each, and what to open next.

Looking is cheap: tables are read, records are only counted, and nothing is computed.
"""

import contextlib
import html
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pandas as pd

from claw import records, words
from claw.errors import InputError
from claw.laws.tidy import DENSE, REQUIRED
from claw.project import project_folder
from claw.words import Html

PLACES = ("results", "runs")
MEASURED = {"loss": "loss", "accuracy": "accuracy", "speedup_decode": "speed", "recovery_tokens": "recovery"}
"""Columns of a table, and what to call the measurement that fills them."""
HOW = (
    ("look around", "open {}: a live lesson on one small model, ready a minute after its weights are there", "00_tour.ipynb"),
    ("measure a small study", "in a terminal: make demo, about ten minutes on two cores; then come back here", ""),
    ("measure your own", "open {}, then 20, 30 and 40 one after the other", "10_compress.ipynb"),
)
"""What to do where there are no results yet: aim, step, notebook."""
HEAD = ("results", "models", "methods", "experiments", "measured", "last change", "open")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One run or table of the overview."""

    path: Path
    experiments: int
    measured: tuple[str, ...]
    models: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    table: Path | None = None

    @property
    def changed(self) -> datetime:
        """When something was last measured."""
        return datetime.fromtimestamp((self.table or self.path / "records").stat().st_mtime)


@dataclass(frozen=True)
class Overview:
    """Results below `root`, the newest first."""

    root: Path
    entries: tuple[Entry, ...]

    def __str__(self) -> str:
        if not self.entries:
            return "No results here yet. " + " ".join(f"To {aim}: {step.format(notebook)}." for aim, step, notebook in HOW)
        count = lambda entry: f"{words.plural(entry.experiments, 'experiment')}, {', '.join(entry.measured)}"
        return "\n".join(f"{os.path.relpath(entry.path, self.root)}: {count(entry)}" for entry in self.entries)

    def _repr_html_(self) -> str:
        if not self.entries:
            link = lambda notebook: f"<a href='{notebook}'>{notebook}</a>"
            steps = "".join(f"<li>To <b>{aim}</b>: {step.format(link(notebook))}.</li>" for aim, step, notebook in HOW)
            return f"<p>No results here yet. There are three ways to get some:</p><ul>{steps}</ul>"
        return words.html_table(map(self._row, self.entries), HEAD) + (
            "<p><a href='50_laws.ipynb'>50_laws</a>, <a href='51_explorer.ipynb'>51_explorer</a> and "
            "<a href='60_guide.ipynb'>60_guide</a> open the newest run; their menu has the others and the reference study. "
            "A report opens in your browser without network and without Python.</p>"
        )

    def _row(self, entry: Entry) -> tuple[object, ...]:
        some = lambda names: ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        pages = (path for path in (entry.table, entry.path / "report.html") if path and path.is_file())
        links = Html(", ".join(map(self._link, pages)) or "–")
        what = (os.path.relpath(entry.path, self.root), some(entry.models), some(entry.methods), entry.experiments)
        return *what, ", ".join(entry.measured) or "nothing yet", f"{entry.changed:%Y-%m-%d %H:%M}", links

    def _link(self, path: Path) -> str:
        """A link from a notebook of the project to a file of it."""
        address = os.path.relpath(path, self.root / "notebooks").replace(os.sep, "/")
        return f'<a href="{html.escape(address)}">{html.escape(path.name)}</a>'


def find_results(places: Sequence[str] = PLACES) -> Overview:
    """The runs and tables below `places`, folders of the project."""
    root = project_folder()
    entries = [entry for place in places for path in sorted((root / place).glob("*")) if (entry := _entry(path))]
    return Overview(root, tuple(sorted(entries, key=lambda entry: entry.changed, reverse=True)))


def _entry(path: Path) -> Entry | None:
    """What is at a path; None for one that holds neither a tidy table nor records."""
    table = path if path.suffix == ".csv" else path / "table.csv"
    if table.is_file():
        rows = pd.DataFrame()
        with contextlib.suppress(InputError):
            rows = records.table(table)
        if not set(REQUIRED) <= set(rows):
            return None
        models, methods = (tuple(sorted(set(map(str, rows[name].dropna())) - {DENSE})) for name in ("model", "method"))
        measured = tuple(word for column, word in MEASURED.items() if column in rows and (rows[column].fillna(0) != 0).any())
        return Entry(path=path, table=table, experiments=len(rows), measured=measured, models=models, methods=methods)
    if not (path / "records").is_dir():
        return None
    stages = Counter(name.split(".")[1].partition("-")[0] for name in os.listdir(path / "records") if name.count(".") >= 2)
    measured = tuple(f"{stages[stage]} {stage}" for stage in records.STAGES if stages[stage])
    return Entry(path=path, experiments=stages["compress"] + stages["recover"], measured=measured)
