"""How well each difference from the dense model is known: its standard error as a share of it, paired and not.

The median over compressed experiments that work. Only tables with paired errors (`claw.paired`) are spoken of: of others
nothing is said here, and the standard error of a mean accuracy alone in the findings.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from claw.laws.points import is_dense
from claw.laws.working import DESTROYED, flagged

TASK_METRICS = {
    "accuracy": "accuracy",
    "p_right": "the probability of the right choice",
    "answer_bpb": "the bits per byte of the right answer",
}
"""Metrics of tasks whose change is paired, in words."""


def shares(table: pd.DataFrame, difference: str, alone: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Standard errors over the size of a difference, paired, and as they were if both values stood by themselves.

    `alone`: the value's own standard error, with that of the dense model in `<value>0_stderr`. Rows of models that work,
    whose difference is known and not zero; empty where the table has none.
    """
    if not {difference, f"{difference}_stderr", "method", "ratio"} <= set(table):
        return np.empty(0), np.empty(0)
    rows = table[~is_dense(table)]
    rows = rows[(flagged(rows) != DESTROYED) & rows[f"{difference}_stderr"].notna() & rows[difference].abs().gt(0)]
    size = rows[difference].abs().to_numpy(float)
    column = lambda name: rows[name].to_numpy(float) if name in rows else np.full(len(rows), np.nan)
    apart = np.hypot(column(f"{alone}_stderr"), column(f"{alone}0_stderr")) if alone else np.full(len(rows), np.nan)
    return rows[f"{difference}_stderr"].to_numpy(float) / size, apart / size


def sharpness(table: pd.DataFrame) -> Iterator[str]:
    """A sentence on the losses and one on the tasks, as far as the table has paired errors."""
    paired, apart = shares(table, "excess_loss", "loss")
    if len(paired):
        tokens = table["loss_tokens"].median() if "loss_tokens" in table else np.nan
        on = f" on {tokens:,.0f} tokens" if np.isfinite(tokens) else ""
        unpaired = f"; it would be {np.nanmedian(apart):.1%} if the two were not paired" if np.isfinite(apart).any() else ""
        yield (
            f"**Error of the losses.** The rise of the loss over the dense model{on} has a standard error of "
            f"{np.median(paired):.1%} of the rise in the median, and of {np.quantile(paired, 0.9):.1%} or less in nine "
            f"experiments of ten{unpaired}."
        )
    said = []
    for metric, words in TASK_METRICS.items():
        paired, _ = shares(table, f"{metric}_change")
        if len(paired):
            said.append(f"{np.median(paired):.0%} for {words}")
    if said:
        yield (
            "**Error of the tasks.** All models were asked the same documents. The standard error of a change against the "
            f"dense model is, of the change itself in the median, {', '.join(said)}."
        )
