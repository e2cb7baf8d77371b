"""Run a piece of work and record what it gave, the moment it is known: done, nan or failed."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from claw import provenance, records
from claw.specs.experiment import Experiment


def checkpoint_folder(folder: Path, experiment: Experiment) -> Path:
    """Where an experiment's checkpoint is."""
    return folder / "checkpoints" / experiment.id


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
