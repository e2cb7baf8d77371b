"""What a plan will cost: a range of time from records of finished experiments, disk and memory from the size of the models."""

import contextlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from claw import records
from claw.models import sources
from claw.project import inside_project
from claw.specs import methods, on_disk
from claw.specs.experiment import Experiment
from claw.sweep.plan import Plan
from claw.words import plural

WIDTH = {"float32": 4.0, "auto": 4.0}  # bytes of a number; others have two, and auto may choose four
SAMPLE = 200  # records read of each stage of other runs
FEW = 5  # records of which so many were timed span a range of their own; fewer are taken to be off by a factor of
DOUBT = 2.0  # and so is what is taken over from a model of another size
START = (2.0, 20.0)  # seconds in which a job starts, loads its model and saves its notebook, until that was measured
SPAN = (0.1, 0.9)  # quantiles of what was measured between which the next is taken to be


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Seconds per unit: their mean, and a low and a high one."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: Sequence[float], units: Sequence[float]) -> "Rate":
        """From measured seconds and the units that took them."""
        mean = sum(seconds) / sum(units)
        if len(seconds) < FEW:
            return cls(mean=mean, low=mean / DOUBT, high=mean * DOUBT)
        low, high = np.quantile(np.divide(seconds, units), SPAN)
        return cls(mean=mean, low=min(float(low), mean), high=max(float(high), mean))

    def times(self, factor: float, doubt: float = 1.0) -> "Rate":
        """Of something so many times as large."""
        return Rate(mean=self.mean * factor, low=self.low * factor / doubt, high=self.high * factor * doubt)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds of the records still missing whose like was measured before; bytes, None where a model's size is not known."""

    seconds: float  # of the records alone
    low: float  # with the start of the jobs
    high: float
    known: int  # missing records that `seconds` covers
    unknown: int
    disk: float | None = None  # checkpoints of the largest curve
    disk_all: float | None = None  # checkpoints of all curves
    memory: float | None = None  # weights of the largest model and its compressed copy

    def __str__(self) -> str:
        time = f"time    {self._time()}\n"
        if self.disk is None or self.disk_all is None or self.memory is None:
            return f"{time}disk    not known: the size of a model that is not here yet"
        return (
            f"{time}disk    at most {self.disk / 1e9:,.1f} GB of checkpoints while jobs run one after the other, "
            f"{self.disk_all / 1e9:,.1f} GB if all are kept\n"
            f"memory  {self.memory / 1e9:,.1f} GB for the weights of the largest model and a compressed copy"
        )

    def _time(self) -> str:
        if not self.known and not self.unknown:
            return "nothing is left to do"
        if not self.known:
            return "nothing is known yet: no experiment like these was finished on this machine"
        span = f"{_span(self.low, self.high)}, one job after the other"
        if not self.unknown:
            return f"{span} ({plural(self.known, 'record')}, by those measured on this machine)"
        return (
            f"not known for {self.unknown:,} of {plural(self.known + self.unknown, 'record')}: nothing like them was measured "
            f"on this machine; the other {self.known:,} take {span}"
        )


def _span(low: float, high: float) -> str:
    """A range of seconds in the unit that fits its end: 1.5 to 4 minutes."""
    units = ((86400, "days"), (3600, "hours"), (60, "minutes"))
    size, unit = next(((size, unit) for size, unit in units if high >= 2 * size), (1, "seconds"))
    short = [f"{value / size:.1f}".removesuffix(".0") if value < 10 * size else f"{value / size:,.0f}" for value in (low, high)]
    return f"{short[0]} to {short[1]} {unit}" if short[0] != short[1] else f"about {short[0]} {unit}"


def estimate_plan(plan: Plan) -> Estimate:
    """Estimate of what is left of a plan."""
    study, rates = plan.study, _rates(plan)
    missing = (point for name, point in plan.wanted.items() if name not in plan.done)
    counts = Counter((stage, e.compression.model, _units(stage, e)) for stage, e in missing)
    rated = [(_rate(rates[stage], model), units, count) for (stage, model, units), count in counts.items()]
    known = sum(count for rate, _, count in rated if rate is not None)
    parts = [rate.times(units * count) for rate, units, count in rated if rate is not None]
    starts = _starts(plan) if known else []
    time: dict[str, Any] = {
        "seconds": sum(part.mean for part in parts),
        "low": sum(part.low for part in (*parts, *starts)),
        "high": sum(part.high for part in (*parts, *starts)),
        "known": known,
        "unknown": counts.total() - known,
    }
    sizes = {model: size for model in study.models if (size := weights(model, study.dtype)) is not None}
    if len(sizes) < len(set(study.models)):
        return Estimate(**time)
    saves = lambda e: (1 + len(study.recovered(e))) * methods.makes_checkpoint(e.compression.method)
    disk = [sizes[curve.model] * sum(map(saves, curve.experiments)) for curve in study.curves]
    disk += [size * len(study.recovered(Experiment.of_dense(model))) for model, size in sizes.items()]
    return Estimate(**time, disk=max(disk, default=0.0), disk_all=sum(disk), memory=2 * max(sizes.values()))


def weights(model: str, dtype: str) -> float | None:
    """Bytes of a model's weights, from the catalogue or its files; None for one that is not here."""
    path = inside_project(model)
    if model in sources.models():
        return sources.models()[model].parameters * WIDTH.get(dtype, 2.0)
    if path.is_dir():
        return float(sum(file.stat().st_size for file in path.glob("*.safetensors")))
    return float(path.stat().st_size) * 4 if path.is_file() else None  # a GGUF file holds about 4 bits a weight


def _units(stage: str, experiment: Experiment) -> float:
    """What a stage's time is proportional to: tokens of recovery, else the experiments."""
    return float(experiment.recovery.tokens) if stage == "recover" and experiment.recovery else 1.0


def _rate(rates: dict[str, Rate], model: str) -> Rate | None:
    """Of a stage: as measured on this model, else on others in proportion to their parameters."""
    if model in rates:
        return rates[model]
    sizes = {name: source.parameters for name, source in sources.models().items()}
    others = [rate.times(sizes[model] / sizes[name], DOUBT) for name, rate in rates.items() if {name, model} <= sizes.keys()]
    if not others:
        return None
    low, high = min(rate.low for rate in others), max(rate.high for rate in others)
    return Rate(mean=sum(rate.mean for rate in others) / len(others), low=low, high=high)


def _rates(plan: Plan) -> dict[str, dict[str, Rate]]:
    """By stage and model: of this run, and where it has none yet, of the runs beside it."""
    stages = {stage for stage, _ in plan.wanted.values()}
    endings = {stage: records.name_of("", stage, plan.study.measured.get(stage, ""))[1:] for stage in stages}
    return {
        stage: _measured(plan.folder, f"records/*.{ending}", stage)
        or _measured(plan.folder.parent, f"*/records/*.{ending}", stage)
        for stage, ending in endings.items()
    }


def _measured(folder: Path, pattern: str, stage: str) -> dict[str, Rate]:
    seconds: dict[str, list[float]] = defaultdict(list)
    units: dict[str, list[float]] = defaultdict(list)
    for path in sorted(folder.glob(pattern))[:SAMPLE]:
        content = _done(path)
        if content and content.get("seconds"):
            experiment = on_disk.stored_experiment(content["spec"])
            seconds[experiment.compression.model].append(content["seconds"])
            units[experiment.compression.model].append(_units(stage, experiment))
    return {model: Rate.of(seconds[model], units[model]) for model in seconds}


def _done(path: Path) -> dict[str, Any] | None:
    with contextlib.suppress(on_disk.Unusable):  # the run that it belongs to says so
        content = records.open_record(path)
        return content if content and content["status"] == "done" else None
    return None


def _starts(plan: Plan) -> list[Rate]:
    """For each job to run, the seconds that its records do not tell of: of jobs of this run or of those beside it."""
    jobs = sorted([*plan.folder.glob("jobs/*.json")] or [*plan.folder.parent.glob("*/jobs/*.json")])[:SAMPLE]
    beside = [seconds for path in jobs if (seconds := _beside_records(path)) is not None]
    start = (
        Rate.of(beside, [1.0] * len(beside)) if beside else Rate(mean=math.sqrt(math.prod(START)), low=START[0], high=START[1])
    )
    return [start.times(len(plan.jobs))]


def _beside_records(request: Path) -> float | None:
    """Seconds from the request of a job to its notebook, less those in its records; None where that cannot be known."""
    run = request.parent.parent
    try:
        makes = json.loads(request.read_text(encoding="utf-8"))["makes"]
        passed = (run / "notebooks" / f"{request.stem}.ipynb").stat().st_mtime - request.stat().st_mtime
        told = [_done(run / "records" / name) for name in makes]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    seconds = [content["seconds"] for content in told if content and content.get("seconds") is not None]
    return passed - sum(seconds) if len(seconds) == len(makes) and passed > sum(seconds) else None
