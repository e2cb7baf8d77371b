"""Whether the fast pass gives the stock logits: a comparison in float32 on a copy of one layer of every kind.

Tried are sequences of several lengths with shared beginnings in one batch, repeated and random tokens, a stem, positions beyond
every length that the configuration names, and sliding windows made so short that the sequences outgrow them. All is tried once
with the model's own weights and once with attention sharpened, because on weights that attend to everything alike nearly every
mistake in attention is small. What counts is the token where the two differ most, against the rounding of float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from claw.engine.decoder import Decoder, Packed
from claw.engine.prefix_tree import PrefixTree, Request
from claw.models.anatomy import Anatomy, anatomy
from claw.models.arithmetic import readout_of
from claw.models.few_layers import few_layers
from claw.models.linears import set_linear

TOLERANCE = 2e-5  # of a token's logits, relative to those of all tokens
NOISE = 30  # times the effect of rounding each embedding once more
WINDOW = 12  # tokens of a sliding window in the copy
SHARPER = 4.0  # times the attention scores
LENGTHS = ((41, 0), (34, 17), (25, 17), (9, 0), (2, 0))  # of each sequence, and of what it shares with the first
STEP = 16  # rows are padded to multiples of it
STEM = 17


def why_not_equal(model: Any) -> str:
    """Where the fast pass differs from the stock one of this model; empty if it does not."""
    for few in trial_copies(model):
        for what, ours, stock, noise in _passes(few):
            if why := why_not_near(ours, stock, noise):
                return f"its logits {what} {why}"
    return ""


def trial_copies(model: Any) -> Iterator[Any]:
    """The copies on which a pass of one's own is compared: with short windows, then with sharpened attention too."""
    few = few_layers(model)
    _shorten_windows(few)
    yield few
    parts = anatomy(few)
    for layer in parts.layers:
        _sharpen(layer, SHARPER, parts.gain_offset)
    yield few


def why_not_near(ours: Tensor, stock: Tensor, noise: float = 0.0) -> str:
    """How two results (N, n) for the same tokens differ by more than rounding; empty if they do not."""
    difference = worst_token(ours, stock)
    if difference <= max(TOLERANCE, NOISE * noise) or not stock.isfinite().all():  # a model that gives NaN gives it either way
        return ""
    return f"differ by {difference:.2%} from those of the blocks that are understood"


@torch.inference_mode()
def _passes(few: Any) -> Iterator[tuple[str, Tensor, Tensor, float]]:
    """For each thing tried: what it is, the fast logits (N, V), the stock ones, and their relative rounding."""
    decoder, parts = Decoder(anatomy(few)), anatomy(few)
    device, readout = parts.device, readout_of(few)
    head = lambda states: readout.logits(parts.head(states))
    sequences = _sequences(parts.vocabulary)
    alone = [few(input_ids=_row(ids, device), use_cache=False).logits[0] for ids in sequences]
    with _rounded(parts.embedding.weight):
        noise = worst_token(few(input_ids=_row(sequences[0], device), use_cache=False).logits[0], alone[0])

    requests = [Request(np.append(ids, 0).astype(np.int32), np.arange(1, len(ids) + 1)) for ids in sequences]
    tree = PrefixTree(requests, share=True)
    batch = tree.batch(tree.root, tree.root.rows, STEP)
    states = decoder.hidden(Packed.of(batch, device), torch.from_numpy(batch.places).to(device))
    wanted = torch.cat([alone[number] for number in batch.requests])
    yield "of sequences in one batch", head(states)[torch.from_numpy(batch.place).to(device)], wanted, noise

    above = decoder.stem(torch.from_numpy(sequences[0][:STEM]).to(device))
    rest = Packed.sequences(_row(sequences[0][STEM:], device), start=STEM)
    yield (
        "after a stem",
        head(decoder.hidden(rest, torch.arange(len(rest.tokens), device=device), above)),
        alone[0][STEM:],
        noise,
    )

    far = _far(parts)
    packed = Packed.sequences(_row(sequences[1], device), start=far)
    stock = few(input_ids=packed.tokens[None], position_ids=packed.positions[None], use_cache=False).logits[0]
    ours = head(decoder.hidden(packed, torch.arange(len(packed.tokens), device=device)))
    yield f"from position {far}", ours, stock, noise


def _sequences(vocabulary: int) -> list[np.ndarray]:
    """Token ids: the first half of the first random, then repeated; others begin like it."""
    draw = np.random.default_rng(0)
    longest = draw.integers(vocabulary, size=LENGTHS[0][0])
    longest[len(longest) // 2 :] = longest[: len(longest) - len(longest) // 2]
    others = [np.append(longest[:shared], draw.integers(vocabulary, size=length - shared)) for length, shared in LENGTHS[1:]]
    return [longest, *others]


def _row(ids: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(ids).to(device)[None]


def _far(parts: Anatomy) -> int:
    """A position beyond every length that a configuration names, or near the end of a learned table."""
    if parts.positions is not None:
        return max(0, len(parts.positions.weight) - LENGTHS[0][0] - 2)
    config = parts.config
    values = [*vars(config).items(), *(getattr(config, "rope_parameters", None) or {}).items()]
    lengths = [value for name, value in values if "position" in name and isinstance(value, int)]
    return max([512, *lengths]) + 3


def _shorten_windows(few: Any) -> None:
    """Make sliding windows short, in the configuration and where a module keeps a copy of its own."""
    for owner in (few.config, *few.modules()):
        for name, value in list(vars(owner).items()):
            if name == "sliding_window" and isinstance(value, int):
                setattr(owner, name, min(value, WINDOW))


def _sharpen(layer: Any, factor: float, offset: float) -> None:
    """Multiply the queries of a layer, in its weights."""
    norms = layer.head_norms
    if norms is not None:
        norms[0].weight.data = (norms[0].weight + offset) * factor - offset
        return
    bias = layer.q.bias
    set_linear(layer.q, layer.q.weight * factor, None if bias is None else bias * factor)


@contextmanager
def _rounded(weight: Tensor) -> Iterator[None]:
    """Weights off by about one rounding of float32, for a while."""
    kept = weight.data
    signs = torch.randint(2, kept.shape, generator=torch.Generator().manual_seed(2)).to(kept.device) * 2 - 1
    weight.data = kept * (1 + signs * 6e-8)
    try:
        yield
    finally:
        weight.data = kept


def worst_token(ours: Tensor, stock: Tensor) -> float:
    """Largest root mean square difference of a token's values, relative to those of all tokens."""
    size = stock.double().square().mean().sqrt().clamp(min=1e-30)
    return float((ours - stock).double().square().mean(-1).sqrt().max() / size)
