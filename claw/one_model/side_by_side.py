"""Two models measured alike: size, held-out loss, tasks, speed in turns, memory, and what each writes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from claw.evaluate import generation, held_out, tasks, timing
from claw.evaluate.generation import FreeText
from claw.evaluate.held_out import CrossEntropy
from claw.evaluate.timing import Timing
from claw.models.undisturbed import leaves_as_before
from claw.specs.experiment import Speed
from claw.specs.shrinking import LookParameters
from claw.stages.measure import heldout_blocks
from claw.texts.token_blocks import Blocks

PROMPT, GENERATE, ROUNDS = 64, 32, 5  # of the timing: tokens read, tokens generated, turns

Tell = Callable[[str], Any]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One model as it was measured. `tasks` is the frame of `claw.score_tasks`, None where none was asked for."""

    name: str
    parameters: int
    bytes: int
    loss: CrossEntropy
    tasks: pd.DataFrame | None
    text: str
    free: FreeText


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A model before and after, with the timings and the peak memory (bytes) of both."""

    before: Side
    after: Side
    prefill: Timing
    decode: Timing
    memory0: int
    memory: int
    same_tokens: bool  # whether losses per token compare
    prompt: str


@leaves_as_before
def look(
    name: str, model: Any, tokenizer: Any, asked: LookParameters, blocks: Blocks, loss: CrossEntropy | None = None
) -> Side:
    """One side; `loss` where it was measured already."""
    parameters, scores = list(model.parameters()), None
    if asked.tasks:
        scores = tasks.score_tasks(model, tokenizer, asked.tasks, limit=asked.limit)
    return Side(
        name=name,
        parameters=sum(p.numel() for p in parameters),
        bytes=sum(p.numel() * p.element_size() for p in parameters),
        loss=loss or held_out.cross_entropy(model, blocks),
        tasks=scores,
        text=generation.write_on(model, tokenizer, asked.prompt, asked.words),
        free=generation.free_text(model, tokenizer, blocks),
    )


def measure_pair(before: tuple, after: tuple, asked: LookParameters, tell: Tell, loss: CrossEntropy | None = None) -> Pair:
    """Both models, each given as (name, model, tokenizer); `loss` is that of the first where it is known."""
    sides, texts = [], []
    for (name, model, tokenizer), known in ((before, loss), (after, None)):
        tell(f"measuring {name}: loss, {'tasks, ' if asked.tasks else ''}text")
        blocks = heldout_blocks(asked.evaluation, tokenizer)
        texts.append(blocks.sha256)
        sides.append(look(name, model, tokenizer, asked, blocks, known))
    tell("timing both in turns")
    dense, small = before[1], after[1]
    room = min(model.config.get_text_config().max_position_embeddings for model in (dense, small))
    speed = Speed(prompt=min(PROMPT, room // 2), generate=min(GENERATE, room // 4), batches=(1,), rounds=ROUNDS)
    prefill, decode = timing.timings(small, dense, speed)
    with torch.inference_mode():
        memory0, memory = (timing.peak_memory(timing.Runner(model, 1, speed)) for model in (dense, small))
    both: dict[str, Any] = {"prefill": prefill, "decode": decode, "memory0": memory0, "memory": memory, "prompt": asked.prompt}
    return Pair(before=sides[0], after=sides[1], **both, same_tokens=texts[0] == texts[1])


def comparison_rows(pair: Pair) -> list[tuple[str, ...]]:
    """What is compared: a name, both values, the change."""
    before, after = pair.before, pair.after
    lines: list[tuple[str, ...]] = [
        ("parameters", *_amounts(before.parameters, after.parameters, 1e6, "M")),
        ("weights", *_amounts(before.bytes, after.bytes, 1e6, "MB")),
        ("memory while generating", *_amounts(pair.memory0, pair.memory, 1e6, "MB")),
    ]
    losses = (before.loss, after.loss)
    if pair.same_tokens:
        rise = f"{after.loss.mean / before.loss.mean - 1:+.1%}"
        lines.append(("held-out loss, nats per token", *(f"{loss.mean:.3f} ± {loss.stderr:.3f}" for loss in losses), rise))
        times = f"{after.loss.token_perplexity / before.loss.token_perplexity:.2f} times"
        lines.append(("perplexity per token", *(f"{loss.token_perplexity:,.1f}" for loss in losses), times))
    else:
        bits = [loss.bits_per_byte for loss in losses]
        lines.append(("held-out bits per byte", *(f"{value:.3f}" for value in bits), f"{bits[1] / bits[0] - 1:+.1%}"))
    lines += _scores(before.tasks, after.tasks)
    for name, timed, tokens in (("reading", pair.prefill, PROMPT), ("generating", pair.decode, 1)):
        rates = [f"{tokens / seconds:,.1f}" for seconds in (timed.seconds0, timed.seconds)]
        lines.append((f"tokens per second, {name}", *rates, f"{timed.speedup:.2f} times as fast"))
    for name, of in (("repeated 4-grams in free text", "repetition"), ("distinct bigrams in free text", "distinct")):
        shares = [getattr(side.free, of) for side in (before, after)]
        lines.append((name, *(f"{value:.0%}" for value in shares), ""))
    return lines


def _amounts(before: float, after: float, unit: float, name: str) -> tuple[str, str, str]:
    return f"{before / unit:,.1f} {name}", f"{after / unit:,.1f} {name}", f"{after / before - 1:+.1%}"


def _scores(before: pd.DataFrame | None, after: pd.DataFrame | None) -> list[tuple[str, ...]]:
    """One line per task: its acc_norm, or acc, or whatever it has, with standard errors, and chance."""
    lines: list[tuple[str, ...]] = []
    if before is None or after is None:
        return []
    for task, scores in before.groupby("task", sort=False):
        order = {"acc_norm": 0, "acc": 1}
        row = min(scores.itertuples(), key=lambda score: order.get(str(score.metric), 2))
        (other,) = after[(after["task"] == task) & (after["metric"] == row.metric)].itertuples()
        chance = "" if pd.isna(row.chance) else f"chance {row.chance:.2f}"
        values = (f"{score.value:.3f} ± {score.stderr:.3f}" for score in (row, other))
        lines.append((f"{task} {row.metric}, {row.n} documents", *values, chance))
    return lines
