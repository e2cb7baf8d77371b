"""`claw`: one budget of the whole model, spent where it costs the least loss, ending in one plain checkpoint.

The shape comes from measured costs (`allocation`). Neurons and groups are chosen by activation-aware scores, blocks by their
influence. A model whose blocks and hidden width all stay is cut at once, with the ridge compensation of the dense moments;
otherwise every linear is refitted block by block on what the small model itself reads (`regression`). At the end the gain of
the final norm is refitted (`final_gain`). Each of these has its own part of the calibration text (`PARTS`).
"""

import json

import torch
from torch import nn

from claw.evaluate import held_out
from claw.files import write_text
from claw.models.anatomy import Anatomy
from claw.models.shape import Shape
from claw.progress import tqdm
from claw.prune import allocation, final_gain, latency, regression, scores, surgery, targets
from claw.prune.statistics import Statistics
from claw.texts.token_blocks import Blocks

SHARES = {  # removed of each axis where its costs are measured
    "ffn": (0.25, 0.5, 0.75, 0.9),
    "heads": (0.34, 0.67),
    "hidden": (0.06, 0.2, 0.45, 0.7, 0.85),
    "layers": (0.1, 0.25, 0.5, 0.75, 0.87),
}
ALWAYS_CUT = (
    "ffn",
    "heads",
    "layers",
)  # axes that a model must allow to be cut; the hidden width is left alone where it does not
VERSION = 6  # of the stored costs and of how they are measured
SCORE = "flap"  # the score that lost least on real models, compensated
PARTS = {"linears": (0.0, 0.5), "gain": (0.5, 0.75), "costs": (0.75, 1.0)}  # shares of the calibration blocks


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
    """What each axis costs: measured the first time, on text that was not used to refit, and kept with the statistics."""
    path = statistics.folder / f"costs-{VERSION}.json"
    if not path.exists():
        blocks = calibration_text(statistics, "costs")
        dense = held_out.cross_entropy(parts.model, blocks).mean
        measured: dict[str, list[tuple[float, float]]] = {}
        for axis, share, shape in tqdm(axis_shapes(parts), desc="costs of each axis", unit=" cuts", leave=False):
            small = build_shape(parts, shape, statistics, refit=True)
            measured.setdefault(axis, []).append((share, held_out.cross_entropy(small, blocks).mean - dense))
        write_text(path, json.dumps({"points": measured}))
    points = json.loads(path.read_text())["points"]
    return allocation.Costs({axis: tuple(map(tuple, pairs)) for axis, pairs in points.items()})


def axis_shapes(parts: Anatomy) -> list[tuple[str, float, Shape]]:
    """The shapes on which costs are measured: the axis that each cuts alone, the share that it removes, the shape."""
    dense, shapes = parts.shape, []
    for axis, shares in SHARES.items():
        if axis != "hidden" or regression.supports_width(parts):
            cut = {shape for share in shares for shape in targets.nearest(dense, axis, share)}
            shapes += sorted(((axis, targets.removed(dense, shape, axis), shape) for shape in cut), key=lambda job: job[1])
    return shapes


def calibration_text(statistics: Statistics, what: str) -> Blocks:
    """The calibration blocks for one of `PARTS`; all of them where they are too few to share."""
    blocks = statistics.blocks()
    first, end = (round(share * len(blocks)) for share in PARTS[what])
    return blocks.part(slice(first, end)) if end > first else blocks


@torch.no_grad()
def build_shape(parts: Anatomy, target: Shape, statistics: Statistics, *, refit: bool = False) -> nn.Module:
    """The best model of shape `target` that one pass over the calibration text gives.

    `refit` has every model regressed block by block where the architecture allows it, so that costs compare.
    """
    dense = parts.shape
    if target == dense:
        return surgery.cut(parts, target, surgery.Units(range(dense.depth)))
    layers = scores.blocks_by_influence(statistics, dense.depth - target.depth)
    best = lambda score, axis: scores.best_units(parts, score, targets.amount(target, axis), statistics)
    kept = {"ffn": best(scores.NEURONS[SCORE], "ffn"), "heads": best(scores.GROUPS[SCORE], "heads")}
    units = surgery.Units(layers, kept)
    if regression.supports(parts) and (refit or (target.hidden, target.depth) != (dense.hidden, dense.depth)):
        small = regression.regressed(parts, target, units, statistics, calibration_text(statistics, "linears"))
    else:
        small = surgery.cut(parts, target, units, statistics)
    each = target.hidden < dense.hidden or target.depth <= dense.depth / 2  # where less is cut that only fits the text
    final_gain.refit(small, calibration_text(statistics, "gain"), each=each)
    return small
