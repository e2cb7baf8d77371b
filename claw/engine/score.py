"""Log-likelihoods of token requests under a model, in batches that fit into memory.

The output head runs only at scored places and log-softmax is summed in float32. In half precision this goes a tile of the
vocabulary at a time, so that no tensor over all tokens and vocabulary exists. In float32 it is torch's own log_softmax on few
places at a time: its sum over the vocabulary is the less exact one (1e-5 per token), but it is the one that lm-eval uses, and
equal numbers are what float32 is for. A batch that does not fit into memory is halved; what was scored stays scored.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from claw.engine import products
from claw.engine.choice import build_decoder
from claw.engine.decoder import KeyValues, Packed
from claw.engine.prefix_tree import Batch, PrefixTree, Request, Row, Stem, padded
from claw.engine.stock import StockForward
from claw.errors import InputError
from claw.models.arithmetic import Readout, readout_of

BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}  # tokens that pass through the model together
ATTENTION_BYTES = {"cpu": 64 << 20, "cuda": 1 << 30}  # of a batch: its mask, and a stem's keys and values for every row
TILE_BYTES = {"cpu": 2 << 20, "cuda": 256 << 20}  # of logits in float32, over part of the vocabulary
ALIGNMENT = {"cpu": 16, "cuda": 64}  # rows attend padded to multiples of this: fewer calls, and lengths that kernels like
LOGITS_BYTES = {"cpu": 64 << 20, "cuda": 1 << 30}  # of logits in float32, over all of it
NEAR_ROWS = 128  # places at once for which all logits are looked at
HEAD_ROWS = 1024  # scored places that share one reading of the head's weights

Result = tuple[np.ndarray, np.ndarray, np.ndarray]  # numbers of requests, their log-likelihoods, whether all was greedy


class Scorer:
    """Scores requests under one model. `reason`, also a warning, says why the stock forward is used; empty for the fast one."""

    def __init__(self, model: nn.Module, *, batch_tokens: int | None = None):
        self.model = model
        self.decoder, self.reason = build_decoder(model)
        if self.reason and not hasattr(model, "peft_config"):  # Python shows the same warning once
            kind = type(model).__name__
            warnings.warn(f"claw scores {kind} with its stock forward, because {self.reason}.", stacklevel=1)
        self.stock: Any = None if self.decoder else StockForward(model)
        self.readout = readout_of(model) if self.decoder else Readout()
        self.device = next(model.parameters()).device
        self.batch_tokens = batch_tokens or _for(self.device, BATCH_TOKENS)
        self.step = _for(self.device, ALIGNMENT) if self.decoder else 1

    def prefix_tree(self, requests: Sequence[Request]) -> PrefixTree:
        """The order in which these requests are computed; reusable with another model of the same tokenizer."""
        return PrefixTree(requests, share=self.decoder is not None)

    def score(self, tree: PrefixTree, *, greedy: bool = True) -> Iterator[Result]:
        """Yield numbers, log-likelihoods (float64) and greedy flags of the requests that each batch finished.

        A flag is True where every target was the most probable token (of equally probable ones the smallest id). Without
        `greedy` all are False, which saves looking for them.
        """
        if self.decoder is None and tree.shared:
            raise ValueError("the stock forward computes every request by itself: make the tree with Scorer.prefix_tree")
        if self.device.type == "cpu":  # glibc then keeps freed blocks up to this size, which saves a tenth in page faults
            torch.empty(31 << 20, dtype=torch.uint8)
        yield from self._score(tree, tree.root, None, greedy)

    def _score(self, tree: PrefixTree, stem: Stem, above: KeyValues | None, greedy: bool) -> Iterator[Result]:
        if self.decoder is not None and len(stem.ids):
            above = self.decoder.stem(self._send(stem.ids), above)
        waiting = list(stem.rows)
        while waiting:
            rows = waiting[: self._fitting(waiting, stem)]
            try:
                result = self._batch(tree.batch(stem, rows, self.step), above, greedy)
            except (RuntimeError, MemoryError) as error:
                kinds = (torch.OutOfMemoryError, MemoryError)  # of a GPU; the CPU's allocator only says so
                if not isinstance(error, kinds) and "can't allocate memory" not in str(error):
                    raise
                self._halve(rows, error)
            else:
                waiting = waiting[len(rows) :]
                yield result
        for below in stem.stems:
            yield from self._score(tree, below, above, greedy)

    def _fitting(self, rows: Sequence[Row], stem: Stem) -> int:
        """How many of these rows, longest first, make the next batch."""
        tokens = np.cumsum([row.size for row in rows])
        needed = np.cumsum([self._attention_bytes(row, stem.length) for row in rows])
        fits = (tokens <= self.batch_tokens) & (needed <= _for(self.device, ATTENTION_BYTES))
        if self.decoder is None:  # a stock model may compute otherwise what is padded, or longer than its neighbour
            fits &= np.logical_and.accumulate([row.size == rows[0].size for row in rows])
        return max(1, int(fits.sum()))

    def _attention_bytes(self, row: Row, before: int) -> int:
        """Bytes for the mask of a row, and for keys and values of its stem, in one layer."""
        if self.decoder is None or not (before or row.branches):
            return 0
        parts = self.decoder.parts
        heads = parts.heads if self.device.type == "cuda" else parts.groups  # see decoder.attend
        seen = before + padded(row.size, self.step)
        return (padded(row.size, self.step) * seen + 2 * heads * parts.head_size * seen) * parts.dtype.itemsize

    def _halve(self, rows: Sequence[Row], error: BaseException) -> None:
        """Lower the number of tokens in a batch after these rows did not fit, or give up on a single row."""
        if len(rows) == 1:
            raise InputError(
                f"The memory of {self.device} does not suffice for a single sequence of {rows[0].size} tokens ({error}). "
                "Shorten the prompts (fewer examples, a smaller max_length), free memory, or use another device."
            ) from error
        self.batch_tokens = sum(row.size for row in rows) // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _batch(self, batch: Batch, above: KeyValues | None, greedy: bool) -> Result:
        packed = Packed.of(batch, self.device)
        places = self._send(batch.places)
        states = self.decoder.hidden(packed, places, above) if self.decoder else self.stock.logits(packed, places)
        logprobs, hits = np.empty(len(batch.place), dtype=np.float64), np.zeros(len(batch.place), dtype=bool)
        like_lm_eval = greedy and states.dtype == torch.float32
        at_once = max(1, _for(self.device, LOGITS_BYTES) // (4 * self._vocabulary(states))) if like_lm_eval else HEAD_ROWS
        read = self._read_whole if like_lm_eval else self._read_tiles
        for start in range(0, len(places), at_once):
            stop = min(start + at_once, len(places))
            these = np.flatnonzero((batch.place >= start) & (batch.place < stop))
            these = these[np.argsort(batch.target[these], kind="stable")]
            logprobs[these], hits[these] = read(states[start:stop], batch.place[these] - start, batch.target[these], greedy)
        count = len(batch.requests)
        misses = np.bincount(batch.owner, weights=~hits, minlength=count)
        return batch.requests, np.bincount(batch.owner, weights=logprobs, minlength=count), misses == 0

    def _read_whole(self, states: torch.Tensor, place: np.ndarray, target: np.ndarray, _greedy: bool) -> tuple[np.ndarray, ...]:
        """Log-probability of each target after the state at its place, and whether it is the most probable token there."""
        logprobs = torch.log_softmax(self._logits(states, 0, None), dim=1)
        where, wanted = self._send(place), self._send(target)
        return logprobs[where, wanted].cpu().numpy(), (logprobs.argmax(dim=1)[where] == wanted).cpu().numpy()

    def _read_tiles(self, states: torch.Tensor, place: np.ndarray, target: np.ndarray, greedy: bool) -> tuple[np.ndarray, ...]:
        """The same for targets in ascending order, a tile of the vocabulary at a time."""
        width = max(512, _for(self.device, TILE_BYTES) // (4 * len(states)) // 512 * 512)
        where, wanted = self._send(place), self._send(target)
        logits, sums, tops = torch.empty(len(wanted), device=self.device), [], []
        for start in range(0, self._vocabulary(states), width):
            z = self._logits(states, start, start + width).float()
            lo, hi = np.searchsorted(target, (start, start + width))
            logits[lo:hi] = z[where[lo:hi], wanted[lo:hi] - start]
            tops.append(z.amax(dim=1))
            sums.append(z.sub_(tops[-1][:, None]).exp_().sum(dim=1).log_().add_(tops[-1]))
        logprobs = logits - torch.stack(sums).logsumexp(dim=0)[where]
        hits = torch.zeros_like(wanted, dtype=torch.bool)
        if greedy:  # looking for the most probable token is slow, and needed only where the target is as probable as that
            near = (logits >= torch.stack(tops).amax(dim=0)[where]).nonzero()[:, 0]
            for some in near.split(NEAR_ROWS):
                hits[some] = self._logits(states[where[some]], 0, None).argmax(dim=1) == wanted[some]
        return logprobs.cpu().numpy(), hits.cpu().numpy()

    def _send(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    def _vocabulary(self, states: torch.Tensor) -> int:
        return self.decoder.parts.head.out_features if self.decoder else states.shape[1]

    def _logits(self, states: torch.Tensor, start: int, stop: int | None) -> torch.Tensor:
        """Logits of vocabulary ids start to stop; what the stock model returns is logits already."""
        if self.decoder is None:
            return states[:, start:stop]
        head = self.decoder.parts.head
        bias = None if head.bias is None else head.bias[start:stop]
        return self.readout.logits(products.rows_times(states, head.weight[start:stop], bias))


def _for(device: torch.device, values: dict[str, int]) -> int:
    return values.get(device.type, values["cpu"])
