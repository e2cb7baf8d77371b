"""The stage of notebook 20: recover checkpoints for several budgets, save each result, record it and its held-out loss."""

import math
from typing import Any

from claw import files, records
from claw.errors import InputError
from claw.evaluate import held_out
from claw.models import load
from claw.progress import tqdm
from claw.project import inside_project
from claw.recovery import run, schedule
from claw.specs.experiment import Compression, Experiment, Recovery
from claw.specs.notebooks import RecoverParameters
from claw.stages import checkpoints
from claw.stages.compress import record_dense
from claw.stages.measure import check_unseen, heldout_blocks, measure_loss, recorded
from claw.texts import token_blocks

WATCHED = 16  # held-out blocks measured along the way; the record's loss is of all


def check_recover(asked: RecoverParameters) -> None:
    """Raise InputError for anything that can be known to be wrong before recovery starts."""
    token_blocks.check_purpose(asked.heldout, "heldout")
    token_blocks.check_purpose(asked.corpus, "recovery")
    token_blocks.check_disjoint(asked.corpus, asked.heldout)
    schedule.milestones(asked.tokens, asked.length, asked.batch)
    load.pick_device(asked.device)
    for name in asked.checkpoints:
        load.check_name(name)
        if inside_project(name).is_dir() and checkpoints.experiment_of(name).recovery is not None:
            raise InputError(f"{name} is recovered already. Recover the compressed checkpoint that it was made from.")
        check_unseen(checkpoints.experiment_of(name), asked.heldout)


def recover_checkpoints(asked: RecoverParameters) -> list[dict[str, Any]]:
    """Recover each checkpoint for each budget that has no record; the recover and loss records of all."""
    results = []
    stages = {"compress": "", "recover": "", "loss": asked.evaluation.loss.digest}
    for name in tqdm(asked.checkpoints, desc="recover", unit=" checkpoints", disable=None):
        compression = checkpoints.experiment_of(name).compression
        recoveries = asked.series.recoveries
        missing = [r for r in recoveries if not _done(asked, Experiment(compression=compression, recovery=r))]
        if missing:
            _recover(asked, name, compression, missing)
        for recovery in (None, *recoveries):  # the row that they all start from comes first
            results += records.read_stages(asked.folder, Experiment(compression=compression, recovery=recovery).id, stages)
    return results


def _done(asked: RecoverParameters, experiment: Experiment) -> bool:
    """Whether recovery and loss are recorded and the checkpoint is there, unless the run broke and left none."""
    folder, content = asked.folder, records.read_record(records.path_of(asked.folder, experiment.id, "recover"))
    if content is None or content["status"] == "failed":
        return False
    kept = content["status"] == "nan" or checkpoints.checkpoint_folder(folder, experiment).is_dir()
    return kept and records.has(folder, experiment.id, "loss", asked.evaluation.loss.digest)


def _recover(asked: RecoverParameters, name: str, compression: Compression, recoveries: list[Recovery]) -> None:
    """Recover one checkpoint, budgets that share a run together."""
    for recovery in recoveries:  # before hours of work
        place = checkpoints.checkpoint_folder(asked.folder, Experiment(compression=compression, recovery=recovery))
        checkpoints.check_place(place, name, compression.model)
    model, tokenizer = load.load(name, dtype=asked.dtype, device=asked.device)
    record_dense(asked.folder, Experiment(compression=compression), model)
    heldout = heldout_blocks(asked.evaluation, tokenizer)
    watched = heldout.part(slice(WATCHED))
    parent, other = load.load(compression.model, dtype=asked.dtype, device=asked.device)
    if asked.recipe == "distill":
        load.check_same_tokenizer(tokenizer, other)
    teacher, dense = parent if asked.recipe == "distill" else None, held_out.cross_entropy(parent, watched).mean
    del parent  # unless it teaches
    groups: dict[str, list[Recovery]] = {}
    for recovery in recoveries:
        groups.setdefault(recovery.run.digest, []).append(recovery)
    for group in groups.values():
        last = group[-1]  # its blocks, from documents in an order of its seed; smaller budgets take the first of them
        choices = {"length": last.length, "count": last.tokens // last.length, "seed": last.seed + 1}
        blocks = token_blocks.blocks(tokenizer, last.corpus, purpose="recovery", **choices)
        token_blocks.check_no_overlap(blocks, heldout)  # with all of it, of which only some is watched
        folder = asked.folder / "recovering" / Experiment(compression=compression, recovery=group[0].run).id
        series = run.recover_milestones(model, blocks, group, heldout=watched, teacher=teacher, dense=dense, folder=folder)
        for recovery in group:
            experiment = Experiment(compression=compression, recovery=recovery)
            place = checkpoints.checkpoint_folder(asked.folder, experiment)
            with recorded(asked.folder, experiment, "recover", model) as result:
                small, report = next(series)
                result.update(report.to_dict())
                if report.nan_step is None:
                    checkpoints.save(small, tokenizer, place, experiment=experiment, base_model=compression.model)
            if report.nan_step is None:
                measure_loss(asked.folder, experiment, small, heldout, asked.evaluation)
                continue
            with recorded(asked.folder, experiment, "loss", small, asked.evaluation.loss.digest) as result:  # as NaN
                names = ("mean", "stderr", "token_perplexity", "word_perplexity", "bits_per_byte")
                result.update(dict.fromkeys(names, math.nan), tokens=heldout.tokens, words=heldout.words, bytes=heldout.bytes)
                result.update(corpus=heldout.corpus, context=heldout.length, data=heldout.sha256)
        next(series, None)  # lets the run close its files
        files.discard_empty(folder)
