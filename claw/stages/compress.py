"""The stages that notebooks and sweeps run: compress a curve, evaluate checkpoints, and record every point at once.

A stage takes loaded things and typed parameters, skips what a record already holds, writes each record the moment it is
known, and returns the records of all its points. What a result depends on is in the spec; where it was made is in the
environment.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from claw import provenance, records
from claw.evaluate import held_out, tasks
from claw.models import load
from claw.models.anatomy import anatomy
from claw.progress import tqdm
from claw.prune import compress
from claw.prune.compression_report import CompressionReport
from claw.prune.statistics import Statistics, calibrate
from claw.specs import methods
from claw.specs.experiment import Calibration, Compression, Curve, Evaluation, Experiment
from claw.specs.notebooks import CompressParameters, EvaluateParameters
from claw.stages import checkpoints
from claw.texts import token_blocks


def check_compress(parameters: CompressParameters, model: nn.Module | None = None) -> None:
    """Raise InputError for anything that can be known to be wrong before compressing starts."""
    curve = parameters.curve
    load.check_name(curve.model)
    token_blocks.check_purpose(parameters.heldout, "heldout")
    token_blocks.check_disjoint(parameters.calibration, parameters.heldout)
    if methods.needs_statistics(curve.method):
        token_blocks.check_purpose(parameters.calibration, "calibration")
    if model is not None:
        shape = anatomy(model).shape
        for compression in curve.compressions:
            if compression.method != methods.DENSE:
                compress.target_shape(shape, compression.method, compression.ratio, compression.ratio_of)


def statistics_for(calibration: Calibration, seed: int, model: nn.Module, tokenizer, *, gradients: bool = False) -> Statistics:
    """Calibration statistics of a model, from the cache where they were collected before."""
    count = max(1, calibration.tokens // calibration.length)
    blocks = token_blocks.blocks(tokenizer, calibration.corpus, length=calibration.length, count=count, seed=seed)
    return calibrate(model, blocks, gradients=gradients)


def statistics_for_curve(curve: Curve, model: nn.Module, tokenizer) -> Statistics | None:
    """Calibration statistics for a curve, or None when its method needs none."""
    if not methods.needs_statistics(curve.method):
        return None
    gradients = methods.needs_gradients(curve.method)
    return statistics_for(curve.calibration, curve.seed, model, tokenizer, gradients=gradients)


def heldout_blocks(evaluation: Evaluation, tokenizer) -> token_blocks.Blocks:
    """The held-out blocks that an evaluation names."""
    count = max(1, evaluation.tokens // evaluation.context)
    return token_blocks.blocks(tokenizer, evaluation.heldout, length=evaluation.context, count=count, purpose="heldout")


def compress_curve(
    parameters: CompressParameters, model: nn.Module, tokenizer, statistics: Statistics | None = None
) -> list[dict[str, Any]]:
    """Compress along the curve, save each checkpoint, measure its held-out loss; the records of both stages.

    Points whose records are there already are not repeated; a point whose checkpoint is gone is only compressed again when
    a later stage asks for it.
    """
    check_compress(parameters, model)
    folder, evaluation = parameters.folder, parameters.evaluation
    blocks = heldout_blocks(evaluation, tokenizer)
    found = []
    for experiment in tqdm(parameters.curve.experiments, desc=f"{parameters.method}", unit=" ratios", disable=None):
        compression, identity = experiment.compression, experiment.id
        done = records.has(folder, identity, "compress") and records.has(folder, identity, "loss", evaluation.loss.digest)
        saved = methods.makes_checkpoint(compression.method)
        kept = not saved or checkpoint_folder(folder, experiment).is_dir()
        if not (done and kept):
            with recorded(folder, experiment, "compress", model) as result:
                small, report = compress_point(compression, model, statistics)
                result.update(point(report, model))
                if saved:
                    checkpoints.save(
                        small, tokenizer, checkpoint_folder(folder, experiment), report,
                        experiment=experiment, base_model=compression.model,
                    )  # fmt: skip
            if not records.has(folder, identity, "loss", evaluation.loss.digest):
                measure_loss(folder, experiment, small, blocks, evaluation)
        found += records.read_stages(folder, identity, {"compress": "", "loss": evaluation.loss.digest})
    return found


def compress_point(
    compression: Compression, model: nn.Module, statistics: Statistics | None
) -> tuple[nn.Module, CompressionReport]:
    """One point of a curve; at ratio 0 the model itself."""
    if compression.method == methods.DENSE:
        shape = anatomy(model).shape
        report = CompressionReport.of(
            shape, shape, method=methods.DENSE, ratio=0.0, ratio_of="own", ratio_own=0.0, seed=0, seconds=0.0, peak_memory=0
        )
        return model, report
    return compress.compress(
        model, compression.method, compression.ratio,
        ratio_of=compression.ratio_of, statistics=statistics, seed=compression.seed,
    )  # fmt: skip


def point(report: CompressionReport, model: nn.Module) -> dict[str, Any]:
    """What a compress record says of a point."""
    small, dense = report.small, report.dense
    return report.to_dict() | {
        "family": anatomy(model).family,
        "parameters": small.parameters,
        "parameters0": dense.parameters,
        "flops_per_token": small.flops_per_token(),
        "bytes": small.parameters * model.dtype.itemsize,
    }


def record_dense(folder: Path, experiment: Experiment, model: nn.Module) -> None:
    """Record the shape of a dense model that no compression has recorded; nothing for other models."""
    if experiment.compression.method == methods.DENSE and not records.has(folder, experiment.dense.id, "compress"):
        with recorded(folder, experiment.dense, "compress", model) as result:
            result.update(point(compress_point(experiment.compression, model, None)[1], model))


def checkpoint_folder(folder: Path, experiment: Experiment) -> Path:
    """Where an experiment's checkpoint is."""
    return folder / "checkpoints" / experiment.id


def measure_loss(
    folder: Path, experiment: Experiment, model: nn.Module, blocks: token_blocks.Blocks, evaluation: Evaluation
) -> None:
    """Measure and record the held-out loss of one model; NaN is a result with a status of its own."""
    with recorded(folder, experiment, "loss", model, evaluation.loss.digest) as result:
        result.update(held_out.cross_entropy(model, blocks).to_dict())


def check_evaluate(parameters: EvaluateParameters) -> None:
    """Raise InputError for anything that can be known to be wrong before evaluating starts."""
    token_blocks.check_purpose(parameters.heldout, "heldout")
    tasks.check_tasks(parameters.tasks, hub=parameters.tasks_from == "hub")
    for name in parameters.checkpoints:
        if not Path(name).is_dir():
            load.check_name(name)


def evaluate_checkpoints(parameters: EvaluateParameters) -> list[dict[str, Any]]:
    """Held-out loss (where not yet recorded) and tasks of each checkpoint; the records of both stages."""
    parameters = _without_broken(parameters)
    check_evaluate(parameters)
    folder, evaluation = parameters.folder, parameters.evaluation
    experiments = {name: checkpoints.experiment_of(name) for name in parameters.checkpoints}
    found = []
    for name, experiment in tqdm(experiments.items(), desc="evaluate", unit=" checkpoints", disable=None):
        stages = {"loss": evaluation.loss.digest}
        if parameters.tasks:
            stages["tasks"] = evaluation.accuracy.digest
        missing = [stage for stage, way in stages.items() if not records.has(folder, experiment.id, stage, way)]
        if missing:
            model, tokenizer = load.load(name, dtype=parameters.dtype, device=parameters.device)
            record_dense(folder, experiment, model)
            if "loss" in missing:
                measure_loss(folder, experiment, model, heldout_blocks(evaluation, tokenizer), evaluation)
            if "tasks" in missing:
                measure_tasks(folder, experiment, model, tokenizer, evaluation)
        found += records.read_stages(folder, experiment.id, {"compress": ""} | stages)
    return found


def _without_broken(parameters: EvaluateParameters) -> EvaluateParameters:
    """The parameters without checkpoints that do not exist because their recovery broke; their tasks are recorded as nan."""
    left = []
    for name in parameters.checkpoints:
        run = (
            None if Path(name).is_dir() else records.read_record(records.path_of(parameters.folder, Path(name).name, "recover"))
        )
        if run is None or run["status"] != "nan":
            left.append(name)
        elif parameters.tasks:
            way = parameters.evaluation.accuracy.digest
            content = {**run, "stage": "tasks", "measured": way, "result": {}, "seconds": 0.0}
            records.write_record(records.path_of(parameters.folder, run["experiment"], "tasks", way), content)
    return parameters.model_copy(update={"checkpoints": tuple(left)})


def measure_tasks(folder: Path, experiment: Experiment, model: nn.Module, tokenizer, evaluation: Evaluation) -> None:
    """Measure and record the accuracy of one model on the evaluation's tasks."""
    with recorded(folder, experiment, "tasks", model, evaluation.accuracy.digest) as result:
        frame, samples = tasks.score_tasks(
            model, tokenizer, evaluation.tasks, samples=True,
            limit=evaluation.limit, num_fewshot=evaluation.num_fewshot, hub=evaluation.tasks_from == "hub",
        )  # fmt: skip
        result["rows"] = frame.to_dict("records")
        result.update(num_fewshot=evaluation.num_fewshot, limit=evaluation.limit, answered=tasks.answered(samples))


def frame_of(found: list[dict[str, Any]], evaluation: Evaluation | None = None) -> pd.DataFrame:
    """Tidy table of these records."""
    return records.from_records(found, evaluation)


def cost_frame(found: list[dict[str, Any]]) -> pd.DataFrame:
    """Seconds and peak memory of each compression among these records."""
    rows = [
        {
            "method": record["result"]["method"],
            "ratio": record["result"]["ratio"],
            "seconds to compress": record["result"]["seconds"],
            "seconds with saving": record["seconds"],
            "peak memory in GB": record["result"]["peak_memory"] / 1e9,
        }
        for record in found
        if record["stage"] == "compress"
    ]
    return pd.DataFrame(rows).round(2)


def checkpoint_frame(found: list[dict[str, Any]], folder: Path) -> pd.DataFrame:
    """Folder of each checkpoint among these records that is on disk."""
    rows = []
    for record in found:
        place = folder / "checkpoints" / record["experiment"]
        if record["stage"] == "compress" and place.is_dir():
            rows.append({"method": record["result"]["method"], "ratio": record["result"]["ratio"], "folder": str(place)})
    return pd.DataFrame(rows, columns=["method", "ratio", "folder"])


@contextmanager
def recorded(folder: Path, experiment: Experiment, stage: str, model: nn.Module, measured: str = "") -> Iterator[dict]:
    """Run a block and record the dict it fills: as done, as nan if a number in it is NaN, as failed if it raises."""
    started = time.time()
    clock = time.perf_counter()
    result: dict[str, Any] = {}
    content: dict[str, Any] = {
        "experiment": experiment.id, "stage": stage, "measured": measured, "spec": experiment.model_dump(mode="json"),
        "environment": provenance.made_with(next(model.parameters()).device, model.dtype), "started": started,
    }  # fmt: skip
    path = records.path_of(folder, experiment.id, stage, measured)
    try:
        yield result
    except BaseException as error:
        if isinstance(error, Exception):
            content |= {"status": "failed", "error": f"{type(error).__name__}: {error}"}
            records.write_record(path, content | {"result": {}, "seconds": time.perf_counter() - clock})
        raise
    nan = (stage == "loss" and not math.isfinite(result["mean"])) or result.get("nan_step") is not None
    content |= {"status": "nan" if nan else "done", "result": result, "seconds": time.perf_counter() - clock}
    records.write_record(path, content)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
