"""What a plan will cost: time from records of finished experiments, disk and memory from the size of the models."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from claw import records
from claw.models import sources
from claw.specs import methods
from claw.specs.experiment import Curve, Experiment
from claw.sweep.plan import Plan, records_of

WIDTH = {"float32": 4.0, "auto": 4.0}  # bytes of a number; others have two, and auto may choose four
SAMPLE = 200  # records read of each stage of other runs


@dataclass(frozen=True)
class Estimate:
    """Seconds of the records still missing whose like was measured before; bytes; None where nothing is known."""

    seconds: float
    known: int  # missing records that `seconds` covers
    unknown: int
    disk: float | None  # checkpoints of the largest curve
    disk_all: float | None  # checkpoints of all curves
    memory: float | None  # weights of the largest model and its compressed copy

    def __str__(self) -> str:
        lines = [f"time    {self._time()}"]
        if self.disk is None:
            lines.append("disk    not known: the size of a model that is not here yet")
        else:
            lines.append(
                f"disk    at most {self.disk / 1e9:,.1f} GB of checkpoints while jobs run one after the other, "
                f"{self.disk_all / 1e9:,.1f} GB if all are kept"
            )
            lines.append(f"memory  {self.memory / 1e9:,.1f} GB for the weights of the largest model and a compressed copy")
        return "\n".join(lines)

    def _time(self) -> str:
        if not self.known and not self.unknown:
            return "nothing is left to do"
        if not self.known:
            return "nothing is known yet: no experiment like these was finished on this machine"
        rest = f", and {self.unknown:,} records of kinds that were not measured yet" if self.unknown else ""
        return f"about {_duration(self.seconds)} for {self.known:,} records, one job after the other{rest}"


def _duration(seconds: float) -> str:
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {name}"
    return f"{seconds:,.0f} seconds"


def estimate_plan(plan: Plan) -> Estimate:
    """Estimate of what is left of a plan."""
    rates = _rates(plan)
    seconds, known, unknown = 0.0, 0, 0
    for experiment in plan.study.experiments:
        for stage, name in records_of(plan.study, experiment).items():
            if name not in plan.done:
                rate = _rate(rates, stage, experiment)
                known, unknown = known + (rate is not None), unknown + (rate is None)
                seconds += (rate or 0.0) * _units(stage, experiment)
    disk, disk_all, memory = 0.0, 0.0, 0.0
    for model in plan.study.models:
        size = weights(model, plan.study.dtype)
        if size is None:
            return Estimate(seconds, known, unknown, None, None, None)
        curves = [_checkpoints(plan, curve) for curve in plan.study.curves if curve.model == model]
        disk = max(disk, size * max(curves, default=0))
        disk_all += size * sum(curves)
        memory = max(memory, 2 * size)
    return Estimate(seconds, known, unknown, disk, disk_all, memory)


def _checkpoints(plan: Plan, curve: Curve) -> int:
    """Number of checkpoints that a curve makes."""
    points = [e for e in curve.experiments if methods.makes_checkpoint(e.compression.method)]
    return sum(1 + len(plan.study.recovered(point)) for point in points)


def weights(model: str, dtype: str) -> float | None:
    """Bytes of a model's weights, from the catalogue or its files; None for one that is not here."""
    path = Path(model).expanduser()
    if model in sources.models():
        return sources.models()[model].parameters * WIDTH.get(dtype, 2.0)
    if path.is_dir():
        return float(sum(file.stat().st_size for file in path.glob("*.safetensors")))
    return float(path.stat().st_size) * 4 if path.is_file() else None  # a GGUF file holds about 4 bits a weight


def _units(stage: str, experiment: Experiment) -> float:
    """What a stage's time is proportional to: tokens of recovery, else the experiments."""
    return float(experiment.recovery.tokens) if stage == "recover" else 1.0


def _rate(rates: dict, stage: str, experiment: Experiment) -> float | None:
    """Seconds per unit of a stage: as measured on this model, else on others in proportion to their parameters."""
    found = rates.get(stage, {})
    if experiment.compression.model in found:
        return found[experiment.compression.model]
    size = _parameters(experiment.compression.model)
    other = [rate / _parameters(model) for model, rate in found.items() if _parameters(model)]
    return size * sum(other) / len(other) if size and other else None


def _parameters(model: str) -> int | None:
    return sources.models()[model].parameters if model in sources.models() else None


def _rates(plan: Plan) -> dict[str, dict[str, float]]:
    """Seconds per unit by stage and model: of this run, and where it has none yet, of the runs beside it."""
    rates = {}
    stages = {
        stage: name.partition(".")[2] for e in plan.study.experiments for stage, name in records_of(plan.study, e).items()
    }
    for stage, ending in stages.items():
        rates[stage] = _measured(sorted((plan.folder / "records").glob(f"*.{ending}"))[:SAMPLE], stage) or _measured(
            sorted(plan.folder.parent.glob(f"*/records/*.{ending}"))[:SAMPLE], stage
        )
    return rates


def _measured(paths: list[Path], stage: str) -> dict[str, float]:
    seconds: dict[str, float] = defaultdict(float)
    units: dict[str, float] = defaultdict(float)
    for path in paths:
        content = records.read_record(path)
        if content and content["status"] == "done" and content.get("seconds"):
            try:
                experiment = Experiment.model_validate_json(json.dumps(content["spec"]))
            except ValueError:
                continue
            seconds[experiment.compression.model] += content["seconds"]
            units[experiment.compression.model] += _units(stage, experiment)
    return {model: seconds[model] / units[model] for model in seconds}
