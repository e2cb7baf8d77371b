"""Greedy generation for many prompts at a time, on the decoder's own forward pass with a key-value cache.

What all prompts of a batch begin with is computed once. The rest is padded on the left in the cache, so that all rows write
their next token at the same place; longest first, so that little is padded, and padding is in no product. A row leaves the
batch when it is done: the cache is drawn together whenever half of the rows have left. On a CPU the weights are packed first
(`products`). Attention written as two plain products instead of torch's kernel gained nothing that lasts.
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
from claw.engine.products import PackedProducts, product
from claw.models.arithmetic import Readout, readout_of

ROWS = {"cpu": 32, "cuda": 256}  # prompts at a time
CACHE_BYTES = {"cpu": 1 << 30, "cuda": 8 << 30}  # of keys and values
PROMPT_TOKENS = {"cpu": 4096, "cuda": 65536}  # that pass through the model together, padding included

Done = Callable[[int, list[int]], bool]  # number of a prompt, its tokens so far: whether it needs no more


@dataclass
class CachedRows:
    """Rows that are generated together: which prompts they are, what they share, how much each is padded, and the cache."""

    numbers: list[int]
    shared: int  # tokens that all begin with; padding comes after them
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
        parts = self.decoder.parts
        linears = [linear for layer in parts.layers for linear in layer.linears.values()]
        self.decoder.multiply = PackedProducts([*linears, parts.head])
        try:
            while waiting:
                count = self._fitting(len(prompts[waiting[0]]), tokens)
                batch, waiting = waiting[:count], waiting[count:]
                self._batch(prompts, batch, tokens, frozenset(ends), done, written)
        finally:
            self.decoder.multiply = product  # weights may change before the next call
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
        rows, chosen = self._read([prompts[number] for number in batch], batch, tokens)
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
                chosen = self._step(rows, chosen)
                continue
            every = torch.zeros(len(rows.numbers), dtype=torch.long, device=self.device)  # rows that are done go on, unheard
            every[torch.tensor(still, device=self.device)] = chosen[places] if places is not None else chosen
            going = still
            chosen = self._step(rows, every)[torch.tensor(still, device=self.device)]

    def _read(self, prompts: list[Sequence[int]], numbers: list[int], tokens: int) -> tuple[CachedRows, Tensor]:
        """Prompts in a cache that has room for `tokens` more, and the likeliest token (B,) after each."""
        parts, lengths = self.decoder.parts, np.array([len(prompt) for prompt in prompts])
        shared = shared_beginning(prompts)
        longest = int(lengths.max())
        size = (len(prompts), parts.groups, longest + tokens, parts.head_size)
        held = [[torch.empty(size, dtype=parts.dtype, device=self.device) for _ in parts.layers] for _ in range(2)]
        if shared:
            beginning = self.decoder.stem(torch.tensor(prompts[0][:shared], device=self.device))
            for kept, pieces in zip(held, zip(*beginning, strict=True), strict=True):
                for whole, piece in zip(kept, pieces, strict=True):
                    whole[:, :, :shared] = piece
        padding = torch.from_numpy(longest - lengths).to(self.device)
        rows = CachedRows(numbers, shared, padding, keys=held[0], values=held[1], length=shared)
        there = np.arange(longest - shared) >= (longest - lengths)[:, None]  # (B, T): what is no padding
        ids = torch.from_numpy(np.concatenate([np.asarray(prompt[shared:], dtype=np.int64) for prompt in prompts]))
        places = None if there.all() and longest - shared == 1 else torch.from_numpy(np.flatnonzero(there)).to(self.device)
        return rows, self._step(rows, ids.to(self.device), longest - shared, places)

    def _step(self, rows: CachedRows, tokens: Tensor, length: int = 1, places: Tensor | None = None) -> Tensor:
        """The likeliest token (B,) after each row and its `tokens`, whose keys and values go into the cache.

        Tokens (N,) are those of all rows, one each, or `places` (N,) says where they are in (B, `length`).
        """
        decoder, parts, count = self.decoder, self.decoder.parts, len(rows.numbers)
        start, stop = rows.length, rows.length + length
        place = torch.arange(stop, device=self.device)
        position = place - rows.padding[:, None] * (place >= rows.shared)  # (B, S); of no meaning in padding
        kinds = dict.fromkeys(decoder.rotary_types)
        here = position[:, start:].flatten()
        here = here if places is None else here[places]
        x = decoder.embed(tokens, here)
        rotations = {kind: rotation(parts, x, here, kind) for kind in kinds}
        masks = {window: self._mask(rows, place, position, start, window, x.dtype) for window in dict.fromkeys(decoder.windows)}
        for layer in parts.layers:
            index = layer.index
            heads = decoder.heads(layer, x, rotations[decoder.rotary_types[index]])
            spread = (_spread(part, count, length, places) for part in heads)
            q, rows.keys[index][:, :, start:stop], rows.values[index][:, :, start:stop] = spread
            keys, values = rows.keys[index][:, :, :stop], rows.values[index][:, :, :stop]
            mask, scaling = masks[decoder.windows[index]], layer.attention.scaling
            one = length == 1 and decoder.cap is None
            y = attend_one(q, keys, values, mask, scaling) if one else attend(q, keys, values, mask, scaling, decoder.cap)
            if layer is parts.layers[-1]:  # the last token alone decides
                y = y.view(count, length, -1)[:, -1]
                x = (
                    x
                    if places is None
                    else x[torch.searchsorted(places, length * torch.arange(1, count + 1, device=x.device)) - 1]
                )
            elif places is not None:
                y = y[places]
            x = decoder.after_attention(layer, x, y)
        rows.length = stop
        states = normalise(parts.norm, x, parts.gain_offset)
        return self.readout.logits(decoder.multiply(parts.head, states)).float().argmax(dim=-1)

    def _mask(
        self, rows: CachedRows, place: Tensor, position: Tensor, start: int, window: int | None, dtype: torch.dtype
    ) -> Tensor | None:
        """Additive mask (B, 1, T, S): what comes after, padding, and what a window leaves behind; None where all is seen."""
        here = place[start:]
        if not bool(rows.padding.any()) and (window is None or len(place) <= window) and len(here) in (1, len(place)):
            return None
        there = (place < rows.shared) | (position >= rows.shared)
        seen = (here[:, None] >= place)[None] & there[:, None]
        if window is not None:
            seen = seen & (position[:, start:, None] - position[:, None] < window)
        seen = seen | (here[:, None] == place)[None]  # padding sees itself: rows of nothing would be NaN
        return torch.zeros(seen.shape, dtype=dtype, device=place.device).masked_fill_(~seen, -torch.inf)[:, None]


def shared_beginning(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens at the beginning are the same in all prompts; at least the last of each prompt is its own."""
    if len(prompts) == 1:
        return 0
    low, high = (
        min(map(list, prompts)),
        max(map(list, prompts)),
    )  # in the order of dictionaries: what these two share, all share
    most = min(len(prompt) for prompt in prompts) - 1
    return next((place for place in range(most) if low[place] != high[place]), most)


def _spread(part: Tensor, count: int, length: int, places: Tensor | None) -> Tensor:
    """Heads (N, heads, h) of all tokens as (B, heads, T, h), with zeros where no token is."""
    if places is None:
        return part[:, :, None]
    whole = part.new_zeros(count * length, *part.shape[1:])
    whole[places] = part
    return whole.view(count, length, *part.shape[1:]).transpose(1, 2)


def attend_one(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """Attention of one token's queries (B, H, 1, h) to keys and values (B, G, S, h), as (B, H·h).

    The heads of a group stand where tokens usually do: on a CPU in half precision that is six times as fast as grouped heads.
    """
    count, groups, _, size = k.shape
    out = F.scaled_dot_product_attention(q.reshape(count, groups, -1, size), k, v, mask, scale=scaling)
    return out.reshape(count, -1)
