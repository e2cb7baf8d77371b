"""The one call that compresses: plan the sizes, score, cut, compensate, report.

What each method is stands in `claw.prune.catalogue`; a name that ends in "+ridge" refits the weights that read what was
cut by ridge regression on the calibration statistics (`claw.prune.surgery.compensated`).
"""

import time
from collections.abc import Callable

import torch
from torch import nn

from claw.anatomy import Anatomy, Layer, anatomy
from claw.environment import peak_memory
from claw.errors import InputError
from claw.prune import catalogue, plan, scores, surgery
from claw.prune.report import Report
from claw.prune.statistics import Statistics, check_belongs
from claw.shape import Shape

Score = Callable[[Layer, Statistics | None, torch.Generator], torch.Tensor]

SCORES: dict[str, Score] = {
    "random": scores.random_neurons,
    "magnitude": scores.magnitude_neurons,
    "wanda-sp": scores.wanda_neurons,
}


def compress(
    model: nn.Module,
    method: str,
    ratio: float,
    *,
    ratio_of: str = "own",
    statistics: Statistics | None = None,
    seed: int = 0,
    round_to: int | None = None,
) -> tuple[nn.Module, Report]:
    """A smaller stock model with `ratio` removed, and the report of what was done. `model` itself is not changed.

    `ratio_of` says what `ratio` counts: the method's "own" axis, or ffn, heads, hidden, layers, params, nonembedding,
    flops, and is met as nearly as the rounding multiple `round_to` of widths allows. `statistics` come from
    `claw.calibrate`. Ratio 0 returns the model's own weights. Bad arguments raise InputError before any work.
    """
    started = time.perf_counter()
    found, ridge = catalogue.find(method)
    plan.check_ratio(ratio, ratio_of)
    parts = anatomy(model)
    target = plan.solve(parts.shape, found.axis, ratio, ratio_of, round_to)
    if catalogue.needs_statistics(method):
        if statistics is None:
            raise InputError(f"method {method!r} needs calibration statistics: pass statistics=claw.calibrate(model, blocks).")
        check_belongs(statistics, model)
    _refuse_damaged(parts)
    with torch.no_grad():
        small, kept = _cut(parts, target, SCORES[found.name], statistics, seed, ridge)
    report = Report.of(
        parts.shape,
        anatomy(small).shape,
        method=method,
        ratio=float(ratio),
        ratio_of=found.axis if ratio_of == "own" else ratio_of,
        ratio_own=plan.removed(parts.shape, target, found.axis),
        seed=seed,
        seconds=time.perf_counter() - started,
        peak_memory=peak_memory(),
        kept=kept,
    )
    return small, report


def _refuse_damaged(parts: Anatomy) -> None:
    for name, parameter in parts.model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(f"The weight {name} holds NaN or infinite values, so no score means anything. Reload the model.")


def _cut(parts: Anatomy, target: Shape, score: Score, statistics: Statistics | None, seed: int, ridge: bool):
    state = surgery.plain_state(parts)
    if target == parts.shape:
        return surgery.assemble(parts, state), ()
    generator = torch.Generator().manual_seed(seed)
    kept = []
    for layer in parts.layers:
        prefix = f"model.layers.{layer.index}"
        keep = surgery.kept(score(layer, statistics, generator), target.width)
        weight = state[f"{prefix}.mlp.down_proj.weight"]
        surgery.slice_neurons(state, prefix, keep)
        if ridge:
            moments = statistics.layer(layer.index)
            refitted = surgery.compensated(weight, moments["ffn.gram"], keep, moments["ffn.ridge"])
            state[f"{prefix}.mlp.down_proj.weight"] = refitted
        kept.append(tuple(keep.tolist()))
    return surgery.assemble(parts, state, intermediate_size=target.width), tuple(kept)
