"""`claw.laws.read`: a table as its owner has it, made tidy, with every guess in one line and the argument that overrules it.

reading = claw.laws.read("mine.csv")
print(reading)                                     # the guesses, one a line
laws = claw.laws.fit(reading)                      # or reading.table
claw.laws.read("mine.csv", ratio="kept", loss="wikitext_ppl")

Notable choices:
- A table that claw wrote passes without a guess. What is said is never guessed at; what could be two things is refused.
- A perplexity becomes a loss by its logarithm, in nats per token, or per word where its name says so; shares become fractions.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from claw import records
from claw.csv_tables import NAMES
from claw.errors import InputError
from claw.laws.own_tables import counts, layout, responses, shares, unnamed
from claw.laws.own_tables.choices import Choices, Guesses, listed, unclear
from claw.laws.own_tables.layout import Draft
from claw.laws.own_tables.own_files import cells_of, decimal_of, nested_columns, numbers_in, refuse_nested
from claw.laws.points import KEY, NUMBERS
from claw.laws.tidy import REQUIRED, OwnTable, falls_backwards, known_nats
from claw.specs.spec import build_spec
from claw.words import SURROGATE


def read(source: str | Path | pd.DataFrame, **said: Any) -> OwnTable:
    """The tidy table of a file or frame, or of the folder of a run, and the guesses that it took.

    `said`: the fields of `claw.laws.own_tables.choices.Choices`, each of which overrules a guess. The table has model, method
    (dense for the uncompressed model), ratio (fraction removed), loss (nats) and accuracy (0 to 1) as far as they are there,
    and all other columns as they were. InputError: not a table, or something that could be read in two ways; it names the ways.
    """
    choices, guesses = build_spec(Choices, said, "claw.laws.read"), Guesses()
    if isinstance(source, str | Path) and Path(source).expanduser().is_dir():
        source = records.table(Path(source).expanduser())
    frame = cells_of(source, choices, guesses)
    _refuse_broken_text(frame)
    draft = Draft(frame, choices, guesses, decimal_of(frame, choices, guesses))
    layout.spread_metrics(draft)
    layout.turn_over(draft)
    layout.understand(draft)
    unnamed.find_names(draft)
    counts.find_counts(draft)
    refuse_nested(draft.frame[[name for name in draft.meanings if draft.meanings[name].kind not in ("other", "own")]])
    _leave_out_nested(draft)
    layout.lengthen(draft)
    layout.name_rows(draft)
    shares.read_ratios(draft)
    responses.read_cells(draft)
    responses.read_losses(draft)
    responses.read_accuracies(draft)
    if not {"loss", "accuracy"} & set(draft.frame):
        raise unclear(
            f"The table has no column for loss, perplexity or accuracy; its columns are {listed(draft.frame.columns, 20)}.",
            'columns={"…": "loss"}',
            'columns={"…": "perplexity"}',
            'accuracy=["…", "…"] for the mean of tasks',
        )
    if not any(draft.frame[name].notna().any() for name in ("loss", "accuracy") if name in draft.frame):
        raise InputError("No row has a number for its loss or accuracy: nothing was measured, or cells are shifted.")
    _refuse_mixtures(draft)
    table = layout.add_sizes(
        _typed(draft), choices, guesses, counted="ratio_params" in draft.frame and bool(draft.of_kind("count"))
    )
    if choices.ratio is None and "kept" not in draft.meanings and not known_nats(table) and falls_backwards(table):
        raise unclear(
            "Models get better as the ratio grows, as if the ratio were what is kept. Which is it?",
            'ratio="kept"',
            'ratio="removed"',
        )
    return OwnTable(table=table, guesses=tuple(guesses.lines))


def _refuse_broken_text(frame: pd.DataFrame) -> None:
    """InputError where a name or cell holds half a character (a lone surrogate), which no file can keep."""
    for name, column in frame.items():
        for cell in (name, *(() if is_numeric_dtype(column.dtype) else column)):
            if isinstance(cell, str) and SURROGATE.search(cell):
                raise InputError(
                    f"Column {name!a} holds {cell!a}, which is no valid Unicode text: write the table anew in UTF-8, "
                    "or repair that cell."
                )


def _refuse_mixtures(draft: Draft) -> None:
    """InputError where rows of one model, method and ratio differ in a column of words unknown to claw, such as `tuned`."""
    key = ["model", "method", "ratio", *(name for name in KEY if name in draft.frame and name not in REQUIRED)]
    for name in draft.frame:
        cells = draft.frame[name]
        known = {*records.COLUMNS, *draft.choices.columns, *draft.of_kind("own", "other")}
        if name in known or is_numeric_dtype(cells.dtype) or not numbers_in(cells, draft.decimal)[2].any():
            continue
        if cells.nunique() > max(2, len(cells) / 2):  # notes and ids, not settings
            continue
        whole = draft.frame.assign(**{name: cells.astype(str)})
        alike = whole[whole.duplicated(key, keep=False)]
        if len(alike) and not alike.duplicated([*key, name]).any():
            values = listed(sorted(set(whole[name])))
            raise unclear(
                f"Rows of one model, method and ratio differ in column {name} ({values}): they do not lie on one curve. Keep "
                "the rows of one of them, as in table[table[column] == value].",
                f'columns={{"{name}": "ignore"}} if they repeat one measurement',
            )


def _leave_out_nested(draft: Draft) -> None:
    nested = nested_columns(draft.frame)
    if nested:
        draft.guesses.add(f"columns of lists or mappings are left out: {listed(nested)}", "write text or numbers")
        draft.frame = draft.frame.drop(columns=nested)


def _typed(draft: Draft) -> pd.DataFrame:
    """The frame with numbers as numbers where all of a column are, claw's columns first."""
    frame = draft.frame
    columns: dict[str, pd.Series] = {}
    for name in frame.columns:
        column = frame[name]
        if name in NUMBERS:
            draft.numbers(name)  # refuses what is no number
        if not is_numeric_dtype(column.dtype) and name not in NAMES:
            values, signs, wrong = numbers_in(column, draft.decimal)
            if not wrong.any() and not signs.any():
                whole = values.notna().all() and column.map(lambda cell: str(cell).lstrip("+-").isdigit()).all()
                column = values.astype("int64") if whole and (values.abs() < 2**53).all() else values
        if column.dtype == object:
            column = pd.Series([np.nan if cell is None else cell for cell in column], index=column.index)
        columns[name] = column
    table = pd.DataFrame(columns)
    known = [name for name in records.COLUMNS if name in table]
    return table[[*known, *(name for name in table.columns if name not in known)]]
