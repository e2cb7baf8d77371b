"""The compression methods by name, as facts: what each cuts and what it needs. No torch here."""

from dataclasses import dataclass

from claw.errors import unknown

RIDGE = "+ridge"
DENSE = "dense"


@dataclass(frozen=True)
class Method:
    """What there is to know of a method before running it."""

    name: str
    axis: str  # ffn, heads, hidden or layers
    calibrated: bool  # needs calibration statistics
    seeded: bool  # draws random numbers of its own
    summary: str


METHODS = {
    method.name: method
    for method in (
        Method("random", "ffn", False, True, "FFN neurons at random (control)"),
        Method("magnitude", "ffn", False, False, "FFN neurons by the product of their weight norms (control)"),
        Method("wanda-sp", "ffn", True, False, "FFN neurons by weight magnitude times activation norm"),
    )
}


def names() -> list[str]:
    """Every accepted name; "+ridge" refits by ridge regression what reads the cut neurons."""
    return [name + suffix for name in METHODS for suffix in ("", RIDGE)]


def find(name: str) -> tuple[Method, bool]:
    """The method and whether its cut is compensated. InputError names near ones."""
    if not isinstance(name, str) or name not in names():
        raise unknown("method", name, names())
    return METHODS[name.removesuffix(RIDGE)], name.endswith(RIDGE)


def needs_statistics(name: str) -> bool:
    """Whether compressing with this method needs calibration statistics."""
    method, ridge = find(name)
    return method.calibrated or ridge


def is_seeded(name: str) -> bool:
    """Whether another seed gives another result: by the method's own random numbers or by the calibration sample."""
    return find(name)[0].seeded or needs_statistics(name)
