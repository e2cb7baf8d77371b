"""The stage of notebook 30: held-out loss and tasks of checkpoints and dense models."""

from pathlib import Path
from typing import Any

from claw import records
from claw.allocator import freed_memory_kept
from claw.evaluate import tasks
from claw.models import load
from claw.models.tokenizer_files import tokenizers_read_once
from claw.progress import tqdm
from claw.project import inside_project
from claw.specs.notebooks import EvaluateParameters
from claw.stages import checkpoints
from claw.stages.compress import record_dense
from claw.stages.measure import check_unseen, heldout_blocks, measure_loss, measure_tasks
from claw.texts import token_blocks


def check_evaluate(asked: EvaluateParameters) -> None:
    """Raise InputError for anything that can be known to be wrong before evaluating starts."""
    token_blocks.check_purpose(asked.heldout, "heldout")
    tasks.check_tasks(asked.tasks, hub=asked.tasks_from == "hub")
    for name in asked.checkpoints:
        if not _broken_run(asked.folder, name):
            load.check_name(name)
            check_unseen(checkpoints.experiment_of(name), asked.heldout)


@freed_memory_kept()
@tokenizers_read_once()
def evaluate_checkpoints(asked: EvaluateParameters) -> list[dict[str, Any]]:
    """Held-out loss (where not yet recorded) and tasks of each checkpoint; the records of both stages.

    A checkpoint that does not exist because its recovery broke is left out; its tasks are recorded as nan.
    """
    folder, evaluation = asked.folder, asked.evaluation
    stages = {"loss": evaluation.loss.digest}
    if asked.tasks:
        stages["tasks"] = evaluation.accuracy.digest
    experiments = {}
    for name in asked.checkpoints:
        if run := _broken_run(folder, name):
            if asked.tasks:
                content = run | {"stage": "tasks", "measured": stages["tasks"], "result": {}, "seconds": 0.0}
                records.write_record(records.path_of(folder, run["experiment"], "tasks", stages["tasks"]), content)
        else:
            experiments[name] = checkpoints.experiment_of(name)
    results = []
    for name, experiment in tqdm(experiments.items(), desc="evaluate", unit=" checkpoints", disable=None):
        missing = [stage for stage, digest in stages.items() if not records.has(folder, experiment.id, stage, digest)]
        if missing:
            model, tokenizer = load.load(name, dtype=asked.dtype, device=asked.device)
            record_dense(folder, experiment, model)
            if "loss" in missing:
                measure_loss(folder, experiment, model, heldout_blocks(evaluation, tokenizer), evaluation)
            if "tasks" in missing:
                measure_tasks(folder, experiment, model, tokenizer, evaluation)
            del model  # before the next one is loaded
        results += records.read_stages(folder, experiment.id, {"compress": ""} | stages)
    return results


def _broken_run(folder: Path, name: str) -> dict[str, Any] | None:
    """The record of the recovery that was to make the checkpoint `name` and broke; None where the checkpoint is there."""
    run = None if inside_project(name).is_dir() else records.read_record(records.path_of(folder, Path(name).name, "recover"))
    return run if run and run["status"] == "nan" else None
