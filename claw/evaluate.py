"""Held-out cross-entropy of a model, in nats per token, with its standard error.

The standard error is over blocks, not tokens: neighbouring tokens are not independent. Perplexity per token, per word and
bits per byte each have their own name; only the last two compare across tokenizers.
"""

import math
from dataclasses import asdict, dataclass

import torch
from torch import nn
from tqdm import tqdm

from claw.data import Blocks

BATCH_TOKENS = 4096
HEAD_TOKENS = 1024  # positions whose logits over the whole vocabulary exist at one time


@dataclass(frozen=True)
class CrossEntropy:
    """Mean negative log-likelihood of held-out text. `mean` and `stderr` in nats per token; NaN where the model gives NaN."""

    mean: float
    stderr: float
    tokens: int
    words: float
    bytes: int
    corpus: str
    context: int
    data: str

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

    def to_dict(self) -> dict:
        """Plain values for a record, the derived ones included."""
        derived = ("token_perplexity", "word_perplexity", "bits_per_byte")
        return asdict(self) | {name: getattr(self, name) for name in derived}


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


@torch.no_grad()
def cross_entropy(model: nn.Module, blocks: Blocks) -> CrossEntropy:
    """Cross-entropy of `model` on held-out blocks, each block a context of its own."""
    device = next(model.parameters()).device
    rows = max(1, BATCH_TOKENS // blocks.length)
    sums, counts = [], []
    pairs = zip(blocks.ids.split(rows), blocks.scored.split(rows), strict=True)
    for ids, scored in tqdm(
        pairs, total=-(-len(blocks) // rows), desc="held-out loss", unit=" batches", disable=None, leave=False
    ):
        losses = token_losses(model, ids.to(device)).cpu().double()
        targets = scored[:, 1:]
        sums += (losses * targets).sum(1).tolist()
        counts += targets.sum(1).tolist()
    return summarise(sums, counts, blocks)


def token_losses(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each next token, (B, T-1) float32, for ids (B, T)."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
    targets = ids[:, 1:].flatten()
    pieces = [
        nn.functional.cross_entropy(model.lm_head(h).float(), t, reduction="none")
        for h, t in zip(hidden.split(HEAD_TOKENS), targets.split(HEAD_TOKENS), strict=True)
    ]
    return torch.cat(pieces).view(ids.shape[0], -1)


def summarise(sums: list[float], counts: list[int], blocks: Blocks) -> CrossEntropy:
    """Mean over tokens and its standard error from per-block sums (ratio estimator over blocks)."""
    total, tokens, n = sum(sums), sum(counts), len(sums)
    mean = total / tokens
    if n > 1:
        spread = sum((s - mean * c) ** 2 for s, c in zip(sums, counts, strict=True)) / (n - 1)
        stderr = math.sqrt(spread * n) / tokens
    else:
        stderr = math.nan
    return CrossEntropy(mean, stderr, tokens, blocks.words, blocks.bytes, blocks.corpus, blocks.length, blocks.sha256)
