"""Warmup-stable-decay: the learning rate along a run, and how several token budgets share one run. Arithmetic without torch.

All budgets share one stable phase: a short warm-up, then a constant rate. A budget of S steps leaves it at step S - d and lets
the rate decay linearly to zero over its last d steps, d a fifth of S. The decay takes the data in the order that the stable
phase would have, so the model at its end has seen exactly S steps and is the same, bit for bit, as that of a run with this
budget alone. Several budgets cost the longest one and a fifth of each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from claw.errors import InputError

WARMUP = 10  # steps
DECAY = 0.2  # share of a budget's steps


@dataclass(frozen=True)
class Milestone:
    """One token budget as blocks and steps: its decay begins at step `decays`, `ends` is its number of steps."""

    asked: int
    blocks: int
    decays: int
    ends: int

    def rate(self, step: int) -> float:
        """Factor on the peak learning rate at `step` (from 0) of the decay."""
        return stable_rate(step) * min(1.0, (self.ends - step) / (self.ends - self.decays + 1))


def stable_rate(step: int) -> float:
    """Factor on the peak learning rate at `step` (from 0) of the stable phase: warm-up, then 1."""
    return min(1.0, (step + 1) / WARMUP)


def milestones(tokens: Sequence[int], length: int, batch: int) -> tuple[Milestone, ...]:
    """Budgets in ascending order, rounded down to whole blocks of `length` tokens, `batch` blocks a step.

    InputError for a budget smaller than a block.
    """
    if not tokens:
        raise InputError("recovery needs at least one token budget, such as tokens=1_000_000.")
    if min(tokens) < length:
        raise InputError(f"tokens={min(tokens)}: not one block fits. Ask for at least {length}, or use shorter blocks.")
    budgets = []
    for asked in sorted(set(tokens)):
        ends = -(-(asked // length) // batch)
        budgets.append(Milestone(asked, asked // length, ends - max(1, round(DECAY * ends)), ends))
    return tuple(budgets)
