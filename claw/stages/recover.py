"""The stage of notebook 20: recover checkpoints for several budgets, save each result, record it and its held-out loss."""

import math
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from claw import records
from claw.errors import InputError
from claw.models import load
from claw.progress import tqdm
from claw.recovery import run, schedule
from claw.recovery.recovery_report import RecoveryReport
from claw.specs.experiment import Evaluation, Experiment, Recovery
from claw.specs.notebooks import RecoverParameters
from claw.stages import checkpoints
from claw.stages.compress import record_dense
from claw.stages.measure import heldout_blocks, measure_loss
from claw.stages.recording import checkpoint_folder, recorded
from claw.texts import token_blocks
from claw.texts.token_blocks import Blocks

WATCHED = 16  # held-out blocks measured along the way; the record's loss is of all


def check_recover(parameters: RecoverParameters) -> None:
    """Raise InputError for anything that can be known to be wrong before recovery starts."""
    token_blocks.check_purpose(parameters.heldout, "heldout")
    token_blocks.check_purpose(parameters.corpus, "recovery")
    token_blocks.check_disjoint(parameters.corpus, parameters.heldout)
    schedule.milestones(parameters.tokens, parameters.length, parameters.batch)
    load.pick_device(parameters.device)
    for name in parameters.checkpoints:
        if not Path(name).is_dir():
            load.check_name(name)
        elif checkpoints.experiment_of(name).recovery is not None:
            raise InputError(f"{name} is recovered already. Recover the compressed checkpoint that it was made from.")


def recover_checkpoints(parameters: RecoverParameters) -> list[dict[str, Any]]:
    """Recover each checkpoint for each budget that has no record; the recover and loss records of all."""
    check_recover(parameters)
    found = []
    for name in tqdm(parameters.checkpoints, desc="recover", unit=" checkpoints", disable=None):
        compression = checkpoints.experiment_of(name).compression
        experiments = [Experiment(compression=compression, recovery=r) for r in parameters.series.recoveries]
        open_ones = [e for e in experiments if not _done(parameters.folder, e, parameters.evaluation)]
        if open_ones:
            _recover(parameters, name, open_ones)
        for experiment in (Experiment(compression=compression), *experiments):  # the row that they all start from comes first
            ways = {"compress": "", "recover": "", "loss": parameters.evaluation.loss.digest}
            found += records.read_stages(parameters.folder, experiment.id, ways)
    return found


def recovery_blocks(recovery: Recovery, tokenizer) -> Blocks:
    """The recovery blocks of a budget, documents in an order of the seed's own; smaller budgets take the first of them."""
    count = recovery.tokens // recovery.length
    return token_blocks.blocks(
        tokenizer, recovery.corpus, length=recovery.length, count=count, purpose="recovery", seed=recovery.seed + 1
    )


def _done(folder: Path, experiment: Experiment, evaluation: Evaluation) -> bool:
    content = records.read_record(records.path_of(folder, experiment.id, "recover"))
    measured = records.has(folder, experiment.id, "loss", evaluation.loss.digest)
    broke = content is not None and content["status"] == "nan"
    return (
        records.has(folder, experiment.id, "recover") and measured and (broke or checkpoint_folder(folder, experiment).is_dir())
    )


def _recover(parameters: RecoverParameters, name: str, experiments: list[Experiment]) -> None:
    """Recover one checkpoint, budgets that share a run together."""
    model, tokenizer = load.load(name, dtype=parameters.dtype, device=parameters.device)
    record_dense(parameters.folder, experiments[0], model)
    heldout = heldout_blocks(parameters.evaluation, tokenizer)
    teacher = None
    if parameters.recipe == "distill":
        teacher, other = load.load(experiments[0].compression.model, dtype=parameters.dtype, device=parameters.device)
        load.check_same_tokenizer(tokenizer, other)
    groups: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        groups.setdefault(experiment.recovery.run.digest, []).append(experiment)
    for group in groups.values():
        blocks = recovery_blocks(group[-1].recovery, tokenizer)
        folder = parameters.folder / "recovering" / Experiment(
            compression=group[0].compression, recovery=group[0].recovery.run
        ).id  # fmt: skip
        series = run.recover_milestones(
            model, blocks, [e.recovery for e in group], heldout=heldout.part(slice(WATCHED)), teacher=teacher, folder=folder
        )
        for experiment in group:
            with recorded(parameters.folder, experiment, "recover", model) as result:
                small, report = next(series)
                result.update(report.to_dict())
                if report.nan_step is None:
                    checkpoints.save(
                        small, tokenizer, checkpoint_folder(parameters.folder, experiment),
                        experiment=experiment, base_model=experiment.compression.model,
                    )  # fmt: skip
            _loss(parameters, experiment, small, report, heldout)
        series.close()
        shutil.rmtree(folder, ignore_errors=True)


def _loss(
    parameters: RecoverParameters, experiment: Experiment, small: nn.Module, report: RecoveryReport, heldout: Blocks
) -> None:
    """The held-out loss of a recovered model; NaN where its run broke."""
    if report.nan_step is None:
        measure_loss(parameters.folder, experiment, small, heldout, parameters.evaluation)
        return
    with recorded(parameters.folder, experiment, "loss", small, parameters.evaluation.loss.digest) as result:
        names = ("mean", "stderr", "token_perplexity", "word_perplexity", "bits_per_byte")
        result.update(dict.fromkeys(names, math.nan), tokens=heldout.tokens, words=heldout.words, bytes=heldout.bytes)
        result.update(corpus=heldout.corpus, context=heldout.length, data=heldout.sha256)


def recovery_frame(found: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per recovery among these records: budget, held-out loss before, at its best and at the end, speed."""
    rows = []
    for record in found:
        if record["stage"] != "recover" or not record["result"]:
            continue
        compression, result = record["spec"]["compression"], record["result"]
        before, last = result["before"], result["last"]
        rows.append(
            {
                "method": compression["method"], "ratio": compression["ratio"], "recipe": result["recipe"],
                "tokens": result["tokens"], "run": result["run"], "loss before": before, "best": result["best"],
                "best at": result["best_tokens"], "loss after": last, "improvement": 1 - last / before,
                "went too far": result["overfitted"], "broke at step": result["nan_step"],
                "tokens/s": result["tokens_per_second"],
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def moment_frame(found: list[dict[str, Any]]) -> pd.DataFrame:
    """Train and held-out loss along every recovery among these records, one row per moment."""
    rows = [
        {
            "method": record["spec"]["compression"]["method"], "ratio": record["spec"]["compression"]["ratio"],
            "budget": record["result"]["asked"], **moment,
        }
        for record in found
        if record["stage"] == "recover"
        for moment in record["result"].get("moments", ())
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["method", "ratio", "budget", "tokens", "train", "heldout"])
