"""The stage of notebook 10: compress a model along a curve, save each checkpoint, measure its held-out loss."""

from pathlib import Path
from typing import Any

from torch import nn

from claw import records
from claw.errors import InputError
from claw.models import load, sources
from claw.models.anatomy import anatomy
from claw.models.tokenizer_files import tokenizers_read_once
from claw.progress import tqdm
from claw.prune import compress
from claw.prune.compress import CompressionReport
from claw.prune.statistics import Statistics, calibrate
from claw.specs import methods
from claw.specs.experiment import Calibration, Compression, Experiment
from claw.specs.notebooks import CompressParameters
from claw.stages import checkpoints
from claw.stages.measure import heldout_blocks, measure_loss, recorded
from claw.texts import token_blocks
from claw.texts.token_blocks import Blocks


def check_compress(asked: CompressParameters) -> None:
    """Raise InputError for anything that can be known to be wrong before the model is loaded."""
    load.check_name(asked.model)
    token_blocks.check_purpose(asked.heldout, "heldout")
    if methods.needs_statistics(asked.method) or asked.calibration not in sources.corpora():  # used, or named all the same
        token_blocks.check_purpose(asked.calibration, "calibration")
        token_blocks.check_disjoint(asked.calibration, asked.heldout)


def statistics_for(
    calibration: Calibration, seed: int, model: nn.Module, tokenizer, *, gradients: bool = False, heldout: Blocks | None = None
) -> Statistics:
    """Calibration statistics of a model, from the cache where they were collected before; not on `heldout` text."""
    count = max(1, calibration.tokens // calibration.length)
    blocks = token_blocks.blocks(tokenizer, calibration.corpus, length=calibration.length, count=count, seed=seed)
    return calibrate(model, blocks, gradients=gradients, heldout=heldout)


@tokenizers_read_once()
def compress_curve(asked: CompressParameters, model: nn.Module, tokenizer) -> list[dict[str, Any]]:
    """Compress along the curve, save each checkpoint, measure its held-out loss; the records of both.

    Points whose records are there already are not repeated; a point whose checkpoint is gone is only compressed again when
    a later stage asks for it. Raises InputError for a ratio that this model cannot reach, before anything is computed.
    """
    curve, folder, evaluation = asked.curve, asked.folder, asked.evaluation
    shape, statistics = anatomy(model).shape, None
    for experiment in curve.experiments:
        if methods.makes_checkpoint(curve.method) and not _is_done(asked, experiment):
            checkpoints.check_place(checkpoints.checkpoint_folder(folder, experiment), asked.model)
    for compression in curve.compressions:
        if compression.method != methods.DENSE:
            compress.target_shape(shape, compression.method, compression.ratio, compression.ratio_of)
    blocks = heldout_blocks(evaluation, tokenizer)
    if methods.needs_statistics(curve.method):
        gradients = methods.needs_gradients(curve.method)
        statistics = statistics_for(curve.calibration, curve.seed, model, tokenizer, gradients=gradients, heldout=blocks)
    results = []
    for experiment in tqdm(curve.experiments, desc=curve.method, unit=" ratios", disable=None):
        compression = experiment.compression
        saved = methods.makes_checkpoint(compression.method)
        place = checkpoints.checkpoint_folder(folder, experiment)
        if not _is_done(asked, experiment):
            measured = records.has(folder, experiment.id, "loss", evaluation.loss.digest)
            with recorded(folder, experiment, "compress", model) as result:
                small, report = compress_point(compression, model, statistics)
                result.update(point(report, model))
                if saved:
                    checkpoints.save(small, tokenizer, place, report, experiment=experiment, base_model=compression.model)
            if not measured:
                measure_loss(folder, experiment, small, blocks, evaluation)
            del small  # before the next one is made: two would be as large as the dense model
        results += records.read_stages(folder, experiment.id, {"compress": "", "loss": evaluation.loss.digest})
    return results


def dense_records(asked: CompressParameters, model: nn.Module, tokenizer) -> list[dict[str, Any]]:
    """The records of the dense model that a curve is compared with, measured if nobody has; empty where it is on the curve."""
    curve, folder, evaluation = asked.curve, asked.folder, asked.evaluation
    if any(experiment.compression.method == methods.DENSE for experiment in curve.experiments):
        return []
    dense = Experiment.of_dense(asked.model)
    record_dense(folder, dense, model)
    if not records.has(folder, dense.id, "loss", evaluation.loss.digest):
        measure_loss(folder, dense, model, heldout_blocks(evaluation, tokenizer), evaluation)
    return records.read_stages(folder, dense.id, {"compress": "", "loss": evaluation.loss.digest})


def _is_done(asked: CompressParameters, experiment: Experiment) -> bool:
    """Whether a point has its records, and its checkpoint where it makes one."""
    measured = records.has(asked.folder, experiment.id, "loss", asked.evaluation.loss.digest)
    there = checkpoints.checkpoint_folder(asked.folder, experiment).is_dir()
    saved = methods.makes_checkpoint(experiment.compression.method)
    return measured and records.has(asked.folder, experiment.id, "compress") and (there or not saved)


def compress_point(compression: Compression, model: Any, statistics: Statistics | None) -> tuple[Any, CompressionReport]:
    """One point of a curve; at ratio 0 the model itself."""
    method, ratio, seed = compression.method, compression.ratio, compression.seed
    if method != methods.DENSE:
        ratio_of = compression.ratio_of
        return compress.compress(model, method, ratio, ratio_of=ratio_of, statistics=statistics, seed=seed)
    shape = anatomy(model).shape
    nothing = {"ratio": 0.0, "ratio_of": "own", "ratio_own": 0.0, "seed": 0, "seconds": 0.0, "peak_memory": 0}
    return model, CompressionReport.of(shape, shape, method=method, **nothing)


def point(report: CompressionReport, model: Any) -> dict[str, Any]:
    """What a compress record says of a point."""
    small, parameters = report.small, report.small.parameters
    sizes = {"family": anatomy(model).family, "parameters": parameters, "parameters0": report.dense.parameters}
    sizes |= {"flops_per_token": small.flops_per_token(), "bytes": parameters * model.dtype.itemsize}
    return report.to_dict() | sizes


def record_dense(folder: Path, experiment: Experiment, model: Any) -> None:
    """Record the shape of a dense model that no compression has recorded; nothing for other models.

    Of an architecture that claw cannot compress it is the number of parameters.
    """
    if experiment.compression.method == methods.DENSE and not records.has(folder, experiment.dense.id, "compress"):
        try:
            size = point(compress_point(experiment.compression, model, None)[1], model)
        except InputError:
            count = sum(parameter.numel() for parameter in model.parameters())
            size = {"family": model.config.model_type, "parameters": count, "parameters0": count, "ratio_params": 0.0}
        with recorded(folder, experiment.dense, "compress", model) as result:
            result.update(size)
