"""`claw`: one budget of the whole model, spent where it costs the least loss, ending in one plain checkpoint.

The shape comes from measured costs (`allocation`). Neurons and groups are chosen by activation-aware scores, blocks by their
influence. Every linear is refitted block by block on what the small model itself reads (`regression`), where the architecture
allows it, and else with the ridge compensation of the dense moments. At the end the gains of all norms are refitted: the last
one's for how sure the model has reason to be (`final_gain`), then all (`norm_gains`). Each of these has its own part of the
calibration text (`PARTS`).
"""

import itertools
import json
from collections.abc import Sequence

import torch
from torch import nn

from claw.allocator import give_back_freed
from claw.evaluate import held_out
from claw.files import write_text
from claw.models.anatomy import Anatomy
from claw.models.shape import Shape
from claw.progress import tqdm
from claw.prune import allocation, final_gain, latency, norm_gains, regression, scores, surgery, targets, trial_cut, width_map
from claw.prune.dense_walk import DenseWalk, dense_walks
from claw.prune.statistics import Statistics
from claw.texts.token_blocks import Blocks

SHARES = {  # removed of each axis where its costs are measured
    "ffn": (0.25, 0.75),
    "heads": (0.34, 0.67),
    "hidden": (0.2, 0.7),
    "layers": (0.25, 0.75),
}
ALWAYS_CUT = ("ffn", "layers")  # axes that a model must allow to be cut; the others are left alone where it does not
VERSION = 7  # of the stored costs and of how they are measured
SCORE = "flap"  # the score that lost least on real models, compensated
PARTS = {"linears": (0.0, 0.5), "gains": (0.5, 1.0), "costs": (0.5, 1.0)}  # shares of the calibration blocks
COST_TOKENS = 8192  # to fit, and to test, each cut whose costs are measured: they need to be right to a few per cent only
LAST_TOKENS = 8192  # of the text for gains, for the last norm alone


def compress_whole(parts: Anatomy, ratio: float, budget: str, statistics: Statistics) -> tuple[nn.Module, float]:
    """The model with `ratio` of `budget` (one of `allocation.BUDGETS`) removed, and the ratio reached."""
    dense = parts.shape
    removed = lambda shape: targets.removed(dense, shape, budget)
    if budget == "milliseconds":
        times = latency.measured_latency(parts, statistics)
        removed = lambda shape: times.removed(dense, shape)
    target = allocation.cheapest_shape(dense, costs(parts, statistics), ratio, budget, removed)
    return build_shape(parts, target, statistics), removed(target)


def costs(parts: Anatomy, statistics: Statistics) -> allocation.Costs:
    """What each axis costs: measured the first time, on text that was not used to refit, and kept with the statistics.

    Blocks are cut here and not merged: by costs of merged ones, which are alone and as wide as ever, too many blocks go in
    models that are narrower as well (at 60 % of SmolLM2-135M 18 of 30 instead of 14, and the loss is .14 nats higher).
    """
    path = statistics.folder / f"costs-{VERSION}.json"
    if not path.exists():
        blocks = calibration_text(statistics, "costs", COST_TOKENS)
        dense = held_out.cross_entropy(parts.model, blocks).mean
        text = calibration_text(statistics, "linears", COST_TOKENS)
        walks = dense_walks(parts, text, keep=statistics.folder) if regression.supports(parts) else None
        measured: dict[str, list[tuple[float, float]]] = {}
        for axis, share, shape in tqdm(axis_shapes(parts), desc="costs of each axis", unit=" cuts", leave=False):
            units = units_of(parts, shape, statistics, merge=False)  # no name for the small model: it goes before the next one
            loss = held_out.cross_entropy(fitted_shape(parts, shape, statistics, units, walks), blocks).mean
            measured.setdefault(axis, []).append((share, loss - dense))
        write_text(path, json.dumps({"points": measured}))
    points = json.loads(path.read_text())["points"]
    return allocation.Costs({axis: tuple(map(tuple, pairs)) for axis, pairs in points.items()})


def axis_shapes(parts: Anatomy) -> list[tuple[str, float, Shape]]:
    """The shapes on which costs are measured: the axis that each cuts alone, the share that it removes, the shape."""
    dense, shapes = parts.shape, []
    for axis, shares in SHARES.items():
        if axis in ALWAYS_CUT or (regression.supports_width(parts) if axis == "hidden" else not trial_cut.why_not(parts, axis)):
            cut = {shape for share in shares for shape in targets.nearest(dense, axis, share)}
            shapes += sorted(((axis, targets.removed(dense, shape, axis), shape) for shape in cut), key=lambda job: job[1])
    return shapes


def calibration_text(statistics: Statistics, what: str, tokens: int | None = None) -> Blocks:
    """The calibration blocks for one of `PARTS`, at most `tokens` of them; all blocks where they are too few to share."""
    blocks = statistics.blocks()
    first, end = (round(share * len(blocks)) for share in PARTS[what])
    some = blocks.part(slice(first, end)) if end > first else blocks
    return some if tokens is None else some.part(slice(0, max(1, tokens // some.length)))


def units_of(parts: Anatomy, target: Shape, statistics: Statistics, *, merge: bool = True) -> surgery.Units:
    """What stays of the dense model at shape `target`, where removed blocks `merge` into the ones before them or are cut.

    Merged, the neurons of removed blocks compete with those of the block that stays before them, as those of neighbours do in
    FlattenGPT (Xu et al. 2026, arXiv 2602.08858). Groups do not compete: at half of SmolLM2-135M that lost .08 nats, where
    neurons gained .06.
    """
    layers = scores.blocks_by_influence(statistics, parts.depth - target.depth)
    alone = [(index,) for index in layers]
    runs = [range(*ends) for ends in itertools.pairwise([*layers, parts.depth])] if merge else alone
    joins = regression.supports(parts) and not width_map.normalises_writes(parts)  # else what one writes depends on the others
    best = scores.best_of_runs
    kept = {
        "ffn": best(parts, scores.NEURONS[SCORE], target.width, statistics, runs if joins else alone),
        "heads": best(parts, scores.GROUPS[SCORE], target.groups, statistics, alone),
    }
    return surgery.Units(layers, kept, dict(zip(layers, runs, strict=True)))


@torch.no_grad()
def fitted_shape(
    parts: Anatomy,
    target: Shape,
    statistics: Statistics,
    units: surgery.Units | None = None,
    walks: Sequence[DenseWalk] | None = None,
) -> nn.Module:
    """The model of shape `target` with its linears refitted on the text for them, or on the dense model's `walks`."""
    units = units or units_of(parts, target, statistics)
    if not regression.supports(parts):
        return surgery.cut(parts, target, units, statistics)
    return regression.regressed(parts, target, units, statistics, walks or calibration_text(statistics, "linears"))


def build_shape(parts: Anatomy, target: Shape, statistics: Statistics, units: surgery.Units | None = None) -> nn.Module:
    """The best model of shape `target` that one pass over the calibration text gives; `units` in place of those chosen."""
    dense = parts.shape
    if target == dense:
        return surgery.cut(parts, target, surgery.Units(range(dense.depth)))
    small = fitted_shape(parts, target, statistics, units)
    each = target.hidden < dense.hidden or target.depth <= dense.depth / 2  # where less is cut that only fits the text
    refit_norms(small, statistics, targets.removed(dense, target, "params"), each=each)
    return small


def refit_norms(small: nn.Module, statistics: Statistics, removed: float, *, each: bool) -> None:
    """The last steps, in place: the gain of the last norm (of `each` of its dimensions), then those of all norms."""
    give_back_freed()  # these steps want memory in other sizes than the fit, and than each other
    final_gain.refit(small, calibration_text(statistics, "gains", LAST_TOKENS), each=each)
    give_back_freed()
    norm_gains.refit_gains(small, calibration_text(statistics, "gains"), removed)
