"""The stages that notebooks and sweeps run: compress a curve, evaluate checkpoints, and record every point at once.

A stage takes loaded things and typed parameters, skips what a record already holds, writes each record the moment it is
known, and returns the records of all its points. What a result depends on is in the spec; where it was made is in the
environment.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from claw import records
from claw.models import load
from claw.models.anatomy import anatomy
from claw.progress import tqdm
from claw.prune import compress
from claw.prune.compress import CompressionReport
from claw.prune.statistics import Statistics, calibrate
from claw.specs import methods
from claw.specs.experiment import Calibration, Compression, Curve, Experiment
from claw.specs.notebooks import CompressParameters
from claw.stages import checkpoints
from claw.stages.measure import heldout_blocks, measure_loss
from claw.stages.recording import checkpoint_folder, recorded
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
