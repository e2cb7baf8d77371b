"""Tables as CSV: what is written is read back equal, and a spreadsheet takes no name for a formula.

- Names are text: a model called `nan`, `None` or `007` stays what it is; only an empty cell is missing.
- A name that a spreadsheet would take for a formula (it begins with = + - @) is written after an apostrophe, which means text
  there; reading takes the apostrophe away.
"""

import csv
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from claw.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

NAMES = tuple(
    "experiment model family method ratio_of recovery recovery_run heldout heldout_data tasks day device dtype status code "
    "calibration speed_setting".split()
)
"""Columns of names in a table of experiments."""
TEXT = (*NAMES, *"source metric task law curve form response axis budget reason detail".split())
"""Columns of names: everything in them is text. What is in other columns is a number wherever it can be one."""
_FORMULA, _QUOTED = re.compile(r"'*[=+\-@\t\r]"), re.compile(r"'+[=+\-@\t\r]")


def table_text(frame: "pd.DataFrame") -> str:
    """A table as CSV; equal tables give equal text."""
    plain = guarded(frame)
    # Python quotes a line feed, but no lone carriage return, at which readers begin a new row
    returns = any("\r" in cell for column in plain for cell in plain[column] if isinstance(cell, str))
    quoting = csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL
    return plain.to_csv(index=False, lineterminator="\n", quoting=quoting)


def guarded(frame: "pd.DataFrame") -> "pd.DataFrame":
    """A table whose text no spreadsheet takes for a formula."""
    guard = lambda cell: f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell
    return frame.apply(lambda column: column.map(guard) if column.dtype.kind not in "iufb" else column)


def read_table(path: str | Path) -> "pd.DataFrame":
    """A CSV table with its columns of names (`TEXT`) as text. InputError where there is none or it is no table."""
    import pandas as pd
    from pandas._libs.parsers import STR_NA_VALUES

    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no table {path}. Make one with `claw table STUDY.yaml --out {path.name}`.")
    try:
        names = [str(name) for name in pd.read_csv(path, nrows=0).columns]
        missing: dict[Any, Any] = {name: [""] if name in TEXT else sorted(STR_NA_VALUES) for name in names}
        text: dict[Any, Any] = {name: str for name in names if name in TEXT}
        frame = pd.read_csv(path, dtype=text, na_values=missing, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path} is not a CSV table: {error}.") from error
    return frame.apply(lambda column: column.map(unguarded) if column.dtype.kind not in "iufb" else column)


def unguarded(cell: Any) -> Any:
    """What was in a cell before `guarded`."""
    return cell[1:] if isinstance(cell, str) and _QUOTED.match(cell) else cell
