"""The parameters of each notebook as typed values.

papermill passes any name and any type: an unknown parameter is only a warning there, and `1e-4` arrives as text. The cell
after the parameters therefore calls `from_notebook`, which refuses what is not right before anything is computed.
"""

import ast
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from claw import project
from claw.errors import InputError, unknown
from claw.specs import methods, on_disk
from claw.specs.budget import LIMITS, Budget
from claw.specs.experiment import (
    Accuracy,
    Calibration,
    Curve,
    Evaluation,
    Experiment,
    MethodNames,
    Ratios,
    RecoverySeries,
    Speed,
    check_block,
)
from claw.specs.mixture import Corpus
from claw.specs.spec import AnySpec, Count, Length, Placement, Ratio, Seed, Spec, Text, build_spec

JUPYTER = {"In", "Out", "exit", "quit", "get_ipython", "open"}
"""Names that IPython itself puts beside a notebook's variables."""


class Parameters(Placement):
    """What every stage notebook takes."""

    run: Text = "runs/explore"

    @property
    def folder(self) -> Path:
        """Folder of the run, absolute."""
        return project.run_folder(self.run)


class HeldOut(Parameters):
    """Parameters of notebooks that measure held-out loss."""

    heldout: Text = "wikipedia-heldout"
    heldout_tokens: Count = 32768
    context: Length = 512

    @model_validator(mode="after")
    def _heldout_blocks_fit(self) -> Self:
        check_block(self.context, self.heldout_tokens, "context and heldout_tokens")
        return self

    @property
    def evaluation(self) -> Evaluation:
        return self.part(Evaluation, tokens=self.heldout_tokens)


class CompressParameters(Ratios, HeldOut):
    """10_compress: one model, one method, several ratios."""

    calibration: Corpus = "wikipedia-train"
    calibration_tokens: Count = 65536
    calibration_length: Length = 512

    @model_validator(mode="after")
    def _calibration_blocks_fit(self) -> Self:
        check_block(self.calibration_length, self.calibration_tokens, "calibration_length and calibration_tokens")
        return self

    @property
    def curve(self) -> Curve:
        corpus, tokens, length = self.calibration, self.calibration_tokens, self.calibration_length
        return self.part(Curve, calibration=Calibration(corpus=corpus, tokens=tokens, length=length))


class Checkpoints(Parameters):
    """Parameters of notebooks that begin with checkpoints: folders, or a model's name for the dense one.

    Where none is named, those of the run are meant for which `_taken` holds, after the dense models if `_with_dense` says so.
    """

    _taken: ClassVar[Callable[[Experiment], bool]] = lambda experiment: True
    _with_dense: ClassVar[bool] = False

    checkpoints: tuple[Text, ...] = Field((), validate_default=True)

    @field_validator("checkpoints")
    @classmethod
    def _there_are_some(cls, named: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if named:
            return named
        there = _checkpoints(project.run_folder(info.data.get("run", ".")))
        dense = dict.fromkeys(experiment.compression.model for _, experiment in there) if cls._with_dense else ()
        checkpoints = (*dense, *(place for place, experiment in there if cls._taken(experiment)))
        if not checkpoints:
            raise InputError(
                f"the run {info.data.get('run')} has no compressed checkpoints yet. Run 10_compress first (its first curve "
                'takes about two minutes), or name checkpoints, such as checkpoints = ["runs/explore/checkpoints/ID"].'
            )
        return checkpoints


class EvaluateParameters(Accuracy, HeldOut, Checkpoints):
    """30_evaluate: checkpoints on held-out text and tasks; by default all of the run and the dense models they came from."""

    _with_dense = True


class TourParameters(Placement):
    """00_tour: one small model, compressed live."""

    model: Text = "smollm2-135m"
    methods: MethodNames = ("random", "magnitude", "wanda-sp", "wanda-sp+ridge", "slicegpt", "shortgpt")
    ratio: Ratio = 0.3
    prompt: Text = "Bread is made from"
    words: Count = 24
    calibration: Corpus = "wikipedia-train"
    calibration_tokens: Count = 8192
    heldout: Text = "wikipedia-heldout"
    heldout_tokens: Count = 2048
    context: Length = 256
    seed: Seed = 0

    @model_validator(mode="after")
    def _blocks_fit(self) -> Self:
        check_block(self.context, self.heldout_tokens, "context and heldout_tokens")
        check_block(self.context, self.calibration_tokens, "context and calibration_tokens")
        return self


class OverviewParameters(Spec):
    """00_start: where results are looked for."""

    places: tuple[Text, ...] = Field(("results", "runs"), min_length=1)


class LawsParameters(Spec):
    """50_laws: laws of a table."""

    table: str = Field("", max_length=400)
    reading: dict[str, Any] = Field(default_factory=dict)
    out: Text = "runs/laws"
    seed: Seed = 0
    level: float = Field(0.95, ge=0.5, lt=1)
    draws: int = Field(2000, ge=100, le=100_000)

    @property
    def source(self) -> Path:
        """Absolute path of the table, or of a run's folder. InputError if there is none."""
        if not self.table:
            return project.default_table(project.project_folder())
        path = project.inside_project(self.table)
        if path.exists():
            return path
        tables = project.tables()
        raise InputError(
            f"There is no table {self.table} yet. In a terminal, `make demo` measures a small one in about ten minutes. "
            + (f"Tables that are here: {', '.join(tables)}." if tables else "00_start says what else there is.")
        )

    @property
    def folder(self) -> Path:
        """Folder for laws.json and figures, absolute."""
        return project.run_folder(self.out)


class ExplorerParameters(LawsParameters):
    """51_explorer: the sliders of a table."""

    draws: int = Field(200, ge=100, le=100_000)


class GuideParameters(LawsParameters):
    """60_guide: what to do within a budget."""

    out: Text = "runs/guide"
    care: Literal["loss", "accuracy"] = "loss"
    models: tuple[Text, ...] = ()
    methods: tuple[Text, ...] = ()
    most_parameters: float | None = Field(None, gt=0)
    most_gigabytes: float | None = Field(None, gt=0)
    most_flops: float | None = Field(None, gt=0)
    most_milliseconds: float | None = Field(None, gt=0)
    dense_milliseconds: dict[str, float] = Field(default_factory=dict)
    bytes_per_parameter: float = Field(2.0, gt=0)
    most_recovery: float | None = Field(None, ge=0)
    unseen: float | None = Field(None, gt=0)
    unseen_family: str = Field("", max_length=100)
    unseen_tokens: float = Field(0, ge=0)

    @property
    def budget(self) -> Budget:
        most = (self.most_parameters, self.most_gigabytes, self.most_flops, self.most_milliseconds)
        limits, times = dict(zip(LIMITS, most, strict=True)), tuple(self.dense_milliseconds.items())
        return Budget(**limits, bytes_per_parameter=self.bytes_per_parameter, dense_milliseconds=times)


class MetaParameters(Spec):
    """55_meta_analysis: laws of what others published."""

    table: str = Field("", max_length=400)
    ours: str = Field("results/reference.csv", max_length=400)
    out: Text = "runs/meta"
    method: Text = "slicegpt"
    parameters: float = Field(7e9, gt=0)
    level: float = Field(0.95, ge=0.5, lt=1)

    @property
    def source(self) -> Path | None:
        """Absolute path of the table; None for the project's own."""
        return project.inside_project(self.table) if self.table else None

    @property
    def folder(self) -> Path:
        """Folder for figures and tables, absolute."""
        return project.run_folder(self.out)


class PaperParameters(LawsParameters):
    """70_paper_figures: the figures and tables that a paper prints."""

    out: Text = "runs/paper"
    ratio: Ratio = 0.5
    threshold: float = Field(1.1, ge=1)


class RecoverParameters(HeldOut, Checkpoints, RecoverySeries):
    """20_recover: checkpoints, one recipe, several token budgets; by default all of the run that are not recovered yet."""

    _taken = lambda experiment: experiment.recovery is None

    @property
    def series(self) -> RecoverySeries:
        return self.part(RecoverySeries)


class SpeedParameters(Checkpoints, Speed):
    """40_speed: checkpoints timed against the dense model that each was made from; by default all compressed ones."""

    _taken = lambda experiment: experiment.compression.method != methods.DENSE

    @property
    def speed(self) -> Speed:
        return self.part(Speed)


def from_notebook(cls: type[AnySpec], variables: Mapping[str, Any]) -> AnySpec:
    """`cls` from a notebook's variables (`globals()`), refusing names that `cls` does not have.

    Called right after the parameters cell. A notebook that is run again holds what its later cells made, too: a name is
    refused only if the cells of parameters just before this one gave it.
    """
    asked = _just_given(variables.get("In", ()))
    given = {
        name: value
        for name, value in variables.items()
        if not name.startswith("_") and name not in JUPYTER and not hasattr(value, "__spec__") and not callable(value)
    }
    for name in given if asked is None else asked:
        if name not in cls.model_fields:
            raise unknown("parameter", name, cls.model_fields, "Check the spelling after -p or -y.")
    return build_spec(cls, {name: value for name, value in given.items() if name in cls.model_fields})


def _just_given(cells: Sequence[str]) -> set[str] | None:
    """Names given plain values by the cells run just before the last, the notebook's and papermill's; None without cells."""
    names: set[str] = set()
    for cell in reversed(cells[:-1]):
        try:
            given = [_plain_names(statement) for statement in ast.parse(cell).body]
        except SyntaxError:
            break
        if not (given and all(given)):
            break
        names.update(*given)
    return names if cells else None


def _plain_names(statement: ast.stmt) -> set[str]:
    """The names that a statement gives a plain value; none if it does anything else."""
    if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
        return set()
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    names = {target.id if isinstance(target, ast.Name) else "" for target in targets}
    nodes = [node for node in ast.walk(statement.value) if not (isinstance(node, ast.Name) and node.id == "float")]
    return names if all(names) and all(isinstance(node, PLAIN) for node in nodes) else set()


PLAIN = ast.Constant | ast.List | ast.Tuple | ast.Dict | ast.Set | ast.UnaryOp | ast.unaryop | ast.expr_context | ast.Call
"""Nodes of a plain value; a call only as float("nan"), as papermill writes NaN."""


def _checkpoints(folder: Path) -> list[tuple[str, Experiment]]:
    """Folder and experiment of each checkpoint of a run, by method, ratio and recovery; unusable ones are warned of."""
    there = []
    for place in sorted(folder.glob("checkpoints/*")):
        try:
            experiment = on_disk.checkpoint_experiment(place)
        except on_disk.Unusable as problem:
            warnings.warn(f"a checkpoint is left out: {problem}", stacklevel=2)
            continue
        if experiment is not None:
            there.append((str(place), experiment))
    order = lambda pair: (pair[1].compression.method, pair[1].compression.ratio, str(pair[1].recovery))
    return sorted(there, key=order)
