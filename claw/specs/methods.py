"""The compression methods by name, as facts: what each cuts and what it needs. No torch here."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal, get_args

from claw.errors import InputError, unknown

RIDGE = "+ridge"
DENSE = "dense"
WHOLE = "whole"  # the axis of a method that spreads its budget over all axes itself
UNITS = ("ffn", "heads")  # the axes whose readers ridge regression can refit
AXES = {"ffn": "width", "heads": "groups", "hidden": "hidden", "layers": "depth"}
"""The size of a `Shape` that each axis cuts."""

RatioOf = Literal["own", "ffn", "heads", "hidden", "layers", "params", "nonembedding", "flops", "memory", "milliseconds"]
RATIO_OF: tuple[str, ...] = get_args(RatioOf)
"""What a ratio may count: the method's own axis, one named axis, all parameters, and so on. Memory is that of the weights and
of the keys and values of one sequence of 4,096 tokens (`claw.models.shape`)."""
COMPUTED = ("params", "nonembedding", "flops", "memory")
"""Those that follow from a model's sizes, so that every method can be asked for them."""


@dataclass(frozen=True)
class Method:
    """What there is to know of a method before running it."""

    name: str
    axes: tuple[str, ...]  # what it can cut: ffn, heads, hidden or layers; the first is its own
    needs: str  # "weights", "statistics", or "gradients" (statistics with gradients)
    seeded: bool  # draws random numbers of its own
    summary: str
    _: KW_ONLY
    also: Mapping[str, object] = field(default_factory=dict)  # what else of the shape it changes

    @property
    def compensable(self) -> bool:
        """Whether "+ridge" may follow the name."""
        return set(self.axes) <= set(UNITS)

    @property
    def plain(self) -> bool:
        """Whether the result is a stock checkpoint."""
        return not self.also.get("shortcuts")


_TABLE = (
    Method("random", UNITS, "weights", True, "units at random (control)"),
    Method("magnitude", UNITS, "weights", False, "units by the product of their weight norms (control)"),
    Method("ppm", ("ffn",), "weights", False, "neurons by peak-to-peak of gate and up rows"),
    Method("prunenet", ("ffn",), "weights", True, "neurons by a learned policy on spectra, top k"),
    Method("prunenet-stochastic", ("ffn",), "weights", True, "the same, sampled as published"),
    Method("wanda-sp", UNITS, "statistics", False, "units by weight magnitude times activation norm"),
    Method("flap", UNITS, "statistics", False, "units by activation variance times squared weight norm"),
    Method("taylor", UNITS, "gradients", False, "units by the first-order change of the loss"),
    Method("minitron", UNITS, "statistics", False, "units by mean absolute activation"),
    Method("slicegpt", ("hidden",), "statistics", False, "hidden width by one rotation", also={"tied": False}),
    Method(
        "slicegpt-perlayer", ("hidden",), "statistics", False, "one rotation per norm", also={"tied": False, "shortcuts": 2}
    ),
    Method("shortgpt", ("layers",), "statistics", False, "single blocks by block influence"),
    Method("claw", (WHOLE,), "statistics", False, "width, heads, hidden width and depth where it costs least"),
    Method("blocks", ("layers",), "statistics", False, "one run of blocks by angular distance"),
)
METHODS = {method.name: method for method in _TABLE}
CONTROLS = ("random", "magnitude")
"""What every method must beat: measured always, recommended only where there is nothing else."""


def is_control(name: str) -> bool:
    """Whether this is a control, compensated or not. Any name may be asked about, also one from somebody else's table."""
    return name.removesuffix(RIDGE) in CONTROLS


def method_names() -> list[str]:
    """Every accepted method name; "+ridge" refits by ridge regression what reads the cut units."""
    return [name for plain, method in METHODS.items() for name in ([plain, plain + RIDGE] if method.compensable else [plain])]


def is_method(name: object) -> bool:
    """Whether this is an accepted method name."""
    method = METHODS.get(name.removesuffix(RIDGE)) if isinstance(name, str) else None
    return method is not None and (method.compensable or name == method.name)


def find_method(name: str) -> tuple[Method, bool]:
    """The method and whether its cut is compensated. The InputError for an unknown name suggests similar ones."""
    if not is_method(name):
        raise unknown("method", name, method_names())
    return METHODS[name.removesuffix(RIDGE)], name.endswith(RIDGE)


def check_ratio_of(name: str, ratio_of: str) -> None:
    """Refuse a ratio of something that a method cannot cut or does not count."""
    axes = find_method(name)[0].axes
    if WHOLE in axes:
        wrong = f"{name} chooses the axes itself" if ratio_of in AXES else ""
        accepted = [other for other in RATIO_OF if other not in AXES]
    else:
        wrong = f"{name} leaves {ratio_of} untouched" if ratio_of in AXES and ratio_of not in axes else ""
        wrong = "only claw spends milliseconds, which it measures" if ratio_of == "milliseconds" else wrong
        accepted = ["own", *axes, *COMPUTED]
    if wrong:
        raise InputError(f"ratio_of {ratio_of!r} cannot be asked of method {name!r}: {wrong}. Use {', '.join(accepted)}.")


def axis_of(name: str, ratio_of: str) -> str:
    """The axis that a method cuts when asked for `ratio_of`: that axis if it can cut it, else its own."""
    axes = find_method(name)[0].axes
    return ratio_of if ratio_of in axes else axes[0]


def needs_statistics(name: str) -> bool:
    """Whether compressing with this method needs calibration statistics."""
    method, ridge = find_method(name)
    return method.needs != "weights" or ridge


def needs_gradients(name: str) -> bool:
    """Whether the statistics must hold gradients."""
    return find_method(name)[0].needs == "gradients"


def is_seeded(name: str) -> bool:
    """Whether another seed gives another result: by the method's own random numbers or by the calibration sample."""
    return find_method(name)[0].seeded or needs_statistics(name)


def makes_checkpoint(name: str) -> bool:
    """Whether compressing with this method gives a checkpoint of its own: not the dense model, nor one with shortcuts."""
    return name != DENSE and find_method(name)[0].plain
