"""Held-out cross-entropy of a model, in nats per token, with its standard error.

It runs on the engine that scores tasks, so there is one fast path through a model. The standard error is over blocks, not
tokens: neighbouring tokens are not independent. What each block lost is kept, so that a compressed model can be compared with
the dense one block by block (`claw.paired`). Perplexity per token, per word and bits per byte each have their own name;
only the last two compare across tokenizers.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import nn

from claw.engine.prefix_tree import Request
from claw.engine.score import Scorer
from claw.models.load import check_ids
from claw.models.planned import check_window
from claw.models.undisturbed import leaves_as_before
from claw.paired import error_per_token
from claw.progress import tqdm
from claw.texts.token_blocks import Blocks
from claw.words import html_table


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Mean negative log-likelihood of held-out text. `mean` and `stderr` in nats per token; NaN where the model gives NaN.

    `sums`: nats of each block, `counts`: its predicted tokens.
    """

    mean: float
    stderr: float
    tokens: int
    words: float
    bytes: int
    corpus: str
    context: int
    data: str
    sums: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()

    @property
    def token_perplexity(self) -> float:
        """e to the mean: depends on the tokenizer."""
        return _exp(self.mean)

    @property
    def word_perplexity(self) -> float:
        """e to the nats per white-space word."""
        return _exp(self.mean * self.tokens / self.words) if self.words else math.nan

    @property
    def bits_per_byte(self) -> float:
        """Nats per UTF-8 byte over log 2."""
        return self.mean * self.tokens / self.bytes / math.log(2) if self.bytes else math.nan

    def _repr_html_(self) -> str:
        rows = {
            "loss, nats per token": f"{self.mean:.4f} ± {self.stderr:.4f}",
            "perplexity per token": f"{self.token_perplexity:,.2f}",
            "perplexity per word": f"{self.word_perplexity:,.2f}",
            "bits per byte": f"{self.bits_per_byte:.4f}",
            "measured on": f"{self.tokens:,} tokens of {self.corpus}, {self.context} tokens of context",
        }
        return html_table(rows.items())

    def to_dict(self) -> dict:
        """Plain values for a record, the derived ones included."""
        return asdict(self) | {name: getattr(self, name) for name in ("token_perplexity", "word_perplexity", "bits_per_byte")}


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


@leaves_as_before
def cross_entropy(model: nn.Module, blocks: Blocks) -> CrossEntropy:
    """Cross-entropy of `model` on held-out blocks, each block a context of its own, in evaluation mode."""
    check_ids(blocks.ids, model)
    check_window(model.config, blocks.length, "held-out text in blocks")
    scorer = Scorer(model)
    targets = [np.flatnonzero(scored) for scored in blocks.scored.numpy()]
    counts = [len(indices) for indices in targets]
    with_targets = np.flatnonzero(counts)
    requests = [Request(blocks.ids[n, : targets[n][-1] + 1].numpy().astype(np.int32), targets[n]) for n in with_targets]
    sums = np.zeros(len(blocks))
    with tqdm(total=len(requests), desc="held-out loss", unit=" blocks", disable=None, leave=False) as bar:
        for numbers, loglikelihoods, _ in scorer.score(scorer.prefix_tree(requests), greedy=False):
            sums[with_targets[numbers]] = -loglikelihoods
            bar.update(len(numbers))
    tokens = sum(counts)
    mean, stderr = sum(sums.tolist()) / tokens, error_per_token(sums, counts)
    about: dict[str, Any] = {"words": blocks.words, "bytes": blocks.bytes, "corpus": blocks.corpus, "context": blocks.length}
    about |= {"sums": tuple(round(total, 6) for total in sums.tolist()), "counts": tuple(counts)}
    return CrossEntropy(mean=mean, stderr=stderr, tokens=tokens, **about, data=blocks.sha256)
