"""The flow from one model to a smaller one: load, calibrate, compress, recover, save, measure both, say what to do next.

What can be known to be wrong is refused before the model is loaded, and a share that it cannot lose before anything is
computed. The checkpoint is saved before it is measured, so what an interruption costs is the comparison alone.
"""

import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claw import files
from claw.errors import InputError
from claw.evaluate import held_out, tasks
from claw.evaluate.held_out import CrossEntropy
from claw.models import gguf_out, load
from claw.models.anatomy import anatomy
from claw.models.planned import check_window
from claw.one_model import default_method, goal, screen, side_by_side, until
from claw.one_model.side_by_side import Pair, Tell
from claw.one_model.until import Search, Tried
from claw.prune.compress import CompressionReport, compress
from claw.prune.statistics import Statistics
from claw.recovery import run
from claw.recovery.run import RecoveryReport
from claw.specs import methods
from claw.specs.experiment import Compression, Experiment
from claw.specs.shrinking import ShrinkParameters
from claw.specs.spec import build_spec
from claw.stages import checkpoints, share
from claw.stages.compress import statistics_for
from claw.stages.measure import heldout_blocks
from claw.texts import token_blocks
from claw.texts.token_blocks import Blocks

WATCHED = 4  # held-out blocks that are measured while a model recovers
ALIKE = 0.15  # share up to which the methods of one axis are nearly as good as claw (docs/methods.md)


@dataclass(frozen=True, kw_only=True)
class Shrunk:
    """The smaller model, where it is, and both models as measured. `print` it for one screen of text."""

    model: Any
    tokenizer: Any
    folder: Path
    report: CompressionReport
    pair: Pair
    search: Search | None  # where a loss was the limit
    recovered: RecoveryReport | None
    gguf: gguf_out.Written | None
    gguf_loss: CrossEntropy | None
    asked: ShrinkParameters
    why: str  # this method, where none was named
    seconds: float

    @property
    def title(self) -> str:
        recovery = f", then recovered on {self.recovered.tokens:,} tokens" if self.recovered else ""
        return f"{self.asked.model} without {self.report.ratio_params:.1%} of its parameters ({self.report.method}{recovery})"

    def after(self) -> list[str]:
        """Where everything is, and what to try next."""
        lines = self.search.sentences() if self.search else []
        lines += [self.recovered.summary()] if self.recovered else []
        lines += [self.why] if self.why else []
        lines += list(self.report.notes)
        lines.append(f"Saved: {self.folder}, a plain checkpoint that stock transformers loads. {self.seconds:,.0f} s in all.")
        if self.gguf and self.gguf_loss:
            loss = f"{self.gguf_loss.mean:.3f}, the checkpoint's {self.pair.after.loss.mean:.3f}"
            lines += [
                f"GGUF: {self.gguf.path}, {self.gguf.bytes / 1e6:,.1f} MB; loss of what it holds {loss}.",
                *self.gguf.notes,
            ]
        return [*lines, "", "Next:", *(f"  {line}" for line in self.next_steps())]

    def next_steps(self) -> list[str]:
        """Commands that follow from what was done."""
        again = shlex.join(["claw", "compress", self.asked.model, "--remove", f"{self.report.ratio_params:.0%}"])
        steps = [shlex.join(["claw", "say", str(self.folder), self.pair.prompt])]
        if not self.recovered:
            steps.append(f"{again} --recover 200k     # trains some of the loss back")
        if self.report.ratio_params > ALIKE and self.asked.method != default_method.BEST:
            steps.append(f"{again} --method claw      # loses less, but measures the model for minutes first")
        if not self.gguf:
            steps.append(f"{again} --gguf q8_0        # a file for llama.cpp and what is built on it")
        elif self.asked.gguf != "q8_0":
            steps.append(shlex.join(["llama-quantize", str(self.gguf.path), f"{self.folder.name}.q4_k_m.gguf", "Q4_K_M"]))
        if not self.asked.tasks:
            steps.append(shlex.join(["claw", "compare", self.asked.model, str(self.folder), "--tasks", "arc_easy,piqa"]))
        return steps

    def __str__(self) -> str:
        return screen.screen(self.title, self.pair, self.after())

    def _repr_html_(self) -> str:
        return screen.as_html(self.title, self.pair, self.after())


def shrink(model: str, *, tell: Tell = lambda _: None, **asked: Any) -> Shrunk:
    """A smaller model from one that `claw.load` takes, saved and measured beside it; `print` the result.

    How much goes is one of `remove` ("30%" or 0.3 of all parameters), `target` ("memory=1.2GB", "milliseconds=8", "params=90M")
    and `until` ("loss +10%"). The other fields are those of `claw.specs.shrinking.ShrinkParameters`: `method`, `out`, `gguf`,
    `recover`, `calibrate`, `tasks`, ... `tell` hears what is being done. InputError for what cannot be done, with what can.
    """
    return shrink_as(build_spec(ShrinkParameters, {"model": model, **asked}), tell)


def check_shrink(asked: ShrinkParameters) -> None:
    """InputError for anything that can be known to be wrong before the model is loaded."""
    load.check_name(asked.model)
    load.pick_device(asked.device)
    token_blocks.check_purpose(asked.heldout, "heldout")
    token_blocks.check_purpose(asked.calibrate, "calibration")
    token_blocks.check_disjoint(asked.calibrate, asked.heldout)
    tasks.check_tasks(asked.tasks)
    place = checkpoints.check_place(asked.place, asked.model)
    if asked.push:
        share.check_push(asked.push)
    if asked.gguf:
        files.check_own([gguf_path(asked, place)])


def gguf_path(asked: ShrinkParameters, folder: Path) -> Path:
    """Where the GGUF file goes: beside the checkpoint, with its type in the name."""
    return folder.with_name(f"{folder.name}.{asked.gguf}.gguf")


def shrink_as(asked: ShrinkParameters, tell: Tell = lambda _: None) -> Shrunk:
    """The flow, for what was asked."""
    started = time.perf_counter()
    check_shrink(asked)
    tell(f"loading {asked.model}")
    dense, tokenizer = load.load(asked.model, dtype=asked.dtype, device=asked.device)
    parts, why = anatomy(dense), ""
    if not asked.method:
        chosen, why = default_method.default_method(asked, parts)
        asked = asked.model_copy(update={"method": chosen})
        tell(why)
    goal.check_reach(asked, parts.shape)
    check_window(dense.config, asked.length, "texts in blocks")
    if asked.gguf:
        gguf_out.check_gguf(dense, tokenizer, asked.gguf)
    heldout = heldout_blocks(asked.evaluation, tokenizer)
    statistics = _statistics(asked, dense, tokenizer, heldout, tell)
    loss: CrossEntropy | None = None
    searched = None
    if asked.until is not None:
        tell("measuring the loss of the dense model")
        loss = held_out.cross_entropy(dense, heldout)
        searched = _search(asked, dense, statistics, heldout, loss, tell)
        small, report = searched.chosen.model, searched.chosen.report
    else:
        ratio, ratio_of = goal.ratio_for(asked, parts, statistics)
        tell(f"compressing with {asked.method}")
        small, report = compress(dense, asked.method, ratio, ratio_of=ratio_of, statistics=statistics, seed=asked.seed)
    recovered = None
    if asked.recover:
        small, recovered = _recover(asked, small, tokenizer, heldout, tell)
    tell("saving the checkpoint and loading it again to compare")
    experiment = _experiment(asked, report)
    folder = checkpoints.save(small, tokenizer, asked.place, report, experiment=experiment, base_model=asked.model)
    written, gguf_loss = None, None
    if asked.gguf:
        tell(f"writing GGUF as {asked.gguf} and measuring what it holds")
        written = gguf_out.write_gguf(small, tokenizer, gguf_path(asked, Path(folder)), asked.gguf, name=Path(folder).name)
        gguf_loss = held_out.cross_entropy(gguf_out.read_into(written.path, small), heldout)
    before, after = (asked.model, dense, tokenizer), (str(folder), small, tokenizer)
    pair = side_by_side.measure_pair(before, after, asked, tell, loss)
    done: dict[str, Any] = {
        "report": report,
        "pair": pair,
        "search": searched,
        "recovered": recovered,
        "asked": asked,
        "why": why,
    }
    done |= {"model": small, "tokenizer": tokenizer, "folder": Path(folder), "gguf": written, "gguf_loss": gguf_loss}
    shrunk = Shrunk(**done, seconds=time.perf_counter() - started)
    checkpoints.amend_card(Path(folder), f"## Measured\n\n```\n{screen.screen(shrunk.title, pair)}\n```\n")
    if asked.push:
        tell(f"sending the checkpoint to {asked.push}")
        share.push(folder, asked.push)
    return shrunk


def _statistics(asked: ShrinkParameters, dense: Any, tokenizer: Any, heldout: Blocks, tell: Tell) -> Statistics | None:
    if not methods.needs_statistics(asked.method) and not goal.needs_time(asked):
        return None
    tell(f"reading {asked.calibration_tokens:,} tokens of {asked.calibrate} to see what is used")
    gradients = methods.needs_gradients(asked.method)
    return statistics_for(asked.calibration, asked.seed, dense, tokenizer, gradients=gradients, heldout=heldout)


def _search(
    asked: ShrinkParameters, dense: Any, statistics: Statistics | None, heldout: Blocks, loss: CrossEntropy, tell: Tell
) -> Search:
    def make(ratio: float) -> Tried:
        small, report = compress(dense, asked.method, ratio, ratio_of="params", statistics=statistics, seed=asked.seed)
        return Tried(model=small, report=report, loss=held_out.cross_entropy(small, heldout))

    if asked.until is None:
        raise ValueError("no limit")
    return until.search(loss, asked.until.rise_of_loss(loss.mean), make, tell, goal.reach(asked.method, anatomy(dense).shape))


def _recover(asked: ShrinkParameters, small: Any, tokenizer: Any, heldout: Blocks, tell: Tell) -> tuple[Any, RecoveryReport]:
    tell(f"training on {asked.recover:,} tokens of {asked.calibrate}")
    count = max(1, asked.recover // asked.length)
    text = token_blocks.blocks(tokenizer, asked.calibrate, length=asked.length, count=count, purpose="recovery", seed=1)
    token_blocks.check_no_overlap(text, heldout)
    better, report = run.recover(small, text, tokens=asked.recover, heldout=heldout.part(slice(WATCHED)), seed=asked.seed)
    if report.nan_step is not None:
        raise InputError(f"{report.summary()} Nothing was saved. Leave --recover out, or recover the checkpoint by 20_recover.")
    return better, report


def _experiment(asked: ShrinkParameters, report: CompressionReport) -> Experiment:
    """The spec of the checkpoint, as the stages of a study know it."""
    compression = {"model": asked.model, "method": report.method, "ratio": report.ratio, "ratio_of": report.ratio_of}
    known = {"seed": asked.seed, "calibration": asked.calibration}
    return Experiment(compression=Compression.model_validate(compression | known), recovery=asked.recovery)
