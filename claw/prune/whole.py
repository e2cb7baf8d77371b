"""`claw`: one budget of the whole model, spent where it costs the least loss, ending in one plain checkpoint.

The shape comes from measured costs (`allocation`). Neurons and groups are chosen by activation-aware scores, blocks by their
influence. A model whose blocks and hidden width all stay is cut at once, with the ridge compensation of the dense moments;
otherwise every linear is refitted block by block on what the small model itself reads (`regression`). At the end the gain of the final
norm is refitted (`final_gain`). Each of these has its own part of the calibration text (`PARTS`).
"""

import torch
from torch import nn

from claw.models.anatomy import Anatomy
from claw.models.shape import Shape
from claw.prune import allocation, depth, final_gain, latency, regression, scores, surgery, targets, units
from claw.prune.statistics import Statistics
from claw.texts.token_blocks import Blocks

NEURONS = GROUPS = "flap"  # the scores that lost least on real models, compensated
PARTS = {"linears": (0.0, 0.5), "gain": (0.5, 0.75), "costs": (0.75, 1.0)}  # shares of the calibration blocks


def compress_whole(parts: Anatomy, ratio: float, budget: str, statistics: Statistics) -> tuple[nn.Module, float]:
    """The model with `ratio` of `budget` ("params", "nonembedding", "flops" or "milliseconds") removed, and the ratio reached."""
    dense = parts.shape
    if budget == "milliseconds":
        times = latency.measured_latency(parts, statistics)
        removed = lambda shape: times.removed(dense, shape)
    else:
        removed = lambda shape: targets.removed(dense, shape, budget)
    target = allocation.cheapest_shape(dense, costs(parts, statistics), ratio, budget, removed)
    return build_shape(parts, target, statistics), removed(target)


@torch.no_grad()
def costs(parts: Anatomy, statistics: Statistics) -> allocation.Costs:
    """What each axis costs, measured the first time and kept with the statistics."""
    path = statistics.folder / f"costs-{allocation.VERSION}.json"
    return allocation.measured_costs(
        parts, path, calibration_text(statistics, "costs"), lambda shape: build_shape(parts, shape, statistics, refit=True)
    )


def calibration_text(statistics: Statistics, what: str) -> Blocks:
    """The calibration blocks for one of `PARTS`; all of them where they are too few to share."""
    blocks = statistics.blocks()
    first, end = (round(share * len(blocks)) for share in PARTS[what])
    return blocks.part(slice(first, end)) if end > first else blocks


def build_shape(parts: Anatomy, target: Shape, statistics: Statistics, *, refit: bool = False) -> nn.Module:
    """The best model of shape `target` that one pass over the calibration text gives.

    `refit` has every model regressed block by block where the architecture allows it, so that costs compare.
    """
    dense = parts.shape
    if target == dense:
        return surgery.assemble(parts, surgery.plain_state(parts))
    layers = depth.by_influence(statistics, dense.depth - target.depth)
    chosen = surgery.Units(
        tuple(layers),
        {layer.index: _best(scores.NEURONS[NEURONS], parts, layer, statistics, target.width) for layer in parts.layers},
        {layer.index: _best(scores.GROUPS[GROUPS], parts, layer, statistics, target.groups) for layer in parts.layers},
    )
    if regression.supports(parts) and (refit or (target.hidden, target.depth) != (dense.hidden, dense.depth)):
        small = regression.regressed(parts, target, chosen, statistics, calibration_text(statistics, "linears"))
    else:
        small = units.cut_chosen(parts, target, chosen, statistics)
    each = target.hidden < dense.hidden or target.depth <= dense.depth / 2  # where less is cut that only fits the text
    final_gain.refit(small, calibration_text(statistics, "gain"), each=each)
    return small


def _best(score: scores.Score, parts: Anatomy, layer, statistics: Statistics, count: int) -> torch.Tensor:
    return surgery.kept(score(parts, layer, statistics, None), count)
