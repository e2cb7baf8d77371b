"""What claw wrote to disk, read back: records, the notes beside checkpoints, what a run was begun with.

Everything that is read back passes here, because a disk may hold anything: files that were cut short or edited, that belong
elsewhere or that a newer claw wrote. A file is whole and understood, or it is refused with a reason as `Unusable`. What only a
newer claw can read, and what cannot be opened, is `precious`: it must not be written over.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from claw.errors import InputError
from claw.specs.experiment import Experiment

SCHEMA = 1  # of records: raised when their fields change their meaning
NOTES = 2  # schema of the notes beside checkpoints; before 2 they had neither schema nor files, and whole paths
ABOUT = "claw.json"  # beside a checkpoint: the experiment that made it, and its report
UPGRADE = "Use the claw that wrote it (`pip install --upgrade` for a newer one), or move the file away to do without it"
NEWER = ("extra_forbidden", "literal_error")  # what a field or a choice that is not known yet looks like to pydantic


class Unusable(InputError):
    """A file that claw wrote and cannot use. `precious` where nothing may be written over it."""

    def __init__(self, reason: str, *, precious: bool = False):
        super().__init__(reason)
        self.precious = precious


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is no file. Unusable for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        raise Unusable("it is a folder where a file should be: move it away", precious=True) from None
    except OSError as error:
        raise Unusable(f"it cannot be opened: {error.strerror or error}; correct the permissions", precious=True) from error
    except RecursionError as error:
        raise Unusable("it is nested too deeply for anything that claw wrote") from error
    except ValueError as error:  # of JSON and of UTF-8
        raise Unusable(f"it is not whole JSON text: {error}") from error
    if not isinstance(content, dict):
        raise Unusable("it holds no JSON object")
    return content


def stored_experiment(values: Any) -> Experiment:
    """The experiment that a file tells of. Unusable, and precious, where this claw does not know a field or method of it."""
    try:
        return Experiment.model_validate_json(json.dumps(values))
    except pydantic.ValidationError as error:
        raise _reason(error, "experiment") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise Unusable(f"its experiment cannot be read: {error}") from error


def _reason(error: pydantic.ValidationError, part: str) -> Unusable:
    """Why a part of a file cannot be used: it is of a newer claw only where nothing else is wrong with it."""
    problems = error.errors(include_url=False)
    wrong = next((problem for problem in problems if not _is_newer(problem)), None)
    place = ".".join(map(str, (wrong or problems[0])["loc"])) or "form"
    if wrong:
        return Unusable(f"its {part} has an unusable {place}: {wrong['msg']}")
    said = f"{place} = {problems[0]['input']!r:.60}"
    return Unusable(f"this claw does not know what its {part} says, {said}. {UPGRADE}", precious=True)


def _is_newer(problem: Mapping[str, Any]) -> bool:
    """Whether a newer claw may have written what is not accepted here: a field, a choice or a method."""
    if problem["type"] == "extra_forbidden":
        return True
    unknown = problem["type"] in NEWER or (problem["type"] == "value_error" and problem["loc"][-1:] == ("method",))
    return unknown and isinstance(problem["input"], str)


def checkpoint_note(folder: Path) -> dict[str, Any]:
    """What claw wrote beside a checkpoint; empty for a folder that no stage of claw saved. Unusable for what it cannot read."""
    try:
        about = read_object(folder / ABOUT) or {}
        schema = about.get("schema", 1)
        if isinstance(schema, int) and schema > NOTES:
            raise Unusable(f"it has schema {schema}, and this claw reads up to {NOTES}. {UPGRADE}", precious=True)
        return about
    except Unusable as problem:
        raise _named(folder, problem) from problem


def checkpoint_experiment(folder: Path) -> Experiment | None:
    """The experiment of a checkpoint; None for a folder that no stage of claw saved. Unusable where its note is.

    The note has the last part of each path, as a checkpoint may go to others; the records of the run that it lies in have the
    whole.
    """
    about = checkpoint_note(folder)
    if (spec := about.get("experiment")) is None:
        return None
    for stage in ("compress", "recover"):
        path = folder.absolute().parent.parent / "records" / f"{about.get('id')}.{stage}.json"
        with suppress(Unusable, KeyError):
            if (record := read_object(path)) and (known := stored_experiment(record["spec"])).id == about["id"]:
                return known
    try:
        return stored_experiment(spec)
    except Unusable as problem:
        raise _named(folder, problem) from problem


def _named(folder: Path, problem: Unusable) -> Unusable:
    if problem.precious:
        return Unusable(f"{folder / ABOUT} cannot be used: {problem}.", precious=True)
    return Unusable(f"{folder / ABOUT} is damaged ({problem}). Compress the model again, or name another one.")


class _Stored(BaseModel):
    """A part of a file: what is read of it has these names and types; what else is there is left alone."""

    model_config = ConfigDict(frozen=True, strict=True)


def _dated(seconds: float) -> float:
    try:
        datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError) as error:
        raise ValueError("no clock shows this time") from error
    return seconds


Whole = Annotated[int, Field(ge=0)]
Duration = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Compressed(_Stored):
    """Result of `compress`."""

    family: str
    ratio_of: str
    ratio_own: float
    ratio_params: float
    ratio_nonembedding: float
    ratio_flops: float
    parameters: Whole
    parameters0: Whole
    flops_per_token: Whole
    seconds: Duration
    peak_memory: Whole


class Moment(_Stored):
    """A point of a loss curve."""

    tokens: Whole
    train: float
    heldout: float


class Recovered(_Stored):
    """Result of `recover`."""

    recipe: str
    run: str
    asked: Whole
    tokens: Whole
    before: float
    best: float
    best_tokens: Whole | None
    last: float
    overfitted: bool
    nan_step: Whole | None
    tokens_per_second: float
    moments: list[Moment] = []


class LossMeasured(_Stored):
    """Result of `loss`."""

    mean: float
    stderr: float | None
    tokens: Whole
    corpus: str
    data: str
    context: Whole
    token_perplexity: float
    word_perplexity: float
    bits_per_byte: float
    sums: list[float] = []  # nats of each block, and its tokens: what pairs are made of
    counts: list[Whole] = []


class Score(_Stored):
    """A task's metric."""

    task: str
    metric: str
    value: float
    stderr: float | None
    n: Whole
    chance: float


class TasksScored(_Stored):
    """Result of `tasks`."""

    rows: list[Score]
    limit: Whole | dict[str, Whole] | None
    num_fewshot: Whole | None
    answered: dict[str, dict[str, Annotated[str, Field(pattern="^[01]*$")]]] = {}  # by task and metric, a digit per document
    scores: dict[str, dict[str, str]] = {}  # by task: those of each document (`claw.paired`), and a hash of the documents


class Timed(_Stored):
    """Timings of one phase and batch size."""

    phase: str
    batch: Whole
    seconds: float
    seconds0: float
    speedup: float
    low: float
    high: float
    ideal: float


class SpeedMeasured(_Stored):
    """Result of `speed`."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Any]

    timings: list[Timed]
    memory: Whole
    memory0: Whole

    @model_validator(mode="after")
    def _columns_are_numbers(self) -> "SpeedMeasured":
        for name, value in self.__pydantic_extra__.items():
            if name.startswith(("speedup_", "ideal_")) and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise ValueError(f"{name} is no number")
        return self


RESULTS: dict[str, type[_Stored]] = {
    "compress": Compressed,
    "recover": Recovered,
    "loss": LossMeasured,
    "tasks": TasksScored,
    "speed": SpeedMeasured,
}
"""What the result of each stage holds."""


class Environment(_Stored):
    """Where and with what a record was made."""

    code: str | None = None
    device: str | None = None
    dtype: str | None = None


class Record(_Stored):
    """A record without its result."""

    model_config = ConfigDict(extra="forbid")

    schema_: Annotated[int, Field(alias="schema")]
    experiment: str
    stage: Literal["compress", "recover", "loss", "tasks", "speed"]
    measured: str = ""
    spec: dict[str, Any]
    environment: Environment
    started: Annotated[float, AfterValidator(_dated)] | None = None
    status: Literal["done", "nan", "failed"]
    error: str | None = None
    result: dict[str, Any]
    seconds: Duration = 0.0
    checksum: str


def check_record(content: Mapping[str, Any], name: str) -> None:
    """Raise Unusable unless this is a whole record that belongs into a file of this name."""
    try:
        record = Record.model_validate(content)
    except pydantic.ValidationError as error:
        raise _reason(error, "content") from error
    measured = f"-{record.measured}" if record.measured else ""
    own = stored_experiment(record.spec).id == record.experiment
    if not own or name != f"{record.experiment}.{record.stage}{measured}.json":
        raise Unusable("it is the record of another experiment than its name says")
    if record.result or record.status == "done":
        try:
            RESULTS[record.stage].model_validate(record.result)
        except pydantic.ValidationError as error:
            raise _reason(error, "result") from error


class Origin(_Stored):
    """What a run was begun with: hashes of claw's code, of each text and model, and whether all their bytes were read."""

    code: list[str]
    data: dict[str, str]
    whole: bool = False
