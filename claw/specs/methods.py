"""The compression methods by name, as facts: what each cuts and what it needs. No torch here."""

from dataclasses import dataclass

from claw.errors import unknown

RIDGE = "+ridge"
DENSE = "dense"
WHOLE = "whole"  # the axis of a method that spreads its budget over all axes itself


@dataclass(frozen=True)
class Method:
    """What there is to know of a method before running it."""

    name: str
    axes: tuple[str, ...]  # what it can cut: ffn, heads, hidden or layers; the first is its own
    needs: str  # "weights", "statistics", or "gradients" (statistics with gradients)
    seeded: bool  # draws random numbers of its own
    summary: str
    compensable: bool = True  # whether "+ridge" may follow the name
    also: tuple[tuple[str, object], ...] = ()  # what else of the shape it changes

    @property
    def plain(self) -> bool:
        """Whether the result is a stock checkpoint."""
        return not dict(self.also).get("shortcuts")


_BOTH = ("ffn", "heads")
METHODS = {
    method.name: method
    for method in (
        Method("random", _BOTH, "weights", True, "units at random (control)"),
        Method("magnitude", _BOTH, "weights", False, "units by the product of their weight norms (control)"),
        Method("ppm", ("ffn",), "weights", False, "neurons by peak-to-peak of gate and up rows"),
        Method("prunenet", ("ffn",), "weights", True, "neurons by a learned policy on spectra, top k"),
        Method("prunenet-stochastic", ("ffn",), "weights", True, "the same, sampled as published"),
        Method("wanda-sp", _BOTH, "statistics", False, "units by weight magnitude times activation norm"),
        Method("flap", _BOTH, "statistics", False, "units by activation variance times squared weight norm"),
        Method("taylor", _BOTH, "gradients", False, "units by the first-order change of the loss"),
        Method("minitron", _BOTH, "statistics", False, "units by mean absolute activation"),
        Method("slicegpt", ("hidden",), "statistics", False, "hidden width by one rotation", False, (("tied", False),)),
        Method(
            "slicegpt-perlayer",
            ("hidden",),
            "statistics",
            False,
            "hidden width by a rotation per norm, with shortcuts",
            False,
            (("tied", False), ("shortcuts", 2)),
        ),
        Method("shortgpt", ("layers",), "statistics", False, "single blocks by block influence", compensable=False),
        Method(
            "claw",
            (WHOLE,),
            "statistics",
            False,
            "width, heads, hidden width and depth where it costs least",
            compensable=False,
        ),
        Method("blocks", ("layers",), "statistics", False, "one run of blocks by angular distance", compensable=False),
    )
}

CONTROLS = ("random", "magnitude")
"""What every method must beat: measured always, recommended only where there is nothing else."""


def is_control(name: str) -> bool:
    """Whether this is a control, compensated or not. Any name is taken, also one that a table of others has."""
    return name.removesuffix(RIDGE) in CONTROLS


def method_names() -> list[str]:
    """Every accepted method name; "+ridge" refits by ridge regression what reads the cut units."""
    return [name + suffix for name, method in METHODS.items() for suffix in (("", RIDGE) if method.compensable else ("",))]


def find_method(name: str) -> tuple[Method, bool]:
    """The method and whether its cut is compensated. InputError names near ones."""
    if not isinstance(name, str) or name not in method_names():
        raise unknown("method", name, method_names())
    return METHODS[name.removesuffix(RIDGE)], name.endswith(RIDGE)


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


AXES = {"ffn": "width", "heads": "groups", "hidden": "hidden", "layers": "depth"}


RATIO_OF = ("own", *AXES, "params", "nonembedding", "flops", "milliseconds")
