"""What a model writes by itself, and two numbers that say whether it still writes rather than repeats.

Choices between given answers hide a collapse that shows as soon as a model writes: it says the same again and again.
`repetition` is the share of n-grams that occurred before in the same text (Holtzman et al. 2020 count them so), `distinct` the
share of all n-grams of several texts that differ (distinct-n, Li et al. 2016).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

from claw.engine.greedy import GreedyGenerator
from claw.evaluate import generating
from claw.models.undisturbed import undisturbed
from claw.texts.token_blocks import Blocks

PROMPTS, START, LENGTH = 8, 32, 48  # free texts: how many, tokens of each beginning, tokens written after it


def ngrams(ids: Sequence[int], n: int) -> list[tuple[int, ...]]:
    """All runs of n tokens."""
    return [tuple(ids[place : place + n]) for place in range(len(ids) - n + 1)]


def repetition(ids: Sequence[int], n: int = 4) -> float:
    """Share of the n-grams of a text that occurred in it before; 0 for a text of fewer than n tokens.

    >>> repetition([1, 2, 1, 2, 1, 2], n=2)
    0.6
    """
    runs = ngrams(ids, n)
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def distinct(texts: Sequence[Sequence[int]], n: int = 2) -> float:
    """Share of the n-grams of all texts together that differ from one another (distinct-n); 0 where there are none."""
    runs = [run for ids in texts for run in ngrams(ids, n)]
    return len(set(runs)) / len(runs) if runs else 0.0


@dataclass(frozen=True, kw_only=True)
class FreeText:
    """Continuations of the beginnings of held-out texts: mean `repetition` of 4-grams, and `distinct` bigrams."""

    texts: tuple[str, ...]
    repetition: float
    distinct: float


def free_text(model: Any, tokenizer: Any, heldout: Blocks) -> FreeText:
    """What a model writes after the first tokens of some held-out blocks, greedily."""
    prompts = heldout.ids[:PROMPTS, : min(START, heldout.length // 2)].tolist()
    with undisturbed(model):
        generator = GreedyGenerator(model)
    if generator.reason or generating.why_not_greedy(model, ()):
        written = [continued(model, ids, LENGTH) for ids in prompts]
    else:
        with undisturbed(model):
            written = generator.write(prompts, LENGTH, generating.ends_of(model, tokenizer), lambda number, ids: False)
    texts = tuple(tokenizer.batch_decode(written, skip_special_tokens=True))
    mean = sum(map(repetition, written)) / len(written)
    return FreeText(texts=texts, repetition=mean, distinct=distinct(written))


def continued(model: Any, prompt: Sequence[int], tokens: int, streamer: BaseStreamer | None = None) -> list[int]:
    """The likeliest next token, up to so many times: the model's own greedy generation, until it ends its text."""
    ids = torch.tensor([list(prompt)], device=model.device)
    padding = model.generation_config.pad_token_id or 0
    options: dict[str, Any] = {"max_new_tokens": tokens, "do_sample": False, "pad_token_id": padding, "streamer": streamer}
    with undisturbed(model), torch.inference_mode():
        written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
    return written[0, len(prompt) :].tolist()


def write_on(
    model: Any, tokenizer: Any, prompt: str | Sequence[int], tokens: int, tell: Callable[[str], Any] = lambda _: None
) -> str:
    """A prompt (text or token ids) and what the model writes after it, greedily; `tell` hears the whole text as it grows."""
    ids = tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else list(prompt)
    growing = Growing(tokenizer, tell)
    return tokenizer.decode([*ids, *continued(model, ids, tokens, growing)], skip_special_tokens=True)


class Growing(BaseStreamer):
    """Hears a text as it grows."""

    def __init__(self, tokenizer: Any, tell: Callable[[str], Any]) -> None:
        self.tokenizer, self.tell = tokenizer, tell
        self.ids: list[int] = []

    def put(self, value: torch.Tensor) -> None:
        self.ids += value.flatten().tolist()
        self.tell(self.tokenizer.decode(self.ids, skip_special_tokens=True))

    def end(self) -> None: ...
