"""The stage of notebook 40: time checkpoints against the dense models that they were made from, and record it."""

from typing import Any

from claw import records
from claw.errors import InputError
from claw.evaluate import timing
from claw.models import load
from claw.progress import tqdm
from claw.project import inside_project
from claw.specs import methods
from claw.specs.notebooks import SpeedParameters
from claw.stages import checkpoints
from claw.stages.measure import recorded


def check_speed(asked: SpeedParameters) -> None:
    """Raise InputError for anything that can be known to be wrong before timing starts."""
    load.pick_device(asked.device)
    for name in asked.checkpoints:
        if not inside_project(name).is_dir():
            raise InputError(f"There is no checkpoint folder {name}. Name folders that 10_compress or 20_recover saved.")
        if checkpoints.experiment_of(name).compression.method == methods.DENSE:
            raise InputError(f"{name} is a dense model; its speed-up over itself is 1. Name compressed checkpoints.")


def time_checkpoints(asked: SpeedParameters) -> list[dict[str, Any]]:
    """Time each checkpoint that has no speed record against its dense model; the compress and speed records of all."""
    folder, choices, measured = asked.folder, asked.speed.model_dump(), asked.speed.digest
    results = []
    dense: dict[str, tuple] = {}  # the last one used, by name
    for name in tqdm(asked.checkpoints, desc="speed", unit=" checkpoints", disable=None):
        experiment = checkpoints.experiment_of(name)
        if not records.has(folder, experiment.id, "speed", measured):
            parent = experiment.compression.model
            if parent not in dense:
                dense.clear()  # before the next one is loaded
                dense[parent] = load.load(parent, dtype=asked.dtype, device=asked.device)
            small, tokenizer = load.load(name, dtype=asked.dtype, device=asked.device)
            load.check_same_tokenizer(tokenizer, dense[parent][1])
            with recorded(folder, experiment, "speed", small, measured) as result:
                result.update(timing.measure_speed(small, against=dense[parent][0], **choices).to_dict())
            del small  # before the next one is loaded
        results += records.read_stages(folder, experiment.id, {"compress": "", "speed": measured})
    return results
