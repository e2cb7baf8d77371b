"""Two checkpoints that are there already, side by side: `claw compare`."""

from dataclasses import dataclass
from typing import Any

from claw.evaluate import tasks
from claw.models import load
from claw.models.planned import check_window
from claw.one_model import screen, side_by_side
from claw.one_model.side_by_side import Pair, Tell
from claw.specs.shrinking import CompareParameters
from claw.specs.spec import build_spec
from claw.texts import token_blocks


@dataclass(frozen=True)
class Compared:
    """Two models as measured. `print` it for one screen of text."""

    pair: Pair

    def __str__(self) -> str:
        return screen.screen("", self.pair)

    def _repr_html_(self) -> str:
        return screen.as_html(f"{self.pair.before.name} → {self.pair.after.name}", self.pair)


def compare_checkpoints(before: str, after: str, *, tell: Tell = lambda _: None, **asked: Any) -> Compared:
    """Two models that `claw.load` takes, side by side: size, loss, tasks, speed, memory, text.

    Other choices are the fields of `claw.specs.shrinking.CompareParameters`. Models with tokenizers of their own are compared
    in bits per byte instead of nats per token.
    """
    wanted = build_spec(CompareParameters, {"before": before, "after": after, **asked})
    for name in (before, after):
        load.check_name(name)
    token_blocks.check_purpose(wanted.heldout, "heldout")
    tasks.check_tasks(wanted.tasks)
    tell(f"loading {before} and {after}")
    dense, tokenizer = load.load(before, dtype=wanted.dtype, device=wanted.device)
    kind = str(dense.dtype).removeprefix("torch.")
    small, other = load.load(after, dtype=kind, device=wanted.device)
    for model in (dense, small):
        check_window(model.config, wanted.length, "held-out text in blocks")
    return Compared(side_by_side.measure_pair((before, dense, tokenizer), (after, small, other), wanted, tell))
