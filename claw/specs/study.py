"""A study: a grid of experiments in one YAML file, and the plan of curves and jobs that it stands for."""

import functools
import itertools
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import Field, field_validator, model_validator

from claw.errors import InputError
from claw.specs import methods, strict_yaml
from claw.specs.experiment import (
    Calibration,
    Compression,
    Curve,
    Evaluation,
    Experiment,
    MethodNames,
    Recovery,
    RecoverySeries,
    Speed,
)
from claw.specs.methods import RatioOf
from claw.specs.spec import Count, Placement, Ratio, Seed, Spec, Text, explain

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Gigabytes = Annotated[float, Field(gt=0, le=1e5, allow_inf_nan=False)]


class Selection(Spec):
    """Every point that fits all the choices given here; each choice is one value or a list of values."""

    model: tuple[Text, ...] | None = None
    method: tuple[Text, ...] | None = None
    ratio: tuple[Ratio, ...] | None = None
    seed: tuple[Seed, ...] | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, given: Any) -> Any:
        return given if given is None or isinstance(given, tuple) else (given,)

    @functools.cached_property
    def choices(self) -> dict[str, tuple]:
        """The choices that are given."""
        return self.model_dump(exclude_none=True)

    def fits(self, compression: Compression) -> bool:
        return bool(self.choices) and all(getattr(compression, name) in values for name, values in self.choices.items())


class RecoverySelection(Selection):
    """Points that are recovered, with all budgets of the study's recipes or with those in `tokens` only."""

    tokens: tuple[Count, ...] | None = None

    @functools.cached_property
    def choices(self) -> dict[str, tuple]:
        return self.model_dump(exclude_none=True, exclude={"tokens"})

    def fits(self, compression: Compression) -> bool:
        return super().fits(compression) or (self.tokens is not None and not self.choices)

    def has(self, recovery: Recovery) -> bool:
        """Whether this budget is among its own."""
        return self.tokens is None or recovery.tokens in self.tokens


class Resources(Spec):
    """What one job needs of the machine it runs on; a worker that offers less gets none."""

    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    gpu_memory: Gigabytes | None = None
    memory: Gigabytes | None = None

    @property
    def asked(self) -> dict[str, float]:
        """What is asked for, by name."""
        return {name: float(value) for name, value in self.model_dump().items() if value}


class Study(Placement):
    """models × methods × ratios × seeds, evaluated alike. `name` names the run's folder under runs/."""

    name: Name
    models: tuple[Text, ...] = Field(min_length=1)
    methods: MethodNames
    ratios: tuple[Ratio, ...] = Field(min_length=1)
    ratio_of: RatioOf = "own"
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)
    calibration: Calibration = Calibration()
    recovery: tuple[RecoverySeries, ...] = ()
    recovery_of: tuple[RecoverySelection, ...] = ()  # which points are recovered; all, and `dense`, where none is named
    evaluation: Evaluation = Evaluation()
    speed: Speed | None = None
    speed_of: tuple[Selection, ...] = ()  # which points are timed; all where none is named
    exclude: tuple[Selection, ...] = ()  # left out of the grid
    goes_on_from: Text | None = None  # a table of this study from elsewhere, whose rows are not measured again
    keep_checkpoints: bool = False
    keep_checkpoints_of: tuple[Selection, ...] = ()  # checkpoints that stay where not all do
    time_limit: Count | None = None  # seconds after which a job is stopped
    resources: Resources = Resources()

    @field_validator("models", "methods", "ratios", "seeds")
    @classmethod
    def _nothing_twice(cls, given: tuple) -> tuple:
        if twice := [value for value, count in Counter(given).items() if count > 1]:
            raise InputError(f"{twice[0]} is named twice, and each experiment is run once. Name it once.")
        return given

    @model_validator(mode="after")
    def _blocks_fit(self) -> "Study":
        self.evaluation.check_blocks()
        self.calibration.check_blocks()
        for recovery in self._recoveries:
            recovery.check_blocks()
        if len(set(self._recoveries)) < len(self._recoveries):
            raise InputError("two entries of recovery ask for the same recipe and number of tokens. Name each once.")
        return self

    @model_validator(mode="after")
    def _methods_have_such_ratios(self) -> "Study":
        for method in self.methods:
            methods.check_ratio_of(method, self.ratio_of)
        return self

    @model_validator(mode="after")
    def _points_are_in_the_grid(self) -> "Study":
        grid = {"model": self.models, "method": self.methods, "ratio": self.ratios, "seed": self.seeds}
        trained = grid | {"method": (*self.methods, methods.DENSE)}  # the control of recovery
        for field in ("exclude", "recovery_of", "speed_of", "keep_checkpoints_of"):
            known = trained if field == "recovery_of" else grid
            for points in getattr(self, field):
                for name, values in points.choices.items():
                    if strange := [value for value in values if value not in known[name]]:
                        there = ", ".join(map(str, known[name]))
                        raise InputError(f"{field} names {name} {strange[0]}, which is not in this study: {there}.")
        budgets = sorted({recovery.tokens for recovery in self._recoveries})
        for tokens in (tokens for points in self.recovery_of for tokens in points.tokens or ()):
            if tokens not in budgets:
                there = ", ".join(map(str, budgets)) or "none"
                raise InputError(f"recovery_of names {tokens} tokens, which no entry of recovery trains on: {there}.")
        return self

    @property
    def folder(self) -> Path:
        """Where the run's records, notebooks and figures go, below the project."""
        return Path("runs") / self.name

    @functools.cached_property
    def curves(self) -> tuple[Curve, ...]:
        """One per model, method and seed that makes a difference, without excluded points."""
        curves = []
        for model, method in itertools.product(self.models, self.methods):
            seeds = self.seeds if methods.is_seeded(method) else self.seeds[:1]
            first = self.part(Curve, model=model, method=method, seed=seeds[0])
            for seed in seeds:
                curve = first.model_copy(update={"seed": seed})
                if self.exclude:
                    ratios = tuple(c.ratio for c in curve.compressions if not any(x.fits(c) for x in self.exclude))
                    curve = curve.model_copy(update={"ratios": ratios})
                if any(curve.ratios) or not any(self.ratios):  # one of which nothing but the dense model is left is none
                    curves.append(curve)
        return tuple(curves)

    @functools.cached_property
    def experiments(self) -> tuple[Experiment, ...]:
        """Every point once, then what is recovered from it; the dense model of each is always among them."""
        points = [experiment for curve in self.curves for experiment in curve.experiments]
        dense = [Experiment.of_dense(model) for model in dict.fromkeys(point.compression.model for point in points)]
        experiments = [e for point in (*dense, *points) for e in (point, *self.recovered(point))]
        return tuple({e.id: e for e in (*dense, *experiments)}.values())

    @functools.cached_property
    def measured(self) -> dict[str, str]:
        """How each stage measures, as the digest in the names of its records; empty for stages that only make a model."""
        speed = self.speed.digest if self.speed else ""
        return {"loss": self.evaluation.loss.digest, "tasks": self.evaluation.accuracy.digest, "speed": speed}

    def recovered(self, point: Experiment) -> tuple[Experiment, ...]:
        """The recoveries of a point; none of one that has no checkpoint to start from.

        The dense model is trained too, unless `recovery_of` names other methods only: what it gains is the text, no recovery.
        """
        chosen = [points for points in self.recovery_of if points.fits(point.compression)]
        if not self.recovery or (self.recovery_of and not chosen):
            return ()
        if point.compression.method == methods.DENSE:
            chosen = [points for points in chosen if "method" in points.choices]
            wanted = bool(chosen) or not self.recovery_of
        else:
            wanted = methods.makes_checkpoint(point.compression.method)
        if not wanted:
            return ()
        budgets = [r for r in self._recoveries if not chosen or any(points.has(r) for points in chosen)]
        return tuple(Experiment(compression=point.compression, recovery=recovery) for recovery in budgets)

    def keeps(self, experiment: Experiment) -> bool:
        """Whether its checkpoint, if it has one, stays after the last job that needs it."""
        return self.keep_checkpoints or any(points.fits(experiment.compression) for points in self.keep_checkpoints_of)

    @functools.cached_property
    def _recoveries(self) -> tuple[Recovery, ...]:
        return tuple(recovery for series in self.recovery for recovery in series.recoveries)

    def is_timed(self, experiment: Experiment) -> bool:
        """Whether its checkpoint is timed; not after recovery, which changes no shape and so no speed."""
        if self.speed is None or experiment.recovery is not None or not _named(self.speed_of, experiment.compression):
            return False
        return methods.makes_checkpoint(experiment.compression.method)


def _named(of: tuple[Selection, ...], compression: Compression) -> bool:
    """Whether a point is among these; every point is where none is named."""
    return not of or any(points.fits(compression) for points in of)


def load_study(path: str | Path) -> Study:
    """The study in a YAML file, or an InputError with the line and what is accepted."""
    return parse_study(*strict_yaml.load_yaml(Path(path)), str(path))


def parse_study(values: Any, lines: strict_yaml.Lines, where: str) -> Study:
    """The study that these values describe."""
    if not isinstance(values, dict):
        raise InputError(f"{where}: a study is a mapping of names to values (name, models, methods, ratios, ...).")
    try:
        return Study.model_validate(values)
    except pydantic.ValidationError as error:
        raise explain(error, Study, where, lines) from error
