"""How far a loss allows to go: three cheap points, the ratio read off them, one compression to verify it, corrected if needed.

The curve through the dense model and the points is read as everywhere in claw (`claw.laws.reading`: shape-preserving
interpolation, with an interval). The answer is always a model that was measured: the smallest one whose loss is within the
limit.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from claw.errors import InputError
from claw.evaluate.held_out import CrossEntropy
from claw.laws import Critical, read_points, reading
from claw.prune.compress import CompressionReport

POINTS = (0.1, 0.25, 0.4)  # shares of the parameters that are measured first, of those that the method can remove if fewer
FURTHER = (0.55, 0.7, 0.85)  # where the limit lies beyond
REACH = 0.9  # of the parameters, from which on the points are not drawn together
AIMS = (0.97, 0.85, 0.7, 0.5)  # of the rise that is allowed: below it, as sizes come in steps; less after each miss
ENOUGH = 0.9  # of the rise that is allowed: an answer that uses so much of it is taken
SAME = 2e-3  # shares nearer than this are one


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A compressed model with its loss; `model` is kept for the smallest one within the limit."""

    model: Any
    report: CompressionReport
    loss: CrossEntropy

    @property
    def removed(self) -> float:
        return self.report.ratio_params


@dataclass(frozen=True, kw_only=True)
class Search:
    """What was measured on the way, what was read off it, and what was verified."""

    limit: float  # nats per token
    dense: float
    points: tuple[tuple[float, float, str], ...]  # share removed, loss, "measured" or "verified"
    predicted: tuple[Critical, ...]
    chosen: Tried

    def sentences(self) -> list[str]:
        """The search in a few lines."""
        measured = ", ".join(f"{loss:.3f} at {share:.1%}" for share, loss, kind in self.points if kind == "measured")
        lines = [f"Measured: {self.dense:.3f} at 0.0%, {measured} of the parameters removed; allowed is {self.limit:.3f}."]
        verified = [(share, loss) for share, loss, kind in self.points if kind == "verified"]
        for critical, (share, loss) in zip(self.predicted, verified, strict=False):
            low = 0.0 if math.isnan(critical.low) else critical.low
            edges = f"{low:.1%} to {'beyond what was measured' if math.isnan(critical.high) else f'{critical.high:.1%}'}"
            within = "within" if loss <= self.limit else "above"
            lines.append(
                f"Read off the curve: {critical.ratio:.1%} ({critical.level:.0%} interval {edges}). "
                f"Compressed to {share:.1%} and measured: {loss:.3f}, {within} the limit."
            )
        return lines


def search(
    dense: CrossEntropy, rise: float, make: Callable[[float], Tried], tell: Callable[[str], Any], reach: float = REACH
) -> Search:
    """The smallest model whose loss was measured to be at most `rise` nats above the dense one.

    `make` compresses a share of the parameters and measures; `reach` is the largest share that it can remove. InputError where
    nothing that was tried is within the limit.
    """
    limit = dense.mean + rise
    tried, kinds, answers = list[Tried](), list[str](), list[Critical]()

    def measure(share: float, kind: str) -> Tried:
        tell(f"compressing by {share:.1%} to measure its loss")
        point = make(share)
        tried.append(point)
        kinds.append(kind)
        for index, other in enumerate(tried):  # one model is kept: the smallest within the limit
            if other.model is not None and other is not _best(tried, limit):
                tried[index] = Tried(model=None, report=other.report, loss=other.loss)
        return point

    scale = min(1.0, reach / REACH)
    for share in POINTS:
        measure(scale * share, "measured")
    for share in FURTHER:
        if not _within(tried, limit):
            break
        measure(scale * share, "measured")
    for aim in AIMS:
        best = _best(tried, limit)
        if best is not None and best.loss.mean >= dense.mean + ENOUGH * rise:
            break
        answer = read_off(dense, tried, 1 + aim * rise / dense.mean)
        if math.isnan(answer.ratio) or min(abs(point.removed - answer.ratio) for point in tried) < SAME:
            continue
        answers.append(answer)
        measure(answer.ratio, "verified")
    best = _best(tried, limit)
    if best is None:
        nearest = min(tried, key=lambda point: point.loss.mean)
        raise InputError(
            f"No compression within the limit was reached: the least that was tried removes {nearest.removed:.1%} and has loss "
            f"{nearest.loss.mean:.3f}, and allowed is {limit:.3f} (dense {dense.mean:.3f}). Allow more, or recover what was "
            "lost: --remove 10% --recover 1M."
        )
    points = tuple((point.removed, point.loss.mean, kind) for point, kind in zip(tried, kinds, strict=True))
    return Search(limit=limit, dense=dense.mean, points=points, predicted=tuple(answers), chosen=best)


def _within(tried: list[Tried], limit: float) -> bool:
    """Whether the smallest model tried is within the limit."""
    return max(tried, key=lambda point: point.removed).loss.mean <= limit


def _best(tried: list[Tried], limit: float) -> Tried | None:
    return max((p for p in tried if p.loss.mean <= limit), key=lambda point: point.removed, default=None)


def read_off(dense: CrossEntropy, tried: list[Tried], threshold: float) -> Critical:
    """The largest share whose loss is `threshold` times the dense one at most, read off the points through the dense model."""
    rows = [("dense", 0.0, dense)] + [("m", point.removed, point.loss) for point in tried]
    table = pd.DataFrame([(name, share, loss.mean, loss.stderr) for name, share, loss in rows])
    table.columns = ["method", "ratio", "loss", "loss_stderr"]
    (curve,) = reading.read_curves(read_points(table.assign(model="this one", ratio_of="params")), "loss")
    return curve.critical_ratio(threshold)
