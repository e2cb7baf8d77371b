"""Milliseconds that a decoder of any shape takes per generated token on this machine, from a few measured shapes.

A token's time is close to linear in what is read for it: a constant, one part per block, and the weights of attention,
feed-forward part and head. Random weights of a shape take as long as trained ones, so each axis is halved alone, timed in
turns with the dense shape, and the five coefficients are fitted by non-negative least squares on relative errors.
"""

import json
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls
from transformers import AutoModelForCausalLM

from claw import provenance
from claw.evaluate.timing import Runner, interleaved
from claw.files import digest, write_text
from claw.models.anatomy import Anatomy
from claw.models.shape import Shape
from claw.models.undisturbed import undisturbed
from claw.progress import tqdm
from claw.prune import surgery, targets
from claw.prune.statistics import Statistics
from claw.specs import methods
from claw.specs.experiment import Speed

SETTING = Speed(prompt=64, generate=16, batches=(1,), rounds=3)
HALVED = 0.5  # share of an axis that is removed where it is measured
VERSION = 1  # of the stored coefficients and of how they are measured


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one decoding step at batch 1 as a linear function of `features`."""

    coefficients: tuple[float, ...]

    def milliseconds(self, shape: Shape) -> float:
        return float(np.dot(self.coefficients, features(shape)))

    def removed(self, dense: Shape, small: Shape) -> float:
        """Fraction of the dense model's time that the small one saves."""
        return 1 - self.milliseconds(small) / self.milliseconds(dense)


def features(shape: Shape) -> tuple[float, ...]:
    """One, blocks, and millions of weights in attention, feed-forward parts and head: linear in each size alone."""
    attention = 2 * (shape.heads + shape.groups) * shape.head_size * shape.hidden * shape.depth
    feed_forward = (3 if shape.gated else 2) * shape.width * shape.hidden * shape.depth
    return 1.0, float(shape.depth), attention / 1e6, feed_forward / 1e6, shape.vocabulary * shape.hidden / 1e6


def fit_latency(shapes: list[Shape], milliseconds: list[float]) -> Latency:
    """The non-negative coefficients with the least squared relative error."""
    times = np.array(milliseconds)
    design = np.array([features(shape) for shape in shapes]) / times[:, None]
    scale = np.linalg.norm(design, axis=0)
    coefficients, _ = nnls(design / scale, np.ones(len(shapes)))
    return Latency(tuple(float(value) for value in coefficients / scale))


def measured_latency(parts: Anatomy, statistics: Statistics) -> Latency:
    """Latency of this architecture on this machine, or from the file beside the statistics."""
    machine = provenance.made_with(parts.device, parts.dtype)
    key = digest(json.dumps([machine[name] for name in ("processor", "threads", "device", "dtype")]))[:12]
    path = statistics.folder / f"latency-{VERSION}-{key}.json"
    if path.exists():
        return Latency(tuple(json.loads(path.read_text())["coefficients"]))
    shapes, attention = measured_shapes(parts.shape), parts.config._attn_implementation
    pairs = []  # seconds of the dense model and of each shape, in turns
    with undisturbed(parts.model):
        dense = Runner(parts.model, 1, SETTING)
        for shape in tqdm(shapes, desc="milliseconds of each axis", unit=" shapes", leave=False):
            config = surgery.configured(parts, range(shape.depth), surgery.sizes_of(parts, shape))
            model = AutoModelForCausalLM.from_config(config, dtype=parts.dtype, attn_implementation=attention)
            small = Runner(model.to(parts.device).eval(), 1, SETTING)
            pairs.append([phases["decode"] for phases in interleaved([dense, small], SETTING.rounds)])
    base = 1000 * float(np.median([times0 for times0, _ in pairs]))
    ratios = [float(np.median(times / times0)) for times0, times in pairs]
    latency = fit_latency([parts.shape, *shapes], [base, *(ratio * base for ratio in ratios)])
    write_text(path, json.dumps({"coefficients": latency.coefficients, "dense_milliseconds": base}))
    return latency


def measured_shapes(dense: Shape) -> list[Shape]:
    """The dense shape with each axis halved alone, and with all of them halved."""
    halves = {axis: half for axis in methods.AXES for half in targets.nearest(dense, axis, HALVED)}
    every = dense
    for axis, half in halves.items():
        every = targets.resize(every, axis, targets.amount(half, axis))
    return [*halves.values(), every]
