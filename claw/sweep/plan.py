"""The jobs a study still needs, worked out from the records on disk.

One job is one notebook: a stage of a curve, so that the model is loaded once and its statistics serve all ratios. The
dense model of each study model comes first, because every curve is compared with it; where models are recovered, it is trained
as they are, last of all, as a control.
"""

import contextlib
import functools
import gc
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from claw import files, records
from claw.errors import InputError
from claw.project import run_folder
from claw.specs import methods, on_disk
from claw.specs.experiment import Curve, Experiment
from claw.specs.study import Study
from claw.sweep.earlier import NOTHING, Earlier, read_earlier

COMPRESS, RECOVER, EVALUATE, SPEED, LAWS = "10_compress", "20_recover", "30_evaluate", "40_speed", "50_laws"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One notebook to execute, and the records that will be there when it is done."""

    notebook: str
    title: str
    parameters: dict[str, Any] = field(hash=False)
    makes: tuple[str, ...] = ()  # file names of records
    needs: tuple[str, ...] = ()  # ids of jobs that must have been done before

    @functools.cached_property
    def id(self) -> str:
        """Readable and unique: the notebook, the title and a hash of the parameters."""
        plain = "".join(c if c.isalnum() or c in ".+-" else "-" for c in self.title)
        return f"{self.notebook}-{plain[-80:]}-{files.digest(json.dumps(self.parameters, sort_keys=True))[:8]}"

    @property
    def alone(self) -> bool:
        """Whether nothing else may run on its machine: what is timed must not be disturbed."""
        return self.notebook == SPEED

    @property
    def checkpoints(self) -> frozenset[str]:
        """Ids of the experiments whose checkpoints it makes or reads."""
        made = {name.partition(".")[0] for name in self.makes} if self.notebook in (COMPRESS, RECOVER) else set()
        return frozenset(made | {Path(name).name for name in self.parameters.get("checkpoints", ())})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study with its jobs: what is to be done, and how much of it is done."""

    study: Study
    folder: Path
    jobs: tuple[Job, ...]
    wanted: dict[str, tuple[str, Experiment]]  # every record the study needs: file name to stage and experiment
    done: frozenset[str]  # names of those that are there
    unusable: Mapping[str, on_disk.Unusable] = field(default_factory=dict)  # those that are there and cannot be used, with why
    earlier: Earlier = NOTHING  # the table that the study goes on from
    spared: frozenset[str] = frozenset()  # names of those done that it makes needless
    dtypes: frozenset[str] = frozenset()  # number types of those that are done

    def missing(self) -> int:
        """How many of the wanted records are neither on disk now nor needless."""
        return len(self.wanted.keys() - self.spared - _listed(self.folder / "records"))


def folder_of(study: Study) -> Path:
    """Folder of a study's run, below `runs` of the project; InputError where a link leads it elsewhere."""
    folder = run_folder(str(study.folder))
    if folder.resolve().parent != folder.parent.resolve():
        raise InputError(
            f"{folder} is a link to {folder.resolve()}, out of {folder.parent}. A run writes and deletes files there only: "
            f"remove the link, or make all of {folder.parent} a link to a larger disk."
        )
    return folder


@contextlib.contextmanager
def _nothing_to_collect() -> Iterator[None]:
    """Without the garbage collector: of the millions of objects of a large plan none goes, and looking at them takes longer."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@_nothing_to_collect()
def make(study: Study, folder: Path) -> Plan:
    """Plan of a study whose run lives in `folder`. It only reads: what there is to refuse is in `unusable`."""
    names = {e.id: records_of(study, e) for e in study.experiments}
    wanted = {name: (stage, e) for e in study.experiments for stage, name in names[e.id].items()}
    done, dtypes, unusable = set(), set(), {}
    for name in sorted(wanted.keys() & _listed(folder / "records")):
        try:
            content = records.open_record(folder / "records" / name)
        except on_disk.Unusable as problem:
            unusable[name] = problem
            continue
        if content and content["status"] != "failed":
            done.add(name)
            dtypes.add(content["environment"].get("dtype"))
    before = read_earlier(study)
    spared = _spared(before, names, wanted, done)
    done |= spared
    known = frozenset(dtypes - {None}) | (before.dtypes if spared else frozenset())
    (dtype,) = known if study.dtype == "auto" and len(known) == 1 else (study.dtype,)  # one number type for all of a study
    planner = _Planner(study, folder, frozenset(done), names, dtype)
    whole = [e for e in study.experiments if e.untouched]
    dense = [job for e in whole for job in planner.dense_jobs(e)]
    jobs = [*dense, *(job for curve in study.curves for job in planner.curve_jobs(curve))]
    jobs += [job for e in whole for job in planner.control_jobs(e)]
    options: dict[str, Any] = {"wanted": wanted, "done": planner.done, "unusable": unusable, "dtypes": known}
    options |= {"earlier": before, "spared": spared}
    return Plan(study=study, folder=folder, jobs=tuple(jobs), **options)


def _spared(
    before: Earlier, names: Mapping[str, Mapping[str, str]], wanted: Mapping[str, tuple[str, Experiment]], done: set[str]
) -> frozenset[str]:
    """Records that a table of before makes needless: not of the dense model where more of its model is to be measured."""
    spared = before.spares(names) - done
    begun = {e.compression.model for name, (_, e) in wanted.items() if name not in spared and name not in done}
    needed = lambda e: e.untouched and e.compression.model in begun
    return frozenset(name for name in spared if not needed(wanted[name][1]))


def _listed(folder: Path) -> set[str]:
    if not folder.parent.is_dir():
        return set()
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise InputError(
            f"{folder} cannot be read as a folder of records: {error.strerror}. Correct its permissions, or move it away."
        ) from error


def records_of(study: Study, experiment: Experiment) -> dict[str, str]:
    """File name of each record that an experiment gets in this study, by stage."""
    method, name = experiment.compression.method, experiment.id
    stages = ["recover" if experiment.recovery else "compress", "loss"]
    # a model with shortcuts exists only in the memory of the stage that made it: no later stage can load it
    if study.evaluation.tasks and (method == methods.DENSE or methods.makes_checkpoint(method)):
        stages.append("tasks")
    if study.speed and study.is_timed(experiment):
        stages.append("speed")
    return {stage: records.name_of(name, stage, study.measured.get(stage, "")) for stage in stages}


@dataclass(frozen=True)
class _Planner:
    """Works out the jobs of a study from the records that are done."""

    study: Study
    folder: Path
    done: frozenset[str]
    names: Mapping[str, Mapping[str, str]]  # of records, by experiment and stage
    dtype: str

    def dense_jobs(self, experiment: Experiment) -> list[Job]:
        """The job that measures a dense model, unless it was measured."""
        if not self._lacks(experiment):
            return []
        given = self._evaluation() | self._checkpoints([experiment])
        return [self._job(EVALUATE, f"{experiment.compression.model} dense", given, self._records([experiment]))]

    def curve_jobs(self, curve: Curve) -> list[Job]:
        """Compress, recover, evaluate and time the points of a curve that lack a record; lost checkpoints are made again.

        So is a point whose checkpoint the study names as one to keep, and that is not there.
        """
        study = self.study
        cut = [e for e in curve.experiments if e.compression.method != methods.DENSE]
        recovered = {e.id: study.recovered(e) for e in cut}
        points = [p for p in cut if self._misses_checkpoint(p) or any(map(self._lacks, (p, *recovered[p.id])))]
        if not points:
            return []
        title = f"{curve.model} {curve.method} seed{curve.seed}"
        given = self._heldout() | {"model": curve.model, "method": curve.method}
        given |= {"ratios": [e.compression.ratio for e in points], "ratio_of": curve.ratio_of, "seed": curve.seed}
        given |= curve.calibration.columns
        compress = self._job(COMPRESS, title, given, self._records(points, "compress", "loss"))
        jobs = [compress]
        if not methods.find_method(curve.method)[0].plain:
            return jobs
        jobs += self._recovery_jobs(title, points, recovered, compress)
        evaluated = [e for p in points for e in (p, *recovered[p.id]) if self._lacks(e, "tasks")]
        if evaluated:
            given = self._evaluation() | self._checkpoints(evaluated)
            jobs.append(self._job(EVALUATE, title, given, self._records(evaluated, "tasks"), *jobs))
        timed = [point for point in points if self._lacks(point, "speed")]
        if study.speed and timed:
            given = self._checkpoints(timed) | study.speed.model_dump(mode="json")
            jobs.append(self._job(SPEED, title, given, self._records(timed, "speed"), compress))
        return jobs

    def control_jobs(self, dense: Experiment) -> list[Job]:
        """Train a dense model as its compressed ones are, and measure it: what the text alone gains."""
        title, trained = f"{dense.compression.model} dense", self.study.recovered(dense)
        jobs = self._recovery_jobs(title, [dense], {dense.id: trained})
        if evaluated := [e for e in trained if self._lacks(e, "tasks")]:
            given = self._evaluation() | self._checkpoints(evaluated)
            jobs.append(self._job(EVALUATE, f"{title} trained", given, self._records(evaluated, "tasks"), *jobs))
        return jobs

    def _recovery_jobs(
        self, title: str, points: Sequence[Experiment], recovered: Mapping[str, Sequence[Experiment]], *needs: Job
    ) -> list[Job]:
        """A job for each recipe and its budgets, of the points that lack a record; `recovered` by the id of the point."""
        jobs = []
        for series in self.study.recovery:
            made = {p.id: [e for e in recovered[p.id] if e.recovery in series.recoveries] for p in points}
            alike: dict[tuple[int, ...], list[Experiment]] = {}  # points that are recovered with the same budgets
            for p in points:
                if any(map(self._lacks, made[p.id])):
                    alike.setdefault(tuple(e.recovery.tokens for e in made[p.id] if e.recovery), []).append(p)
            for budgets, starts in alike.items():
                given = self._heldout() | self._checkpoints(starts) | series.model_dump(mode="json", exclude_none=True)
                given |= {"tokens": list(budgets)}
                makes = self._records([e for p in starts for e in made[p.id]], "recover", "loss")
                jobs.append(self._job(RECOVER, f"{title} {series.recipe}", given, makes, *needs))
        return jobs

    def _job(self, notebook: str, title: str, given: Mapping[str, Any], makes: tuple[str, ...], *needs: Job) -> Job:
        """A job of this run on the study's device."""
        parameters = {"run": str(self.folder), "device": self.study.device, "dtype": self.dtype, **given}
        return Job(notebook=notebook, title=title, parameters=parameters, makes=makes, needs=tuple(job.id for job in needs))

    def _records(self, experiments: Iterable[Experiment], *stages: str) -> tuple[str, ...]:
        """File names of the records of these stages (of all, if none is named)."""
        named = (self.names[e.id].items() for e in experiments)
        return tuple(name for pairs in named for stage, name in pairs if not stages or stage in stages)

    def _lacks(self, experiment: Experiment, *stages: str) -> bool:
        """Whether a record of these stages (of any, if none is named) is wanted and not there."""
        names = self.names[experiment.id].items()
        return any(name not in self.done for stage, name in names if not stages or stage in stages)

    def _misses_checkpoint(self, point: Experiment) -> bool:
        """Whether the study names the checkpoint of a point as one to keep, and it is not there."""
        named = any(points.fits(point.compression) for points in self.study.keep_checkpoints_of)
        plain = methods.makes_checkpoint(point.compression.method)
        return named and plain and not (self.folder / "checkpoints" / point.id).is_dir()

    def _heldout(self) -> dict[str, Any]:
        evaluation = self.study.evaluation
        return {"heldout": evaluation.heldout, "heldout_tokens": evaluation.tokens, "context": evaluation.context}

    def _evaluation(self) -> dict[str, Any]:
        names = {"tasks", "limit", "num_fewshot", "tasks_from"}
        return self._heldout() | self.study.evaluation.model_dump(mode="json", include=names)

    def _checkpoints(self, experiments: Iterable[Experiment]) -> dict[str, Any]:
        """Where they are; a dense model as it is goes by its own name."""
        place = lambda e: e.compression.model if e.untouched else str(self.folder / "checkpoints" / e.id)
        return {"checkpoints": [place(e) for e in experiments]}
