"""What must have been measured alike to stand in one column: texts, documents, calibration, and the machine of a speed.

Losses over two texts, accuracies over other documents, and models of one method calibrated on other texts are no points of one
curve: such a table is refused, and the error says how to take it apart. Speeds of two machines do not compare either, but the
losses beside them do, so those of all machines but one are left out, and a note counts them.
"""

import numpy as np
import pandas as pd

from claw.errors import InputError
from claw.specs.experiment import Calibration
from claw.words import plural, setting_text

SETTINGS = {"loss": ("heldout", "context"), "accuracy": ("tasks", "num_fewshot", "limit")}
ALL_DOCUMENTS = "all documents"
"""What an empty `limit` means where there is an accuracy."""
CALIBRATION = tuple(Calibration().columns)
"""Columns that say what a method was calibrated on; empty for one that needs no text."""
SPEED = "speed_setting"
"""Where and how speeds were timed; empty where none was."""


def refuse_mixed(rows: pd.DataFrame) -> None:
    """InputError where one column, or one curve, holds measurements that cannot be compared."""
    for response, settings in SETTINGS.items():
        measured = rows[rows[response].notna()] if response in rows else rows.iloc[:0]
        for name in settings:
            values_here = set(setting_of(measured, name).dropna()) if name in measured else set()
            if len(values := sorted(values_here)) > 1:
                known = next(value for value in values if value != ALL_DOCUMENTS)
                raise InputError(
                    f"The {response} column mixes {len(values)} values of {name} ({', '.join(values[:6])}): such measurements "
                    f"are not comparable and are not pooled. {_apart(name, measured[name], known)}"
                )
    if "heldout_data" in rows and "loss" in rows:
        texts = rows[rows["loss"].notna()].groupby("model")["heldout_data"].nunique()
        if (texts > 1).any():
            names = ", ".join(texts.index[texts > 1][:6])
            raise InputError(
                f"The losses of {names} were measured on different held-out tokens (column heldout_data), so they do not lie "
                "on one curve. Fit each apart with claw.laws.fit_each(table, by='heldout_data')."
            )
    for name in [name for name in CALIBRATION if name in rows]:
        several = rows.groupby(["model", "method"])[name].agg(lambda values: sorted(set(values.dropna())))
        several = several[several.map(len) > 1]
        if len(several):
            (model, method), values = several.index[0], [setting_text(value) for value in several.iloc[0]]
            raise InputError(
                f"{method} of {model} has rows of {len(values)} values of {name} ({', '.join(values[:6])}): other calibration "
                f"text makes another curve. {_apart(name, rows[name], values[0])}"
            )


def calibration_notes(rows: pd.DataFrame) -> list[str]:
    """A note for each method that was calibrated on other amounts of text for some models than for others."""
    if "calibration_tokens" not in rows:
        return []
    by_model = rows.groupby(["method", "model"])["calibration_tokens"].max().dropna()
    several = by_model[by_model.groupby("method").transform("nunique") > 1]
    amounts = {
        method: ", ".join(f"{n:,.0f} for {model}" for (_, model), n in one.items()) for method, one in several.groupby("method")
    }
    return [f"Tokens of calibration text differ between models: {method} had {text}." for method, text in amounts.items()]


def setting_of(rows: pd.DataFrame, name: str) -> pd.Series:
    """The values of a setting as text, NaN where a row does not say; an empty limit beside an accuracy is all documents."""
    values = rows[name].astype(object)
    if name == "limit":
        said = values.notna() & (values != "")
        values = values.where(said, ALL_DOCUMENTS).where(said | (rows["accuracy"].notna() if "accuracy" in rows else False))
    return values.map(setting_text, na_action="ignore")


def rows_alike(rows: pd.DataFrame, by: str) -> dict[str, pd.DataFrame]:
    """The rows of each value of a setting. Those without calibration, or without a speed, belong to each; others to none."""
    values = setting_of(rows, by)
    shared = values.isna() if by in (*CALIBRATION, SPEED) else pd.Series(False, rows.index)
    return {value: rows[(values == value) | shared] for value in sorted(values.dropna().unique())}


def one_speed_setting(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The rows with the speeds timed in one way only, that of most of them; and a note on those that were left out."""
    if SPEED not in rows or rows[SPEED].nunique() < 2:
        return rows, []
    counts = rows[SPEED].value_counts()
    kept = min(counts.index[counts == counts.max()])
    others = rows[SPEED].notna() & (rows[SPEED] != kept)
    note = (
        f"Speeds timed in {len(counts)} ways do not compare. Used: {kept}. Not used: {plural(int(others.sum()), 'row')} of "
        f"{'; '.join(sorted(set(counts.index) - {kept}))}. claw.laws.fit_each(table, by={SPEED!r}) fits each apart."
    )
    rows = rows.copy()
    rows.loc[others, [column for column in rows if str(column).startswith(("speedup_", "ideal_", "milliseconds"))]] = np.nan
    return rows, [note]


def _apart(name: str, column: pd.Series, value: str) -> str:
    """How to take a table apart by a setting."""
    shown = value if column.dtype.kind in "iuf" else repr(value)
    kept = f"table[{name!r}] == {shown}"
    if name in CALIBRATION:  # without the rows that need no text, there would be no dense model
        kept = f"({kept}) | table[{name!r}].isna()"
    return f"Fit each apart with claw.laws.fit_each(table, by={name!r}), or keep one: table[{kept}]."
