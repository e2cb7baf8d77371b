"""The tidy table made of records: one row per experiment, its columns documented."""

import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from claw import paired
from claw.csv_tables import read_table, table_text
from claw.errors import InputError
from claw.files import write_own
from claw.records.record_files import every
from claw.records.result_columns import OF_DENSE, RESULTS, SHAPE, judged_scores, speed_setting
from claw.specs import on_disk
from claw.specs.experiment import Evaluation, Experiment
from claw.words import plural

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
    "calibration": "calibration text; empty for a method that needs none",
    "calibration_tokens": "tokens of it",
    "calibration_length": "tokens per block",
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
    "speed_setting": "where and how it was timed: processor, threads of a CPU, tokens of the prompt and generated after it",
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
            row |= RESULTS[stage](record["result"])
            if stage == "speed":
                row["speed_setting"] = speed_setting(record["result"], record["environment"])
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
    frame = frame.assign(**{column: frame["model"].map(dense[name]) for column, name in OF_DENSE.items()})
    return frame.sort_values(list(ORDER), ignore_index=True)


def _pair(rows: dict[str, dict[str, Any]], kept: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Add to each row its differences from the dense model of its name, where both were measured on the same."""
    dense = {row["model"]: name for name, row in rows.items() if row["method"] == "dense" and not row["recovery_tokens"]}
    for name, row in rows.items():
        other = dense.get(row["model"], "")
        if name in kept["loss"] and other in kept["loss"]:
            row |= paired.excess(kept["loss"][name], kept["loss"][other])
        if name in kept["tasks"] and other in kept["tasks"]:
            primary = {task: score["metric"] for task, score in judged_scores(kept["tasks"][name]).items()}
            row |= paired.changes(kept["tasks"][name], kept["tasks"][other], primary)


def _identity(record: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """What every row begins with, and the id of the experiment without recovery."""
    spec = on_disk.stored_experiment(record["spec"])
    compression, recovery = spec.compression, spec.recovery
    row: dict[str, Any] = {"experiment": record["experiment"]}
    row |= {name: getattr(compression, name) for name in ("model", "method", "ratio", "ratio_of", "seed")}
    if compression.calibration:
        row |= compression.calibration.columns
    row |= {"recovery": recovery.title if recovery else "none", "recovery_tokens": recovery.tokens if recovery else 0}
    row |= {"status": "done"} | {name: record["environment"].get(name) for name in ("code", "device", "dtype")}
    return row, Experiment(compression=compression).id


def save_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table so that equal tables give equal bytes; InputError over a file that claw did not write."""
    write_own(Path(path), table_text(frame))
