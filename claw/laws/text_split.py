"""Where tokens should go: the split of a budget of compute between calibration text and recovery text that loses least.

Two laws, of the text that a cut is fitted on and of the text that it is trained on afterwards:

    calibration   L(C) = floor + size (16384 / C)^exponent
    recovery      kept(D) = (1 + D / onset)^-power, the share of L - L_dense that is still there after D tokens

and their product, L(C, D) = L_dense + (L(C) - L_dense) kept(D): training is taken to win back the same share of what is lost,
whatever it was lost by (measured at three amounts of calibration text: results/calibration_then_recovery.csv). The logarithm
of both factors is convex, so on the line c C + d D = budget, with c and d the prices of a token, there is one best split.
There a unit of compute gains the same on either side, and kept(D) drops out of that:

    D + onset = (power c / (exponent d)) C (L(C) - L_dense) / (L(C) - floor)

The right side grows with C. So all of a small budget belongs to calibration, up to the C at which D is 0 (`break_even`), and
both grow together from there. Prices may be FLOPs, seconds or money; only their ratio decides how to split.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq, least_squares

from claw.errors import InputError
from claw.models.shape import Shape

UNIT = 16384  # tokens of calibration text at which the power law is its size
CENTRE = 0.5  # share removed at which the recovery law's coefficients stand
BEYOND = 1e30  # times the least at which nothing is looked for any more


@dataclass(frozen=True, kw_only=True)
class CalibrationLaw:
    """Held-out loss against tokens of calibration text: floor + size (16384 / C)^exponent, nats per token."""

    floor: float
    size: float
    exponent: float

    def loss(self, tokens: float | np.ndarray) -> float | np.ndarray:
        """L(C) without recovery."""
        return self.floor + self.size * (UNIT / tokens) ** self.exponent


@dataclass(frozen=True, kw_only=True)
class RecoveryLaw:
    """Share of the lost loss that is still there after D tokens of recovery: (1 + D / onset)^-power."""

    onset: float
    power: float

    def kept(self, tokens: float | np.ndarray) -> float | np.ndarray:
        """From 1 (nothing came back) to 0 (the dense model's loss)."""
        return (1 + tokens / self.onset) ** -self.power


@dataclass(frozen=True, kw_only=True)
class TextSplit:
    """One cut, its two laws, and what a token costs on either side, both in the same unit.

    `dense`: loss of the dense model. `fewest` and `most`: tokens of calibration text between which the law is believed: a cut
    needs some, and there may be a number beyond which measured points gained nothing more.
    """

    calibration: CalibrationLaw
    recovery: RecoveryLaw
    dense: float
    calibration_price: float
    recovery_price: float
    fewest: float = 1.0
    most: float = math.inf

    def __post_init__(self) -> None:
        values = (self.calibration_price, self.recovery_price, self.fewest, self.calibration.floor - self.dense)
        if not min(values) > 0 or not self.fewest <= self.most:
            raise InputError(
                "A split needs prices above 0, at least one token of calibration text, no more of it at the least than at the "
                "most, and a cut whose floor is above the dense model's loss."
            )

    def loss(self, calibration: float | np.ndarray, recovery: float | np.ndarray) -> float | np.ndarray:
        """L(C, D), nats per token."""
        return self.dense + (self.calibration.loss(calibration) - self.dense) * self.recovery.kept(recovery)

    def cost(self, calibration: float, recovery: float) -> float:
        """What so many tokens on either side cost."""
        return self.calibration_price * calibration + self.recovery_price * recovery

    def partner(self, calibration: float) -> float:
        """Tokens of recovery that belong to so many of calibration; below 0 where the next unit is calibration's."""
        law = self.calibration
        falls = law.size * (UNIT / calibration) ** law.exponent  # what more calibration text can still win
        rising = calibration * (1 + (law.floor - self.dense) / falls)
        rate = self.recovery.power * self.calibration_price / (law.exponent * self.recovery_price)
        return float(rate * rising - self.recovery.onset)

    @property
    def break_even(self) -> float:
        """Tokens of calibration text after which the next unit of compute is better spent on recovery."""
        return min(_root(self.partner, self.fewest), self.most)

    def best(self, budget: float) -> tuple[float, float]:
        """Tokens of calibration and of recovery that lose least for a budget. InputError: too little for the fewest."""
        if budget < self.cost(self.fewest, 0):
            raise InputError(f"A budget of {budget:.4g} does not pay for {self.fewest:,.0f} tokens of calibration text.")
        if budget <= self.cost(self.break_even, 0):
            return budget / self.calibration_price, 0.0
        over = lambda tokens: self.cost(tokens, max(0.0, self.partner(tokens))) - budget
        calibration = min(_root(over, self.fewest), self.most)
        return calibration, max(0.0, (budget - self.calibration_price * calibration) / self.recovery_price)

    def lowest(self, budget: float) -> float:
        """Loss of the best split of a budget."""
        return float(self.loss(*self.best(budget)))

    def needed(self, loss: float) -> float:
        """The least budget whose best split reaches a loss. InputError for a loss that only the dense model has."""
        if loss <= self.dense:
            raise InputError(f"A loss of {loss:.4g} is not above that of the dense model, {self.dense:.4g}.")
        return _root(lambda budget: loss - self.lowest(budget), self.cost(self.fewest, 0))


def _root(rising: Callable[[float], float], low: float) -> float:
    """Where a rising function crosses 0: `low` if it is not below 0 there, infinite if it never is above."""
    if rising(low) >= 0:
        return low
    high = low
    while rising(high) < 0:
        high *= 2
        if high > BEYOND * low:
            return math.inf
    return float(brentq(rising, high / 2, high, rtol=1e-12))


def calibration_laws(tokens: np.ndarray, losses: np.ndarray, curves: np.ndarray) -> dict[object, CalibrationLaw]:
    """The law of each curve, with an exponent that all of them share; arrays of one entry per measured point.

    Least squares in nats. InputError: fewer than two points of a curve, or no more points than coefficients.
    """
    names, place = np.unique(curves, return_inverse=True)
    count = np.bincount(place)
    if min(count) < 2 or len(losses) <= 2 * len(names) + 1:
        raise InputError("A law of calibration text needs two points of each curve, and more points than coefficients.")
    low = np.array([losses[place == number].min() for number in range(len(names))])
    high = np.array([losses[place == number].max() for number in range(len(names))])

    def off(values: np.ndarray) -> np.ndarray:
        floors, sizes = values[: len(names)], np.exp(values[len(names) : -1])
        return floors[place] + sizes[place] * (UNIT / tokens) ** np.exp(values[-1]) - losses

    fit = least_squares(off, np.concatenate([low - 0.02, np.log(np.maximum(high - low, 0.01)), [np.log(0.6)]]))
    floors, sizes, exponent = fit.x[: len(names)], np.exp(fit.x[len(names) : -1]), float(np.exp(fit.x[-1]))
    return {
        name: CalibrationLaw(floor=float(floor), size=float(size), exponent=exponent)
        for name, floor, size in zip(names.tolist(), floors, sizes, strict=True)
    }


def recovery_law(removed: np.ndarray, tokens: np.ndarray, kept: np.ndarray) -> Callable[[float], RecoveryLaw]:
    """The law of recovery at any share removed: the logarithms of onset and power are straight lines in it.

    Arrays of one entry per measured point: the share of parameters removed, tokens, and the share of the lost loss still
    there. Least squares of log kept. InputError: fewer than five points, two shares, or a share that is not positive.
    """
    if len(kept) < 5 or len(set(removed.tolist())) < 2 or kept.min() <= 0:
        raise InputError("A law of recovery needs five points at two shares removed, each still above the dense loss.")
    design = np.column_stack([np.ones_like(removed), removed - CENTRE])

    def off(values: np.ndarray) -> np.ndarray:
        onset, power = np.exp(design @ values[:2]), np.exp(design @ values[2:])
        return np.log(kept) + power * np.log1p(tokens / onset)

    fit = least_squares(off, np.array([np.log(2e4), 0.0, np.log(0.1), 0.0]))

    def at(share: float) -> RecoveryLaw:
        row = np.array([1.0, share - CENTRE])
        return RecoveryLaw(onset=float(np.exp(row @ fit.x[:2])), power=float(np.exp(row @ fit.x[2:])))

    return at


def calibration_flops(dense: Shape, small: Shape, context: int) -> float:
    """FLOPs of a token of calibration text in the linear refit: both models' blocks, and the moments that are solved with.

    The walk through the blocks never asks the head. Of the moments of what is read, which are symmetric, half is computed: of
    what q, k, v and gate, up read (d), of what o reads (H h), of what down reads (m); with each goes its product with what
    it aims at, of the dense width where the stream is read.
    """
    blocks = sum(shape.flops_per_token(context) - 2 * shape.vocabulary * shape.hidden for shape in (dense, small))
    reads = 2 * (small.hidden**2 + 2 * small.hidden * dense.hidden)
    heads = small.heads * small.head_size
    writes = sum(size**2 + 2 * size * small.hidden for size in (heads, small.width))
    return float(blocks + small.depth * (reads + writes))


def recovery_flops(small: Shape, context: int, *, full: bool = False, teacher: Shape | None = None) -> float:
    """FLOPs of a token of recovery: a pass forward, one back, one for weights if all are trained, and the teacher's."""
    return float((3 if full else 2) * small.flops_per_token(context) + (teacher.flops_per_token(context) if teacher else 0))


def shape_named(text: str, dense: Shape) -> Shape:
    """The shape that results/calibration_text.csv names, such as "d 576 depth 22 m 864 groups 3", of a dense one."""
    sizes = {name: int(size) for name, size in re.findall(r"(d|depth|m|groups) (\d+)", text)}
    if set(sizes) != {"d", "depth", "m", "groups"}:
        raise InputError(f"{text!r} names no shape. Expected such as 'd 576 depth 22 m 864 groups 3'.")
    heads = dense.heads // dense.groups * sizes["groups"]
    cut = {"hidden": sizes["d"], "depth": sizes["depth"], "width": sizes["m"], "groups": sizes["groups"], "heads": heads}
    return dense.with_(**cut)
