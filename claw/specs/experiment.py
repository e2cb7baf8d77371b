"""One experiment: a compressed model, how it is recovered, and how it is measured.

An experiment's id is a hash of the choices that can change its result and of nothing else: at ratio 0 every method is the dense
model, a method that draws no random numbers has one seed, one that needs no calibration has none.
"""

import functools
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, SerializerFunctionWrapHandler, Tag, model_serializer, model_validator

from claw.errors import InputError
from claw.specs import methods
from claw.specs.methods import RatioOf
from claw.specs.mixture import Corpus
from claw.specs.spec import Count, Length, Ratio, Seed, Size, Spec, Text


def _known(name: str) -> str:
    methods.find_method(name)
    return name


MethodName = Annotated[Text, AfterValidator(_known)]
MethodNames = Annotated[tuple[Text, ...], Field(min_length=1), AfterValidator(lambda names: tuple(map(_known, names)))]
Limit = Annotated[
    Annotated[None, Tag("limit:all")]
    | Annotated[Count, Tag("limit:number")]
    | Annotated[dict[Text, Count], Tag("limit:by task")],
    Discriminator(lambda given: {type(None): "limit:all", dict: "limit:by task"}.get(type(given), "limit:number")),
]
"""Documents per task: one number, or one by task; None for all."""


def check_block(length: int, tokens: int, names: str) -> None:
    """InputError unless one block of `length` tokens fits into `tokens`; `names` are those of the two, for the message."""
    if length > tokens:
        raise InputError(
            f"{names} = {length:,} and {tokens:,}: no block of {length:,} tokens fits into {tokens:,}. Ask for more tokens or "
            "shorter blocks."
        )


class Calibration(Spec):
    """Text from which statistics are collected."""

    corpus: Corpus = "wikipedia-train"
    tokens: Count = 65536
    length: Length = 512

    def check_blocks(self) -> None:
        """InputError unless a block fits into the tokens."""
        check_block(self.length, self.tokens, "calibration's length and tokens")

    @property
    def columns(self) -> dict[str, Any]:
        """Its choices, as columns of a table and parameters of a notebook name them."""
        return {"calibration": self.corpus, "calibration_tokens": self.tokens, "calibration_length": self.length}


class Compression(Spec):
    """One compressed model."""

    model: Text
    method: Annotated[Text, AfterValidator(lambda name: name if name == methods.DENSE else _known(name))]
    ratio: Ratio
    ratio_of: RatioOf = "own"
    seed: Seed = 0
    calibration: Calibration | None = None

    @classmethod
    def _normal(cls, given: dict[str, Any]) -> dict[str, Any]:
        if given.get("ratio") == 0:
            return {"model": given.get("model"), "method": methods.DENSE, "ratio": 0.0}
        if methods.is_method(given.get("method")):
            if not methods.is_seeded(given["method"]):
                given["seed"] = 0
            if not methods.needs_statistics(given["method"]):
                given["calibration"] = None
            elif given.get("calibration") is None:
                given["calibration"] = Calibration()
        return given


LEARNING_RATES = {"lora": 1e-3, "full": 3e-4, "distill": 3e-4, "norms": 5e-3}
"""Peak learning rate of each recipe, where none is asked for, by the sweep in docs/recovery.md; distillation into adapters or
norms takes theirs."""

SKEWED = ("skew", "skew-reverse")  # divergences from, or of, a mixture of both distributions
_DISTILLING = ("trains", "divergence", "data_loss", "hidden_loss", "top_k")  # matter to that recipe only
_LATER = ("trains", "skew", "hidden_loss", "top_k", "warmup", "decay")  # younger than the first records


class Recipe(Spec):
    """How a model is fine-tuned after compression."""

    recipe: Literal["lora", "full", "distill", "norms"] = "lora"
    tokens: int | tuple[int, ...]  # really seen
    corpus: Corpus = "wikipedia-train"
    length: Length = 512
    batch: Size = 8  # blocks per optimiser step
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None  # peak; the recipe's own where none is given
    warmup: Annotated[int, Field(ge=0, le=10**6)] = 10  # steps in which the rate rises
    decay: Annotated[float, Field(gt=0, le=1)] = 0.2  # share of a budget's steps in which the rate falls to zero
    rank: Size | None = None  # of LoRA; 32
    trains: Literal["full", "lora", "norms"] = "full"  # which weights distillation trains
    divergence: Literal["forward", "reverse", "skew", "skew-reverse"] | None = None  # of distillation; forward
    skew: Annotated[float, Field(gt=0, lt=1)] | None = None  # alpha of a skew divergence; 0.1
    data_loss: Annotated[float, Field(ge=0, le=1)] | None = None  # its share of the cross-entropy on data; 0
    hidden_loss: Annotated[float, Field(ge=0, le=1000)] = 0.0  # weight of the distance of hidden states from the teacher's
    top_k: Annotated[int, Field(ge=1, le=4096)] | None = None  # of the teacher's probabilities, computed once and kept; all
    runs: Literal["milestones", "separate"] = "milestones"  # budgets share one run, or each has its own
    seed: Seed = 0

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, values: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A choice that came later is left out where it is as it was before, so that ids of earlier records stand."""
        return {n: v for n, v in values(self).items() if not (n in _LATER and v == Recipe.model_fields[n].default)}


class Recovery(Recipe):
    """A recipe for one budget of tokens."""

    tokens: Count = 1_000_000
    learning_rate: Annotated[float, Field(gt=0, le=1)]

    @classmethod
    def _normal(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Fill in what the recipe implies and drop what it does not use."""
        chosen = {name: value for name, value in given.items() if value is not None}
        recipe = chosen.setdefault("recipe", "lora")
        if recipe != "distill":
            chosen = {name: value for name, value in chosen.items() if name not in _DISTILLING}
        else:
            chosen = {"divergence": "forward", "data_loss": 0.0} | chosen
        trained = chosen.get("trains", "full") if recipe == "distill" else recipe
        own = recipe if trained == "full" else trained
        implied: dict[str, Any] = {"learning_rate": LEARNING_RATES.get(own, 1e-3) if isinstance(own, str) else 1e-3}
        if trained == "lora":
            implied["rank"] = 32
        else:
            chosen.pop("rank", None)
        if chosen.get("divergence") in SKEWED:
            implied["skew"] = 0.1
        else:
            chosen.pop("skew", None)
        return implied | chosen

    def check_blocks(self) -> None:
        """InputError unless a block fits into the tokens."""
        check_block(self.length, self.tokens, "recovery's length and tokens")

    @property
    def trained(self) -> str:
        """Which weights change: full, lora or norms."""
        return self.trains if self.recipe == "distill" else self.recipe

    @property
    def title(self) -> str:
        """The recipe, and in brackets each choice that is not the one it implies, as tables name it."""
        usual = Recovery.model_validate({"recipe": self.recipe})
        text = ("corpus", "length")  # the last, as a path may be long
        named = [name for name in Recipe.model_fields if name not in ("tokens", "runs", "seed", *text)] + [*text]
        others = [f"{name} {getattr(self, name)}" for name in named if getattr(self, name) != getattr(usual, name)]
        return self.recipe + (f" ({', '.join(others)})" if others else "")

    @property
    def run(self) -> "Recovery":
        """What the milestones of one run share: everything but the budget, unless each budget has a run of its own."""
        return self if self.runs == "separate" else self.part(Recovery, tokens=1)


class RecoverySeries(Recipe):
    """A recipe for several budgets."""

    tokens: tuple[Count, ...] = Field((1_000_000,), min_length=1)

    @property
    def recoveries(self) -> tuple[Recovery, ...]:
        """One per budget, ascending, without repeats."""
        return tuple(self.part(Recovery, tokens=tokens) for tokens in sorted(set(self.tokens)))


class Speed(Spec):
    """How prefill and decode are timed; the same for the compressed and the dense model."""

    prompt: Size = 256  # tokens of the prompt
    generate: Size = 32  # tokens generated after it
    batches: tuple[Count, ...] = Field((1, 8), min_length=1)
    rounds: Annotated[int, Field(ge=3, le=10**6)] = 9  # interleaved pairs of timings
    compiled: bool = False  # torch.compile with a static cache; CUDA graphs on a GPU


def check_limits(named: Iterable[str], tasks: Iterable[str]) -> None:
    """InputError for a limit of a task that is not among `tasks`."""
    strange = sorted(set(named) - set(tasks))
    if strange:
        raise InputError(f"limit names {', '.join(strange)}, which is not among the tasks: {', '.join(tasks) or 'none'}.")


class Loss(Spec):
    """What identifies a measurement of held-out loss."""

    heldout: Text = "wikipedia-heldout"
    tokens: Count = 32768
    context: Length = 512

    def check_blocks(self) -> None:
        """InputError unless a block fits into the tokens."""
        check_block(self.context, self.tokens, "context and tokens of the held-out text")


class Accuracy(Spec):
    """What identifies a measurement of tasks."""

    tasks: tuple[Text, ...] = ()
    limit: Limit = None
    num_fewshot: Annotated[int, Field(ge=0, le=100)] | None = None  # examples in the prompt; None for what each task says
    tasks_from: Literal["archive", "hub"] = "archive"

    @model_validator(mode="after")
    def _limits_have_tasks(self) -> Self:
        if isinstance(self.limit, dict):
            check_limits(self.limit, self.tasks)
        return self


class Evaluation(Accuracy, Loss):
    """Held-out text and tasks, measured alike for every model."""

    @property
    def loss(self) -> Loss:
        """The part that the held-out loss depends on."""
        return self.part(Loss)

    @property
    def accuracy(self) -> Accuracy:
        """The part that task accuracy depends on."""
        return self.part(Accuracy, tasks=tuple(sorted(self.tasks)))


class Experiment(Spec):
    """One point: a compressed model, recovered or not. `id` names its records and its checkpoint."""

    compression: Compression
    recovery: Recovery | None = None

    @property
    def id(self) -> str:
        return self.digest

    @property
    def untouched(self) -> bool:
        """Whether this is a dense model as it is: neither compressed nor trained."""
        return self.compression.method == methods.DENSE and self.recovery is None

    @property
    def dense(self) -> "Experiment":
        """The uncompressed model that this one is compared with."""
        return self.of_dense(self.compression.model)

    @classmethod
    def of_dense(cls, model: str) -> "Experiment":
        """An uncompressed model."""
        return cls(compression=Compression(model=model, method=methods.DENSE, ratio=0.0))


class Ratios(Spec):
    """One model and method at several ratios."""

    model: Text
    method: MethodName
    ratios: tuple[Ratio, ...] = Field(min_length=1)
    ratio_of: RatioOf = "own"
    seed: Seed = 0

    @model_validator(mode="after")
    def _method_has_such_ratios(self) -> Self:
        methods.check_ratio_of(self.method, self.ratio_of)
        return self


class Curve(Ratios):
    """All ratios of one model, method and seed: what one executed notebook holds."""

    calibration: Calibration = Calibration()

    @functools.cached_property
    def compressions(self) -> tuple[Compression, ...]:
        """One per ratio, in the order given, without repeats."""
        ratios = dict.fromkeys(self.ratios)
        dense = [self.part(Compression, ratio=0.0)] if 0 in ratios else []
        cut = [ratio for ratio in ratios if ratio]
        first = [self.part(Compression, ratio=ratio) for ratio in cut[:1]]
        # validated once: a study may have hundreds of thousands of points
        alike = {c.ratio: c for c in (*dense, *first, *(first[0].model_copy(update={"ratio": ratio}) for ratio in cut[1:]))}
        return tuple(alike[ratio] for ratio in ratios)

    @functools.cached_property
    def experiments(self) -> tuple[Experiment, ...]:
        return tuple(Experiment.model_construct(compression=compression, recovery=None) for compression in self.compressions)
