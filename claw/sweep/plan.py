"""The jobs a study still needs, worked out from the records on disk.

One job is one notebook: a stage of a curve, so that the model is loaded once and its statistics serve all ratios. The
dense model of each study model comes first, because every curve is compared with it.
"""

import functools
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from claw import records
from claw.errors import InputError
from claw.project import run_folder
from claw.specs import methods
from claw.specs.experiment import Curve, Experiment, RecoverySeries
from claw.specs.study import Study

COMPRESS, RECOVER, EVALUATE, SPEED, LAWS = "10_compress", "20_recover", "30_evaluate", "40_speed", "50_laws"


@dataclass(frozen=True)
class Job:
    """One notebook to execute, and the records that will be there when it is done."""

    notebook: str
    title: str
    parameters: dict[str, Any] = field(hash=False)
    makes: tuple[str, ...]  # file names of records
    needs: tuple[str, ...] = ()  # ids of jobs that must have been done before

    @functools.cached_property
    def id(self) -> str:
        """Readable and unique: the notebook, the title and a hash of the parameters."""
        digest = hashlib.sha256(json.dumps(self.parameters, sort_keys=True).encode()).hexdigest()[:8]
        plain = "".join(c if c.isalnum() or c in ".+-" else "-" for c in self.title)
        return f"{self.notebook}-{plain[-80:]}-{digest}"

    @property
    def alone(self) -> bool:
        """Whether nothing else may run on its machine: what is timed must not be disturbed."""
        return self.notebook == SPEED

    @property
    def checkpoints(self) -> frozenset[str]:
        """Ids of the experiments whose checkpoints it makes or reads."""
        made = {name.partition(".")[0] for name in self.makes} if self.notebook in (COMPRESS, RECOVER) else set()
        return frozenset(made | {Path(name).name for name in self.parameters.get("checkpoints", ())})


@dataclass(frozen=True)
class Plan:
    """A study with its jobs: what is to be done, and how much of it is done."""

    study: Study
    folder: Path
    jobs: tuple[Job, ...]
    wanted: tuple[str, ...]  # every record the study needs
    done: frozenset[str]  # those that are there

    @property
    def missing(self) -> int:
        return len(self.wanted) - len(self.done)


def folder_of(study: Study) -> Path:
    """Folder of a study's run, below `runs` of the project; InputError where a link leads it elsewhere."""
    folder = run_folder(str(study.folder))
    if folder.resolve().parent != folder.parent.resolve():
        raise InputError(
            f"{folder} is a link to {folder.resolve()}, out of {folder.parent}. A run writes and deletes files there only: remove the "
            f"link, or make all of {folder.parent} a link to a larger disk."
        )
    return folder


def make(study: Study, folder: Path) -> Plan:
    """Plan of a study whose run lives in `folder`."""
    wanted = [name for experiment in study.experiments for name in records_of(study, experiment).values()]
    done = frozenset(name for name in wanted if _is_done(folder, name))
    jobs = []
    for experiment in study.experiments:
        if experiment.compression.method == methods.DENSE:
            jobs += _dense_job(study, folder, experiment, done)
    for curve in study.curves:
        jobs += _curve_jobs(study, folder, curve, done)
    return Plan(study, folder, tuple(jobs), tuple(dict.fromkeys(wanted)), done)


def records_of(study: Study, experiment: Experiment) -> dict[str, str]:
    """File name of each record that an experiment gets in this study, by stage."""
    evaluation, ways = study.evaluation, {}
    ways["compress" if experiment.recovery is None else "recover"] = ""
    ways["loss"] = evaluation.loss.digest
    if evaluation.tasks and _loads_again(experiment):
        ways["tasks"] = evaluation.accuracy.digest
    if study.is_timed(experiment):
        ways["speed"] = study.speed.digest
    return {stage: records.path_of(Path(), experiment.id, stage, way).name for stage, way in ways.items()}


def _loads_again(experiment: Experiment) -> bool:
    """Whether a later stage can load the model; one with shortcuts exists only in the memory of the stage that made it."""
    method = experiment.compression.method
    return method == methods.DENSE or methods.makes_checkpoint(method)


def _is_done(folder: Path, name: str) -> bool:
    content = records.read_record(folder / "records" / name)
    return content is not None and content["status"] != "failed"


def _shared(study: Study, folder: Path) -> dict[str, Any]:
    evaluation = study.evaluation
    return {
        "run": str(folder),
        "device": study.device,
        "dtype": study.dtype,
        "heldout": evaluation.heldout,
        "heldout_tokens": evaluation.tokens,
        "context": evaluation.context,
    }


def _evaluation(study: Study) -> dict[str, Any]:
    evaluation = study.evaluation
    return {
        "tasks": list(evaluation.tasks),
        "limit": evaluation.limit,
        "num_fewshot": evaluation.num_fewshot,
        "tasks_from": evaluation.tasks_from,
    }


def _dense_job(study: Study, folder: Path, experiment: Experiment, done: frozenset[str]) -> list[Job]:
    makes = tuple(records_of(study, experiment).values())
    if set(makes) <= done:
        return []
    model = experiment.compression.model
    parameters = {**_shared(study, folder), **_evaluation(study), "checkpoints": [model]}
    return [Job(EVALUATE, f"{model} dense", parameters, makes)]


def _curve_jobs(study: Study, folder: Path, curve: Curve, done: frozenset[str]) -> list[Job]:
    """Compress, recover, evaluate and time the points of a curve that lack a record; checkpoints that are gone are made again."""
    points = [e for e in curve.experiments if e.compression.method != methods.DENSE]
    below = {point: study.recovered(point) for point in points}
    open_points = [p for p in points if any(_open(study, e, done) for e in (p, *below[p]))]
    if not open_points:
        return []
    title = f"{curve.model} {curve.method} seed{curve.seed}"
    parameters = {
        **_shared(study, folder), "model": curve.model, "method": curve.method,
        "ratios": [e.compression.ratio for e in open_points], "ratio_of": curve.ratio_of, "seed": curve.seed,
        "calibration": curve.calibration.corpus, "calibration_tokens": curve.calibration.tokens,
        "calibration_length": curve.calibration.length,
    }  # fmt: skip
    compress = Job(COMPRESS, title, parameters, _makes(study, open_points, "compress", "loss"))
    if not methods.find_method(curve.method)[0].plain:
        return [compress]
    recover = [_recovery_job(study, folder, series, compress, open_points, done) for series in study.recovery]
    jobs = [compress, *(job for job in recover if job)]
    evaluated = [e for p in open_points for e in (p, *below[p]) if _open(study, e, done, "tasks")]
    if evaluated:
        parameters = {**_shared(study, folder), **_evaluation(study), "checkpoints": _folders(folder, evaluated)}
        jobs.append(Job(EVALUATE, title, parameters, _makes(study, evaluated, "tasks"), tuple(job.id for job in jobs)))
    timed = [e for e in open_points if _open(study, e, done, "speed")]
    if timed:
        places = {"run": str(folder), "device": study.device, "dtype": study.dtype, "checkpoints": _folders(folder, timed)}
        parameters = {**places, **study.speed.model_dump(mode="json")}
        jobs.append(Job(SPEED, title, parameters, _makes(study, timed, "speed"), (compress.id,)))
    return jobs


def _recovery_job(study, folder, series: RecoverySeries, compress: Job, points: list[Experiment], done) -> Job | None:
    """The job that recovers the points which lack a record of this series, if any do."""
    made = {p: [e for e in study.recovered(p) if e.recovery in series.recoveries] for p in points}
    found = [p for p in points if any(_open(study, e, done) for e in made[p])]
    if not found:
        return None
    parameters = {
        **_shared(study, folder), "checkpoints": _folders(folder, found),
        **series.model_dump(mode="json", exclude_none=True),
    }  # fmt: skip
    makes = _makes(study, [e for p in found for e in made[p]], "recover", "loss")
    return Job(RECOVER, f"{compress.title} {series.recipe}", parameters, makes, (compress.id,))


def _open(study: Study, experiment: Experiment, done: frozenset[str], *stages: str) -> bool:
    """Whether a record of these stages (of any, if none is named) is wanted and not there."""
    names = records_of(study, experiment)
    return any(name not in done for stage, name in names.items() if not stages or stage in stages)


def _makes(study: Study, experiments: list[Experiment], *stages: str) -> tuple[str, ...]:
    """File names of the records of these stages."""
    return tuple(name for e in experiments for stage, name in records_of(study, e).items() if stage in stages)


def _folders(folder: Path, experiments: list[Experiment]) -> list[str]:
    return [str(folder / "checkpoints" / e.id) for e in experiments]
