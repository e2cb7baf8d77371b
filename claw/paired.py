"""Two models measured on the same blocks or documents: how far apart they are, and how well that is known.

What is hard for the dense model is hard for the compressed one too, so their difference scatters far less from block to
block, or from document to document, than either value: it is known from a tenth of the text. Each record therefore keeps what
its model scored on every block and document, compactly, and a difference is computed when the table is made, from two records
that say the same hash of what was measured. It does not matter which of the two was measured first, nor in which job.
"""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

CONTINUOUS = ("p_right", "answer_bpb")
"""Metrics of a document that are no yes or no: the probability of the right choice, and bits per byte of the right answer."""


def pack(values: Iterable[float]) -> str:
    """Scores of documents as text, two bytes each: half precision, a thousandth of how far documents lie apart."""
    with np.errstate(over="ignore"):
        return base64.b64encode(np.asarray(list(values), "<f2").tobytes()).decode("ascii")


def unpack(text: str) -> np.ndarray:
    """The scores in a text of `pack`, float64. ValueError for a text that is none."""
    return np.frombuffer(base64.b64decode(text, validate=True), "<f2").astype(float)


def error_per_token(sums: Sequence[float] | np.ndarray, counts: Sequence[int] | np.ndarray) -> float:
    """Standard error of Σ sums / Σ counts, a ratio estimator over blocks; NaN for fewer than two."""
    s, c = np.asarray(sums, float), np.asarray(counts, float)
    if len(s) < 2:
        return math.nan
    spread = float(((s - s.sum() / c.sum() * c) ** 2).sum()) / (len(s) - 1)
    return math.sqrt(spread * len(s)) / float(c.sum())


def excess(result: Mapping[str, Any], dense: Mapping[str, Any]) -> dict[str, float]:
    """Columns `excess_loss` and its standard error, of the results of two loss records; none where the texts differ.

    The error is over blocks, each with what both models lost on it. NaN where a record keeps no blocks (one of an older
    claw).
    """
    if result["data"] != dense["data"] or result["context"] != dense["context"]:
        return {}
    error, own, other = math.nan, result.get("sums", ()), dense.get("sums", ())
    if own and len(own) == len(other) and result["counts"] == dense["counts"]:
        error = error_per_token(np.subtract(own, other), result["counts"])
    return {"excess_loss": result["mean"] - dense["mean"], "excess_loss_stderr": error}


def changes(result: Mapping[str, Any], dense: Mapping[str, Any], primary: Mapping[str, str]) -> dict[str, float]:
    """Columns of what changed against the dense model, of the results of two task records.

    For every task and metric with a value for each document `<task>_<metric>_change` and its standard error, over documents;
    `accuracy_change` over the `primary` metric of each task, `p_right_change` and `answer_bpb_change` over those of these tasks
    that have it: each a mean over tasks, which are independent. A task whose documents are not the same in both is left out,
    and so is the mean.
    """
    values, values0 = (_values(one) for one in (result, dense))
    columns: dict[str, float] = {}
    for task, metric in (pair for pair in values if pair in values0):
        own, other = (_scores(one, task, metric) for one in (result, dense))
        if own is not None and other is not None and len(own) == len(other) and _same_documents(result, dense, task):
            columns[f"{task}_{metric}_change"] = values[task, metric] - values0[task, metric]
            error = error_of_mean(own - other)
            if error == 0 and metric not in CONTINUOUS and result is not dense:  # no document changed, of a small sample
                error = error_of_none(len(own))
            columns[f"{task}_{metric}_change_stderr"] = error
    every = {"accuracy": primary} | {name: {task: name for task in primary if (task, name) in values} for name in CONTINUOUS}
    for name, chosen in every.items():
        parts = [f"{task}_{metric}_change" for task, metric in chosen.items()]
        if parts and all(part in columns for part in parts):
            columns[f"{name}_change"] = sum(columns[part] for part in parts) / len(parts)
            square = sum(columns[f"{part}_stderr"] ** 2 for part in parts)
            columns[f"{name}_change_stderr"] = math.sqrt(square) / len(parts)
    return columns


def error_of_mean(values: np.ndarray) -> float:
    """Standard error of the mean of independent values; NaN for fewer than two."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def error_of_none(documents: int) -> float:
    """Standard error of a change of accuracy where no document of a sample changed; their own spread would say it is 0.

    Half a document is added to each kind of pair: both right, both wrong, and each way of differing (Agresti and Min 2005,
    Statistics in Medicine 24, 729: intervals of a difference of matched proportions).
    """
    return 1 / (documents + 2)


def _values(result: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    return {(row["task"], row["metric"]): row["value"] for row in result.get("rows", ())}


def _scores(result: Mapping[str, Any], task: str, metric: str) -> np.ndarray | None:
    """What each document of a task scored; None where the record does not keep it, or not as this claw writes it."""
    digits = result.get("answered", {}).get(task, {}).get(metric)
    if digits is not None:
        return np.array([int(digit) for digit in digits], float)
    packed = result.get("scores", {}).get(task, {}).get(metric)
    try:
        return None if packed is None else unpack(packed)
    except ValueError:
        return None


def _same_documents(result: Mapping[str, Any], dense: Mapping[str, Any], task: str) -> bool:
    """Whether two records tell of the same documents and prompts, as far as both say (older ones have the number only)."""
    hashes = {one.get("scores", {}).get(task, {}).get("documents") for one in (result, dense)} - {None}
    return len(hashes) < 2
