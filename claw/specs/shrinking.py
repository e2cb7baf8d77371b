"""What a user asks for one smaller model, as typed values: how much goes, by which measure, and how that is written.

`claw compress`, `claw.shrink` and 05_one_model read the same words: 30% or 0.3, 1.2GB, 200k, "loss +10%", memory=1.2GB.
"""

import math
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from claw.errors import InputError, unknown
from claw.project import run_folder
from claw.specs import methods
from claw.specs.experiment import Calibration, Evaluation, Recovery, check_block
from claw.specs.mixture import Corpus
from claw.specs.spec import Count, Length, Placement, Ratio, Seed, Size, Spec, Text
from claw.words import quantity

SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
BYTES: dict[str, float] = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12} | {
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
UNITS: dict[str, dict[str, float]] = {"memory": BYTES, "milliseconds": {"": 1, "ms": 1}, "params": SCALES}
GGUF_TYPES = ("bf16", "f16", "q8_0")
NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-z%]*)\s*", re.IGNORECASE)
LIMIT = re.compile(r"\s*(loss|perplexity)\s*\+\s*([0-9]*\.?[0-9]+)\s*(%?)\s*", re.IGNORECASE)


def _parts(text: str) -> tuple[float, str] | None:
    """The number at the beginning of a text, and its unit in small letters."""
    read = NUMBER.fullmatch(text)
    return (float(read[1]), read[2].lower()) if read else None


def share_of_all(given: Any) -> Any:
    """30%, 0.3 or "0.3" as 0.3; what is no text stays as it is."""
    if not isinstance(given, str):
        return given
    value, unit = _parts(given) or (math.nan, "?")
    if unit not in ("", "%"):
        raise InputError(f"{given!r} is no share of a model. Write 30% or 0.3.")
    return value / 100 if unit == "%" else value


def tokens_of(given: Any) -> Any:
    """200k or "200000" as 200000; what is no text stays as it is."""
    if not isinstance(given, str):
        return int(given) if isinstance(given, float) and given.is_integer() else given
    value, unit = _parts(given) or (math.nan, "?")
    if unit not in SCALES or not float(value * SCALES.get(unit, math.nan)).is_integer():
        raise InputError(f"{given!r} is no number of tokens. Write 200000, 200k or 1M.")
    return int(value * SCALES[unit])


class Target(Spec):
    """The most that the smaller model may need: `most` bytes of memory, milliseconds per generated token, or parameters."""

    kind: Literal["memory", "milliseconds", "params"]
    most: Annotated[float, Field(gt=0)]

    @classmethod
    def read(cls, given: Any) -> Any:
        """memory=1.2GB, milliseconds=8, params=90M; what is no text stays as it is."""
        if not isinstance(given, str):
            return given
        kind, equals, text = (part.strip() for part in given.partition("="))
        accepted = "Write memory=1.2GB, milliseconds=8 or params=90M."
        if not equals or kind not in UNITS:
            raise InputError(f"target {given!r} is not accepted. {accepted}")
        value, unit = _parts(text) or (0.0, "?")
        units = UNITS[kind]
        if unit not in units or value <= 0:
            raise InputError(f"target {given!r}: {text!r} is no amount of {kind}. {accepted}")
        return {"kind": kind, "most": value * units[unit]}

    def __str__(self) -> str:
        unit = {"memory": "B", "milliseconds": "", "params": ""}[self.kind]
        return f"{self.kind}={quantity(self.most).replace(' ', '')}{unit}"


class Limit(Spec):
    """How much worse the smaller model may be: `of` loss or perplexity, by a share of it or by nats of loss."""

    of: Literal["loss", "perplexity"]
    rise: Annotated[float, Field(gt=0)]
    relative: bool

    @classmethod
    def read(cls, given: Any) -> Any:
        """ "loss +10%", "loss +0.3" (nats per token), "perplexity +50%"; what is no text stays as it is."""
        if not isinstance(given, str):
            return given
        read = LIMIT.fullmatch(given)
        if not read or float(read[2]) <= 0 or (read[1].lower() == "perplexity" and not read[3]):
            raise InputError(f'until {given!r} is not accepted. Write "loss +10%", "loss +0.3" (nats) or "perplexity +50%".')
        relative = bool(read[3])
        return {"of": read[1].lower(), "rise": float(read[2]) / (100 if relative else 1), "relative": relative}

    def rise_of_loss(self, dense: float) -> float:
        """How many nats per token above the dense loss are allowed."""
        if self.of == "perplexity":
            return math.log1p(self.rise)
        return self.rise * dense if self.relative else self.rise

    def __str__(self) -> str:
        return f"{self.of} +{self.rise:.0%}" if self.relative else f"{self.of} +{self.rise:g}"


def _gguf(given: Any) -> Any:
    kind = given.lower() if isinstance(given, str) else given
    if isinstance(kind, str) and re.fullmatch(r"i?q\d\w*", kind) and kind not in GGUF_TYPES:
        raise InputError(
            f"claw writes GGUF as {', '.join(GGUF_TYPES)}. For {kind} write bf16 first, then run llama.cpp's own tool on the "
            f"file: `llama-quantize DIR.bf16.gguf DIR.{kind}.gguf {kind.upper()}`."
        )
    if isinstance(kind, str) and kind not in ("", *GGUF_TYPES):
        raise unknown("GGUF type", given, GGUF_TYPES)
    return kind


def _method(name: str) -> str:
    if name:
        methods.find_method(name)
    return name


class LookParameters(Placement):
    """What is measured of a model and of the one beside it."""

    heldout: Text = "wikipedia-heldout"
    heldout_tokens: Annotated[Count, BeforeValidator(tokens_of)] = 8192
    length: Length = 512  # tokens of a block of any text
    tasks: tuple[Text, ...] = ()
    limit: Count = 100  # documents of each task
    prompt: Text = "The capital of France is"
    words: Size = 40  # tokens to generate

    @model_validator(mode="after")
    def _heldout_blocks_fit(self) -> Self:
        check_block(self.length, self.heldout_tokens, "length and heldout_tokens")
        return self

    @property
    def evaluation(self) -> Evaluation:
        return Evaluation(
            heldout=self.heldout, tokens=self.heldout_tokens, context=self.length, tasks=self.tasks, limit=self.limit
        )


class ShrinkParameters(LookParameters):
    """05_one_model, `claw compress` and `claw.shrink`: one model, how much of it goes, and what is looked at afterwards.

    Exactly one of `remove` (share of all parameters), `target` and `until` says how much.
    """

    model: Text
    remove: Annotated[Ratio | None, BeforeValidator(share_of_all)] = None
    target: Annotated[Target | None, BeforeValidator(Target.read)] = None
    until: Annotated[Limit | None, BeforeValidator(Limit.read)] = None
    method: Annotated[str, Field(max_length=400), AfterValidator(_method)] = ""  # "" leaves it to `claw.one_model`
    out: str = Field("", max_length=400)  # folder; "" for one below runs/one-model
    push: str = Field("", max_length=400)  # repository of the hub, OWNER/NAME
    gguf: Annotated[Literal["", "bf16", "f16", "q8_0"], BeforeValidator(_gguf)] = ""
    recover: Annotated[int, BeforeValidator(tokens_of), Field(ge=0, le=10**12)] = 0  # tokens
    calibrate: Corpus = "wikipedia-train"
    calibration_tokens: Annotated[Count, BeforeValidator(tokens_of)] = 32768
    context: Annotated[int, Field(ge=0, le=10**9)] = 0  # tokens whose keys and values count as memory
    batch: Size = 1  # sequences of that many tokens
    seed: Seed = 0

    @classmethod
    def _normal(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Empty text is what notebooks write for nothing."""
        return {name: value for name, value in given.items() if not (name in ("remove", "target", "until") and value == "")}

    @model_validator(mode="after")
    def _is_clear(self) -> Self:
        asked = [name for name in ("remove", "target", "until") if getattr(self, name) is not None]
        if len(asked) != 1:
            how = f"{' and '.join(asked)} each say" if asked else "Nothing says"
            raise InputError(
                f"{how} how small the model is to be. Give one of remove (30%), target (memory=1.2GB, milliseconds=8, "
                'params=90M) and until ("loss +10%").'
            )
        if self.remove == 0:
            raise InputError("remove = 0 leaves the model as it is. Write the share that is to go, such as 30%.")
        if self.method and not methods.makes_checkpoint(self.method):
            raise InputError(
                f"method {self.method!r} makes no checkpoint that could be saved. Use another, such as flap+ridge."
            )
        if self.context and (self.target is None or self.target.kind != "memory"):
            raise InputError("context counts keys and values for a target of memory. Give target memory=..., or leave it out.")
        check_block(self.length, self.calibration_tokens, "length and calibration_tokens")
        if self.recover:
            check_block(self.length, self.recover, "length and the tokens of recover")
        return self

    @property
    def place(self) -> str:
        """Folder of the checkpoint: as named, or one below the project's runs that says what was asked for."""
        if self.out:
            return self.out
        told = f"{100 * self.remove:g}%-smaller" if self.remove else str(self.target or self.until)
        name = "-".join(re.findall(r"[\w.]+", f"{self.model.rstrip('/').rpartition('/')[2]} {told}"))
        return str(run_folder("runs") / "one-model" / name)

    @property
    def calibration(self) -> Calibration:
        return Calibration(corpus=self.calibrate, tokens=self.calibration_tokens, length=self.length)

    @property
    def recovery(self) -> Recovery | None:
        """The recipe of the recovery, if one is asked for."""
        if not self.recover:
            return None
        return Recovery.model_validate(
            {"recipe": "lora", "tokens": self.recover, "corpus": self.calibrate, "length": self.length}
        )


class CompareParameters(LookParameters):
    """`claw compare`: two checkpoints side by side."""

    before: Text
    after: Text
