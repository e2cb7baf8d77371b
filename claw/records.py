"""Records: one JSON file per experiment and stage, written atomically; and the tidy table made of them.

`records/<experiment>.<stage>.json` holds the spec, the result, the environment and a checksum. A file is complete or not
there: it is written beside itself and renamed. A record that is damaged counts as missing and
is named; one that only another claw can read is named, and never written over.

Stages: `compress` (the report), `recover`, `loss`, `tasks`, `speed`. The last three carry in their name the digest of how
they were measured, so that measuring differently adds a record and never replaces one.
"""

import json
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from claw import paired
from claw.csv_tables import read_table, table_text
from claw.errors import InputError
from claw.files import digest, write_own, write_text
from claw.specs import on_disk
from claw.specs.experiment import Evaluation, Experiment
from claw.words import plural

STAGES = ("compress", "recover", "loss", "tasks", "speed")
PRIMARY = ("acc_norm", "acc")  # the metric of a task that enters `accuracy`: the first that it has

SHAPE = tuple(
    "family ratio_of ratio_own ratio_params ratio_nonembedding ratio_flops parameters parameters0 flops_per_token".split()
)
"""Columns that follow from the compressed model's shape."""

COLUMNS = {
    "experiment": "id: hash of the experiment's spec",
    "model": "name given to claw.load",
    "family": "architecture",
    "method": "compression method; dense for the uncompressed model",
    "ratio": "fraction asked for, on the axis ratio_of",
    "ratio_of": "axis that ratio counts",
    "ratio_own": "fraction reached on the method's own axis, after rounding",
    "ratio_params": "fraction of all parameters removed; tied weights once",
    "ratio_nonembedding": "fraction removed of the parameters without embedding and head",
    "ratio_flops": "fraction of forward FLOPs per token removed",
    "seed": "seed of the method and of its calibration sample",
    "recovery": "recipe of recovery fine-tuning, with the choices in which it departs from its defaults; none without",
    "recovery_tokens": "D: tokens of recovery really seen; 0 without",
    "recovery_run": "id shared by the milestones of one recovery run",
    "parameters": "parameters of this model; tied weights once",
    "parameters0": "parameters of the dense model",
    "flops_per_token": "forward FLOPs per token at 512 tokens of context",
    "loss": "L: held-out cross-entropy, nats per token",
    "loss_stderr": "its standard error over blocks",
    "loss0": "L0: loss of the dense model, same measurement",
    "loss0_stderr": "its standard error",
    "excess_loss": "L - L0",
    "excess_loss_stderr": "its standard error over blocks, paired: both models on the same ones",
    "token_perplexity": "e^loss",
    "word_perplexity": "e^(nats per white-space word)",
    "bits_per_byte": "bits per UTF-8 byte",
    "heldout": "held-out text",
    "heldout_data": "hash of its token blocks",
    "context": "tokens of context per block",
    "loss_tokens": "number of predicted tokens",
    "accuracy": "A: mean over multiple-choice tasks of the primary metric (acc_norm where the task has it, else acc)",
    "accuracy_stderr": "its standard error, tasks independent",
    "accuracy0": "A0: accuracy of the dense model, same measurement",
    "accuracy0_stderr": "its standard error",
    "accuracy_change": "A - A0",
    "accuracy_change_stderr": "its standard error over documents, paired: both models on the same ones; tasks independent",
    "p_right": "mean over the same tasks of the probability of the right choice: softmax of the choices' log-likelihoods",
    "p_right_stderr": "its standard error, tasks independent",
    "p_right0": "the same of the dense model",
    "p_right_change": "p_right - p_right0",
    "p_right_change_stderr": "its standard error, paired",
    "answer_bpb": "mean over those with answers of more than a letter of the bits per UTF-8 byte of the right answer",
    "answer_bpb_stderr": "its standard error, tasks independent",
    "answer_bpb0": "the same of the dense model",
    "answer_bpb_change": "answer_bpb - answer_bpb0",
    "answer_bpb_change_stderr": "its standard error, paired",
    "chance": "mean over tasks of guessing",
    "tasks": "tasks in accuracy, joined by +; tasks without choices to guess from have columns of their own only",
    "num_fewshot": "examples in the prompt, one number or task:number",
    "limit": "documents per task (of each subject for mmlu), one number or task:number; empty for all",
    "repetition": "mean share of 4-grams that free text, written greedily after held-out beginnings, had before",
    "distinct": "share of the bigrams of these texts that differ",
    "speedup_prefill": "S: dense over compressed time to read a prompt, batch 1, median of interleaved rounds",
    "speedup_prefill_low": "lower end of its 95 % bootstrap interval",
    "speedup_prefill_high": "upper end",
    "speedup_decode": "S: dense over compressed time per generated token, batch 1",
    "speedup_decode_low": "lower end of its 95 % bootstrap interval",
    "speedup_decode_high": "upper end",
    "ideal_prefill": "speed-up if time followed FLOPs",
    "ideal_decode": "speed-up if time followed bytes read",
    "milliseconds_prefill": "time to read the prompt, batch 1",
    "milliseconds_decode": "time per generated token, batch 1",
    "milliseconds0_prefill": "the same of the dense model, timed in turns with this one",
    "milliseconds0_decode": "the same of the dense model",
    "seconds": "wall time of all stages",
    "day": "UTC day on which the first of them began",
    "device": "cpu or name of the GPU",
    "dtype": "number type of weights and arithmetic in evaluation",
    "status": "done, nan (a measured NaN is a result) or failed",
    "code": "hash of claw's source that made the record",
}
"""Columns of `table`, in order. Each task adds <task>_acc, <task>_acc_norm, <task>_p_right, <task>_answer_bpb, of each the
_stderr, _change and _change_stderr, and <task>_n; other batches add speedup_prefill_batch8 and the like."""


ORDER = ("model", "method", "seed", "recovery_tokens", "ratio")  # of rows
MIXED = "Their losses differ a little by the rounding alone; the column `dtype` says which is which."


def path_of(folder: Path, experiment: str, stage: str, measured: str = "") -> Path:
    """File of one record."""
    return Path(folder) / "records" / name_of(experiment, stage, measured)


def name_of(experiment: str, stage: str, measured: str = "") -> str:
    """Name of a record's file."""
    return f"{experiment}.{stage}{'-' if measured else ''}{measured}.json"


def checksum(content: Mapping[str, Any]) -> str:
    """Hash of a record without its own checksum."""
    return digest(json.dumps({name: value for name, value in content.items() if name != "checksum"}, sort_keys=True))


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write one record atomically: it is there whole or not at all."""
    record = json.loads(json.dumps({"schema": on_disk.SCHEMA, **content}, default=str))
    write_text(path, json.dumps(record | {"checksum": checksum(record)}, indent=1))


def open_record(path: Path) -> dict[str, Any] | None:
    """A record as it was written, or None where there is none. Raises `on_disk.Unusable` with the reason for anything else."""
    content = on_disk.read_object(Path(path))
    if content is None:
        return None
    try:
        schema = content.get("schema")
        if isinstance(schema, int) and schema > on_disk.SCHEMA:
            about = f"it has schema {schema}, and this claw reads up to {on_disk.SCHEMA}"
            raise on_disk.Unusable(f"{about}. {on_disk.UPGRADE}", precious=True)
        if content.get("checksum") != checksum(content):
            raise on_disk.Unusable("its checksum does not fit")
        on_disk.check_record(content, Path(path).name)
    except RecursionError as error:
        raise on_disk.Unusable("it is nested too deeply for anything that claw wrote") from error
    return content


def read_record(path: Path) -> dict[str, Any] | None:
    """A record, or None if it is missing or cannot be used; what cannot be used is named in a warning."""
    try:
        return open_record(path)
    except on_disk.Unusable as problem:
        warnings.warn(left_out(path, problem), stacklevel=2)
    return None


def left_out(path: Path, problem: on_disk.Unusable) -> str:
    """A sentence on a record that cannot be used."""
    if problem.precious:
        return f"record {path} is left out: {problem}."
    return f"record {path} is damaged ({problem}); it counts as missing and will be measured again."


def read_stages(folder: Path, experiment: str, stages: Mapping[str, str]) -> list[dict[str, Any]]:
    """The records of an experiment that are there, of these stages, each with the digest of how it was measured."""
    records = (read_record(path_of(folder, experiment, stage, measured)) for stage, measured in stages.items())
    return [record for record in records if record is not None]


def has(folder: Path, experiment: str, stage: str, measured: str = "") -> bool:
    """Whether a usable record is there; a failed one is not usable."""
    content = read_record(path_of(folder, experiment, stage, measured))
    return content is not None and content["status"] != "failed"


def every(folder: Path) -> Iterator[dict[str, Any]]:
    """All readable records of a run, in the order of their names."""
    paths = sorted((Path(folder) / "records").glob("*.json"))
    unusable = 0
    for path in paths:
        content = read_record(path)
        if content is not None:
            yield content
        unusable += content is None
    if unusable:
        warnings.warn(f"{unusable} of {plural(len(paths), 'record')} in {folder} could not be used.", stacklevel=2)


def table(source: str | Path, evaluation: Evaluation | None = None) -> pd.DataFrame:
    """Tidy frame, one row per experiment, columns as in COLUMNS, from a run's folder or a CSV file.

    `evaluation` picks among measurements made in different ways; without it they must all be alike.
    """
    source = Path(source)
    if source.suffix != ".csv":
        if not (source / "records").is_dir():
            raise InputError(
                f"{source} holds no records. Name the folder of a run (it has a folder `records`) or a .csv table."
            )
        return from_records(every(source), evaluation)
    return read_table(source)


def from_records(records: Iterable[Mapping[str, Any]], evaluation: Evaluation | None = None) -> pd.DataFrame:
    """The tidy frame of these records."""
    wanted = {"loss": evaluation.loss.digest, "tasks": evaluation.accuracy.digest} if evaluation else {}
    rows: dict[str, dict[str, Any]] = {}
    parents: dict[str, str] = {}
    types: dict[str, set[str]] = defaultdict(set)
    measured: dict[str, set[str]] = defaultdict(set)
    kept: dict[str, dict[str, Mapping[str, Any]]] = {"loss": {}, "tasks": {}}
    for record in records:
        name, stage, how = record["experiment"], record["stage"], record.get("measured", "")
        if how != wanted.get(stage, how):
            continue
        measured[stage].add(how)
        if len(measured[stage]) > 1:
            raise InputError(
                f"The records hold {stage} measured in {len(measured[stage])} different ways (texts, lengths or limits), which "
                "do not belong in one column. Pass evaluation= with the one that is meant, or name the study."
            )
        if name not in rows:
            rows[name], parents[name] = _identity(record)
        row = rows[name]
        if dtype := record["environment"].get("dtype"):
            types[dtype].add(name)
        row["seconds"] = row.get("seconds", 0.0) + record.get("seconds", 0.0)
        if "started" in record:
            day = datetime.fromtimestamp(record["started"], UTC).date().isoformat()
            row["day"] = min(day, row.get("day", day))
        if record["status"] != "done":
            row["status"] = record["status"]
        if record["result"]:  # a failed stage has none
            row |= _RESULTS[stage](record["result"])
            kept.get(stage, {})[name] = record["result"]
    if len(types) > 1:
        parts = [f"{dtype} ({plural(len(names), 'experiment')})" for dtype, names in sorted(types.items())]
        warnings.warn(f"number types are mixed: {', '.join(parts)}. {MIXED}", stacklevel=2)
    for name, row in rows.items():  # a recovered model has the shape of the compressed one it was made from
        parent = rows.get(parents[name], {})
        row |= {column: parent[column] for column in SHAPE if column in parent}
    _pair(rows, kept)
    frame = pd.DataFrame(rows.values())
    frame = frame.reindex(columns=[*dict.fromkeys([*COLUMNS, *frame.columns])])
    dense = frame[(frame["method"] == "dense") & (frame["recovery_tokens"] == 0)].set_index("model")
    frame = frame.assign(**{column: frame["model"].map(dense[name]) for column, name in _OF_DENSE.items()})
    return frame.sort_values(list(ORDER), ignore_index=True)


def _pair(rows: dict[str, dict[str, Any]], kept: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Add to each row its differences from the dense model of its name, where both were measured on the same."""
    dense = {row["model"]: name for name, row in rows.items() if row["method"] == "dense" and not row["recovery_tokens"]}
    for name, row in rows.items():
        other = dense.get(row["model"], "")
        if name in kept["loss"] and other in kept["loss"]:
            row |= paired.excess(kept["loss"][name], kept["loss"][other])
        if name in kept["tasks"] and other in kept["tasks"]:
            primary = {task: score["metric"] for task, score in _judged(kept["tasks"][name]).items()}
            row |= paired.changes(kept["tasks"][name], kept["tasks"][other], primary)


def _identity(record: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """What every row begins with, and the id of the experiment without recovery."""
    spec = on_disk.stored_experiment(record["spec"])
    compression, recovery = spec.compression, spec.recovery
    row: dict[str, Any] = {"experiment": record["experiment"]}
    row |= {name: getattr(compression, name) for name in ("model", "method", "ratio", "ratio_of", "seed")}
    row |= {"recovery": recovery.title if recovery else "none", "recovery_tokens": recovery.tokens if recovery else 0}
    row |= {"status": "done"} | {name: record["environment"].get(name) for name in ("code", "device", "dtype")}
    return row, Experiment(compression=compression).id


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
    judged = _judged(result)
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


def _judged(result: Mapping[str, Any]) -> dict[str, dict]:
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


_OF_DENSE = {f"{name}0": name for name in ("loss", "accuracy", *paired.CONTINUOUS)}
_OF_DENSE |= {"loss0_stderr": "loss_stderr", "accuracy0_stderr": "accuracy_stderr"}
"""Those of the model's dense row."""
_LOSS = {"loss": "mean", "loss_stderr": "stderr", "loss_tokens": "tokens", "heldout": "corpus", "heldout_data": "data"}
_LOSS |= {name: name for name in ("context", "token_perplexity", "word_perplexity", "bits_per_byte")}
_RESULTS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
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


def save_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table so that equal tables give equal bytes; InputError over a file that claw did not write."""
    write_own(Path(path), table_text(frame))
