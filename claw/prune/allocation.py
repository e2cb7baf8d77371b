"""Spend one whole-model budget over feed-forward width, key-value groups, hidden width and depth where it costs the least loss.

Costs are those of cutting each axis alone, measured at two shares (`claw.prune.whole_model`) and read off a power of -log of
what is left. Joint cuts cost less than their sum (`Costs.of`). Of all shapes that meet the budget those with nearly the least
predicted excess cannot be told apart; among them the one with the fewest blocks is taken, because it is the fastest.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from claw.errors import InputError
from claw.models.shape import Shape
from claw.prune import targets
from claw.specs.methods import AXES, COMPUTED

BUDGETS = (*COMPUTED, "milliseconds")
MOST = 0.95  # of an axis that may go
LEAST = 1e-3  # nats/token: a cut is not believed to cost less
HIDDEN_STEP = 32  # multiple of the hidden width: what matrix units like
NEAR = 0.004  # a shape meets a budget when its ratio is at most this far off
ALIKE = 0.03  # predicted excesses that differ by less, as a fraction, are not known to differ
WEIGHTS = {"ffn": 1.12, "heads": 2.80, "hidden": 1.39, "layers": 1.14}
WITHIN, OVER = 1.48, 0.547
"""The joint law Σ (w e^WITHIN))^OVER: fitted on 52 joint shapes of SmolLM2-135M at 20, 40, 60 and 80 % removed, where it is off
by 8 % (rms). Its best shapes are 0 to .08 nats above the best measured, those of a plain sum up to .38."""

Removed = Callable[[Shape], float]  # fraction of a budget that a shape lacks of the dense one


@dataclass(frozen=True)
class Costs:
    """Measured excess loss of cutting each axis alone, in nats/token."""

    points: Mapping[str, tuple[tuple[float, float], ...]]  # axis -> ((share removed, excess), ...), ascending

    def excess(self, axis: str, share: float) -> float:
        """Excess loss of removing `share` of an axis: a power of -log(1 - share) through and beyond the measured points."""
        if share <= 0:
            return 0.0
        points = self.points.get(axis, ())
        if not points or share > MOST:
            return math.inf
        depths = np.array([-math.log1p(-done) for done, _ in points])
        losses = np.maximum.accumulate([max(loss, LEAST) for _, loss in points])
        if np.isnan(losses).any():
            return math.nan
        wanted = -math.log1p(-share)
        if len(points) == 1:
            return float(losses[0] * wanted / depths[0])
        first = min(max(int(np.searchsorted(depths, wanted)) - 1, 0), len(points) - 2)
        slope = math.log(losses[first + 1] / losses[first]) / math.log(depths[first + 1] / depths[first])
        return float(losses[first] * (wanted / depths[first]) ** slope)

    def of(self, dense: Shape, small: Shape) -> float:
        """Predicted excess loss of a shape."""
        total = 0.0
        for axis, weight in WEIGHTS.items():
            total += weight * self.excess(axis, targets.removed(dense, small, axis)) ** WITHIN
        return total**OVER


def candidate_shapes(dense: Shape, axes: Iterable[str], ratio: float, removed: Removed) -> Iterator[Shape]:
    """For every reachable number of groups, blocks and hidden width on these axes, the feed-forward widths around the budget.

    Parameters, FLOPs, memory and milliseconds are linear in that width, so it is solved for and not searched.
    """
    step = targets.natural_multiple(dense.width)
    hidden_step = HIDDEN_STEP if dense.hidden >= 8 * HIDDEN_STEP else None

    def sizes(of: Shape, axis: str, multiple: int | None = None) -> list[int]:
        shapes = targets.reachable(of, axis, multiple) if axis in axes else [of]
        return [getattr(shape, AXES[axis]) for shape in shapes]

    for groups in sizes(dense, "heads"):  # which hidden widths a stock configuration accepts may depend on the heads
        some = targets.resize(dense, "heads", groups)
        widths = {*sizes(some, "hidden", hidden_step), *sizes(dense, "hidden", hidden_step)}
        for hidden, depth in itertools.product(sorted(widths), sizes(some, "layers")):
            shape = some.with_(hidden=hidden, depth=depth)
            if shape.is_stock:
                yield from _widths(dense, shape, ratio, removed, step)


def _widths(dense: Shape, shape: Shape, ratio: float, removed: Removed, step: int) -> Iterator[Shape]:
    """`shape` with the feed-forward widths on either side of the one that meets the budget."""
    full, none = (removed(shape.with_(width=width)) for width in (dense.width, 0))
    if none == full:  # where this part takes no measurable time, its width is of no use
        return
    steps = dense.width * (1 - (ratio - full) / (none - full)) / step
    for width in {step * math.floor(steps), step * math.ceil(steps)}:
        if step <= width <= dense.width:
            yield shape.with_(width=width)


def budget_of(ratio_of: str) -> str:
    """The budget that `ratio_of` names ("own" is params). InputError for a single axis."""
    budget = "params" if ratio_of == "own" else ratio_of
    if budget not in BUDGETS:
        raise InputError(
            "method 'claw' spends a budget of the whole model and chooses the axes itself, so ratio_of cannot be "
            f"{ratio_of!r}. Use own, {', '.join(BUDGETS)}; to cut one axis alone use a method of that axis."
        )
    return budget


def cheapest_shape(dense: Shape, costs: Costs, ratio: float, budget: str, removed: Removed | None = None) -> Shape:
    """The shape that meets the budget with the least predicted excess loss.

    Among those that are `ALIKE` it is the one with the fewest blocks. `removed` gives the fraction of
    the budget that a shape lacks, where arithmetic alone does not tell it. InputError where no shape comes near.
    """
    removed = removed or (lambda shape: targets.removed(dense, shape, budget))
    if ratio == 0:
        return dense
    shapes = list(candidate_shapes(dense, costs.points, ratio, removed))
    off = np.array([abs(removed(shape) - ratio) for shape in shapes])
    if not shapes or off.min() > 0.02:
        smallest = dense
        for axis in costs.points:
            smallest = targets.resize(smallest, axis, targets.amount(targets.reachable(dense, axis)[0], axis))
        raise InputError(
            f"ratio {ratio:g} of {budget} cannot be reached: cutting {', '.join(costs.points)} as far as they go removes "
            f"{removed(smallest):.3f}, and this architecture allows no other cut. Ask for less."
        )
    priced = [(costs.of(dense, shapes[i]), shapes[i]) for i in np.flatnonzero(off <= max(NEAR, off.min()))]
    priced = [(math.inf if math.isnan(excess) else excess, shape) for excess, shape in priced]  # of a model that only gives NaN
    least = min(excess for excess, _ in priced)
    alike = [(excess, shape) for excess, shape in priced if excess <= least + ALIKE * abs(least)]
    return min(alike, key=lambda pair: (pair[1].depth, pair[0]))[1]
