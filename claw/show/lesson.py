"""One small model, compressed live: what it writes, how surprised it is by held-out text, how fast it is, and what went.

A lesson measures a point when it is asked for and keeps it, so sliding back is free. Nothing is written to disk: this is for
looking; `claw.stages.compress` makes records.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from torch import nn

from claw.errors import InputError
from claw.evaluate import generation, held_out, timing
from claw.evaluate.held_out import CrossEntropy
from claw.evaluate.timing import Timing
from claw.models import load
from claw.prune import targets
from claw.prune.compress import CompressionReport, target_shape
from claw.prune.statistics import Statistics
from claw.specs import methods
from claw.specs.experiment import Calibration, Compression, Evaluation, Speed
from claw.specs.notebooks import TourParameters
from claw.specs.spec import build_spec
from claw.stages import compress, measure
from claw.texts import token_blocks

TIMED = Speed(prompt=16, generate=4, batches=(1,), rounds=3)  # a taste of speed in a few seconds; 40_speed measures it
LENGTH = 256  # tokens per calibration block
FAVOURITE = "wanda-sp+ridge"
RATIOS = tuple(step / 20 for step in range(19))  # of a method's own, 0 to 90 %
COLUMNS = "model method ratio seed ratio_params loss loss_stderr loss0".split()

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One compressed model: its loss on held-out text and its sizes; text and speed once they were asked for."""

    method: str
    ratio: float
    loss: CrossEntropy
    report: CompressionReport
    text: str | None = None
    decode: Timing | None = None
    seconds: float = 0.0


class Lesson:
    """A dense model, its calibration statistics, a little held-out text, and every point measured so far."""

    def __init__(self, asked: TourParameters) -> None:
        self.asked = asked
        token_blocks.check_disjoint(asked.calibration, asked.heldout)
        self.dense, self.tokenizer = load.load(asked.model, dtype=asked.dtype, device=asked.device)
        evaluation = {"heldout": asked.heldout, "tokens": asked.heldout_tokens, "context": asked.context}
        self.heldout = measure.heldout_blocks(build_spec(Evaluation, evaluation), self.tokenizer)
        self.points: dict[tuple[str, float], Point] = {}
        self.statistics: Statistics | None = None  # where no method of the lesson needs them
        if any(map(methods.needs_statistics, asked.methods)):
            tokens, gradients = asked.calibration_tokens, any(map(methods.needs_gradients, asked.methods))
            calibration = build_spec(
                Calibration, {"corpus": asked.calibration, "tokens": tokens, "length": min(LENGTH, tokens)}
            )
            shown: dict[str, Any] = {"gradients": gradients, "heldout": self.heldout}
            self.statistics = compress.statistics_for(calibration, 0, self.dense, self.tokenizer, **shown)

    @property
    def whole(self) -> Point:
        """The dense model."""
        return self.loss(methods.DENSE, 0.0)

    @property
    def favourite(self) -> str:
        """The method that the lesson begins with, and its exercises on one curve use."""
        return FAVOURITE if FAVOURITE in self.asked.methods else self.asked.methods[-1]

    def places(self, method: str) -> dict[float, float]:
        """By own ratio, in steps of 5 %, the share of all parameters that a method removes here; only what it can reach."""
        dense, axis, there = self.whole.report.dense, methods.axis_of(method, "own"), {0.0: (0.0, 0.0)}
        for ratio in RATIOS[1:]:
            with suppress(InputError):
                shape = target_shape(dense, method, ratio)
                share, own = (targets.removed(dense, shape, of) for of in ("params", axis)) if shape else (ratio, ratio)
                if share > 0:  # slicegpt unties the head, so it first adds parameters
                    off, before = abs(own - ratio), there.get(share)
                    there[share] = min((off, ratio), before or (off, ratio))  # of those that give one shape the nearest
        return {ratio: share for share, (_, ratio) in sorted(there.items())}

    def loss(self, method: str, ratio: float) -> Point:
        """The point with its loss and sizes."""
        key = _key(method, ratio)
        if key not in self.points:
            self._compress(*key)
        return self.points[key]

    def look(self, method: str, ratio: float, tell: Tell = lambda _: None, write: Tell = lambda _: None) -> Point:
        """The point with text and speed too. `tell` hears what is being done, `write` the text as it grows."""
        key = _key(method, ratio)
        point = self.points.get(key)
        if point is None or point.text is None:
            started = time.perf_counter()
            tell("compressing")
            small = self._compress(*key)
            tell("writing")
            text, decode = self.write(small, write), None
            if small is not self.dense:
                tell("timing")
                decode = timing.timings(small, self.dense, TIMED, quiet=True)[-1]  # the widget says so already
            point = replace(self.points[key], text=text, decode=decode, seconds=time.perf_counter() - started)
            self.points[key] = point
        return point

    def _compress(self, method: str, ratio: float) -> nn.Module:
        """The compressed model; its loss and sizes are kept."""
        compression = Compression(model=self.asked.model, method=method, ratio=ratio, seed=self.asked.seed)
        small, report = compress.compress_point(compression, self.dense, self.statistics)
        loss = held_out.cross_entropy(small, self.heldout)
        self.points[method, ratio] = Point(method=method, ratio=ratio, loss=loss, report=report)
        return small

    def write(self, model: Any, tell: Tell = lambda _: None) -> str:
        """What a model writes after the prompt, greedily: always its likeliest next token."""
        return generation.write_on(model, self.tokenizer, self.asked.prompt, self.asked.words, tell)

    def table(self) -> pd.DataFrame:
        """Every point so far as a tidy table that `claw.laws.fit` takes."""
        model, seed, dense = self.asked.model, self.asked.seed, self.whole.loss.mean
        rows = [
            (model, point.method, point.ratio, seed, point.report.ratio_params, point.loss.mean, point.loss.stderr, dense)
            for point in self.points.values()
        ]
        return pd.DataFrame(rows, columns=COLUMNS).sort_values(["method", "ratio"], ignore_index=True)


def _key(method: str, ratio: float) -> tuple[str, float]:
    """Method and ratio of a point: with nothing removed every method gives the dense model."""
    return (method, float(ratio)) if ratio else (methods.DENSE, 0.0)
