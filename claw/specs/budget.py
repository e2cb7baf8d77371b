"""What a compressed model may cost at most: the question that the guide answers."""

import math
from dataclasses import dataclass

from claw.errors import InputError
from claw.words import quantity

LIMITS = {
    "parameters": "parameters",
    "memory": "gigabytes of weights",
    "flops": "FLOPs per token",
    "milliseconds": "milliseconds per token",
}
"""What can be limited, and its unit."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The most that is allowed; None is no limit. `bytes_per_parameter` is 2 for bfloat16.

    `dense_milliseconds` holds the measured milliseconds per token of each dense model, needed for a limit on time.
    """

    parameters: float | None = None
    memory: float | None = None
    flops: float | None = None
    milliseconds: float | None = None
    bytes_per_parameter: float = 2.0
    dense_milliseconds: tuple[tuple[str, float], ...] = ()

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set. InputError for one that is not a positive number."""
        limits = {name: getattr(self, name) for name in LIMITS if getattr(self, name) is not None}
        for name, value in limits.items():
            if not (math.isfinite(value) and value > 0):
                raise InputError(
                    f"A budget of {value!r} {LIMITS[name]} is not accepted: a number above 0, or None for no limit."
                )
        return limits

    def text(self) -> str:
        """The limits in words."""
        limits = [f"{quantity(value)} {LIMITS[name]}" for name, value in self.limits.items()]
        return "within " + " and ".join(limits) if limits else "without a limit"
