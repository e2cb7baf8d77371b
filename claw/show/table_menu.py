"""A menu of the tables of this project: the newest run's is open, and the reference study's and the others' are beside it."""

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ipywidgets

from claw.laws import OwnTable, read
from claw.project import REFERENCE, project_folder, tables
from claw.specs.notebooks import LawsParameters

AGAIN = "Now run this cell again and those below it: <i>Run → Run Selected Cell and All Below</i>."


class TableMenu(ipywidgets.VBox):
    """A menu of tables to show; `source` is the chosen one, and `read()` what is in it.

    The cells of a notebook do not follow a menu, so a change says what to run. What `reading` says of the table that was open
    at first is not said of others.
    """

    def __init__(self, opened: Path, reading: Mapping[str, Any]) -> None:
        options, self.opened = _options(opened)
        self.reading = reading
        wide = {"width": "34rem", "max_width": "100%"}
        self.choice = ipywidgets.Dropdown(options=options, value=self.opened, description="table", layout=wide)
        self.hint = ipywidgets.HTML()
        self.choice.observe(lambda _: setattr(self.hint, "value", AGAIN), "value")
        super().__init__([self.choice, self.hint], layout={"max_width": "100%"})

    @property
    def source(self) -> Path:
        """Path of the chosen table."""
        return self.choice.value

    def read(self) -> OwnTable:
        """The chosen table. InputError: see `claw.laws.read`."""
        self.hint.value = ""
        return read(self.source, **(self.reading if self.source == self.opened else {}))


def table_menu(asked: LawsParameters) -> TableMenu:
    """The menu of a notebook: the same one, with what was chosen in it, as long as the same table is asked for."""
    return _kept_menu(asked.source, json.dumps(asked.reading), tuple(tables()))


@functools.cache
def _kept_menu(opened: Path, reading: str, there: tuple[str, ...]) -> TableMenu:
    return TableMenu(opened, json.loads(reading))


def _options(opened: Path) -> tuple[list[tuple[str, Path]], Path]:
    """What the menu offers, as (words, path), and which of them is open: a table of the project, or one from elsewhere."""
    root, names = project_folder(), tables()
    known = {name: "the newest run" for name in names[:1] if name.startswith("runs")} | {str(REFERENCE): "the reference study"}
    words = lambda name: name.removesuffix("/table.csv") + (f" · {known[name]}" if name in known else "")
    options = [(words(name), root / name) for name in names]
    for _, path in options:
        if opened.samefile(path.parent if opened.is_dir() else path):
            return options, path
    own = os.path.relpath(opened, root) if opened.is_absolute() and opened.is_relative_to(root) else str(opened)
    return [(own, opened), *options], opened
