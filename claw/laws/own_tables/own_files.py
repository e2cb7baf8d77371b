"""The cells of a table as its owner keeps it: comma, semicolon or tab, any newline, gz, JSON lines, Parquet, or a frame.

Notable choices:
- What a file is follows from its first bytes, not from its name: an Excel file called .csv is still one.
- Cells stay text until their column's meaning is known: a model called `nan` or `None` is a name, an empty cell is missing.
"""

import csv
import gzip
import importlib.util
import io
import json
import math
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from claw.csv_tables import unguarded
from claw.errors import InputError
from claw.laws.own_tables.choices import Choices, Guesses, listed, unclear

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
FIRST = "first column"
"""What a first column of names without a heading is called; one of row numbers is left out."""
BLANK = {"", "-", "–", "—", "−", "/", "\\", ".", "?", "n/a", "na", "n.a.", "#n/a", "nan", "none", "null", "nil", "<na>", "nat"}
"""Cells of a column of numbers that mean: nothing measured here."""
EXCEL = "Save it as CSV (in Excel: File, Save as, CSV UTF-8; semicolons and decimal commas are fine) and name that file."
WANTED = "A table is a .csv, .tsv, .jsonl or .parquet file (.gz too) or a data frame, with one row per measured model."
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_SURPLUS = re.compile(r"\s*(±|\+/-|\+-).*$|\s*\([^()]*\)$")  # ± 0.3, (0.3)
_SPACES = str.maketrans({"−": "-", "％": "%", "\u00a0": None, "\u2009": None, "\u202f": None, " ": None, "'": None})


def cells_of(source: Any, choices: Choices, guesses: Guesses) -> pd.DataFrame:
    """Frame of a file's or a frame's cells with headings as text: numbers where they were numbers, else text or None.

    InputError: no file, not a table, no rows, headings that are not told apart.
    """
    if isinstance(source, pd.DataFrame):
        frame = source.copy(deep=False)
    elif isinstance(source, str | Path):
        frame = _read_file(Path(source).expanduser(), choices, guesses)
    else:
        raise InputError(f"claw.laws.read takes a file's name or a data frame, not {type(source).__name__}. {WANTED}")
    if any(name is not None for name in frame.index.names):
        named = [name for name in frame.index.names if name is not None and name not in frame.columns]
        frame = frame.reset_index(named) if named else frame
    frame = frame.reset_index(drop=True)
    parts = (name if isinstance(name, tuple) else (name,) for name in frame.columns)
    frame.columns = pd.Index([" ".join(str(part).strip() for part in each).strip() for each in parts], dtype=object)
    headed = [re.fullmatch(r"(unnamed: \d+)?", name.lower()) is None for name in frame.columns]
    if len(headed) > 1 and not headed[0] and FIRST not in frame and numbers_in(frame.iloc[:, 0])[2].any():
        frame.columns, headed = pd.Index([FIRST, *frame.columns[1:]], dtype=object), [True, *headed[1:]]
    frame = frame.loc[:, headed]  # the others are row numbers, or margins
    refuse_same_headings(frame)
    if not len(frame.columns) or frame.empty:
        raise InputError(f"The table has no rows. {WANTED}")
    frame = pd.DataFrame({name: _column(frame[name]) for name in frame.columns})
    empty = frame.isna().all(axis=1)
    return frame[~empty].reset_index(drop=True)


def refuse_same_headings(frame: pd.DataFrame) -> None:
    """InputError where two columns have one name; pandas calls the second of two columns `loss` of a file loss.1."""
    names = [str(name) for name in frame.columns]
    renamed = [name.rpartition(".")[0] for name in names if re.fullmatch(r"[a-z_]+\.\d+", name)]
    twice = {name for name in names if names.count(name) > 1} | {name for name in renamed if name in names}
    if twice:
        raise InputError(
            f"The table has columns of the same name: {', '.join(sorted(twice))}. Keep one of each, or give each a "
            "name of its own."
        )


def refuse_nested(frame: pd.DataFrame) -> None:
    """InputError for columns whose cells are lists or mappings."""
    if nested := nested_columns(frame):
        raise InputError(f"Column {', '.join(nested)} holds lists or mappings: write one number or one name in each cell.")


def nested_columns(frame: pd.DataFrame) -> list[str]:
    """Names of columns with lists or mappings in their cells."""
    return [str(name) for name in frame if frame[name].dtype == object and frame[name].map(_is_nested).any()]


def _is_nested(value: Any) -> bool:
    return isinstance(value, list | tuple | dict | set | frozenset | np.ndarray)


def _column(column: pd.Series) -> pd.Series:
    """Numbers as they are; all else text without surrounding space, None where nothing is."""
    if column.dtype.kind in "iuf" and isinstance(column.dtype, np.dtype):
        return column
    return pd.Series([_cell(value) for value in column.astype(object)], index=column.index, dtype=object)


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return value.strip() or None
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return None
    return value if _is_nested(value) or _is_plain_number(value) else str(value)


def _is_plain_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _read_file(path: Path, choices: Choices, guesses: Guesses) -> pd.DataFrame:
    if not path.exists():
        raise InputError(
            f"There is no table {path}. Make one with `claw table STUDY.yaml --out {path.name}`, or name your own."
        )
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"The table {path} cannot be read: {error}. {WANTED}") from error
    if content[:4] == b"PAR1":
        return _parquet(content, path)
    if content[:4] in (b"PK\x03\x04", b"\xd0\xcf\x11\xe0"):
        if importlib.util.find_spec("openpyxl") is None or content[:2] != b"PK":
            raise InputError(f"{path.name} is a spreadsheet or an archive, not a text file. {EXCEL}")
        try:
            return pd.read_excel(io.BytesIO(content), keep_default_na=False, na_values=[""])
        except Exception as error:  # openpyxl raises what its parsers raise
            raise InputError(f"{path.name} cannot be read as a spreadsheet: {error}. {EXCEL}") from error
    text = _text(content, path, guesses)
    if text.lstrip()[:1] in ("{", "["):
        return _json_rows(text, path)
    return _separated(text, path, choices, guesses)


def _parquet(content: bytes, path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(io.BytesIO(content))
    except Exception as error:  # pyarrow raises its own errors, and those of what the file holds
        raise InputError(f"{path.name} cannot be read as a Parquet file: {error}. {WANTED}") from error


def _text(content: bytes, path: Path, guesses: Guesses) -> str:
    wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")  # Excel's "Unicode text"
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
        guesses.add(f"{path.name} is not UTF-8: its letters are read as those of Windows", "save it as UTF-8")
    if "\0" in text:
        raise InputError(f"{path.name} is not a text file. {WANTED}")
    if not text.strip():
        raise InputError(f"{path.name} is empty. {WANTED}")
    return text


def _json_rows(text: str, path: Path) -> pd.DataFrame:
    """JSON lines, or one JSON list, of mappings."""
    try:
        lines = [line for line in text.split("\n") if line.strip()]
        rows = json.loads(text) if text.lstrip()[0] == "[" else [json.loads(line) for line in lines]
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path.name} is not a file of JSON lines: {error}. {WANTED}") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(f'{path.name} must hold one mapping per line, such as {{"model": "m", "ratio": 0.3}}. {WANTED}')
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pd.DataFrame({name: pd.Series([row.get(name) for row in rows], dtype=object) for name in names})


def _separated(text: str, path: Path, choices: Choices, guesses: Guesses) -> pd.DataFrame:
    separator = choices.separator
    line, _, rest = text.partition("\n")
    if declared := re.fullmatch(r"sep=(.)\r?", line.strip("\ufeff")):  # Excel's own first line
        separator, text = separator or declared[1], rest
    if separator is None:
        heading = next(line for line in text.splitlines() if line.strip())
        counts = {mark: len(next(csv.reader([heading], delimiter=mark))) for mark in SEPARATORS}
        separator = max(counts, key=lambda mark: counts[mark])  # a tie goes to the comma
        if separator != ",":
            guesses.add(f"cells are parted by {SEPARATORS[separator]}", 'separator=","')
    try:
        rows = [row for row in _csv_rows(text, separator) if any(map(str.strip, row))]
    except (csv.Error, TypeError) as error:
        raise InputError(f"{path.name} is not a table of cells parted by {separator!r}: {error}. {WANTED}") from error
    if separator == "|":  # as Markdown draws it
        first, last = (all(not row[end].strip() for row in rows) for end in (0, -1))
        rows = [row[first : len(row) - last] for row in rows]
        rows = [row for row in rows if not all(re.fullmatch(r"\s*:?-+:?\s*", cell) for cell in row)]
    if not rows or len(rows[0]) < 2:
        raise InputError(f"{path.name} has one column only, so it is not a table that claw can read. {WANTED}")
    width = len(rows[0])
    long = [number for number, row in enumerate(rows, 1) if any(map(str.strip, row[width:]))]
    if long:
        raise InputError(
            f"{path.name} has {width} headings, and more cells than that in line {listed(long)}. Put quotes around cells that "
            f"contain {separator!r}, or say separator=… in claw.laws.read(table, …)."
        )
    heads = [name.strip() for name in rows[0]]
    body = [[*map(unguarded, row[:width]), *[""] * (width - len(row))] for row in rows[1:]]
    return pd.DataFrame(body, columns=pd.Index(heads, dtype=object), dtype=object)


def _csv_rows(text: str, separator: str) -> list[list[str]]:
    """Cells by row. csv.Error for a quote that is never closed, which would swallow all rows after it."""
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise csv.Error("a quotation mark is opened and never closed") from error
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))


def decimal_of(frame: pd.DataFrame, choices: Choices, guesses: Guesses) -> str:
    """The decimal mark of the table's numbers: a dot, unless commas are seen in places where only a decimal mark can be."""
    if choices.decimal:
        return choices.decimal
    texts = {cell for name in frame if frame[name].dtype == object for cell in frame[name] if isinstance(cell, str)}
    if behind := [cell for cell in texts if re.match(r"[\d.,]+%?\s*(±|\+/-|\+-|\()", cell)]:
        guesses.add(f"what follows a number, as in {min(behind)!r}, is left out", 'columns={"…": "ignore"}')
    plain = {cell.translate(_SPACES).rstrip("%") for cell in texts if re.match(r"[+\-−]?[\d.,]+", cell)}
    commas = {cell for cell in plain if "," in cell and re.fullmatch(r"[+-]?[\d.,]+(e[+-]?\d+)?", cell, re.IGNORECASE)}
    grouped = {cell for cell in commas if re.fullmatch(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?", cell)}
    if commas - grouped:
        guesses.add(f"numbers have decimal commas ({min(commas - grouped)})", 'decimal="."')
        return ","
    told = any(cell.count(",") > 1 for cell in grouped)  # 6,740,000 can only part thousands
    if grouped and not told and not any(re.fullmatch(r"[+-]?[\d,]*\.\d+", cell) for cell in plain):
        raise unclear(f"Is the comma in {listed(sorted(grouped), 3)} a decimal mark?", 'decimal=","', 'decimal="."')
    return "."


def without_told(cell: str) -> str:
    """A cell without the words that say what its number is: 20% of Ratio = 20%."""
    return re.sub(r"^\s*[a-z ]+\s*[=:@]\s*", "", cell, flags=re.IGNORECASE)


def numbers_in(cells: pd.Series, decimal: str = ".") -> tuple[pd.Series, pd.Series, pd.Series]:
    """The numbers of a column (NaN where blank), which of them had a percent sign, and which cells are no numbers."""
    none = pd.Series(False, cells.index)
    if is_numeric_dtype(cells.dtype):
        return cells.astype(float), none, none
    text = pd.Series(["" if cell is None else str(cell).strip() for cell in cells], index=cells.index, dtype=object)
    blank = text.str.lower().isin(BLANK)
    left = ~blank
    values = pd.Series(np.nan, cells.index)
    if decimal == ".":
        quick = pd.to_numeric(text.where(~blank).astype(object), errors="coerce").astype(float)
        values, left = quick, left & quick.isna()
    signs, wrong = none.copy(), none.copy()
    for row in cells.index[left]:
        number, signs[row] = _number_of(text[row], decimal)
        wrong[row] = number is None
        values[row] = math.nan if number is None else number
    return values, signs, wrong


def _number_of(text: str, decimal: str) -> tuple[float | None, bool]:
    """The number in a cell and whether a percent sign follows it: 62,3 %, 1,234.5, **5.47**, 62.3 ± 0.4, 5.1 (0.2)."""
    plain = _SURPLUS.sub("", text.strip("*_†‡§↑↓ ")).strip("*_†‡§↑↓ ").translate(_SPACES)
    sign = plain.endswith("%")
    plain = plain.removesuffix("%").strip("*_")
    if decimal == ",":
        plain = plain.replace(".", "").replace(",", ".") if "," in plain else plain
    elif re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?", plain):
        plain = plain.replace(",", "")
    if plain.lower().lstrip("+-") in ("inf", "infinity", "∞"):
        return (-math.inf if plain.startswith("-") else math.inf), sign
    return (float(plain), sign) if _NUMBER.fullmatch(plain) else (None, sign)
