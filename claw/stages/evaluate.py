"""The stage of notebook 30: held-out loss and tasks of checkpoints and dense models."""

from pathlib import Path
from typing import Any

from claw import records
from claw.evaluate import tasks
from claw.models import load
from claw.progress import tqdm
from claw.specs.notebooks import EvaluateParameters
from claw.stages import checkpoints
from claw.stages.compress import record_dense
from claw.stages.measure import heldout_blocks, measure_loss, measure_tasks
from claw.texts import token_blocks


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
