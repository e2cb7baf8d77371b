"""What a table must be before laws look at its rows, and what reading it returns.

A frame that nobody read is refused where a column holds something else than its name says: percentages, perplexities called
loss, ratios that are what is kept. `claw.laws.read` asks the same questions, and takes answers.
"""

import html
from dataclasses import dataclass

import numpy as np
import pandas as pd

from claw.errors import InputError
from claw.laws.own_tables.own_files import refuse_nested, refuse_same_headings
from claw.words import plural

DENSE = "dense"
REQUIRED = ("model", "method", "ratio")
RESPONSES = ("loss", "accuracy")
MOST_NATS = 7.0
"""A dense loss above this is a perplexity."""


@dataclass(frozen=True, kw_only=True, repr=False)
class OwnTable:
    """What `claw.laws.read` returns: a tidy table, and one line for each guess that was made to read it."""

    table: pd.DataFrame
    guesses: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return "\n".join(self.guesses) or "Read as it stands: nothing was guessed."

    def _repr_html_(self) -> str:
        """The guesses behind a fold, for a notebook."""
        if not self.guesses:
            return f"<p>{self}</p>"
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in self.guesses)
        summary = f"The table was read with {plural(len(self.guesses), 'guess', 'guesses')}"
        return f"<details open><summary>{summary}</summary><ul>{lines}</ul></details>"


def is_dense(rows: pd.DataFrame) -> pd.Series:
    """Whether a row is an uncompressed model."""
    return (rows["method"] == DENSE) | (rows["ratio"] == 0)


def unrecovered(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of models that were not trained after compression."""
    return rows[rows["recovery_tokens"] == 0]


def tidy_columns(table: pd.DataFrame) -> pd.DataFrame:
    """The table with names of columns as text, if it has what laws need."""
    if not isinstance(table, pd.DataFrame):
        raise InputError(
            f"claw.laws.fit takes a data frame or what claw.laws.read returns, not {type(table).__name__}. Files of any layout "
            "are read by claw.laws.read(path)."
        )
    table = table.set_axis([str(name) for name in table.columns], axis=1)
    refuse_same_headings(table)
    responses = [] if any(name in table for name in RESPONSES) else ["loss or accuracy"]
    if gone := [name for name in REQUIRED if name not in table] + responses:
        raise InputError(
            f"The table has no column {', '.join(gone)}. A law needs model, method (dense for the uncompressed model), ratio "
            "(fraction removed, 0 to below 1) and at least one of loss (nats per token) and accuracy (0 to 1). The table's "
            f"columns are: {', '.join(table.columns)}. claw.laws.read(table) understands other names, perplexities, "
            "percentages and wide tables."
        )
    if table.empty:
        raise InputError("The table has no rows. Run a study first: `claw run STUDY.yaml`, then `claw table STUDY.yaml`.")
    refuse_nested(table)
    for name in ("model", "method"):
        if len(rows := np.flatnonzero(table[name].isna() | (table[name].astype(str).str.strip() == ""))):
            shown = ", ".join(map(str, rows[:8])) + (" …" if len(rows) > 8 else "")
            raise InputError(
                f"The name of the {name} is missing in {plural(len(rows), 'row')}: {shown} (the first is 0). Fill it in."
            )
    return table


def refuse_untidy(rows: pd.DataFrame) -> None:
    """InputError for columns that hold something else than their name says: percentages, perplexities, what is kept."""
    do = "claw.laws.read(table) does that and says so"
    for name in ("ratio", "ratio_params", "ratio_nonembedding", "ratio_flops"):
        if name in rows and (large := rows[name] > 1).any():
            raise InputError(
                f"{int(large.sum())} of {len(rows)} entries of {name} are above 1, up to {rows[name].max():g}. A ratio is the "
                f"fraction removed: write 0.3 for 30 %, so divide a column of percentages by 100; {do}."
            )
    if "accuracy" in rows and (rows["accuracy"] > 1).sum() > rows["accuracy"].notna().sum() / 2:
        raise InputError(f"Accuracies go up to {rows['accuracy'].max():g}: divide a column of percentages by 100; {do}.")
    if reason := not_a_loss(rows):
        raise InputError(f'{reason} claw.laws.read(table, loss="perplexity") takes its logarithm; loss="nats" keeps it.')
    if not known_nats(rows) and falls_backwards(rows):
        raise InputError(
            "Models get better as the ratio grows, as if the ratio were what is kept. A law needs the fraction removed: "
            'claw.laws.read(table, ratio="kept") turns it round; ratio="removed" keeps it.'
        )


def known_nats(rows: pd.DataFrame) -> bool:
    """Whether claw measured the table itself: its losses are nats and its ratios what is removed."""
    return {"experiment", "ratio_of", "status"} <= set(rows.columns)


def not_a_loss(rows: pd.DataFrame) -> str:
    """Why the column loss cannot be nats per token, in words; empty if it can."""
    if "loss" not in rows or known_nats(rows):
        return ""
    dense = pd.to_numeric(rows["loss0"], errors="coerce") if "loss0" in rows else rows["loss"][is_dense(rows)]
    dense, losses = dense[np.isfinite(dense)], rows["loss"][np.isfinite(rows["loss"])]
    if dense.max() > MOST_NATS:
        most = f"a language model has less than {MOST_NATS:g} nats"
        return f"The dense model's loss is {dense.max():g}, and {most}: is this perplexity?"
    if dense.empty and losses.min() > 2 * MOST_NATS:
        return f"The smallest loss is {losses.min():g}, more than that of guessing: is this perplexity?"
    return ""


def falls_backwards(rows: pd.DataFrame) -> bool:
    """Whether most curves get better as the ratio grows, by more than noise, as they do when the ratio is what is kept."""
    cut = unrecovered(rows) if "recovery_tokens" in rows else rows
    cut = cut[~is_dense(cut) & cut["ratio"].notna()]
    for response, better in (("loss", -1), ("accuracy", 1)):
        if response not in rows or not np.isfinite(cut[response]).any():
            continue
        usable = cut[np.isfinite(cut[response])]
        trends = []
        for _, curve in usable.groupby(["model", "method"]):
            means = curve.groupby("ratio")[response].mean()
            if len(means) > 1 and np.ptp(means) > 0.02 * means.abs().mean():
                order = means.rank().to_numpy()
                trends.append(better * np.corrcoef(order, np.arange(len(order)))[0, 1])
        return len(trends) > 0 and float(np.mean(np.array(trends) > 0.7)) > 0.5
    return False
