"""The one call that recovers, and the run behind it: warmup-stable-decay, one stable phase and a decay for each budget.

Notable choices:
- Everything that a step does follows from the spec and the step's number, so a run that was killed goes on from its last
  state on disk and ends in the same weights, bit for bit.
- A state is master weights and AdamW's state in one safetensors file. When a budget's decay is done, the stable phase goes on
  from the state in which the decay began, so going on after a kill and after a decay are the same thing.
- Losses are divided by the targets of the whole batch, not of the part that fits into memory at a time.
"""

import math
import secrets
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from claw.engine.training import needs_checkpointing
from claw.errors import InputError
from claw.evaluate import held_out
from claw.files import digest, discard
from claw.models.identity import identify
from claw.models.load import check_ids
from claw.models.planned import check_window
from claw.models.undisturbed import leaves_as_before
from claw.progress import tqdm
from claw.recovery import recipes, schedule
from claw.recovery.outcome import LossPoint, RecoveryReport
from claw.recovery.recipes import TARGETS, Student
from claw.recovery.schedule import Milestone
from claw.recovery.teacher import Remembered, remember
from claw.recovery.weights import Weights, read_header
from claw.specs.experiment import Recovery
from claw.specs.spec import build_spec
from claw.texts.likeness import warn_if_far
from claw.texts.token_blocks import Blocks, check_no_overlap

PART_TOKENS = {"cpu": 4096, "cuda": 16384, "mps": 4096}  # tokens in one forward pass; more are accumulated
MEASUREMENTS = 8  # of held-out loss along the stable phase of the longest budget


@leaves_as_before
def recover(
    model: nn.Module,
    blocks: Blocks,
    *,
    tokens: int,
    recipe: str = "lora",
    heldout: Blocks | None = None,
    teacher: nn.Module | Remembered | None = None,
    targets: Sequence[str] = TARGETS,
    dense: nn.Module | float | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    **choices,
) -> tuple[nn.Module, RecoveryReport]:
    """The recovered model, a plain one of the same shape and type, and the report; `model` itself is not changed.

    `blocks` come from claw.blocks(..., purpose="recovery") and are taken in order, again from the first one (reshuffled by
    `seed`) if `tokens` asks for more; `heldout` blocks are measured along the way. `recipe` is "lora" (with `rank`), "full",
    "norms" or "distill" (with `teacher`); `choices` are the other fields of `claw.specs.experiment.Recipe`. With `top_k` the
    teacher's pass is made once and kept on disk. `dense`, the dense model or its held-out loss (by default the teacher), is
    what the report measures recovery by (`share_back`). With `folder` a run that was killed goes on from its last state.

    A run whose loss is not finite stops: the report says at which step, and the model is the one before that step.
    Raises InputError before any work: fewer tokens than a block, held-out text inside the training text, a LoRA target that
    the model does not have, a teacher with another vocabulary.
    """
    values = {"recipe": recipe, "tokens": tokens, "corpus": blocks.corpus, "length": blocks.length, "seed": seed, **choices}
    recovery = build_spec(Recovery, values)
    given: dict[str, Any] = {"heldout": heldout, "teacher": teacher, "targets": targets, "dense": dense, "folder": folder}
    return next(recover_milestones(model, blocks, [recovery], **given))


@leaves_as_before
def recover_milestones(
    model: nn.Module,
    blocks: Blocks,
    recoveries: Sequence[Recovery],
    *,
    heldout: Blocks | None = None,
    teacher: nn.Module | Remembered | None = None,
    targets: Sequence[str] = TARGETS,
    dense: nn.Module | float | None = None,
    folder: str | Path | None = None,
    checkpointing: bool | None = None,
    seconds: float = 300,
) -> Iterator[tuple[nn.Module, RecoveryReport]]:
    """The recovered model and report of each budget, ascending, all from one run; each is the same as in a run of its own.

    `recoveries` differ in `tokens` only. `checkpointing` recomputes activations to save memory; None decides by what is free.
    The state is written to `folder` every so many `seconds`.
    """
    first = recoveries[0]
    if len({recovery.run for recovery in recoveries}) > 1:
        raise InputError("The budgets differ in more than tokens, or each is to have a run of its own: run them apart.")
    recipes.check_recipe(model, first, teacher, targets)
    asked = [recovery.tokens for recovery in recoveries]
    budgets = schedule.milestones(asked, first.length, first.batch, warmup=first.warmup, decay=first.decay)
    if blocks.length != first.length or not len(blocks):
        raise InputError(f"The recovery asks for blocks of {first.length} tokens; there are {len(blocks)} of {blocks.length}.")
    check_ids(blocks.ids, model)
    check_window(model.config, blocks.length, "recovery text in blocks")
    if heldout is not None:
        warn_if_far(blocks, heldout)
    whole: Any = teacher if dense is None else dense
    if isinstance(whole, nn.Module):
        whole = held_out.cross_entropy(whole, heldout).mean if heldout is not None else math.nan
    used = blocks.part(slice(budgets[-1].blocks))
    if isinstance(teacher, Remembered):
        teacher.check(used, first.top_k, model.config.get_text_config().vocab_size)  # type: ignore[operator, union-attr]
    elif teacher is not None and first.top_k and not first.hidden_loss and not identify(teacher).obstacle:
        teacher = remember(teacher, used, first.top_k)
    choices: dict[str, Any] = {"teacher": teacher, "targets": targets, "checkpointing": checkpointing, "seconds": seconds}
    choices["dense"] = whole if isinstance(whole, float) else math.nan
    run = Run(model, blocks, first, budgets, heldout, **choices)
    with tempfile.TemporaryDirectory(prefix="claw-recovery-") as scratch:
        yield from run.go(Path(folder) if folder else Path(scratch))


@dataclass
class Run:
    """One training run: a student, its weights, and how far it is. The fields are the arguments of `recover_milestones`."""

    model: nn.Module
    blocks: Blocks
    recovery: Recovery
    budgets: Sequence[Milestone]
    heldout: Blocks | None = None
    _: KW_ONLY
    teacher: nn.Module | Remembered | None = None
    targets: Sequence[str] = ()
    checkpointing: bool | None = None
    seconds: float = math.inf
    dense: float = math.nan
    student_type: ClassVar[type[Student]] = Student

    def __post_init__(self) -> None:
        model, blocks, recovery, targets = self.model, self.blocks, self.recovery, self.targets
        self.overlap = check_no_overlap(blocks, self.heldout) if self.heldout is not None else math.nan
        self.seed = recovery.seed if recovery.runs == "milestones" else _mix(recovery.seed, recovery.tokens)
        first = blocks.ids[0].tolist()
        whose = identify(model)  # a state of a model that cannot be told apart from others is never taken up again
        only = secrets.token_hex(8) if whose.obstacle else ""
        self.identity = digest(f"{recovery.run.digest} {whose.name}{only} {first} {self.seed} {list(targets)}")
        self.student = self.student_type(model, recovery, self.teacher, targets, self.seed)
        self.device = next(model.parameters()).device
        self.weights = Weights(self.student.trained, recovery.learning_rate)
        self.rows = max(1, PART_TOKENS.get(self.device.type, 2048) // blocks.length)
        short = needs_checkpointing(model, self.rows, blocks.length, lean=self.student.forward.decoder is not None)
        if short if self.checkpointing is None else self.checkpointing:
            self.student.recompute()
        self.at = Position()

    def go(self, folder: Path) -> Iterator[tuple[nn.Module, RecoveryReport]]:
        """Train, giving the model at each budget."""
        stable, decay = (folder / f"{phase}-{self.identity}.safetensors" for phase in ("stable", "decay"))
        first, last = self.budgets[0], self.budgets[-1]
        decaying = self._resume(decay, first)
        if not (decaying or self._resume(stable, first)):
            self._measure(self.student.measurable(self.weights.wide))
        self.student.model.train()
        total = last.ends + sum(budget.ends - budget.decays for budget in self.budgets[:-1])
        broken = None  # the step of the stable phase that was not finite
        title = f"recover {self.recovery.recipe}"
        with tqdm(total=total, initial=self.at.step, desc=title, unit=" steps", disable=None) as bar:
            for budget in self.budgets:
                if not decaying and broken is None:
                    broken = self._train(budget, stable, bar, decay=False)
                    if broken is None and budget is not last:
                        self._save(stable, 0)
                failed = self._train(budget, decay, bar, decay=True) if broken is None else broken
                decaying = False
                small = self.student.plain(self.weights.wide)
                if failed is None:
                    self._measure(small)
                yield small, self._report(budget, failed)
                discard(decay)
                if broken is None and budget is not last:
                    self._load(stable)
        self.weights.close()
        discard(stable)

    def _train(self, budget: Milestone, path: Path, bar: tqdm, *, decay: bool) -> int | None:
        """Steps up to where the budget's decay begins, or those of its decay; the step (from 1) that broke."""
        end, rate = (budget.ends, budget.rate) if decay else (budget.decays, budget.stable_rate)
        interval = self._interval()
        saved = time.monotonic()
        while self.at.step < end:
            started = time.perf_counter()
            order = self._order(budget.blocks)
            loss, count = self._gradients(order)
            if not math.isfinite(loss) or not math.isfinite(self.weights.step(rate(self.at.step))):
                return self.at.step + 1
            self.at.step += 1
            self.at.tokens += len(order) * self.blocks.length
            self.at.seconds += time.perf_counter() - started
            self.at.loss += loss
            self.at.targets += count
            bar.update()
            bar.set_postfix_str(f"loss {loss / count:.3f}", refresh=False)
            if not decay and self.at.step % interval == 0:
                self._measure(self.student.measurable(self.weights.wide))
            if time.monotonic() - saved > self.seconds:
                self._save(path, budget.blocks if decay else 0)
                saved = time.monotonic()
        return None

    def _interval(self) -> int:
        """Steps between measurements of the stable phase, so many that no more held-out tokens are read than trained on."""
        few = self.budgets[-1].ends // MEASUREMENTS
        read = 0 if self.heldout is None else self.heldout.ids.numel()
        return max(1, few, math.ceil(read / (self.recovery.batch * self.blocks.length)))

    def _order(self, limit: int) -> list[int]:
        """Indices of a step's blocks: in the order given first, then shuffled anew each epoch; the last step may be short."""
        first, count = self.at.step * self.recovery.batch, len(self.blocks)
        order = []
        for place in range(first, min(first + self.recovery.batch, limit)):
            epoch, index = divmod(place, count)
            if epoch:
                generator = torch.Generator().manual_seed(_mix(self.seed, epoch))
                index = int(torch.randperm(count, generator=generator)[index])
            order.append(index)
        return order

    def _gradients(self, order: list[int]) -> tuple[float, int]:
        """Summed loss and number of targets of a batch, with gradients of the mean added up in the weights."""
        count, total = max(1, int(self.blocks.scored[order][:, 1:].sum())), 0.0
        for ids, scored in self._parts(order):
            loss = self.student.loss(ids.to(self.device), scored.to(self.device))
            (loss / count).backward()
            total += float(loss.detach()) / self.student.processes
        return total, count

    def _parts(self, order: list[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The ids and scored places of a batch, in parts that fit into memory."""
        return zip(self.blocks.ids[order].split(self.rows), self.blocks.scored[order].split(self.rows), strict=True)

    @torch.no_grad()
    def _measure(self, model: nn.Module) -> None:
        """Add the losses at this step to the loss curve."""
        training = model.training
        heldout = held_out.cross_entropy(model.eval(), self.heldout).mean if self.heldout is not None else math.nan
        model.train(training)
        self.at.measured(heldout)

    def _save(self, path: Path, decay_of: int) -> None:
        self.weights.save(path, {"identity": self.identity, "decay_of": decay_of, "at": asdict(self.at)})

    def _resume(self, path: Path, first: Milestone) -> bool:
        """Take up a state on disk, if it is of this run and not beyond its first budget."""
        about = read_header(path)
        if about is None or about["identity"] != self.identity:
            return False
        usable = about["decay_of"] == first.blocks if about["decay_of"] else about["at"]["step"] <= first.decays
        if usable:
            self._load(path)
        return usable

    def _load(self, path: Path) -> None:
        at = (read_header(path) or {})["at"]
        self.weights.load(path)
        self.at = Position(**at | {"moments": [LossPoint(**point) for point in at["moments"]]})

    def _report(self, budget: Milestone, failed: int | None) -> RecoveryReport:
        at, trained = self.at, sum(parameter.numel() for parameter in self.student.trained)
        asked: dict[str, Any] = {name: getattr(self.recovery, name) for name in ("recipe", "runs", "batch", "learning_rate")}
        asked |= {"asked": budget.asked, "run": self.identity, "overlap": self.overlap, "trained": trained, "dense": self.dense}
        done: dict[str, Any] = {"tokens": at.tokens, "steps": at.step, "seconds": at.seconds, "moments": tuple(at.moments)}
        done["flops"] = at.tokens * self.student.flops_per_token
        done |= {"epochs": at.tokens / (len(self.blocks) * self.recovery.length), "nan_step": failed}
        return RecoveryReport(**asked, **done, tokens_per_second=at.tokens / at.seconds if at.seconds else math.nan)


@dataclass
class Position:
    """How far a run is: steps taken, tokens seen, seconds trained, and its loss curve so far."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss: float = 0.0  # summed since the last measurement
    targets: int = 0
    moments: list[LossPoint] = field(default_factory=list)

    def measured(self, heldout: float) -> None:
        """Close the mean of the training loss and add a point to the loss curve."""
        train = self.loss / self.targets if self.targets else math.nan
        self.moments.append(LossPoint(self.tokens, train, heldout))
        self.loss, self.targets = 0.0, 0


def _mix(*numbers: int) -> int:
    """A seed from several numbers."""
    return int(digest(repr(numbers))[:8], 16) % 2**31
