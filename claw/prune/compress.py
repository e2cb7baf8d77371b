"""The one call that compresses: plan the sizes, score, cut, compensate, report.

What each method is stands in `claw.specs.methods`; a name that ends in "+ridge" refits the weights that read what was
cut by ridge regression on the calibration statistics (`claw.prune.surgery.compensated`).
"""

import time

import torch
from torch import nn

from claw.errors import InputError
from claw.models.anatomy import Anatomy, anatomy
from claw.models.shape import Shape
from claw.provenance import resident_peak
from claw.prune import allocation, depth, prunenet, scores, slicegpt, surgery, targets, units, whole
from claw.prune.compression_report import CompressionReport
from claw.prune.statistics import Statistics, check_belongs
from claw.specs import methods


def compress(
    model: nn.Module,
    method: str,
    ratio: float,
    *,
    ratio_of: str = "own",
    statistics: Statistics | None = None,
    seed: int = 0,
    round_to: int | None = None,
) -> tuple[nn.Module, CompressionReport]:
    """A smaller stock model with `ratio` removed, and the report of what was done. `model` itself is not changed.

    `ratio_of` says what `ratio` counts: the method's "own" axis, or ffn, heads, hidden, layers, params, nonembedding, flops, or
    (method "claw" alone) milliseconds per generated token as measured on this machine; it is met as nearly as the rounding
    multiple `round_to` of widths allows. `statistics` come from `claw.calibrate`. Ratio 0 returns the model's own weights. Bad
    arguments raise InputError before any work.
    """
    started = time.perf_counter()
    found, ridge = methods.find_method(method)
    parts = anatomy(model)
    axis = methods.axis_of(method, ratio_of)
    target = target_shape(parts.shape, method, ratio, ratio_of, round_to)
    if methods.needs_statistics(method):
        if statistics is None:
            raise InputError(f"method {method!r} needs calibration statistics: pass statistics=claw.calibrate(model, blocks).")
        check_belongs(statistics, model)
    _refuse_damaged(parts)
    with torch.no_grad():
        if target is None:
            ratio_of = allocation.budget_of(ratio_of)
            small, reached = whole.compress_whole(parts, ratio, ratio_of, statistics)
            kept, shape = (), anatomy(small).shape
        else:
            small, kept = _cut(parts, target, found.name, axis, statistics, seed, ridge)
            shape = anatomy(small).shape
            reached = targets.removed(parts.shape, shape, axis)
    report = CompressionReport.of(
        parts.shape,
        shape,
        method=method,
        ratio=float(ratio),
        ratio_of=axis if ratio_of == "own" else ratio_of,
        ratio_own=reached,
        seed=seed,
        seconds=time.perf_counter() - started,
        peak_memory=resident_peak(),
        kept=kept,
    )
    return small, report


def target_shape(dense: Shape, method: str, ratio: float, ratio_of: str = "own", round_to: int | None = None) -> Shape | None:
    """The shape that a method will reach; None for one that chooses it from measured costs. InputError if it cannot."""
    found, _ = methods.find_method(method)
    targets.check_ratio(ratio, ratio_of)
    axis = methods.axis_of(method, ratio_of)
    if axis == methods.WHOLE:
        allocation.budget_of(ratio_of)
        return None
    return targets.size_for(dense, axis, ratio, ratio_of, round_to, dict(found.also))


def _refuse_damaged(parts: Anatomy) -> None:
    for name, parameter in parts.model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(f"The weight {name} holds NaN or infinite values, so no score means anything. Reload the model.")


def _cut(parts: Anatomy, target: Shape, name: str, axis: str, statistics: Statistics | None, seed: int, ridge: bool):
    """The compressed model and the indices kept per layer."""
    if target == parts.shape:
        return surgery.assemble(parts, surgery.plain_state(parts)), ()
    if axis == "hidden":
        if name == "slicegpt":
            return slicegpt.sliced(parts, target, statistics), ()
        return slicegpt.per_layer(parts, target, statistics.blocks()), ()
    if axis == "layers":
        choose = depth.by_influence if name == "shortgpt" else depth.by_angle
        keep = choose(statistics, parts.depth - target.depth)
        return depth.drop(parts, keep), (tuple(keep),)
    if name.startswith("prunenet"):
        policy = prunenet.policy_for(parts, targets.removed(parts.shape, target, axis), seed)
        score = prunenet.Scores(policy, stochastic=name.endswith("stochastic"))
    else:
        score = (scores.NEURONS if axis == "ffn" else scores.GROUPS)[name]
    return units.cut(parts, target, axis, score, statistics, seed, ridge)
