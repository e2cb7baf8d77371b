"""What a plan will cost: time from records of finished experiments, disk and memory from the size of the models."""

import contextlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claw import records
from claw.models import sources
from claw.project import inside_project
from claw.specs import methods, on_disk
from claw.specs.experiment import Experiment
from claw.sweep.plan import Plan

WIDTH = {"float32": 4.0, "auto": 4.0}  # bytes of a number; others have two, and auto may choose four
SAMPLE = 200  # records read of each stage of other runs


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds of the records still missing whose like was measured before; bytes, None where a model's size is not known."""

    seconds: float
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
        seconds, units = self.seconds, ((86400, "days"), (3600, "hours"), (60, "minutes"))
        long = (f"{seconds / size:,.1f} {unit}" for size, unit in units if seconds >= 2 * size)
        rest = f", and {self.unknown:,} records of kinds that were not measured yet" if self.unknown else ""
        return f"about {next(long, f'{seconds:,.0f} seconds')} for {self.known:,} records, one job after the other{rest}"


def estimate_plan(plan: Plan) -> Estimate:
    """Estimate of what is left of a plan."""
    study, rates = plan.study, _rates(plan)
    missing = (point for name, point in plan.wanted.items() if name not in plan.done)
    counts = Counter((stage, e.compression.model, _units(stage, e)) for stage, e in missing)
    rated = [(_rate(rates[stage], model), units, count) for (stage, model, units), count in counts.items()]
    known = sum(count for rate, _, count in rated if rate is not None)
    seconds = sum(rate * units * count for rate, units, count in rated if rate is not None)
    time: dict[str, Any] = {"seconds": float(seconds), "known": known, "unknown": counts.total() - known}
    sizes = {model: size for model in study.models if (size := weights(model, study.dtype)) is not None}
    if len(sizes) < len(set(study.models)):
        return Estimate(**time)
    saves = lambda e: (1 + len(study.recovered(e))) * methods.makes_checkpoint(e.compression.method)
    disk = [sizes[curve.model] * sum(map(saves, curve.experiments)) for curve in study.curves]
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


def _rate(rates: dict[str, float], model: str) -> float | None:
    """Seconds per unit of a stage: as measured on this model, else on others in proportion to their parameters."""
    if model in rates:
        return rates[model]
    sizes = {name: source.parameters for name, source in sources.models().items()}
    others = [rate / sizes[name] for name, rate in rates.items() if name in sizes]
    return sizes[model] * sum(others) / len(others) if model in sizes and others else None


def _rates(plan: Plan) -> dict[str, dict[str, float]]:
    """Seconds per unit by stage and model: of this run, and where it has none yet, of the runs beside it."""
    stages = {stage for stage, _ in plan.wanted.values()}
    endings = {stage: records.name_of("", stage, plan.study.measured.get(stage, ""))[1:] for stage in stages}
    return {
        stage: _measured(plan.folder, f"records/*.{ending}", stage)
        or _measured(plan.folder.parent, f"*/records/*.{ending}", stage)
        for stage, ending in endings.items()
    }


def _measured(folder: Path, pattern: str, stage: str) -> dict[str, float]:
    seconds: dict[str, float] = defaultdict(float)
    units: dict[str, float] = defaultdict(float)
    for path in sorted(folder.glob(pattern))[:SAMPLE]:
        content = None
        with contextlib.suppress(on_disk.Unusable):  # the run that it belongs to says so
            content = records.open_record(path)
        if content and content["status"] == "done" and content.get("seconds"):
            experiment = on_disk.stored_experiment(content["spec"])
            seconds[experiment.compression.model] += content["seconds"]
            units[experiment.compression.model] += _units(stage, experiment)
    return {model: seconds[model] / units[model] for model in seconds}
