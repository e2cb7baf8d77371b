"""Warmup-stable-decay: the learning rate along a run, and how several token budgets share one run. Arithmetic without torch.

All budgets share one stable phase: a short warm-up, then a constant rate. A budget of S steps leaves it at step S - d and lets
the rate decay linearly to zero over its last d steps, d a fifth of S or another share of it (all of it: no stable phase). The
decay takes the data in the order that the stable phase would have, so the model at its end has seen exactly S steps and is the
same, bit for bit, as that of a run with this budget alone. Several budgets cost the longest one and that share of each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from claw.errors import InputError

WARMUP = 10  # steps
DECAY = 0.2  # share of a budget's steps; both are what a Recovery asks for where nothing is said


@dataclass(frozen=True)
class Milestone:
    """One token budget as blocks and steps: its decay begins at step `decays`, `ends` is its number of steps."""

    asked: int
    blocks: int
    decays: int
    ends: int
    warmup: int = WARMUP

    def rate(self, step: int) -> float:
        """Factor on the peak learning rate at `step` (from 0) of the decay."""
        return self.stable_rate(step) * min(1.0, (self.ends - step) / (self.ends - self.decays + 1))

    def stable_rate(self, step: int) -> float:
        """Factor on the peak learning rate at `step` (from 0) of the stable phase: warm-up, then 1."""
        return min(1.0, (step + 1) / max(1, self.warmup))


def milestones(
    tokens: Sequence[int], length: int, batch: int, *, warmup: int = WARMUP, decay: float = DECAY
) -> tuple[Milestone, ...]:
    """Budgets in ascending order, rounded down to whole blocks of `length` tokens, `batch` blocks a step.

    `warmup` is in steps, `decay` the share of a budget's steps in which the rate falls.

    InputError for a budget smaller than a block.
    """
    if not tokens:
        raise InputError("recovery needs at least one token budget, such as tokens=1_000_000.")
    if min(tokens) < length:
        raise InputError(f"tokens={min(tokens)}: not one block fits. Ask for at least {length}, or use shorter blocks.")
    budgets = []
    for asked in sorted(set(tokens)):
        ends = -(-(asked // length) // batch)
        budgets.append(Milestone(asked, asked // length, ends - max(1, round(decay * ends)), ends, warmup))
    return tuple(budgets)
