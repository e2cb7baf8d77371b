"""One small model, compressed live: what it writes, how surprised it is by held-out text, how fast it is, and what went.

A lesson measures a point when it is asked for and keeps what it found, so that sliding back is free. Nothing is written down:
this is for looking; `claw.stages.compress` makes records.
"""

import html
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import nn
from transformers.generation.streamers import BaseStreamer

from claw.evaluate import held_out, timing
from claw.evaluate.held_out import CrossEntropy
from claw.evaluate.timing import Timing
from claw.models import load
from claw.prune.compress import CompressionReport
from claw.prune.statistics import Statistics
from claw.specs import methods
from claw.specs.experiment import Calibration, Compression, Evaluation, Speed, build_spec
from claw.specs.notebooks import TourParameters
from claw.stages import compress, measure
from claw.texts import token_blocks

TIMED = Speed(prompt=16, generate=4, batches=(1,), rounds=3)  # a taste of speed in a few seconds; 40_speed measures it
LENGTH = 256  # tokens per calibration block

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Point:
    """One compressed model: its loss on held-out text and its sizes; text and speed once they were asked for."""

    method: str
    ratio: float
    loss: CrossEntropy
    report: CompressionReport
    text: str | None = None
    decode: Timing | None = None
    seconds: float = 0.0

    def _repr_html_(self) -> str:
        return (
            f"<p><b>{self.method}</b> at r = {self.ratio:.2f}: held-out loss {self.loss.mean:.3f} ± {self.loss.stderr:.3f} nats per "
            f"token, {self.report.ratio_params:.0%} of all parameters gone.</p>"
            + (f"<blockquote>{html.escape(self.text)}</blockquote>" if self.text else "")
        )


class Lesson:
    """A dense model, its calibration statistics, a little held-out text, and every point measured so far."""

    def __init__(self, asked: TourParameters) -> None:
        self.asked = asked
        token_blocks.check_disjoint(asked.calibration, asked.heldout)
        self.dense, self.tokenizer = load.load(asked.model, dtype=asked.dtype, device=asked.device)
        evaluation = build_spec(
            Evaluation, {"heldout": asked.heldout, "tokens": asked.heldout_tokens, "context": asked.context}
        )
        self.heldout = measure.heldout_blocks(evaluation, self.tokenizer)
        self.statistics = self._statistics()
        self.points: dict[tuple[str, float], Point] = {}

    def _statistics(self) -> Statistics | None:
        """What the calibration text says; None where no method of the lesson asks it."""
        asked = self.asked
        if not any(methods.needs_statistics(method) for method in asked.methods):
            return None
        tokens = asked.calibration_tokens
        calibration = build_spec(Calibration, {"corpus": asked.calibration, "tokens": tokens, "length": min(LENGTH, tokens)})
        gradients = any(methods.needs_gradients(method) for method in asked.methods)
        return compress.statistics_for(calibration, 0, self.dense, self.tokenizer, gradients=gradients)

    @property
    def whole(self) -> Point:
        """The dense model."""
        return self.loss(methods.DENSE, 0.0)

    def loss(self, method: str, ratio: float) -> Point:
        """The point with its loss and sizes."""
        method, ratio = (method, float(ratio)) if ratio else (methods.DENSE, 0.0)
        if (method, ratio) not in self.points:
            self._make(method, ratio)
        return self.points[method, ratio]

    def look(self, method: str, ratio: float, tell: Tell = lambda doing: None, write: Tell = lambda text: None) -> Point:
        """The point with text and speed too. `tell` hears what is being done, `write` the text as it grows."""
        method, ratio = (method, float(ratio)) if ratio else (methods.DENSE, 0.0)
        point = self.points.get((method, ratio))
        if point is None or point.text is None:
            started = time.perf_counter()
            tell("compressing")
            small = self._make(method, ratio)
            tell("writing")
            text = self.write(small, write)
            timed = None
            if small is not self.dense:
                tell("timing")
                timed = timing.timings(small, self.dense, TIMED)[-1]
            seconds = time.perf_counter() - started
            point = replace(self.points[method, ratio], text=text, decode=timed, seconds=seconds)
            self.points[method, ratio] = point
        return point

    def _make(self, method: str, ratio: float) -> nn.Module:
        """The compressed model; its loss and sizes are kept."""
        compression = Compression(model=self.asked.model, method=method, ratio=ratio, seed=self.asked.seed)
        small, report = compress.compress_point(compression, self.dense, self.statistics)
        self.points[method, ratio] = Point(method, ratio, held_out.cross_entropy(small, self.heldout), report)
        return small

    @torch.inference_mode()
    def write(self, model: nn.Module, tell: Tell = lambda text: None) -> str:
        """What a model writes after the prompt, greedily: always its likeliest next token."""
        given = self.tokenizer(self.asked.prompt, return_tensors="pt").to(model.device)
        ids = model.generate(
            **given, max_new_tokens=self.asked.words, do_sample=False, streamer=_Growing(self.tokenizer, tell),
            pad_token_id=self.tokenizer.pad_token_id or 0,
        )  # fmt: skip
        return self.tokenizer.decode(ids[0], skip_special_tokens=True)

    def table(self) -> pd.DataFrame:
        """Every point so far as a tidy table that `claw.laws.fit` takes."""
        whole = self.whole.loss
        rows = [
            {
                "model": self.asked.model, "method": point.method, "ratio": point.ratio, "seed": self.asked.seed,
                "ratio_params": point.report.ratio_params, "loss": point.loss.mean, "loss_stderr": point.loss.stderr,
                "loss0": whole.mean,
            }
            for point in self.points.values()
        ]  # fmt: skip
        return pd.DataFrame(rows).sort_values(["method", "ratio"], ignore_index=True)


class _Growing(BaseStreamer):
    """Hears a text as it grows."""

    def __init__(self, tokenizer, tell: Tell) -> None:
        self.tokenizer, self.tell, self.ids = tokenizer, tell, []

    def put(self, value: torch.Tensor) -> None:
        self.ids += value.flatten().tolist()
        self.tell(self.tokenizer.decode(self.ids, skip_special_tokens=True))

    def end(self) -> None:
        pass
