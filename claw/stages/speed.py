"""The stage of notebook 40: time checkpoints against the dense models that they were made from, and record it."""

from pathlib import Path
from typing import Any

import pandas as pd

from claw import records
from claw.errors import InputError
from claw.evaluate import timing
from claw.models import load
from claw.progress import tqdm
from claw.specs import methods
from claw.specs.notebooks import SpeedParameters
from claw.stages import checkpoints
from claw.stages.recording import recorded


def check_speed(parameters: SpeedParameters) -> None:
    """Raise InputError for anything that can be known to be wrong before timing starts."""
    load.pick_device(parameters.device)
    for name in parameters.checkpoints:
        if not Path(name).is_dir():
            raise InputError(f"There is no checkpoint folder {name}. Name folders that 10_compress or 20_recover saved.")
        experiment = checkpoints.experiment_of(name)
        if experiment.compression.method == methods.DENSE:
            raise InputError(f"{name} is a dense model; its speed-up over itself is 1. Name compressed checkpoints.")


def time_checkpoints(parameters: SpeedParameters) -> list[dict[str, Any]]:
    """Time each checkpoint that has no speed record against its dense model; the compress and speed records of all."""
    check_speed(parameters)
    way, found = parameters.speed.digest, []
    dense: dict[str, tuple] = {}
    for name in tqdm(parameters.checkpoints, desc="speed", unit=" checkpoints", disable=None):
        experiment = checkpoints.experiment_of(name)
        if not records.has(parameters.folder, experiment.id, "speed", way):
            parent = experiment.compression.model
            if parent not in dense:
                dense = {parent: load.load(parent, dtype=parameters.dtype, device=parameters.device)}
            small, tokenizer = load.load(name, dtype=parameters.dtype, device=parameters.device)
            load.check_same_tokenizer(tokenizer, dense[parent][1])
            with recorded(parameters.folder, experiment, "speed", small, way) as result:
                choices = parameters.speed.model_dump()
                result.update(timing.measure_speed(small, against=dense[parent][0], **choices).to_dict())
        found += records.read_stages(parameters.folder, experiment.id, {"compress": "", "speed": way})
    return found


def timing_frame(found: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per checkpoint, phase and batch size among these records: seconds, speed-up with interval, ideal, memory."""
    rows = []
    for record in found:
        if record["stage"] != "speed" or not record["result"]:
            continue
        compression, result = record["spec"]["compression"], record["result"]
        for one in result["timings"]:
            rows.append(
                {
                    "method": compression["method"], "ratio": compression["ratio"], **one,
                    "of ideal": one["speedup"] / one["ideal"], "memory": result["memory"] / result["memory0"],
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def timing_sentences(found: list[dict[str, Any]]) -> str:
    """Every timing among these records in words."""
    lines = []
    for record in found:
        if record["stage"] == "speed" and record["result"]:
            compression = record["spec"]["compression"]
            lines.append(f"{compression['method']} at r = {compression['ratio']:g}:")
            lines += [f"  {timing.timing_sentence(one)}" for one in record["result"]["timings"]]
    return "\n".join(lines)
