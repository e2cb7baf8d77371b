"""The one call that compresses: plan the sizes, score, cut, compensate, report.

What each method is stands in `claw.specs.methods`; a name that ends in "+ridge" refits the weights that read what was
cut by ridge regression on the calibration statistics (`claw.prune.surgery.compensated`).
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from claw.allocator import freed_memory_kept
from claw.errors import InputError
from claw.models.anatomy import Anatomy, anatomy
from claw.models.identity import identify
from claw.models.shape import Shape
from claw.models.undisturbed import leaves_as_before
from claw.provenance import resident_peak
from claw.prune import allocation, prunenet, scores, slicegpt, surgery, targets, trial_cut, whole_model
from claw.prune.statistics import Statistics
from claw.specs import methods
from claw.specs.methods import Method
from claw.words import html_table

Kept = tuple[tuple[int, ...], ...]  # indices kept on the method's axis: of each block, or one tuple of blocks


@dataclass(frozen=True, kw_only=True)
class CompressionReport:
    """What one compression did. Ratios are fractions removed; tied weights count once."""

    method: str
    ratio: float  # asked for, on the axis `ratio_of`
    ratio_of: str
    ratio_own: float  # reached on the method's own axis, after rounding
    ratio_params: float  # of all parameters
    ratio_nonembedding: float  # of the parameters without embedding and head
    ratio_flops: float  # of forward FLOPs per token
    dense: Shape
    small: Shape
    seed: int
    seconds: float
    peak_memory: int  # bytes of resident memory at the highest point of the process so far
    kept: Kept = ()  # for pictures
    notes: tuple[str, ...] = ()  # what makes its numbers less than they seem, in sentences

    @classmethod
    def of(cls, dense: Shape, small: Shape, **rest: Any) -> "CompressionReport":
        """Report with the true ratios worked out from two shapes."""
        rest |= {f"ratio_{name}": targets.removed(dense, small, name) for name in ("params", "nonembedding", "flops")}
        return cls(dense=dense, small=small, **rest)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a record."""
        return asdict(self)

    def _repr_html_(self) -> str:
        names = {"params": "parameters", "nonembedding": "without embedding", "flops": "FLOPs per token", "ffn": "FFN width"}
        names |= {"heads": "KV groups", "hidden": "hidden width", "layers": "layers"}
        rows = []
        for axis, name in names.items():
            sizes = [targets.amount(shape, axis) for shape in (self.dense, self.small)]
            before, after = (f"{size:,}" if axis not in methods.AXES else size for size in sizes)
            rows.append((name, before, after, f"{targets.removed(self.dense, self.small, axis):.1%}"))
        return (
            f"<b>{self.method}</b>, asked to remove {self.ratio:.0%} of {self.ratio_of} in {self.seconds:.1f} s"
            f"{html_table(rows, ('', 'dense', 'compressed', 'removed'))}{''.join(f'<p>{note}</p>' for note in self.notes)}"
        )


@freed_memory_kept()
@leaves_as_before
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

    `ratio_of` says what `ratio` counts: the method's "own" axis, or ffn, heads, hidden, layers, params, nonembedding, flops,
    memory (weights, and keys and values of one sequence of 4,096 tokens), or (method "claw" alone) milliseconds per generated
    token as measured on this machine; it is met as nearly as the rounding multiple `round_to` of widths allows. `statistics`
    come from `claw.calibrate`. The result shares no memory with `model`, at ratio 0 too. Bad arguments raise InputError before
    any work.
    """
    started = time.perf_counter()
    chosen, ridge = methods.find_method(method)
    parts = anatomy(model)
    target = target_shape(parts.shape, method, ratio, ratio_of, round_to)
    known = _checked(statistics, method, model)
    kept: Kept = ()
    axis = methods.axis_of(method, ratio_of)
    with torch.no_grad():
        if target is None:
            axis = allocation.budget_of(ratio_of)
            for each in whole_model.ALWAYS_CUT:
                trial_cut.check_cut(parts, each)
            small, reached = whole_model.compress_whole(parts, ratio, axis, known)
        else:
            small, kept = _cut(parts, target, chosen, axis, known, seed=seed, ridge=ridge)
            reached = targets.removed(parts.shape, anatomy(small).shape, axis)
        surgery.unshare(small, model)
    asked = {"method": method, "ratio": float(ratio), "ratio_of": axis if ratio_of == "own" else ratio_of, "seed": seed}
    used = {
        "seconds": time.perf_counter() - started,
        "peak_memory": resident_peak(),
        "notes": tuple(_notes(parts, known, method)),
    }
    return small, CompressionReport.of(parts.shape, anatomy(small).shape, **asked, **used, ratio_own=reached, kept=kept)


def _notes(parts: Anatomy, statistics: Statistics | None, method: str) -> Iterator[str]:
    """What is degenerate in a model or in too little calibration text, where the method used it."""
    if statistics is None or not methods.needs_statistics(method):
        return
    for site, units, size in (
        ("ffn", "feed-forward neurons", 1),
        ("heads", "key-value groups", parts.heads // parts.groups * parts.head_size),
    ):
        dead = {}
        for layer in parts.layers:
            silent = (statistics.moment(layer.index, site, "spread") == 0).view(-1, size).all(dim=1)
            dead[layer.index] = int(silent.sum())
        if total := sum(dead.values()):
            blocks = ", ".join(f"{index}: {count}" for index, count in dead.items() if count)
            yield f"{total:,} {units} are zero on all of the calibration text (by block, {blocks}): they carry nothing."
    columns = max(parts.width, parts.heads * parts.head_size)
    if statistics.tokens < columns:
        yield (
            f"The calibration text has {statistics.tokens:,} tokens, fewer than the {columns:,} inputs of a layer, so its "
            "moments are singular: scores are rough, and what is refitted leans on the ridge penalty. Give more text."
        )


def target_shape(dense: Shape, method: str, ratio: float, ratio_of: str = "own", round_to: int | None = None) -> Shape | None:
    """The shape that a method will reach; None for one that chooses it from measured costs. InputError if it cannot."""
    chosen, _ = methods.find_method(method)
    targets.check_ratio(ratio, ratio_of)
    axis = methods.axis_of(method, ratio_of)
    if axis == methods.WHOLE:
        allocation.budget_of(ratio_of)
        return None
    return targets.size_for(dense, axis, ratio, ratio_of, round_to=round_to, **dict(chosen.also))


def _checked(statistics: Statistics | None, method: str, model: nn.Module) -> Any:
    """The statistics, which are there and belong to the model where the method needs them; also refuses damaged weights."""
    if methods.needs_statistics(method):
        if statistics is None:
            raise InputError(f"method {method!r} needs calibration statistics: pass statistics=claw.calibrate(model, blocks).")
        if statistics.model != (own := identify(model).name):
            raise InputError(
                f"The calibration statistics belong to another model ({statistics.model}, here {own}): weights, configuration, "
                "number type or hooks differ. Call claw.calibrate(model, blocks) with the model that is to be compressed."
            )
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(f"The weight {name} holds NaN or infinite values, so no score means anything. Reload the model.")
    return statistics


def _cut(
    parts: Anatomy, target: Shape, method: Method, axis: str, statistics: Any, *, seed: int, ridge: bool
) -> tuple[nn.Module, Kept]:
    """The compressed model and the indices kept per layer; `statistics` may be None where the method needs none."""
    name, layers = method.name, range(parts.depth)
    if target == parts.shape:
        return surgery.cut(parts, target, surgery.Units(layers)), ()
    trial_cut.check_cut(parts, axis)
    if axis == "hidden":
        if name == "slicegpt":
            return slicegpt.sliced(parts, target, statistics), ()
        return slicegpt.per_layer(parts, target, statistics.blocks()), ()
    if axis == "layers":
        choose = scores.blocks_by_influence if name == "shortgpt" else scores.blocks_by_angle
        keep = choose(statistics, parts.depth - target.depth)
        return surgery.cut(parts, target, surgery.Units(keep)), (tuple(keep),)
    score: scores.Score
    if name.startswith("prunenet"):
        policy = prunenet.policy_for(parts, targets.removed(parts.shape, target, axis), seed)
        score = prunenet.PolicyScore(policy, stochastic=name.endswith("stochastic"))
    else:
        score = (scores.NEURONS if axis == "ffn" else scores.GROUPS)[name]
    units = scores.best_units(parts, score, targets.amount(target, axis), statistics, seed)
    moments = statistics if ridge or name == "flap" else None  # flap moves what goes on average into biases, where there are
    small = surgery.cut(parts, target, surgery.Units(layers, {axis: units}), moments, ridge=ridge)
    return small, tuple(tuple(keep.tolist()) for keep in units.values())
