"""From a ratio to the exact sizes of the compressed model, before anything is cut.

A method cuts along its own axis; the ratio may be asked for on any axis of `RATIO_OF`. The reachable sizes of the own
axis are enumerated, each is priced by its shape, and the one nearest to what was asked is taken. What no reachable size
comes near to is refused with the nearest ones named.
"""

import itertools
import math
from typing import Any

from claw.errors import InputError, unknown
from claw.models.shape import Shape
from claw.specs.methods import AXES, COMPUTED, RATIO_OF

AMOUNTS = AXES | {"params": "parameters", "nonembedding": "nonembedding"}


def check_ratio(ratio: float, ratio_of: str = "own") -> None:
    """Refuse a ratio outside [0, 1) or on an unknown axis."""
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 <= ratio < 1:
        raise InputError(f"ratio must be a number in [0, 1), the fraction removed, not {ratio!r}. For 30 % write 0.3.")
    if ratio_of not in RATIO_OF:
        raise unknown("ratio_of", ratio_of, RATIO_OF)


def natural_multiple(size: int) -> int:
    """The multiple that widths are rounded to: what matrix units like, small enough not to bend the ratio."""
    return 32 if size >= 1024 else 8 if size >= 128 else 1


def hidden_multiple(dense: Shape, wanted: int) -> int:
    """The multiple of the hidden width: `wanted`, or, where the heads must divide it, the nearest that is not too coarse."""
    if not dense.whole_heads:
        return wanted
    multiples = [math.lcm(dense.heads, wanted >> halvings) for halvings in range(wanted.bit_length())]
    return next((multiple for multiple in multiples if multiple <= max(wanted, dense.hidden // 12)), multiples[-1])


def amount(shape: Shape, ratio_of: str) -> int:
    """How much of an axis, or of what follows from all sizes (`COMPUTED`), a shape has."""
    computed = {"flops": shape.flops_per_token, "memory": shape.memory}
    return computed[ratio_of]() if ratio_of in computed else getattr(shape, AMOUNTS[ratio_of])


def removed(dense: Shape, small: Shape, ratio_of: str) -> float:
    """Fraction of `ratio_of` that `small` lacks of `dense`."""
    return 1 - amount(small, ratio_of) / amount(dense, ratio_of)


def resize(dense: Shape, axis: str, size: int) -> Shape:
    """`dense` with `size` along one axis; cutting key-value groups takes their query heads along."""
    if axis == "heads":
        return dense.with_(groups=size, heads=size * (dense.heads // dense.groups))
    return dense.with_(**{AXES[axis]: size})


def reachable(dense: Shape, axis: str, round_to: int | None = None, **also: Any) -> list[Shape]:
    """Every shape that cutting `axis` can give, the dense one included, from small to large; changes `also` come along."""
    full = getattr(dense, AXES[axis])
    step = (round_to or natural_multiple(full)) if axis in ("ffn", "hidden") else 1
    if axis == "hidden":
        step = hidden_multiple(dense, step)
    shapes = (resize(dense, axis, size) for size in range(step, full, step))
    return [shape.with_(**also) for shape in shapes if shape.is_stock] + [dense]


def nearest(dense: Shape, axis: str, share: float) -> list[Shape]:
    """The smaller shape that removes most nearly `share` of an axis; none where there is nothing to cut."""
    return sorted(reachable(dense, axis)[:-1], key=lambda shape: abs(removed(dense, shape, axis) - share))[:1]


def size_for(
    dense: Shape, axis: str, ratio: float, ratio_of: str = "own", *, round_to: int | None = None, **also: Any
) -> Shape:
    """The reachable shape whose removed fraction of `ratio_of` is nearest to `ratio`.

    `also` names what a method changes besides the axis, such as tied=False where it must untie the head.

    Raises InputError on a budget that only measurement can tell, on an axis that the method leaves alone, and when the nearest
    is farther off than half the widest gap between reachable values there, which happens beyond the axis's reach (an FFN cut
    cannot remove 90 % of a model) and never by rounding alone.
    """
    if ratio_of == "milliseconds":
        raise InputError(f"only method 'claw' spends milliseconds. Ask this one for own, {', '.join(COMPUTED)}.")
    target = axis if ratio_of == "own" else ratio_of
    if target in AXES and target != axis:
        raise InputError(
            f"a method that cuts {axis!r} cannot be asked for a ratio of {target!r}: it leaves that untouched. Use ratio_of "
            f"own, {axis}, {', '.join(COMPUTED)}."
        )
    if ratio == 0:
        return dense
    choices = reachable(dense, axis, round_to, **also)
    if len(choices) == 1:
        raise InputError(f"this model has a single {axis} unit, so nothing can be removed along {axis!r}: only ratio 0 works.")
    priced = sorted((removed(dense, shape, target), index) for index, shape in enumerate(choices))
    values = [value for value, _ in priced]
    value, index = min(priced, key=lambda pair: abs(pair[0] - ratio))
    gap = max(b - a for a, b in itertools.pairwise(values))
    if abs(value - ratio) > gap / 2 + 1e-9 or (axis in ("heads", "layers") and abs(value - ratio) > 0.05):
        around = sorted(values, key=lambda value: abs(value - ratio))[:3]
        raise InputError(
            f"ratio {ratio:g} of {target} cannot be reached by cutting {axis!r} here. The nearest reachable ratios are "
            f"{', '.join(f'{value:.3f}' for value in sorted(around))}; the largest is {values[-1]:.3f}."
        )
    return choices[index]
