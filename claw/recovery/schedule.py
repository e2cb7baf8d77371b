"""The learning rate along a run, and how several token budgets share one run. Pure arithmetic, no torch.

A run has one trunk: a short warm-up, then a constant rate. A budget of S steps leaves the trunk at step S - d and lowers the
rate to zero over its last d steps, d a fifth of S. The branch takes the data in the order the trunk would have, so the model
at its end has seen exactly S steps and is the same, bit for bit, as that of a run with this budget alone. Several budgets
cost the longest one and a fifth of each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from claw.errors import InputError

WARMUP = 10  # steps
DECAY = 0.2  # share of a budget's steps


@dataclass(frozen=True)
class Milestone:
    """One token budget as blocks and steps: `leaves` is the trunk's step where its decay begins, `ends` its last step."""

    asked: int
    blocks: int
    length: int
    leaves: int
    ends: int

    @property
    def tokens(self) -> int:
        """Tokens really seen."""
        return self.blocks * self.length

    def rate(self, step: int) -> float:
        """Factor on the peak learning rate at `step` (from 0) of the branch."""
        return trunk_rate(step) * min(1.0, (self.ends - step) / (self.ends - self.leaves + 1))


def trunk_rate(step: int) -> float:
    """Factor on the peak learning rate at `step` (from 0) of the trunk."""
    return min(1.0, (step + 1) / WARMUP)


def milestones(tokens: Sequence[int], length: int, batch: int) -> tuple[Milestone, ...]:
    """Budgets in ascending order, rounded down to whole blocks of `length` tokens, `batch` blocks a step.

    InputError for a budget smaller than a block.
    """
    if not tokens:
        raise InputError("recovery needs at least one token budget, such as tokens=1_000_000.")
    found = []
    for asked in sorted(set(tokens)):
        if asked < length:
            raise InputError(
                f"recovery on {asked} tokens is not possible with blocks of {length}: not one block fits. Ask for at least "
                f"{length} tokens, or use shorter blocks."
            )
        blocks = asked // length
        ends = -(-blocks // batch)
        found.append(Milestone(asked, blocks, length, ends - max(1, round(DECAY * ends)), ends))
    return tuple(found)
