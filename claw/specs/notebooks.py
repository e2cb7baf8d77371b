"""The parameters of each notebook as typed values.

papermill passes any name and any type: an unknown parameter is only a warning there, and `1e-4` arrives as text. The cell
after the parameters therefore calls `from_notebook`, which refuses what is not right before anything is computed.
"""

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from claw import project
from claw.errors import InputError, unknown
from claw.project import inside_project, project_folder, run_folder
from claw.specs import methods
from claw.specs.experiment import (
    AnySpec,
    Calibration,
    Count,
    Curve,
    Evaluation,
    Limit,
    Ratio,
    RecoverySeries,
    Seed,
    Spec,
    Speed,
    Text,
    build_spec,
)
from claw.specs.methods import RATIO_OF

if TYPE_CHECKING:
    from claw.specs.budget import Budget

JUPYTER = {"In", "Out", "exit", "quit", "get_ipython", "open"}
"""Names that IPython itself puts beside a notebook's variables."""


class Parameters(Spec):
    """What every stage notebook takes."""

    run: Text = "runs/explore"
    device: Text = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    @property
    def folder(self) -> Path:
        """Folder of the run, absolute."""
        return run_folder(self.run)


class HeldOut(Parameters):
    """Parameters of notebooks that measure held-out loss."""

    heldout: Text = "wikipedia-heldout"
    heldout_tokens: Count = 32768
    context: Count = 512

    @property
    def evaluation(self) -> Evaluation:
        return Evaluation(heldout=self.heldout, tokens=self.heldout_tokens, context=self.context)


class CompressParameters(HeldOut):
    """10_compress: one model, one method, several ratios."""

    model: Text
    method: Text
    ratios: tuple[Ratio, ...] = Field(min_length=1)
    ratio_of: Literal[RATIO_OF] = "own"
    seed: Seed = 0
    calibration: Text = "wikipedia-train"
    calibration_tokens: Count = 16384
    calibration_length: Count = 512

    @property
    def curve(self) -> Curve:
        calibration = Calibration(corpus=self.calibration, tokens=self.calibration_tokens, length=self.calibration_length)
        return Curve(
            model=self.model, method=self.method, ratios=self.ratios, ratio_of=self.ratio_of, seed=self.seed,
            calibration=calibration,
        )  # fmt: skip


class Checkpoints(Parameters):
    """Parameters of notebooks that begin with checkpoints: folders, or a model's name for the dense one; all of the run
    where none is named.
    """

    checkpoints: tuple[Text, ...] = Field((), validate_default=True)

    @field_validator("checkpoints")
    @classmethod
    def _found(cls, named: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        found = named or tuple(cls._of_run(run_folder(info.data.get("run", "."))))
        if not found:
            raise InputError(
                f"the run {info.data.get('run')} has no compressed checkpoints yet. Run 10_compress first (its first curve takes "
                'about two minutes), or name checkpoints, such as checkpoints = ["runs/explore/checkpoints/ID"].'
            )
        return found

    @classmethod
    def _of_run(cls, folder: Path) -> Iterator[str]:
        """What is taken where no checkpoint is named."""
        yield from (str(place) for place, _ in _checkpoints(folder))


class EvaluateParameters(HeldOut, Checkpoints):
    """30_evaluate: checkpoints on held-out text and tasks; by default all of the run and the dense models they came from."""

    tasks: tuple[Text, ...] = ()
    limit: Limit = None
    num_fewshot: int = Field(0, ge=0, le=100)
    tasks_from: Literal["archive", "hub"] = "archive"

    @classmethod
    def _of_run(cls, folder: Path) -> Iterator[str]:
        found = list(_checkpoints(folder))
        yield from dict.fromkeys(spec["compression"]["model"] for _, spec in found)
        yield from (str(place) for place, _ in found)

    @property
    def evaluation(self) -> Evaluation:
        return Evaluation(
            heldout=self.heldout, tokens=self.heldout_tokens, context=self.context, tasks=self.tasks, limit=self.limit,
            num_fewshot=self.num_fewshot, tasks_from=self.tasks_from,
        )  # fmt: skip


class TourParameters(Spec):
    """00_tour: one small model, compressed live."""

    model: Text = "smollm2-135m"
    methods: tuple[Text, ...] = Field(
        ("random", "magnitude", "wanda-sp", "wanda-sp+ridge", "slicegpt", "shortgpt"), min_length=1
    )
    ratio: Ratio = 0.3
    prompt: Text = "The capital of France is"
    words: Count = 24
    calibration: Text = "wikipedia-train"
    calibration_tokens: Count = 8192
    heldout: Text = "wikipedia-heldout"
    heldout_tokens: Count = 2048
    context: Count = 256
    seed: Seed = 0
    device: Text = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    @field_validator("methods")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            methods.find_method(name)
        return names


class OverviewParameters(Spec):
    """00_start: where results are looked for."""

    places: tuple[Text, ...] = Field(("results", "runs"), min_length=1)


class LawsParameters(Spec):
    """50_laws: laws of a table."""

    table: str = Field("", max_length=400)
    out: Text = "runs/laws"
    seed: Seed = 0
    level: float = Field(0.95, ge=0.5, lt=1)
    draws: int = Field(2000, ge=100, le=100_000)

    @property
    def source(self) -> Path:
        """The table, or the folder of a run, absolute; `claw.project.default_table` where none is named. InputError without it."""
        if not self.table:
            return project.default_table(project_folder())
        path = inside_project(self.table)
        if path.exists():
            return path

        have = project.tables()
        raise InputError(
            f"There is no table {self.table} yet. In a terminal, `make demo` measures a small one in about ten minutes. "
            + (f"Tables that are here: {', '.join(have)}." if have else "00_start says what else there is.")
        )

    @property
    def folder(self) -> Path:
        """Folder for laws.json and figures, absolute."""
        return run_folder(self.out)


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

    @property
    def budget(self) -> "Budget":
        from claw.specs.budget import Budget  # only this notebook pays for importing statsmodels

        return Budget(
            self.most_parameters, self.most_gigabytes, self.most_flops, self.most_milliseconds, self.bytes_per_parameter,
            tuple(self.dense_milliseconds.items()),
        )  # fmt: skip


class PaperParameters(LawsParameters):
    """70_paper_figures: the figures and tables that a paper prints."""

    out: Text = "runs/paper"
    ratio: Ratio = 0.5
    threshold: float = Field(1.1, ge=1)


class RecoverParameters(HeldOut, Checkpoints, RecoverySeries):
    """20_recover: checkpoints, one recipe, several token budgets; by default all of the run that are not recovered yet."""

    @classmethod
    def _of_run(cls, folder: Path) -> Iterator[str]:
        yield from (str(place) for place, spec in _checkpoints(folder) if not spec["recovery"])

    @property
    def series(self) -> RecoverySeries:
        return RecoverySeries(**{name: getattr(self, name) for name in RecoverySeries.model_fields})


class SpeedParameters(Checkpoints, Speed):
    """40_speed: checkpoints timed against the dense model that each was made from; by default all compressed ones of the run."""

    @classmethod
    def _of_run(cls, folder: Path) -> Iterator[str]:
        yield from (str(place) for place, spec in _checkpoints(folder) if spec["compression"]["method"] != methods.DENSE)

    @property
    def speed(self) -> Speed:
        return Speed(**{name: getattr(self, name) for name in Speed.model_fields})


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
            statements = ast.parse(cell).body
        except SyntaxError:
            break
        if not (statements and all(map(_gives_a_value, statements))):
            break
        names.update(target.id for s in statements for target in getattr(s, "targets", None) or [s.target])
    return names if cells else None


PLAIN = (
    ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.UnaryOp, ast.unaryop, ast.expr_context, ast.Call, ast.Name,
)  # fmt: skip
"""Nodes of a plain value; a call only as float('nan'), as papermill writes NaN."""


def _gives_a_value(statement: ast.stmt) -> bool:
    """Whether a statement gives a name a plain value."""
    if not isinstance(statement, (ast.Assign, ast.AnnAssign)) or statement.value is None:
        return False
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    nodes = list(ast.walk(statement.value))
    called = all(node.id == "float" for node in nodes if isinstance(node, ast.Name))
    return all(isinstance(t, ast.Name) for t in targets) and called and all(isinstance(node, PLAIN) for node in nodes)


def _checkpoints(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Folder and experiment of each checkpoint of a run, by method, ratio and recovery."""
    found = []
    for about in folder.glob("checkpoints/*/claw.json"):
        spec = json.loads(about.read_text(encoding="utf-8"))["experiment"]
        if spec:
            found.append((about.parent, spec))
    parts = lambda spec: (spec["compression"]["method"], spec["compression"]["ratio"], str(spec["recovery"]))
    yield from sorted(found, key=lambda one: parts(one[1]))
