"""What the result of each stage says, as columns of the tidy table."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from claw import paired

PRIMARY = ("acc_norm", "acc")
"""The metric of a task that enters `accuracy`: the first of these that it has."""

SHAPE = tuple(
    "family ratio_of ratio_own ratio_params ratio_nonembedding ratio_flops parameters parameters0 flops_per_token".split()
)
"""Columns that follow from the compressed model's shape."""


def limit_text(limit: Any) -> Any:
    """Documents per task as in the column `limit`."""
    return " ".join(f"{task}:{n}" for task, n in sorted(limit.items())) if isinstance(limit, dict) else limit


def _tasks(result: Mapping[str, Any]) -> dict[str, Any]:
    limit = limit_text(result["limit"])
    shots = {score["task"]: score.get("num_fewshot", result["num_fewshot"]) for score in result["rows"]}
    several = " ".join(f"{task}:{n}" for task, n in sorted(shots.items()))
    columns = {"limit": limit, "num_fewshot": several if len(set(shots.values())) > 1 else next(iter(shots.values()), None)}
    for score in result["rows"]:
        task, metric = score["task"], score["metric"]
        columns |= {f"{task}_{metric}": score["value"], f"{task}_{metric}_stderr": _stderr(score)}
        columns[f"{task}_n"] = score["n"]
        if _is_number(score["chance"]) or f"{task}_chance" not in columns:  # its other metrics may have none
            columns[f"{task}_chance"] = score["chance"]
    judged = judged_scores(result)
    if free := result.get("free"):
        columns |= {name: free[name] for name in ("repetition", "distinct")}
    if n := len(judged):
        columns["accuracy"] = sum(score["value"] for score in judged.values()) / n
        columns["accuracy_stderr"] = math.sqrt(sum(_stderr(score) ** 2 for score in judged.values())) / n
        columns["chance"] = sum(score["chance"] for score in judged.values()) / n
        columns["tasks"] = "+".join(judged)
        for metric in paired.CONTINUOUS:
            own = [score for score in result["rows"] if score["metric"] == metric and score["task"] in judged]
            if own:
                columns[metric] = sum(score["value"] for score in own) / len(own)
                columns[f"{metric}_stderr"] = math.sqrt(sum(_finite(score["stderr"]) ** 2 for score in own)) / len(own)
    return columns


def judged_scores(result: Mapping[str, Any]) -> dict[str, dict]:
    """By task the score that enters `accuracy`: its primary metric, if there is something to guess from."""
    by_task: dict[str, dict[str, dict]] = {}
    for score in result["rows"]:
        by_task.setdefault(score["task"], {})[score["metric"]] = score
    primary = {task: next((metrics[m] for m in PRIMARY if m in metrics), None) for task, metrics in by_task.items()}
    return {task: score for task, score in primary.items() if score and _is_number(score["chance"])}


def _finite(value: float | None) -> float:
    return math.nan if value is None else value


def _is_number(value: float | None) -> bool:
    """JSON has null for NaN."""
    return value is not None and not math.isnan(value)


def _stderr(score: Mapping[str, Any]) -> float:
    """Standard error of an accuracy: as measured, else binomial over its documents; NaN for fewer than two.

    lm-eval has none for a group with one document per subject (mmlu with limit 1), though the group has many.
    """
    if _is_number(score["stderr"]) or score["metric"] in paired.CONTINUOUS:
        return _finite(score["stderr"])
    return math.sqrt(score["value"] * (1 - score["value"]) / (score["n"] - 1)) if score["n"] > 1 else math.nan


def _speed(result: Mapping[str, Any]) -> dict[str, Any]:
    columns = {name: value for name, value in result.items() if name.startswith(("speedup_", "ideal_"))}
    timings = result.get("timings", ())
    for timing in timings:
        if timing["batch"] == min(other["batch"] for other in timings):
            columns[f"milliseconds_{timing['phase']}"] = 1e3 * timing["seconds"]
            columns[f"milliseconds0_{timing['phase']}"] = 1e3 * timing["seconds0"]
    return columns


def speed_setting(result: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """Where and how a model was timed, as one text: cpu, 2 threads, prompt 256, 32 generated."""
    device = environment.get("device", "unknown")
    parts = [device, f"{environment.get('threads', '?')} threads"] if device == "cpu" else [device]
    parts += [f"prompt {result.get('prompt', '?')}", f"{result.get('generate', '?')} generated"]
    return ", ".join([*parts, "compiled"] if result.get("compiled") else parts)


OF_DENSE = {f"{name}0": name for name in ("loss", "accuracy", *paired.CONTINUOUS)}
OF_DENSE |= {"loss0_stderr": "loss_stderr", "accuracy0_stderr": "accuracy_stderr"}
"""Those of the model's dense row."""
_LOSS = {"loss": "mean", "loss_stderr": "stderr", "loss_tokens": "tokens", "heldout": "corpus", "heldout_data": "data"}
_LOSS |= {name: name for name in ("context", "token_perplexity", "word_perplexity", "bits_per_byte")}
RESULTS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "compress": lambda result: {name: result.get(name) for name in SHAPE},
    "recover": lambda result: {f"recovery_{name}": result[name] for name in ("run", "tokens") if name in result},
    "loss": lambda result: {column: result[name] for column, name in _LOSS.items()},
    "tasks": _tasks,
    "speed": _speed,
}
"""Columns that the result of each stage fills."""


def primary_columns(table: pd.DataFrame) -> dict[str, str]:
    """By task of a table, the column of the metric that counts: piqa_acc_norm of piqa."""
    tasks = [str(name).removesuffix("_chance") for name in table.columns if str(name).endswith("_chance")]
    return {task: f"{task}_{metric}" for task in tasks for metric in PRIMARY[::-1] if f"{task}_{metric}" in table}
