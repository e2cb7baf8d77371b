"""From what a model may need (parameters, memory, milliseconds per token) to the ratio that meets it.

A method that cuts one axis has a list of reachable shapes; the largest one within the target is taken. `claw`, which spends a
budget over all axes, is asked for a share of parameters or of time, and where the key-value cache counts too, for the smallest
share of parameters whose shape fits. Memory is bytes of weights, and of the keys and values of `batch` sequences of `context`
tokens; activations are not in it.
"""

from collections.abc import Callable
from typing import Any

from claw.errors import InputError
from claw.models.anatomy import Anatomy
from claw.models.shape import Shape
from claw.one_model import until
from claw.prune import allocation, compress, latency, targets, whole_model
from claw.prune.statistics import Statistics
from claw.specs import methods
from claw.specs.shrinking import ShrinkParameters, Target

CACHED_BYTES = 2  # of a key or value under llama.cpp, for GGUF files
BYTES_OF_GGUF = {"bf16": 2.0, "f16": 2.0, "q8_0": 34 / 32}  # 32 weights of a byte each, and a scale of two
HALVINGS = 10  # of the interval that holds the ratio


def needs_time(asked: ShrinkParameters) -> bool:
    """Whether the machine must be timed, which keeps its result with the calibration statistics."""
    return asked.target is not None and asked.target.kind == "milliseconds"


def memory_of(shape: Shape, weight: float, cached: float, context: int = 0, batch: int = 1) -> float:
    """Bytes of the weights, at `weight` bytes each, and of the keys and values of `batch` sequences of `context` tokens."""
    return weight * shape.parameters + cached * shape.cached(context, batch)


def check_reach(asked: ShrinkParameters, dense: Shape) -> None:
    """InputError for a share that the method cannot remove, before anything is computed."""
    if asked.remove is None:
        return
    try:
        compress.target_shape(dense, asked.method, asked.remove, "params")
    except InputError as error:
        raise InputError(f"{error} Method claw cuts every axis and reaches further.") from error


def reach(method: str, dense: Shape) -> float:
    """The largest share of all parameters that a method can remove, as far as sizes tell."""
    axis = methods.axis_of(method, "own")
    if axis == methods.WHOLE:
        return until.REACH
    chosen, _ = methods.find_method(method)
    shapes = targets.reachable(dense, axis, **dict[str, Any](chosen.also))
    return max(targets.removed(dense, shape, "params") for shape in shapes)


def ratio_for(asked: ShrinkParameters, parts: Anatomy, statistics: Statistics | None) -> tuple[float, str]:
    """The ratio to ask a method for, and what it counts. InputError where the target cannot be met, with the nearest."""
    if asked.target is None:
        return asked.remove or 0.0, "params"
    dense, need = parts.shape, _need(asked, parts, statistics)
    if need(dense) <= asked.target.most:
        raise InputError(
            f"The model meets target {asked.target} already: it needs {_amount(asked.target, need(dense))}. Ask for less."
        )
    axis = methods.axis_of(asked.method, "own")
    if axis == methods.WHOLE:
        return _ratio_of_budget(asked, asked.target, parts, statistics, need)
    chosen, _ = methods.find_method(asked.method)
    shapes = targets.reachable(dense, axis, **dict[str, Any](chosen.also))
    fitting = [shape for shape in shapes if need(shape) <= asked.target.most]
    if not fitting:
        smallest = min(map(need, shapes))
        raise InputError(
            f"target {asked.target} cannot be met by {asked.method}, which cuts {axis} alone: the least that it can reach is "
            f"{_amount(asked.target, smallest)}, and the dense model needs {_amount(asked.target, need(dense))}. Allow more, "
            "or use method claw, which cuts every axis."
        )
    return targets.removed(dense, max(fitting, key=need), axis), "own"


def _need(asked: ShrinkParameters, parts: Anatomy, statistics: Statistics | None) -> Callable[[Shape], float]:
    """What a shape needs, in the unit of the target."""
    kind = asked.target.kind if asked.target else "params"
    if kind == "params":
        return lambda shape: shape.parameters
    if kind == "milliseconds":
        if statistics is None:
            raise ValueError("milliseconds are measured beside statistics")
        return latency.measured_latency(parts, statistics).milliseconds
    weight, cached = BYTES_OF_GGUF.get(asked.gguf, parts.dtype.itemsize), CACHED_BYTES if asked.gguf else parts.dtype.itemsize
    return lambda shape: memory_of(shape, weight, cached, asked.context, asked.batch)


def _ratio_of_budget(
    asked: ShrinkParameters, target: Target, parts: Anatomy, statistics: Any, need: Callable[[Shape], float]
) -> tuple[float, str]:
    """The share of a budget of the whole model."""
    dense = parts.shape
    ratio = 1 - target.most / need(dense)
    if target.kind == "milliseconds":
        return ratio, "milliseconds"
    if not asked.context:
        return ratio, "params"
    costs = whole_model.costs(parts, statistics)
    fits = lambda share: need(allocation.cheapest_shape(dense, costs, share, "params")) <= target.most
    low, high = 0.0, 0.95
    try:
        reached = fits(high)
    except InputError:
        high, reached = 0.9, fits(0.9)
    if not reached:
        raise InputError(
            f"target {target} with keys and values of {asked.batch} × {asked.context} tokens cannot be met: with {high:.0%} of "
            "the parameters removed it still needs more. Ask for fewer tokens of context, a smaller batch, or more memory."
        )
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high, "params"


def _amount(target: Target, value: float) -> str:
    return str(target.model_copy(update={"most": value})).partition("=")[2] + (" ms" if target.kind == "milliseconds" else "")
