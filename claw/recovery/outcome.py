"""What came of a recovery: loss curve, best and last, over-fitting, what it took, how much of what was lost came back."""

import math
from dataclasses import asdict, dataclass

from claw.words import html_table, number

OVERFITTED = 0.01  # nats above the best that count as worse


@dataclass(frozen=True)
class LossPoint:
    """Losses after so many tokens, nats per token: `train` the mean since the point before, `heldout` measured then."""

    tokens: int
    train: float
    heldout: float


@dataclass(frozen=True, kw_only=True)
class RecoveryReport:
    """Result of one recovery, or of one milestone of a run. Held-out losses are NaN where no held-out text was given."""

    recipe: str
    run: str  # shared by the milestones of one run
    runs: str  # milestones: budgets share one stable phase; separate: each has a run of its own
    asked: int
    tokens: int  # really seen
    epochs: float  # times the text was gone through
    steps: int
    batch: int  # blocks per step
    learning_rate: float  # peak
    trained: int  # weights that were trained
    seconds: float  # of training on the way to this point, since the run was last started
    tokens_per_second: float
    moments: tuple[LossPoint, ...]  # the loss curve
    flops: float  # of training on the way to this point, with those of a teacher that was asked at every step
    overlap: float  # share of held-out runs of tokens that also stand in the training text
    dense: float = math.nan  # held-out loss of the dense model, where it was given
    nan_step: int | None = None  # step whose loss or gradient was not finite, which ended the run

    @property
    def before(self) -> float:
        """Held-out loss before recovery."""
        return self.moments[0].heldout if self.moments else math.nan

    @property
    def last(self) -> float:
        """Held-out loss at the end; NaN for a run that broke."""
        return self.moments[-1].heldout if self.moments and self.nan_step is None else math.nan

    @property
    def best(self) -> LossPoint | None:
        """The point with the lowest held-out loss."""
        measured = [point for point in self.moments if math.isfinite(point.heldout)]
        return min(measured, key=lambda point: point.heldout, default=None)

    @property
    def improvement(self) -> float:
        """Share of the loss that is gone, 1 - L_D / L, as the original study prints it: large where the start was ruined."""
        return 1 - self.last / self.before if self.before else math.nan

    @property
    def share_back(self) -> float:
        """Share of the *lost* loss that came back, (L - L_D) / (L - L_0); NaN where L_0, the dense model's, is not known."""
        return came_back(self.before, self.last, self.dense)

    @property
    def overfitted(self) -> bool:
        """Whether held-out loss ended above its best by more than OVERFITTED nats."""
        return self.best is not None and self.last > self.best.heldout + OVERFITTED

    def to_dict(self) -> dict:
        """Plain values for a record."""
        best = self.best
        values = asdict(self) | {"before": self.before, "last": self.last, "overfitted": self.overfitted}
        values |= {"improvement": self.improvement, "share_back": self.share_back}
        return values | {"best": best.heldout if best else math.nan, "best_tokens": best.tokens if best else None}

    def _repr_html_(self) -> str:
        rows = [(f"{point.tokens:,}", number(point.train, 4), number(point.heldout, 4)) for point in self.moments]
        table = html_table(rows, ("tokens", "train loss", "held-out loss"))
        return f"<p>{self.summary()} {self.tokens_per_second:,.0f} tokens per second.</p>{table}"

    def summary(self) -> str:
        """The result in one sentence."""
        if self.nan_step is not None:
            return f"{self.recipe} broke at step {self.nan_step}: a loss or gradient was not finite. Lower the learning rate."
        text = f"{self.recipe} on {self.tokens:,} tokens: held-out loss {self.before:.4f} before, {self.last:.4f} after"
        if self.best is not None and self.overfitted:
            text += f"; best {self.best.heldout:.4f} at {self.best.tokens:,} tokens, so it went too far"
        if math.isfinite(self.share_back):
            text += f"; {self.share_back:.0%} of what the cut lost came back"
        return text + f"; {self.improvement:.0%} less than before."


def came_back(before: float, after: float, dense: float) -> float:
    """Share of the lost loss that came back: 0 for nothing, 1 for the dense model's loss, below 0 where training did harm."""
    return (before - after) / (before - dense) if before > dense else math.nan
