"""Greedy generation for many prompts at a time, on the decoder's own forward pass with a key-value cache.

Prompts of a batch are padded on the left, so that all rows write their next token at the same place; longest first, so that
little is padded. A row leaves the batch when it is done: the cache is drawn together whenever half of the rows have left.
Logits are read in float32 and the smallest id of equally likely tokens is taken, as transformers does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from claw.engine.choice import build_decoder
from claw.engine.decoder import Decoder, attend, normalise, rotation
from claw.models.arithmetic import Readout, readout_of

ROWS = {"cpu": 32, "cuda": 256}  # prompts at a time
CACHE_BYTES = {"cpu": 1 << 30, "cuda": 8 << 30}  # of keys and values
PROMPT_TOKENS = {"cpu": 4096, "cuda": 65536}  # that pass through the model together, padding included

Done = Callable[[int, list[int]], bool]  # number of a prompt, its tokens so far: whether it needs no more


@dataclass
class CachedRows:
    """CachedRows that are generated together: which prompts they are, how much each is padded, and the cache."""

    numbers: list[int]
    padding: Tensor  # (B,)
    keys: list[Tensor]  # per layer (B, G, S, h)
    values: list[Tensor]
    length: int  # of what is in the cache

    def keep(self, rows: list[int]) -> None:
        """These rows alone."""
        index = torch.tensor(rows, device=self.padding.device)
        self.numbers = [self.numbers[row] for row in rows]
        self.padding = self.padding[index]
        self.keys, self.values = ([held[index] for held in kept] for kept in (self.keys, self.values))


class GreedyGenerator:
    """Writes on with the likeliest token; `reason` says why a model must generate by itself instead, empty if it need not."""

    def __init__(self, model: nn.Module):
        decoder, self.reason = build_decoder(model)
        self.decoder: Decoder = decoder  # type: ignore[assignment]  # there where no reason is
        self.readout = readout_of(model) if decoder else Readout()
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def write(self, prompts: Sequence[Sequence[int]], tokens: int, ends: Sequence[int], done: Done) -> list[list[int]]:
        """At most `tokens` tokens after each prompt, until one of `ends`, which is included, or until `done` says so."""
        written: list[list[int]] = [[] for _ in prompts]
        waiting = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
        while waiting:
            count = self._fitting(len(prompts[waiting[0]]), tokens)
            batch, waiting = waiting[:count], waiting[count:]
            self._batch(prompts, batch, tokens, frozenset(ends), done, written)
        return written

    def _fitting(self, longest: int, tokens: int) -> int:
        """How many prompts of this length make a batch."""
        parts, kind = self.decoder.parts, self.device.type
        of_row = 2 * parts.depth * parts.groups * parts.head_size * (longest + tokens) * parts.dtype.itemsize
        most = lambda limits: limits.get(kind, limits["cpu"])
        return max(1, min(most(ROWS), most(CACHE_BYTES) // of_row, most(PROMPT_TOKENS) // longest))

    def _batch(
        self, prompts: Sequence[Sequence[int]], batch: list[int], tokens: int, ends: frozenset[int], done: Done, written: list
    ) -> None:
        parts, longest = self.decoder.parts, max(len(prompts[number]) for number in batch)
        ids = np.zeros((len(batch), longest), dtype=np.int64)
        for row, number in enumerate(batch):
            ids[row, longest - len(prompts[number]) :] = prompts[number]
        size = (len(batch), parts.groups, longest + tokens, parts.head_size)
        held = [[torch.empty(size, dtype=parts.dtype, device=self.device) for _ in parts.layers] for _ in range(2)]
        padding = torch.tensor([longest - len(prompts[number]) for number in batch], device=self.device)
        rows = CachedRows(numbers=batch, padding=padding, keys=held[0], values=held[1], length=0)
        chosen = self._step(rows, torch.from_numpy(ids).to(self.device))
        going = list(range(len(batch)))  # rows of the cache that are not done
        for left in range(tokens - 1, -1, -1):
            still = []
            for row, token in zip(going, chosen.tolist(), strict=True):
                text = written[rows.numbers[row]]
                text.append(token)
                if token not in ends and not done(rows.numbers[row], text):
                    still.append(row)
            if not still or not left:
                return
            places = [going.index(row) for row in still] if len(still) < len(going) else None
            if len(still) <= len(rows.numbers) // 2:
                rows.keep(still)
                chosen = chosen[places] if places is not None else chosen
                going = list(range(len(still)))
                chosen = self._step(rows, chosen[:, None])
                continue
            every = torch.zeros(len(rows.numbers), dtype=torch.long, device=self.device)  # rows that are done go on, unheard
            every[torch.tensor(still, device=self.device)] = chosen[places] if places is not None else chosen
            going = still
            chosen = self._step(rows, every[:, None])[torch.tensor(still, device=self.device)]

    def _step(self, rows: CachedRows, tokens: Tensor) -> Tensor:
        """The likeliest tokens (B,) after `tokens` (B, T), whose keys and values go into the cache."""
        decoder, parts = self.decoder, self.decoder.parts
        count, length = tokens.shape
        start, stop = rows.length, rows.length + length
        place = torch.arange(stop, device=self.device)
        positions = (place[None, start:] - rows.padding[:, None]).clamp(min=0)
        x = parts.embedding(tokens.flatten())
        kinds = dict.fromkeys(decoder.rotary_types)
        rotations = {kind: rotation(parts, x, positions.flatten(), kind) for kind in kinds}
        masks = {window: self._mask(rows, place, start, window, x.dtype) for window in dict.fromkeys(decoder.windows)}
        for layer in parts.layers:
            index = layer.index
            y = normalise(layer.input_norm, x, parts.gain_offset)
            q, k, v = (
                part.view(count, length, -1, parts.head_size).transpose(1, 2)
                for part in decoder.heads(layer, y, rotations[decoder.rotary_types[index]])
            )
            rows.keys[index][:, :, start:stop] = k
            rows.values[index][:, :, start:stop] = v
            keys, values = rows.keys[index][:, :, :stop], rows.values[index][:, :, :stop]
            mask, scaling = masks[decoder.windows[index]], layer.attention.scaling
            y = attend_one(q, keys, values, mask, scaling) if length == 1 else attend(q, keys, values, mask, scaling)
            if layer is parts.layers[-1]:  # the last token alone decides
                x, y = (part.view(count, length, -1)[:, -1] for part in (x, y))
            x = decoder.after_attention(layer, x, y)
        rows.length = stop
        states = normalise(parts.norm, x, parts.gain_offset)
        return self.readout.logits(parts.head(states)).float().argmax(dim=-1)

    def _mask(self, rows: CachedRows, place: Tensor, start: int, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """Additive mask (B, 1, T, S): what comes after, padding, and what a window leaves behind; None where all is seen."""
        here = place[start:]
        if not bool(rows.padding.any()) and (window is None or len(place) <= window) and len(here) in (1, len(place)):
            return None
        seen = (here[:, None] >= place)[None] & (place >= rows.padding[:, None])[:, None]
        if window is not None:
            seen = seen & (here[:, None] - place < window)[None]
        seen = seen | (here[:, None] == place)[None]  # padding sees itself: rows of nothing would be NaN
        return torch.zeros(seen.shape, dtype=dtype, device=place.device).masked_fill_(~seen, -torch.inf)[:, None]


def attend_one(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """Attention of one token's queries (B, H, 1, h) to keys and values (B, G, S, h), as (B, H·h).

    The heads of a group stand where tokens usually do: on a CPU in half precision that is six times as fast as grouped heads.
    """
    count, groups, _, size = k.shape
    out = F.scaled_dot_product_attention(q.reshape(count, groups, -1, size), k, v, mask, scale=scaling)
    return out.reshape(count, -1)
