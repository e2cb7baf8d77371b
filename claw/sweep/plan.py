"""The jobs a study still needs, worked out from the records on disk.

One job is one notebook: a stage of a curve, so that the model is loaded once and its statistics serve all ratios. The
dense model of each study model comes first, because every curve is compared with it.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from claw import records
from claw.prune import catalogue
from claw.specs import Curve, Experiment
from claw.studies import Study

COMPRESS, EVALUATE, LAWS = "10_compress", "30_evaluate", "50_laws"


@dataclass(frozen=True)
class Job:
    """One notebook to execute, and the records that will be there when it is done."""

    notebook: str
    title: str
    parameters: dict[str, Any] = field(hash=False)
    makes: tuple[str, ...]  # file names of records

    @property
    def id(self) -> str:
        """Readable and unique: the notebook, the title and a hash of the parameters."""
        digest = hashlib.sha256(json.dumps(self.parameters, sort_keys=True).encode()).hexdigest()[:8]
        plain = "".join(c if c.isalnum() or c in ".+-" else "-" for c in self.title)
        return f"{self.notebook}-{plain}-{digest}"


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


def make(study: Study, folder: Path) -> Plan:
    """Plan of a study whose run lives in `folder`."""
    wanted = [name for experiment in study.experiments for name in records_of(study, experiment).values()]
    done = frozenset(name for name in wanted if _is_done(folder, name))
    jobs = []
    for experiment in study.experiments:
        if experiment.compression.method == catalogue.DENSE:
            jobs += _dense_job(study, folder, experiment, done)
    for curve in study.curves:
        jobs += _curve_jobs(study, folder, curve, done)
    return Plan(study, folder, tuple(jobs), tuple(dict.fromkeys(wanted)), done)


def records_of(study: Study, experiment: Experiment) -> dict[str, str]:
    """File name of each record that an experiment gets in this study, by stage."""
    evaluation = study.evaluation
    names = {
        "compress": records.path_of(Path(), experiment.id, "compress").name,
        "loss": records.path_of(Path(), experiment.id, "loss", evaluation.loss.digest).name,
    }
    if evaluation.tasks and _loads_again(experiment):
        names["tasks"] = records.path_of(Path(), experiment.id, "tasks", evaluation.accuracy.digest).name
    return names


def _loads_again(experiment: Experiment) -> bool:
    """Whether a later stage can load the model; one with shortcuts exists only in the memory of the stage that made it."""
    method = experiment.compression.method
    return method == catalogue.DENSE or catalogue.makes_checkpoint(method)


def _is_done(folder: Path, name: str) -> bool:
    content = records.read(folder / "records" / name)
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
    """Compress, then evaluate, for the points of a curve that lack a record; checkpoints that are gone are made again."""
    points = [e for e in curve.experiments if e.compression.method != catalogue.DENSE]
    open_points = [e for e in points if not set(records_of(study, e).values()) <= done]
    if not open_points:
        return []
    title = f"{curve.model} {curve.method} seed{curve.seed}"
    parameters = {
        **_shared(study, folder), "model": curve.model, "method": curve.method,
        "ratios": [e.compression.ratio for e in open_points], "ratio_of": curve.ratio_of, "seed": curve.seed,
        "calibration": curve.calibration.corpus, "calibration_tokens": curve.calibration.tokens,
        "calibration_length": curve.calibration.length,
    }  # fmt: skip
    names = [records_of(study, e) for e in open_points]
    jobs = [Job(COMPRESS, title, parameters, tuple(n[stage] for n in names for stage in ("compress", "loss")))]
    if study.evaluation.tasks and catalogue.find(curve.method)[0].plain:
        folders = [str(folder / "checkpoints" / e.id) for e in open_points]
        parameters = {**_shared(study, folder), **_evaluation(study), "checkpoints": folders}
        jobs.append(Job(EVALUATE, title, parameters, tuple(n["tasks"] for n in names)))
    return jobs
