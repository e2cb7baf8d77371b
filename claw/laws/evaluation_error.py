"""How well the evaluation knows each measurement: paired with the dense model where the table tells, else by itself.

Laws are of y / y0, so what matters is the error of that ratio. A table of claw has it: both models were measured on the same
blocks of text and the same documents (`claw.paired`), and the columns `excess_loss_stderr` and `accuracy_change_stderr` are
the errors of the differences. Other tables have `loss_stderr` and `accuracy_stderr` at most, the errors of each value by
itself, which are several times larger because they count how texts differ, too.
"""

import numpy as np
import pandas as pd

from claw.laws.tidy import is_dense

DIFFERENCES = {"loss": "excess_loss", "accuracy": "accuracy_change"}
SAME = 1e-6


def columns_of_errors(response: str) -> tuple[str, ...]:
    """The columns that the error of a response is made of."""
    difference = (DIFFERENCES[response], f"{DIFFERENCES[response]}_stderr") if response in DIFFERENCES else ()
    return (f"{response}_stderr", f"{response}0", f"{response}0_stderr", *difference)


def evaluation_errors(rows: pd.DataFrame, response: str) -> np.ndarray:
    """(rows,) standard error of each value, in its unit, as far as it moves y / y0; NaN where the table has none.

    Of a loss with a paired error, L times that of log(L/L0) by the delta method:

        Var log(L/L0) = V/L² + V0/L0² - 2C/(L L0),   C = (V + V0 - V_paired)/2

    with V, V0 the variances of L and L0 by themselves. Of an accuracy, the paired error of A - A0; where no answer changed
    sides the smallest one seen, because an error of zero is none. Dense models that were not trained have zero. Where the
    column of differences does not belong to the response of this table (a loss in another unit) the error of the value by
    itself is taken.
    """
    column = lambda name: rows[name].to_numpy(float) if name in rows else np.full(len(rows), np.nan)
    alone, difference = column(f"{response}_stderr"), DIFFERENCES.get(response, "")
    error, y, y0 = column(f"{difference}_stderr"), column(response), column(f"{response}0")
    misfit = np.abs(column(difference) - (y - y0)) > SAME * np.maximum(1, np.abs(y))
    if misfit.any() or not np.isfinite(error).any():
        return alone
    if response == "loss":
        own, other = alone**2, column("loss0_stderr") ** 2
        with np.errstate(divide="ignore", invalid="ignore"):
            variance = own / y**2 + other / y0**2 - (own + other - error**2) / (y * y0)
        relative = y * np.sqrt(np.maximum(variance, 0))
        error = np.where(np.isfinite(relative), relative, error)
    else:
        seen = error[error > 0]
        error = np.where(error == 0, seen.min() if len(seen) else 0.0, error)
    dense = is_dense(rows).to_numpy() & ~(column("recovery_tokens") > 0) & np.isfinite(error)
    return np.where(dense, 0.0, np.where(np.isfinite(error), error, alone))
