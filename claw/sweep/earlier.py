"""What a table of an earlier run of a study spares: its rows are not measured again, and the run's table holds them too.

So a committed study is gone on with where its records are not, by a stranger with a model or a method of his own as by its
authors: `goes_on_from: results/reference.csv`. A row is an experiment's if it has its id, the hash of its choices, and spares
the stages whose columns it fills. A dense model is measured again before anything is compared with it, as differences are
paired block by block and document by document, which no table holds. That it comes out the same is the check that the two
belong together.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from claw import records
from claw.csv_tables import read_table
from claw.errors import InputError
from claw.project import inside_project
from claw.records import limit_text
from claw.specs.experiment import Evaluation
from claw.specs.methods import DENSE
from claw.specs.study import Study
from claw.words import plural, setting_text

MARKS = {"compress": "parameters", "recover": "recovery_run", "loss": "loss", "tasks": "accuracy", "speed": "speedup_decode"}
"""A column that each stage fills."""
ALIKE = 0.02  # by how much two counts of held-out tokens may differ: a tokenizer's mark of the beginning is not predicted
SAME = 0.05  # of a standard error: what other threads and machines may change in bf16


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """The rows that a study goes on from, by experiment; none for a study that begins anew."""

    source: str
    rows: pd.DataFrame

    def spares(self, names: Mapping[str, Mapping[str, str]]) -> frozenset[str]:
        """Those of these records (file names, by experiment and stage) that need not be made."""
        spared = set()
        for experiment in names.keys() & set(self.rows.index):
            row = self.rows.loc[experiment]
            nan = row.get("status") == "nan"  # a measured NaN is a result
            stages = [stage for stage, column in MARKS.items() if pd.notna(row.get(column)) or (nan and stage == "loss")]
            spared |= {names[experiment][stage] for stage in stages if stage in names[experiment]}
        return frozenset(spared)

    @property
    def dtypes(self) -> frozenset[str]:
        """Number types in which its rows were measured."""
        return frozenset(self.rows["dtype"].dropna()) if "dtype" in self.rows else frozenset()

    def note(self, spared: int) -> str:
        """A sentence on what it spares."""
        return f"{self.source} has {plural(len(self.rows), 'experiment')} already: {plural(spared, 'record')} need not be made."


NOTHING = Earlier(source="", rows=pd.DataFrame())


def read_earlier(study: Study) -> Earlier:
    """The table that a study goes on from. InputError: none of claw's, or one measured in another way."""
    if study.goes_on_from is None:
        return NOTHING
    path = inside_project(study.goes_on_from)
    if path.suffix != ".csv" or not path.is_file():
        raise InputError(f"goes_on_from: {study.goes_on_from} is no table. Name the .csv file that `claw table` wrote.")
    rows = read_table(path)
    lacking = [name for name in ("experiment", "method", "model", "status") if name not in rows]
    if lacking or rows["experiment"].duplicated().any():
        reason = f"has no column {lacking[0]}" if lacking else "names an experiment twice"
        raise InputError(f"goes_on_from: {study.goes_on_from} {reason}. Name the .csv file that `claw table` wrote.")
    rows = rows[rows["status"] != "failed"].set_index("experiment")
    if differences := _differences(rows, study.evaluation) + _other_texts(rows, study):
        column, here, asked = differences[0]
        raise InputError(
            f"goes_on_from: {study.goes_on_from} was measured with {column} {here}, and the study asks for {asked}, so new "
            "rows would not belong with the old ones. Ask for the same, or leave goes_on_from out to measure all again."
        )
    return Earlier(source=study.goes_on_from, rows=rows)


def _differences(rows: pd.DataFrame, evaluation: Evaluation) -> list[tuple[str, Any, Any]]:
    """What was measured otherwise than a study asks: column, as measured, as asked."""
    blocks = max(1, evaluation.tokens // evaluation.context)
    asked = {"heldout": evaluation.heldout, "context": evaluation.context}
    other = []
    for column, value in asked.items():
        other += [(column, here, value) for here in _values(rows, column) if here != value]
    predicted = blocks * (evaluation.context - 1)
    other += [("loss_tokens", int(n), predicted) for n in _values(rows, "loss_tokens") if abs(n / predicted - 1) > ALIKE]
    scored = rows[rows["tasks"].notna()] if "tasks" in rows else rows.iloc[:0]
    if evaluation.tasks and len(scored):
        limit = limit_text(evaluation.limit)
        here = {_text(value) for value in scored["limit"]} if "limit" in scored else {""}
        other += [("limit", value or "none", limit or "none") for value in sorted(here) if value != _text(limit)]
        there = {str(name).removesuffix("_n") for name in scored.columns if str(name).endswith("_n")}
        if missing := [task for task in evaluation.tasks if task not in there]:
            other.append(("tasks", ", ".join(sorted(there)), ", ".join(missing)))
    return other


def _other_texts(rows: pd.DataFrame, study: Study) -> list[tuple[str, Any, Any]]:
    """What curves that the study goes on with were calibrated on, other than the study asks: as `_differences`."""
    alike, asked = rows[_of_curves(rows, study)], study.calibration.columns.items()
    return [(column, _text(here), value) for column, value in asked for here in _values(alike, column) if here != value]


def _of_curves(rows: pd.DataFrame, study: Study) -> pd.Series:
    """Whether a row is of a model and a method that the study has."""
    return rows["model"].isin(study.models) & rows["method"].isin(study.methods)


def _measured(study: Study, folder: Path) -> pd.DataFrame:
    """The table of a run, without rows of the study's curves that are of other text: they stay where a study was changed."""
    rows = records.table(folder, study.evaluation)
    other = pd.Series(False, rows.index)
    for column, value in study.calibration.columns.items():
        other |= rows[column].notna() & (rows[column] != value)
    other &= _of_curves(rows, study)
    if other.any():
        warnings.warn(
            f"{plural(int(other.sum()), 'experiment')} in {folder} were calibrated on other text than the study asks for now, "
            "and would not lie on its curves: they are left out of its table. Their records stay.",
            stacklevel=3,
        )
    return rows[~other].reset_index(drop=True)


def _values(rows: pd.DataFrame, column: str) -> list:
    return sorted(rows[column].dropna().unique()) if column in rows else []


def _text(value: Any) -> str:
    """A setting as text, whether the table holds 40, 40.0 or nothing."""
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else setting_text(value)


def table_of(study: Study, folder: Path) -> pd.DataFrame:
    """The tidy table of a study: what was measured in `folder`, and the rows of the table it goes on from.

    Where both have an experiment, what was measured here counts, and cells that were not are filled from the other.
    """
    earlier = read_earlier(study)
    if not len(earlier.rows):
        return _measured(study, folder)
    kept = earlier.rows.reset_index()
    if not (Path(folder) / "records").is_dir():
        return _sorted(kept)
    made = _measured(study, folder)
    _compare(made, kept, earlier.source)
    columns = [*made.columns, *(name for name in kept.columns if name not in made)]
    made, kept = (frame.reindex(columns=columns).set_index("experiment") for frame in (made, kept))
    filled = made.where(made.notna(), kept.reindex(made.index))
    # columns that are empty here would make pandas guess at types
    return _sorted(pd.concat([filled.dropna(axis=1, how="all"), kept[~kept.index.isin(made.index)]]).reset_index()[columns])


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values(list(records.ORDER), ignore_index=True)


def _compare(made: pd.DataFrame, kept: pd.DataFrame, source: str) -> None:
    """Dense models that were measured here and there: InputError for other text, a warning for another loss."""
    both = made[(made["method"] == DENSE) & (made["recovery_tokens"] == 0)].merge(
        kept, on="experiment", suffixes=("", "_before")
    )
    for row in both.itertuples():
        if row.heldout_data != getattr(row, "heldout_data_before", row.heldout_data):
            raise InputError(
                f"{row.model}: the held-out text of {source} had other tokens than here, so the two tables do not belong "
                "together. Leave goes_on_from out to measure all again."
            )
        if abs(row.loss - row.loss_before) > SAME * row.loss_stderr:
            warnings.warn(
                f"{row.model}: the dense model's loss is {row.loss:.5f} here and {row.loss_before:.5f} in {source}, as number "
                "types or machines differ. Each row keeps the dense model it was measured beside.",
                stacklevel=2,
            )
