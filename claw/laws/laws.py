"""The laws of a table as people hold them: ask, print, show in a notebook, write down, read back."""

from pathlib import Path
from typing import Any

from claw.laws import sliders, storage, tables
from claw.laws.fitted import FittedLaws


class Laws(FittedLaws):
    """What `claw.laws.fit` returns; `FittedLaws` documents its fields and what it answers."""

    def slider_json(self) -> list[dict[str, Any]]:
        """One plain mapping per curve, enough to draw and slide it in a page without Python; see `claw.laws.sliders`."""
        return sliders.slider_data(self)

    def summary(self) -> str:
        """The laws as tables for a terminal."""
        return tables.summary(self)

    def _repr_html_(self) -> str:
        return tables.html(self)

    def to_json(self, path: str | Path | None = None) -> str:
        """Everything, unrounded, as JSON; written to `path` if given. `claw.laws.from_json` gives equal laws."""
        return storage.to_json(self, path)


def from_json(source: str | Path) -> Laws:
    """The laws that `to_json` wrote, from its text or its file. InputError for anything else."""
    return Laws(**storage.read_fields(source))
