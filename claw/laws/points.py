"""The points that laws are fitted to: a checked table, with its dense models attached and every excluded row accounted for.

Notable choices:
- What is wrong with the table as a whole (a missing column, two held-out texts in one column) is an error. What is wrong
  with a row is an exclusion with a typed reason: rows used and rows excluded add up to the rows given, always.
- A row can be fit for accuracy and not for loss, so exclusions name the response they hold for.
- The dense model is one row per model. It gives L0 and A0, and it is the point r = 0 of every curve of that model.
- A schema library would say that a row is wrong; here each rule counts its rows, names the reason and keeps the rest.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from claw.errors import InputError
from claw.files import digest
from claw.laws.comparable import calibration_notes, one_speed_setting, refuse_mixed
from claw.laws.tidy import DENSE, RESPONSES, OwnTable, is_dense, refuse_untidy, tidy_columns, unrecovered
from claw.laws.working import FLAGS, flagged
from claw.words import plural

AXES = {"ratio": "nominal ratio r", "ratio_params": "share of all parameters removed"}
DEFAULTS = {"family": "unknown", "recovery": "none", "recovery_tokens": 0, "seed": 0, "ratio_of": "own", "recovery_run": ""}
NUMBERS = (
    "ratio ratio_params ratio_nonembedding ratio_flops recovery_tokens parameters parameters0 loss loss_stderr loss0 "
    "loss0_stderr excess_loss excess_loss_stderr accuracy accuracy_stderr accuracy0 accuracy_change accuracy_change_stderr "
    "chance bits_per_byte context"
).split()
KEY = ("model", "method", "ratio", "ratio_of", "seed", "recovery", "recovery_tokens", "recovery_run")

TOO_LARGE, NEAR = 1e6, 1e-9
"""Losses from the first on are left out; ratios nearer than the second are one."""

REASONS = {
    "failed": "the experiment failed",
    "ratio_missing": "no ratio",
    "ratio_outside": "ratio outside [0, 1)",
    "dense_cut": "called dense, with a ratio above 0",
    "duplicate": "the same experiment again, with the same result",
    "conflict": "the same experiment again, with another result; none of them is used",
    "missing": "not measured",
    "not_finite": "measured as NaN or infinite",
    "not_positive": "a loss of zero or below is no cross-entropy",
    "too_large": "a loss of a million nats or more is no measurement",
    "outside_unit": "an accuracy outside [0, 1]",
}
"""Why a row is left out."""


@dataclass(frozen=True, kw_only=True)
class Points:
    """Rows that laws can use, in one form whatever the source, and those that they cannot.

    `rows` has the columns of `claw.records.COLUMNS` that were there, plus loss0 and accuracy0 filled from the dense rows,
    `use_loss`, `use_accuracy`, and `flag` ("", "control" or "destroyed": see `claw.laws.working`). `excluded` has columns
    row, model, method, ratio, response, reason, detail.
    """

    rows: pd.DataFrame
    excluded: pd.DataFrame
    notes: tuple[str, ...]
    given: int

    def __repr__(self) -> str:
        """What the table has, in a few lines, for `print`."""
        rows = self.rows
        cut = rows[~is_dense(rows)]
        counts = (plural(len(rows), "row"), plural(self.given, "row"), plural(rows["model"].nunique(), "model"))
        first = f"{counts[0]} of {counts[1]} given: {counts[2]}, {plural(cut['method'].nunique(), 'method')}, "
        gone = self.excluded.groupby(["response", "reason"]).size()
        why = [f"  left out: {n} × {REASONS[reason]} ({response})" for (response, reason), n in gone.items()]
        return "\n".join([first + " and ".join(self.responses), *why, *(f"  {note}" for note in self.notes)])

    @property
    def responses(self) -> tuple[str, ...]:
        """Responses that at least one row has."""
        return tuple(name for name in RESPONSES if self.rows[f"use_{name}"].any())

    @property
    def axes(self) -> tuple[str, ...]:
        """Ratio axes that the table has: the nominal one, and the true one where it was recorded."""
        return tuple(name for name in AXES if name in self.rows and self.rows[name].notna().any())

    @property
    def leading_axis(self) -> str:
        """The axis that people are shown: the share of all parameters where the table has it, else the method's own ratio."""
        return self.axes[-1] if self.axes else "ratio"

    @property
    def digest(self) -> str:
        """Hash of the points: equal data, equal digest, whatever the order of rows."""
        columns = sorted(set(self.rows.columns) - {"flag"})  # which follows from the others
        return digest(self.rows[columns].sort_values(columns, ignore_index=True).to_csv(index=False, lineterminator="\n"))

    @property
    def one_tokenizer(self) -> bool:
        """Whether losses in nats per token can be compared across models: measured on the same tokens, as far as is known."""
        rows = self.rows[self.rows["use_loss"]]
        return "heldout_data" not in rows or rows["heldout_data"].nunique() <= 1

    def of(self, response: str, axis: str = "ratio", *, dense: bool = False, recovered: bool = True) -> pd.DataFrame:
        """Rows usable for this response on this axis; the dense rows only on request, recovered ones unless declined."""
        rows = self.rows[self.rows[f"use_{response}"] & self.rows[axis].notna()]
        rows = rows if dense else rows[~is_dense(rows)]
        return rows if recovered else unrecovered(rows)

    def by_size(self, models: Iterable[str]) -> list[str]:
        """Models from small to large, as far as sizes are known."""
        size = self.rows.groupby("model")["parameters0"].mean() if "parameters0" in self.rows else pd.Series(dtype=float)
        return sorted(models, key=lambda name: (size.get(name, np.nan), name))

    def dense_row(self, model: str) -> pd.Series:
        """The first row of a model, which holds its dense loss and accuracy."""
        return self.rows[self.rows["model"] == model].iloc[0]

    def completeness(self, response: str = "loss") -> pd.DataFrame:
        """Number of usable experiments by model and method (rows) and nominal ratio (columns)."""
        place = {"index": ["model", "method"], "columns": "ratio", "values": response}
        return self.of(response).pivot_table(**place, aggfunc="size", fill_value=0).astype(int)


def read_points(table: pd.DataFrame | OwnTable) -> Points:
    """Points of a tidy table. Required columns: model, method, ratio, and loss or accuracy; all others add what they can.

    InputError: not a frame, a required column missing, no usable row, losses or accuracies measured in different settings; and,
    for a frame that `claw.laws.read` has not read, percentages, perplexities called loss, and ratios that are what is kept.
    """
    guesses: tuple[str, ...] = ()
    as_read = isinstance(table, OwnTable)
    if isinstance(table, OwnTable):
        table, guesses = table.table, table.guesses
    table = tidy_columns(table)
    rows, notes = _with_defaults(table)
    notes = [*(f"Guessed: {line}" for line in guesses), *notes]
    if not as_read:
        refuse_untidy(rows)
    rows, excluded = _exclude_rows(rows, told_apart="seed" in table or "experiment" in table)
    refuse_mixed(rows)
    rows, of_others = one_speed_setting(rows)
    notes += [*of_others, *calibration_notes(rows)]
    rows = _with_dense(rows, notes)
    rows["flag"] = flagged(rows)
    excluded = pd.concat([excluded, *(_unusable(rows, response) for response in RESPONSES if response in table)])
    for response in RESPONSES:
        gone = excluded.loc[excluded["response"] == response, "row"]
        rows[f"use_{response}"] = ~rows["row"].isin(gone) if response in table else False
    if "heldout_data" in rows and "loss" in rows and rows.loc[rows["use_loss"], "heldout_data"].nunique() > 1:
        notes.append(
            "The models' losses are over different tokens (tokenizers; column heldout_data). Laws with L0^α are fitted to bits "
            "per byte where the table has them, else not at all; laws relative to each model's own dense loss are fitted. "
            "claw.laws.fit_each(table, by='heldout_data') fits each tokenizer apart."
        )
    counts = rows["flag"].value_counts()
    if kinds := [f"{counts[flag]} rows are of {meaning}" for flag, meaning in FLAGS.items() if flag in counts]:
        notes.append(f"{'; '.join(kinds)}. Laws are fitted without them, and with them for comparison.")
    rows, excluded = rows.reset_index(drop=True), excluded.reset_index(drop=True)
    points = Points(rows=rows, excluded=excluded, notes=tuple(notes), given=len(table))
    assert len(rows) + (excluded["response"] == "all").sum() == len(table), "rows used and rows left out do not add up"
    if not points.responses:
        counts = excluded.groupby(["response", "reason"]).size()
        tally = "; ".join(f"{n} × {REASONS[reason]} ({response})" for (response, reason), n in counts.items())
        raise InputError(f"The table has {len(table)} rows and none can be used. {tally}. Correct the table.")
    return points


def _with_defaults(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """A copy with numbers as numbers, names as text, and absent columns at their defaults, with a note."""
    rows = table.copy().reset_index(drop=True)
    rows["row"] = np.arange(len(rows))
    for name in [name for name in NUMBERS if name in rows]:
        numbers = pd.to_numeric(rows[name], errors="coerce").astype(float)
        text = rows.loc[rows[name].notna() & numbers.isna() & (rows[name].astype(str).str.strip().str.lower() != "nan"), name]
        if len(text):
            raise InputError(
                f"Column {name} has {len(text)} entries that are not numbers, such as {text.iloc[0]!r} in row {text.index[0]}. "
                "Write numbers with a dot, and leave what was not measured empty."
            )
        rows[name] = _snapped(numbers) if name.startswith("ratio") else numbers
    counted = [
        f"{name}: every row counts as {name} = {DEFAULTS[name]}." for name in ("recovery_tokens", "seed") if name not in rows
    ]
    for name, value in DEFAULTS.items():
        rows[name] = rows[name].where(rows[name].notna(), value) if name in rows else value
    for name in ("model", "method", "family", "recovery", "ratio_of"):
        rows[name] = rows[name].astype(str).astype(object)  # comparing objects costs a fifth of comparing Arrow strings
    rows.loc[rows["recovery_tokens"] == 0, "recovery"] = "none"
    return rows, [f"No column {note}" for note in counted]


def _snapped(ratios: pd.Series) -> pd.Series:
    """Ratios that differ by rounding are one ratio, and one that is next to nothing is 0."""
    distinct = np.unique(ratios.dropna())
    near = np.flatnonzero(np.diff(distinct) < NEAR)
    close = set(distinct[near]) | set(distinct[near + 1]) | {value for value in distinct if 0 < abs(value) < NEAR}
    return ratios.where(~ratios.isin(close), ratios.round(8)) if close else ratios


def _excluded(rows: pd.DataFrame, mask: pd.Series, reason: str, response: str = "all") -> pd.DataFrame:
    known = rows.loc[mask, ["row", "model", "method", "ratio"]]
    return known.assign(response=response, reason=reason, detail=REASONS[reason])


def _exclude_rows(rows: pd.DataFrame, told_apart: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows that can be used, and those that are left out for every response.

    `told_apart`: the table has seeds or experiment ids, so equal keys are one experiment; without, they are replicates.
    """
    excluded = []

    def leave_out(mask: pd.Series, reason: str) -> None:
        nonlocal rows
        excluded.append(_excluded(rows, mask, reason))
        rows = rows[~mask]

    if "status" in rows:
        leave_out(rows["status"] == "failed", "failed")
    unknown = rows["ratio"].isna()
    if unknown.any() and is_dense(rows[~unknown]).all():
        raise InputError(
            f"{int(unknown.sum())} of {len(rows)} rows have no ratio and all others are dense models: there is nothing to fit. "
            "Say what was removed: claw.laws.read(table, ratio=0.5) where all compressed rows have one ratio (which compares "
            "models, and cannot bear a curve)."
        )
    leave_out(unknown, "ratio_missing")
    outside = (rows["ratio"] < 0) | (rows["ratio"] >= 1)
    if outside.sum() > len(rows) / 2:
        raise InputError(
            f"{int(outside.sum())} of {len(rows)} ratios are outside [0, 1), up to {rows['ratio'].max():g}. A ratio is the "
            "fraction removed: write 0.3 for 30 %, so divide a column of percentages by 100."
        )
    leave_out(outside, "ratio_outside")
    leave_out((rows["method"] == DENSE) & (rows["ratio"] > 0), "dense_cut")
    values = [name for name in (*RESPONSES, "ratio_params", "experiment") if name in rows]
    leave_out(rows.duplicated([*KEY, *values], keep="first"), "duplicate")
    if told_apart:
        leave_out(rows.duplicated(list(KEY) if "experiment" not in rows else ["experiment"], keep=False), "conflict")
    return rows, pd.concat(excluded)


def _with_dense(rows: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Rows with loss0 and accuracy0, as recorded, else those of the model's dense row; `notes` grows by what was missing."""
    rows = rows.copy()
    dense = unrecovered(rows[is_dense(rows)])
    for response in [name for name in (*RESPONSES, "bits_per_byte") if name in rows]:
        name = f"{response}0"
        measured = dense[np.isfinite(dense[response]) & (dense[response] > 0)]
        spread = measured.groupby("model")[response].agg(lambda values: values.max() - values.min())
        if several := sorted(spread.index[spread > 1e-6 * measured.groupby("model")[response].max()]):
            notes.append(f"More than one dense {response} for {', '.join(several)}: their mean is {name}.")
        recorded = rows[name] if name in rows else pd.Series(np.nan, rows.index)
        rows[name] = recorded.where(recorded.notna(), rows["model"].map(measured.groupby("model")[response].mean()))
        if without := sorted(set(rows.loc[rows[name].isna(), "model"])):
            notes.append(
                f"No dense {response} for {', '.join(without)}: laws relative to the dense model leave these models out. Add a "
                f"row with method dense and ratio 0, or a column {name}."
            )
    return rows


def _unusable(rows: pd.DataFrame, response: str) -> pd.DataFrame:
    """Rows left out for one response, with the reason: not measured, not finite, or an impossible value."""
    value = rows[response]
    status = rows["status"] if "status" in rows else pd.Series("done", rows.index)
    not_finite = (value.isna() & (status == "nan")) | np.isinf(value)
    masks = {"not_finite": not_finite, "missing": value.isna() & ~not_finite}
    impossible = (
        {"not_positive": value <= 0, "too_large": value >= TOO_LARGE}
        if response == "loss"
        else {"outside_unit": (value < 0) | (value > 1)}
    )
    masks |= {reason: np.isfinite(value) & mask for reason, mask in impossible.items()}
    return pd.concat([_excluded(rows, mask, reason, response) for reason, mask in masks.items()])
