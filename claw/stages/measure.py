"""Work on one model and record what came of it, as done, nan or failed; measuring held-out loss and tasks is such work."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from claw import provenance, records
from claw.evaluate import continuous, generation, held_out, tasks
from claw.specs.experiment import Evaluation, Experiment
from claw.texts import token_blocks
from claw.texts.token_blocks import Blocks


@contextmanager
def recorded(folder: Path, experiment: Experiment, stage: str, model: Any, measured: str = "") -> Iterator[dict[str, Any]]:
    """Run a block and record the dict it fills: done, nan (the loss is not finite or the run broke), or failed if it raises."""
    started, clock = time.time(), time.perf_counter()
    result: dict[str, Any] = {}
    content: dict[str, Any] = {"experiment": experiment.id, "stage": stage, "measured": measured}
    content["spec"] = experiment.model_dump(mode="json")
    content |= {"environment": provenance.made_with(next(model.parameters()).device, model.dtype), "started": started}
    path = records.path_of(folder, experiment.id, stage, measured)
    try:
        yield result
    except Exception as error:
        content |= {"status": "failed", "error": f"{type(error).__name__}: {error}", "result": {}}
        records.write_record(path, content | {"seconds": time.perf_counter() - clock})
        raise
    nan = (stage == "loss" and not math.isfinite(result["mean"])) or result.get("nan_step") is not None
    content |= {"status": "nan" if nan else "done", "result": result, "seconds": time.perf_counter() - clock}
    records.write_record(path, content)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def check_unseen(experiment: Experiment, heldout: str) -> None:
    """Raise InputError where a checkpoint was calibrated or recovered on the text that it is to be tested on."""
    calibration, recovery = experiment.compression.calibration, experiment.recovery
    for corpus in (calibration and calibration.corpus, recovery and recovery.corpus):
        if corpus:
            token_blocks.check_disjoint(corpus, heldout)


def heldout_blocks(evaluation: Evaluation, tokenizer) -> Blocks:
    """The held-out blocks that an evaluation names."""
    count = max(1, evaluation.tokens // evaluation.context)
    return token_blocks.blocks(tokenizer, evaluation.heldout, length=evaluation.context, count=count, purpose="heldout")


def measure_loss(folder: Path, experiment: Experiment, model: Any, blocks: Blocks, evaluation: Evaluation) -> None:
    """Measure and record the held-out loss of one model; NaN is a result with a status of its own."""
    with recorded(folder, experiment, "loss", model, evaluation.loss.digest) as result:
        result.update(held_out.cross_entropy(model, blocks).to_dict())


def measure_tasks(folder: Path, experiment: Experiment, model: Any, tokenizer, evaluation: Evaluation) -> None:
    """Measure and record the accuracy of one model on the evaluation's tasks, and what it writes freely."""
    choices: dict[str, Any] = {"num_fewshot": evaluation.num_fewshot, "limit": evaluation.limit}
    hub = evaluation.tasks_from == "hub"
    with recorded(folder, experiment, "tasks", model, evaluation.accuracy.digest) as result:
        frame, samples = tasks.score_tasks(model, tokenizer, evaluation.tasks, samples=True, hub=hub, **choices)
        rows = [*frame.to_dict("records"), *continuous.continuous_rows(frame, samples).to_dict("records")]
        result.update(rows=rows, **choices, answered=tasks.answered(samples), scores=continuous.packed_scores(samples))
        result["free"] = asdict(generation.free_text(model, tokenizer, heldout_blocks(evaluation, tokenizer)))
