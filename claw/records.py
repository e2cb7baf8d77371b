"""Records: one JSON file per experiment and stage, written atomically; and the tidy table made of them.

`records/<experiment>.<stage>.json` holds the spec, the result, the environment and a checksum. A file is complete or not
there: it is written beside itself and renamed. A record whose checksum does not fit (cut short by hand, a bad disk) counts
as missing and is named.

Stages: `compress` (the report), `recover`, `loss`, `tasks`, `speed`. The last three carry in their name the digest of how
they were measured, so that measuring differently adds a record and never replaces one.
"""

import hashlib
import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from claw.errors import InputError
from claw.files import write_text
from claw.specs.experiment import Evaluation, Experiment

SCHEMA = 1
STAGES = ("compress", "recover", "loss", "tasks", "speed")
PRIMARY = ("acc_norm", "acc")  # the metric of a task that enters `accuracy`: the first that it has

SHAPE = (
    "family", "ratio_of", "ratio_own", "ratio_params", "ratio_nonembedding", "ratio_flops", "parameters", "parameters0",
    "flops_per_token",
)  # fmt: skip
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
    "recovery": "recipe of recovery fine-tuning; none without",
    "recovery_tokens": "D: tokens of recovery really seen; 0 without",
    "recovery_run": "id shared by the milestones of one recovery run",
    "parameters": "parameters of this model; tied weights once",
    "parameters0": "parameters of the dense model",
    "flops_per_token": "forward FLOPs per token at 512 tokens of context",
    "loss": "L: held-out cross-entropy, nats per token",
    "loss_stderr": "its standard error over blocks",
    "loss0": "L0: loss of the dense model, same measurement",
    "token_perplexity": "e^loss",
    "word_perplexity": "e^(nats per white-space word)",
    "bits_per_byte": "bits per UTF-8 byte",
    "heldout": "held-out text",
    "heldout_data": "hash of its token blocks",
    "context": "tokens of context per block",
    "loss_tokens": "number of predicted tokens",
    "accuracy": "A: mean over tasks of the primary metric (acc_norm where the task has it, else acc)",
    "accuracy_stderr": "its standard error, tasks independent",
    "accuracy0": "A0: accuracy of the dense model, same measurement",
    "accuracy0_stderr": "its standard error",
    "chance": "mean over tasks of guessing",
    "tasks": "tasks in accuracy, joined by +",
    "num_fewshot": "examples in the prompt",
    "limit": "documents per task (of each subject for mmlu), one number or task:number; empty for all",
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
"""Columns of `table`, in order. Each task adds <task>_acc, <task>_acc_norm, their _stderr, and <task>_n; other batches add
speedup_prefill_batch8 and the like."""


def path_of(folder: Path, experiment: str, stage: str, measured: str = "") -> Path:
    """File of one record."""
    return Path(folder) / "records" / f"{experiment}.{stage}{f'-{measured}' if measured else ''}.json"


def checksum(content: Mapping[str, Any]) -> str:
    """Hash of a record without its own checksum."""
    body = {name: value for name, value in content.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write one record atomically: it is there whole or not at all."""
    content = json.loads(json.dumps({"schema": SCHEMA, **content}, default=str))
    content["checksum"] = checksum(content)
    write_text(path, json.dumps(content, indent=1))


def read_record(path: Path) -> dict[str, Any] | None:
    """A record, or None if it is missing or damaged; damage is named in a warning."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["checksum"] == checksum(content):
            return content
        problem = "its checksum does not fit"
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        problem = repr(error)
    warnings.warn(f"record {path} is damaged ({problem}); it counts as missing and will be measured again.", stacklevel=2)
    return None


def read_stages(folder: Path, experiment: str, ways: Mapping[str, str]) -> list[dict[str, Any]]:
    """The records of an experiment that are there, by stage and the digest of how it was measured."""
    found = (read_record(path_of(folder, experiment, stage, way)) for stage, way in ways.items())
    return [content for content in found if content is not None]


def has(folder: Path, experiment: str, stage: str, measured: str = "") -> bool:
    """Whether a usable record is there; a failed one is not usable."""
    content = read_record(path_of(folder, experiment, stage, measured))
    return content is not None and content["status"] != "failed"


def count(folder: Path) -> int:
    """Number of record files of a run, readable or not."""
    return sum(1 for _ in (Path(folder) / "records").glob("*.json"))


def every(folder: Path) -> Iterator[dict[str, Any]]:
    """All readable records of a run, in the order of their names."""
    for path in sorted((Path(folder) / "records").glob("*.json")):
        content = read_record(path)
        if content is not None:
            yield content


def table(source: str | Path, evaluation: Evaluation | None = None) -> pd.DataFrame:
    """Tidy frame, one row per experiment, columns as in COLUMNS, from a run's folder or a CSV file.

    `evaluation` picks among measurements made in different ways; without it they must all be alike.
    """
    source = Path(source)
    if source.suffix == ".csv":
        return from_csv(source)
    if not (source / "records").is_dir():
        raise InputError(f"{source} holds no records. Name the folder of a run (it has a folder `records`) or a .csv table.")
    return from_records(every(source), evaluation)


def from_csv(path: Path) -> pd.DataFrame:
    """A table saved by `claw table`."""
    if not path.is_file():
        raise InputError(f"There is no table {path}. Make one with `claw table STUDY.yaml --out {path.name}`.")
    try:
        return pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a CSV table: {error}.") from error


def from_records(found: Iterable[Mapping[str, Any]], evaluation: Evaluation | None = None) -> pd.DataFrame:
    """The tidy frame of these records."""
    wanted = {"loss": evaluation.loss.digest, "tasks": evaluation.accuracy.digest} if evaluation else {}
    rows: dict[str, dict[str, Any]] = {}
    parents: dict[str, str] = {}
    ways: dict[str, set[str]] = {}
    for record in found:
        stage, way = record["stage"], record.get("measured", "")
        if stage in wanted and way != wanted[stage]:
            continue
        ways.setdefault(stage, set()).add(way)
        if len(ways[stage]) > 1:
            raise InputError(
                f"The records hold {stage} measured in {len(ways[stage])} different ways (texts, lengths or limits), which do "
                "not belong in one column. Pass evaluation= with the one that is meant, or name the study."
            )
        if record["experiment"] not in rows:
            rows[record["experiment"]], parents[record["experiment"]] = _identity(record)
        row = rows[record["experiment"]]
        row["seconds"] = row.get("seconds", 0.0) + record.get("seconds", 0.0)
        if "started" in record:
            day = datetime.fromtimestamp(record["started"], UTC).date().isoformat()
            row["day"] = min(day, row.get("day", day))
        if record["status"] != "done":
            row["status"] = record["status"]
        if record["result"]:  # a failed stage has none
            _FILL[stage](row, record)
    for name, row in rows.items():  # a recovered model has the shape of the compressed one it was made from
        parent = rows.get(parents[name], {})
        row.update({column: parent[column] for column in SHAPE if column in parent})
    frame = pd.DataFrame(rows.values())
    extra = [name for name in frame.columns if name not in COLUMNS]
    frame = frame.reindex(columns=[*COLUMNS, *extra])
    return _with_dense(frame).sort_values(["model", "method", "seed", "recovery_tokens", "ratio"], ignore_index=True)


def _identity(record: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """What every row begins with, and the id of the experiment without recovery."""
    spec = Experiment.model_validate_json(json.dumps(record["spec"]))
    compression, recovery = spec.compression, spec.recovery
    row = {
        "experiment": record["experiment"],
        "model": compression.model, "method": compression.method, "ratio": compression.ratio,
        "ratio_of": compression.ratio_of, "seed": compression.seed,
        "recovery": recovery.recipe if recovery else "none", "recovery_tokens": recovery.tokens if recovery else 0,
        "status": "done", "code": record["environment"].get("code"),
        "device": record["environment"].get("device"), "dtype": record["environment"].get("dtype"),
    }  # fmt: skip
    return row, Experiment(compression=compression).id


def _fill_compress(row: dict, record: Mapping) -> None:
    result = record["result"]
    for name in SHAPE:
        row[name] = result.get(name)


def _fill_recover(row: dict, record: Mapping) -> None:
    row["recovery_run"] = record["result"].get("run")
    row["recovery_tokens"] = record["result"].get("tokens", row["recovery_tokens"])


def _fill_loss(row: dict, record: Mapping) -> None:
    result = record["result"]
    row.update(loss=result["mean"], loss_stderr=result["stderr"], loss_tokens=result["tokens"], heldout=result["corpus"])
    row.update(heldout_data=result["data"], context=result["context"])
    row.update({name: result[name] for name in ("token_perplexity", "word_perplexity", "bits_per_byte")})


def _fill_tasks(row: dict, record: Mapping) -> None:
    rows = record["result"]["rows"]
    limit = record["result"]["limit"]
    row["limit"] = " ".join(f"{task}:{n}" for task, n in sorted(limit.items())) if isinstance(limit, dict) else limit
    row["num_fewshot"] = record["result"]["num_fewshot"]
    by_task: dict[str, dict[str, dict]] = {}
    for one in rows:
        by_task.setdefault(one["task"], {})[one["metric"]] = one
        row[f"{one['task']}_{one['metric']}"] = one["value"]
        row[f"{one['task']}_{one['metric']}_stderr"] = _stderr(one)
        row[f"{one['task']}_n"], row[f"{one['task']}_chance"] = one["n"], one["chance"]
    primary = [next((metrics[m] for m in PRIMARY if m in metrics), None) for metrics in by_task.values()]
    if primary and all(primary):
        n = len(primary)
        row["accuracy"] = sum(p["value"] for p in primary) / n
        row["accuracy_stderr"] = math.sqrt(sum(_stderr(p) ** 2 for p in primary)) / n
        row["chance"] = sum(p["chance"] for p in primary) / n
        row["tasks"] = "+".join(by_task)


def _stderr(one: Mapping[str, Any]) -> float:
    """Standard error of an accuracy: as measured, else binomial over its documents; NaN for fewer than two.

    lm-eval has none for a group with one document per subject (mmlu with limit 1), though the group has many.
    """
    measured = math.nan if one["stderr"] is None else one["stderr"]
    if math.isnan(measured) and one["n"] > 1:
        return math.sqrt(one["value"] * (1 - one["value"]) / (one["n"] - 1))
    return measured


def _fill_speed(row: dict, record: Mapping) -> None:
    result = record["result"]
    row.update({name: value for name, value in result.items() if name.startswith(("speedup_", "ideal_"))})
    timings = result.get("timings", ())
    for one in timings:
        if one["batch"] == min(timing["batch"] for timing in timings):
            row[f"milliseconds_{one['phase']}"] = 1e3 * one["seconds"]
            row[f"milliseconds0_{one['phase']}"] = 1e3 * one["seconds0"]


_FILL = {"compress": _fill_compress, "recover": _fill_recover, "loss": _fill_loss, "tasks": _fill_tasks, "speed": _fill_speed}


def _with_dense(frame: pd.DataFrame) -> pd.DataFrame:
    """Fill loss0 and accuracy0 from the dense row of the same model, where it was measured alike."""
    dense = frame[(frame["method"] == "dense") & (frame["recovery_tokens"] == 0)].set_index("model")
    pairs = {"loss0": "loss", "accuracy0": "accuracy", "accuracy0_stderr": "accuracy_stderr"}
    return frame.assign(**{to: frame["model"].map(dense[name]) for to, name in pairs.items()})


def save_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table so that equal tables give equal bytes."""
    write_text(Path(path), frame.to_csv(index=False, lineterminator="\n"))
