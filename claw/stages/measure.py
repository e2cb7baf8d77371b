"""Measure one model and record it: held-out loss and tasks, as stages and sweeps need them."""

from pathlib import Path

from torch import nn

from claw.evaluate import held_out, tasks
from claw.specs.experiment import Evaluation, Experiment
from claw.stages.recording import recorded
from claw.texts import token_blocks


def heldout_blocks(evaluation: Evaluation, tokenizer) -> token_blocks.Blocks:
    """The held-out blocks that an evaluation names."""
    count = max(1, evaluation.tokens // evaluation.context)
    return token_blocks.blocks(tokenizer, evaluation.heldout, length=evaluation.context, count=count, purpose="heldout")


def measure_loss(
    folder: Path, experiment: Experiment, model: nn.Module, blocks: token_blocks.Blocks, evaluation: Evaluation
) -> None:
    """Measure and record the held-out loss of one model; NaN is a result with a status of its own."""
    with recorded(folder, experiment, "loss", model, evaluation.loss.digest) as result:
        result.update(held_out.cross_entropy(model, blocks).to_dict())


def measure_tasks(folder: Path, experiment: Experiment, model: nn.Module, tokenizer, evaluation: Evaluation) -> None:
    """Measure and record the accuracy of one model on the evaluation's tasks."""
    with recorded(folder, experiment, "tasks", model, evaluation.accuracy.digest) as result:
        frame, samples = tasks.score_tasks(
            model, tokenizer, evaluation.tasks, samples=True,
            limit=evaluation.limit, num_fewshot=evaluation.num_fewshot, hub=evaluation.tasks_from == "hub",
        )  # fmt: skip
        result["rows"] = frame.to_dict("records")
        result.update(num_fewshot=evaluation.num_fewshot, limit=evaluation.limit, answered=tasks.answered(samples))
