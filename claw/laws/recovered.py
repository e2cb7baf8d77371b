"""What recovery wins: each recovered run beside the same model without recovery, as log(L_D / L_0).

Runs of one experiment (model, method, ratio, axis) with several budgets or seeds share the unrecovered model they are compared
with, so they are no independent pairs. If recovery did nothing, the runs of an experiment could be exchanged, the unrecovered
one among them: the permutation test within experiments follows, which is exact whatever their noise and however many budgets.

Training on a text makes every model better at texts of its kind, a whole one too. What a dense model gains when it is trained
alike is therefore the control: a compressed model that gains no more has won nothing back.
"""

import math
from itertools import combinations

import numpy as np
import pandas as pd

from claw.laws.evaluation_error import evaluation_errors
from claw.laws.over_curves import Mean, mean_over_curves
from claw.laws.points import Points, is_dense, unrecovered

EXPERIMENT = ["model", "method", "ratio", "ratio_of"]
TRAINING = ["model", "recovery", "recovery_tokens"]
EXACT = 100_000  # permutations up to which all are tried; beyond, as many draws


def gains(points: Points, response: str = "loss") -> pd.DataFrame:
    """Relative improvement by recovery of each experiment over the same one without: gain, stderr, model, method, ratio, D.

    `text`: that of the dense model, trained alike (NaN where it was not), which wins nothing back and gains all the same. With
    paired errors `stderr` is at most what it says: both are paired with the dense model, which they share.
    """
    rows = points.of(response)
    rows = rows.assign(se=evaluation_errors(rows, response))
    before = unrecovered(rows).groupby(EXPERIMENT).agg(before=(response, "mean"), before_se=("se", "mean"))
    after = rows[rows["recovery_tokens"] > 0].merge(before, on=EXPERIMENT)
    gain = 1 - after[response] / after["before"]
    share = np.sqrt((after["se"] / after[response]) ** 2 + (after["before_se"] / after["before"]) ** 2)
    table = after[[*EXPERIMENT, "recovery", "recovery_tokens", "before"]]
    table = table.assign(after=after[response], gain=gain, stderr=(1 - gain) * share)
    alone = text_gains(points, response).rename(columns={"gain": "text"})
    return table.merge(alone[[*TRAINING, "text"]], on=TRAINING, how="left")


def text_gains(points: Points, response: str = "loss") -> pd.DataFrame:
    """Relative improvement of each dense model by training alone, the control of recovery: TRAINING, gain, stderr.

    No rows where no dense model was trained, or the response was not measured.
    """
    if response not in points.responses:
        return pd.DataFrame(columns=[*TRAINING, "gain", "stderr"])
    rows = points.of(response, dense=True)
    rows = rows[is_dense(rows) & (rows["recovery_tokens"] > 0) & np.isfinite(rows[f"{response}0"])]
    gain = 1 - rows[response] / rows[f"{response}0"]
    frame = rows[TRAINING].assign(gain=gain, stderr=evaluation_errors(rows, response) / rows[f"{response}0"])
    return frame.groupby(TRAINING, as_index=False)[["gain", "stderr"]].mean()


def paired(points: Points, response: str = "loss", level: float = 0.95) -> tuple[Mean, pd.DataFrame]:
    """The mean of log(after / before) over experiments, and what it is of: `gains` with a column `log`."""
    table = gains(points, response)
    table = table[(table["after"] > 0) & (table["before"] > 0)]
    table = table.assign(log=np.log(table["after"] / table["before"]))
    each = table.groupby(EXPERIMENT, as_index=False)["log"].mean()
    methods, models = (each[name].to_numpy(str) for name in ("method", "model"))
    return mean_over_curves(each["log"].to_numpy(float), methods, models, level), table


def p_exchanged(points: Points, response: str = "loss") -> tuple[float, float]:
    """Two-sided p-value of the permutation test within experiments, and the smallest that so many runs can have."""
    rows = points.of(response)
    rows = rows[rows[response] > 0]
    changes = []
    for _, runs in rows.groupby(EXPERIMENT, sort=True):
        before, after = (np.log(runs.loc[mask, response].to_numpy(float)) for mask in _halves(runs))
        if len(before) and len(after):
            values, chosen = np.append(before, after), list(combinations(range(len(before) + len(after)), len(before)))
            first = np.array([values[list(places)].mean() for places in chosen])  # the first is as it was
            rest = np.array([np.delete(values, list(places)).mean() for places in chosen])
            changes.append(rest - first)
    if not changes:
        return math.nan, math.nan
    seen, sums = sum(float(change[0]) for change in changes), np.zeros(1)
    if math.prod(map(len, changes)) <= EXACT:
        for change in changes:
            sums = (sums[:, None] + change).ravel()
        least = 1 / len(sums)
    else:
        rng, least = np.random.default_rng(0), 1 / EXACT
        sums = np.append(seen, sum(rng.choice(change, EXACT) for change in changes))
    slack = 1e-9 * (1 + abs(seen))
    tail = min((sums <= seen + slack).mean(), (sums >= seen - slack).mean())
    return float(min(1.0, 2 * tail)), min(1.0, 2 * least)


def _halves(runs: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    recovered = runs["recovery_tokens"] > 0
    return ~recovered, recovered
