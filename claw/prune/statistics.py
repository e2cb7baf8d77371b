"""What calibration text says about a model, collected once and shared by all methods and ratios.

For every block and each of four sites, the second moments of what is read there:

| site | what it is | size |
|---|---|---|
| attention | normalised block input, before the norm's gain: what q, k, v read | d |
| heads | input of the o projection | H·h |
| mlp | normalised input of the feed-forward, before the norm's gain: what gate and up read | d |
| ffn | input of the down projection | m |

for heads and ffn, whose units are scored and refitted, also means, magnitudes and a penalty; and for the stream between blocks
the mean cosine and the mean angle between any two depths. Where gradients are asked for, the first-order
Taylor term of every neuron and key-value group (`write_taylor_terms`).

Notable choices:
- The model is walked block by block: all calibration tokens pass one block before the next, so only one block's moments
  are in memory while the hidden states of all tokens are a few dozen megabytes.
- Moments are kept in float32 and written per block as safetensors under the identity of the model (everything that computes)
  and the hash of the tokens; a second call with the same model and text reads them back, one block at a time. Those of a
  model with hooks or other code put in by hand are collected each time and go with the object.
- With each Gram matrix comes the ridge penalty that predicts best across two halves of the text (`ridge`): too small a
  penalty overfits the calibration tokens, and the right one depends on how many there are.
"""

import itertools
import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from claw.allocator import freed_memory_kept
from claw.errors import InputError
from claw.files import digest, made_once
from claw.models.anatomy import Anatomy, anatomy
from claw.models.blocks import Layer
from claw.models.identity import identify
from claw.models.linears import is_transposed, out_in, part_of
from claw.models.load import check_ids
from claw.models.planned import check_window
from claw.models.undisturbed import leaves_as_before
from claw.progress import tqdm
from claw.project import cache
from claw.prune.blockwise import (
    backward_through,
    check_walk,
    first_inputs,
    forward_through,
    head_backward,
    run_block,
    token_batches,
    unit_rms,
)
from claw.prune.moments import Gram
from claw.texts.token_blocks import Blocks, check_no_overlap

PENALTIES = tuple(10.0**e for e in (-4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0))
NORMALISED = ("attention", "mlp")  # sites that read the stream through a norm: nothing is refitted there
TAYLOR_TOKENS = 4096  # "a few calibration batches": more changes the order of scores little
BATCH_TOKENS = 1024  # of them in one backward pass
VERSION = 5  # of the stored format and the arithmetic; part of the cache key


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Moments of a model's activations on calibration text, read from `folder` one block at a time."""

    folder: Path
    model: str  # name of the identity of the model that they belong to
    corpus: str
    data: str  # hash of the token blocks
    tokens: int
    depth: int
    cosine: tuple[tuple[float, ...], ...]  # [i][j]: mean cosine between the stream before block i and before block j
    angle: tuple[tuple[float, ...], ...]  # [i][j]: mean angle between them, as a fraction of π
    held: tempfile.TemporaryDirectory | None = field(default=None, repr=False, compare=False)  # `folder`, if it is not kept

    def blocks(self) -> Blocks:
        """The calibration blocks themselves, for methods that pass the text through a model again."""
        ids, scored = (_stored(self.folder / "blocks.safetensors", name) for name in ("ids", "scored"))
        return Blocks(ids=ids, scored=scored.bool(), words=0.0, bytes=0, corpus=self.corpus, purpose="calibration")

    def moment(self, index: int, site: str, name: str) -> torch.Tensor:
        """Of one site of a block: "gram" (n, n), the mean of x xᵀ; of "heads" and "ffn" "mean", "spread" (n,), "ridge" ()."""
        return _stored(self.folder / f"{index:03d}.safetensors", f"{site}.{name}")

    def stream_gram(self) -> torch.Tensor:
        """Sum of the Gram matrices of what the norms of all blocks read, (d, d) float32."""
        return reduce(torch.add, (self.moment(index, site, "gram") for index in range(self.depth) for site in NORMALISED))

    def taylor(self, index: int, site: str) -> torch.Tensor:
        """First-order Taylor terms of the units of "ffn" (m,) or "heads" (G,)."""
        path = _taylor_folder(self.folder) / f"{index:03d}.safetensors"
        if not path.exists():
            raise InputError("These statistics hold no gradients: call claw.calibrate(model, blocks, gradients=True).")
        return _stored(path, f"{site}.taylor")


def _taylor_folder(folder: Path) -> Path:
    """Where the Taylor terms that belong to the statistics in `folder` are kept."""
    return folder.with_name(f"{folder.name}-gradients")


def _stored(path: Path, name: str) -> torch.Tensor:
    with safe_open(path, "pt") as tensors:
        return tensors.get_tensor(name)


@freed_memory_kept()
@leaves_as_before
def calibrate(model: nn.Module, blocks: Blocks, *, gradients: bool = False, heldout: Blocks | None = None) -> Statistics:
    """Statistics of `model` on `blocks` in evaluation mode, from the cache where this pair was seen before.

    `gradients` adds the first-order Taylor terms that the method `taylor` needs. With `heldout`, text that is to be tested on,
    InputError is raised where it stands in `blocks` too.
    """
    parts = anatomy(model)
    check_ids(blocks.ids, model)
    check_window(parts.config, blocks.length, "calibration text in blocks")
    if heldout is not None:
        check_no_overlap(blocks, heldout)
    identity, data = identify(model), blocks.sha256

    def collect(scratch: Path) -> None:
        scratch.mkdir()
        cosine, angle = _collect(parts, blocks, scratch)
        save_file({"ids": blocks.ids, "scored": blocks.scored.byte()}, scratch / "blocks.safetensors")
        about = {"model": identity.name, "corpus": blocks.corpus, "data": data, "tokens": blocks.ids.numel()}
        about |= {"depth": parts.depth, "cosine": cosine, "angle": angle}
        (scratch / "about.json").write_text(json.dumps(about))

    name = digest(f"{VERSION} {identity.name} {data} {parts.dtype}")
    held = tempfile.TemporaryDirectory(prefix="claw-statistics-") if identity.obstacle else None
    folder = made_once((Path(held.name) if held else cache() / "statistics") / name, collect)
    if gradients:
        made_once(_taylor_folder(folder), lambda scratch: write_taylor_terms(parts, blocks, scratch))
    about = json.loads((folder / "about.json").read_text())
    about |= {name: tuple(map(tuple, about[name])) for name in ("cosine", "angle")}
    return Statistics(folder=folder, **about, held=held)


@torch.no_grad()
def _collect(parts: Anatomy, blocks: Blocks, folder: Path) -> tuple[list[list[float]], list[list[float]]]:
    """Write the moments of every block; the mean cosine and the mean angle between the streams at every two depths."""
    check_walk(parts)
    states, arguments = map(
        list, zip(*(first_inputs(parts, ids) for ids in token_batches(parts, blocks.ids, at_least=2)), strict=True)
    )
    streams = [_sample(states)]
    for layer in tqdm(parts.layers, desc="calibrating", unit=" blocks", leave=False):
        sites = {"attention": layer.attention_entry, "heads": layer.o, "mlp": layer.mlp_entry, "ffn": layer.down}
        moments = [_SiteMoments(site, module, layer) for site, module in sites.items()]
        for batch, hidden in enumerate(states):
            for site in moments:
                site.half, site.leading = batch % 2, hidden.shape[:-1]
            states[batch] = run_block(layer, hidden, arguments[batch][layer.index])
        streams.append(_sample(states))
        tensors = {name: tensor for site in moments for name, tensor in site.result().items()}
        if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
            raise InputError(
                f"Block {layer.index} gives NaN or infinity on {blocks.corpus}: the weights are damaged, or too large for "
                f"{parts.dtype}. Load the model in another number type (float32 holds most), or again."
            )
        save_file(tensors, folder / f"{layer.index:03d}.safetensors")
    return _similarity(streams)


def _sample(states: list[torch.Tensor]) -> torch.Tensor:
    """About a thousand hidden states, evenly spread, of unit length."""
    flat = torch.cat([hidden.flatten(0, 1) for hidden in states])
    chosen = flat[:: max(1, len(flat) // 1024)].float()
    return nn.functional.normalize(chosen, dim=-1)


def _similarity(streams: list[torch.Tensor]) -> tuple[list[list[float]], list[list[float]]]:
    """Mean cosine and mean angle over π between the streams at every two depths."""
    size = len(streams)
    cosine, angle = torch.eye(size), torch.zeros(size, size)
    for i, j in itertools.combinations(range(size), 2):
        each = (streams[i] * streams[j]).sum(-1).clamp(-1, 1)
        cosine[i, j] = cosine[j, i] = each.mean()
        angle[i, j] = angle[j, i] = each.arccos().mean() / torch.pi
    return cosine.tolist(), angle.tolist()


class _SiteMoments:
    """Running second moments of what `module`, a part of `layer`, reads in two halves of the text, from now until `result`."""

    def __init__(self, name: str, module: Any, layer: Layer):
        self.name, device = name, layer.q.weight.device
        size: int = layer.q.in_features if name in NORMALISED else module.in_features
        self.grams = [Gram(size, device, layer.q.weight.dtype) for _ in range(2)]
        self.total = torch.zeros(size, device=device, dtype=torch.float64)
        self.spread = torch.zeros(size, device=device, dtype=torch.float64)
        self.tokens = [0, 0]
        self.half, self.leading = 0, torch.Size()
        self.handle = module.register_forward_pre_hook(self.hook)

    def hook(self, module: nn.Module, args: tuple) -> None:
        sequences = args[0].detach().float().view(*self.leading, -1)  # (B, T, n), also where a block has made it flat
        if self.name in NORMALISED:
            sequences = unit_rms(sequences, module)
        flat = sequences.flatten(0, -2)
        self.grams[self.half].add(flat)
        self.tokens[self.half] += len(flat)
        if self.name not in NORMALISED:
            ones = flat.new_ones(1, sequences.shape[-2])  # sums as products: a fraction of the time that `sum` takes
            self.total += (ones @ sequences).flatten(0, -2).sum(0)
            self.spread += (ones @ sequences.abs()).div(ones.numel()).square().flatten(0, -2).sum(0)

    def result(self) -> dict[str, torch.Tensor]:
        self.handle.remove()
        tokens, sums = sum(self.tokens), [gram.total() for gram in self.grams]
        moments = {"gram": (sums[0] + sums[1]) / tokens}
        if self.name not in NORMALISED:
            ridge = best_penalty(*(total / max(n, 1) for total, n in zip(sums, self.tokens, strict=True)))
            moments |= {"mean": (self.total / tokens).float(), "spread": self.spread.sqrt().float()}
            moments["ridge"] = torch.tensor(ridge)
        return {f"{self.name}.{name}": moment.cpu().contiguous() for name, moment in moments.items()}


def best_penalty(fit: torch.Tensor, validation: torch.Tensor) -> float:
    """Ridge penalty, as a fraction of the mean diagonal, that predicts best on the other half of the text.

    Half of the inputs (every second one) predict the other half with weights (G_SS + λI)⁻¹ G_SR from `fit`; the error is
    their mean square on `validation`. With an empty half (a single batch) the default 0.01 is returned.
    """
    if not validation.diagonal().any() or not fit.diagonal().any():
        return 1e-2
    kept, rest = slice(0, None, 2), slice(1, None, 2)
    size = fit.diagonal().mean()
    values, vectors = torch.linalg.eigh(fit[kept, kept])
    # in the basis of the eigenvectors a penalty is a scale of each row, and its error takes no product of matrices
    projected = vectors.T @ fit[kept, rest]
    linear = (projected * (vectors.T @ validation[kept, rest])).sum(1)
    quadratic = (projected @ projected.T) * (vectors.T @ validation[kept, kept] @ vectors)
    best, least = 1e-2, float("inf")
    for penalty in PENALTIES:
        scale = 1 / (values.clamp_min(0) + penalty * size)
        error = validation.diagonal()[rest].sum() - 2 * scale @ linear + scale @ quadratic @ scale
        if error < least:
            best, least = penalty, float(error)
    return best


def write_taylor_terms(parts: Anatomy, blocks: Blocks, folder: Path) -> None:
    """Make `folder` and write `<block>.safetensors` there, with `ffn.taylor` (m,) and `heads.taylor` (G,) for every block.

    With w the weights and g their gradient of the mean loss, the term of a unit is Σ w·g over everything that goes when the
    unit goes: gate (if any) and up rows and down columns of a neuron; q, k, v rows and o columns of a group (LLM-Pruner, Ma
    et al. 2023, arXiv 2305.11627, its vectorised first order). Sums over batches are taken before the absolute value.
    """
    count = max(1, min(len(blocks), TAYLOR_TOKENS // blocks.length))
    batches = (values[:count].split(max(1, BATCH_TOKENS // blocks.length)) for values in (blocks.ids, blocks.scored))
    terms = [{"ffn.taylor": torch.zeros(parts.width), "heads.taylor": torch.zeros(parts.groups)} for _ in parts.layers]
    for ids, scored in tqdm(list(zip(*batches, strict=True)), desc="gradients", unit=" batches", leave=False):
        _add_batch(parts, ids.to(parts.device), scored.to(parts.device), terms)
    folder.mkdir()
    for layer, sums in zip(parts.layers, terms, strict=True):
        save_file({name: tensor.abs() for name, tensor in sums.items()}, folder / f"{layer.index:03d}.safetensors")


def _add_batch(parts: Anatomy, ids: torch.Tensor, scored: torch.Tensor, terms: list[dict[str, torch.Tensor]]) -> None:
    """Add the Taylor terms of one batch (B, T) to `terms`.

    A 1.5B model needs a few hundred megabytes beyond its weights (`backward_through`).
    """
    hidden, entering, arguments = forward_through(parts, ids)
    gradient, _ = head_backward(parts, hidden, ids, scored, [])
    stored = lambda layer: [module.weight for module in layer.stored.values()]
    for layer, _, weights, gradients in backward_through(parts, entering, arguments, gradient, stored):
        _add_terms(layer, zip(weights, gradients, strict=True), terms[layer.index])


@torch.no_grad()  # else the sums would keep every block's graph, and float32 copies of its weights with it
def _add_terms(layer: Layer, pairs: Iterable[tuple[torch.Tensor, ...]], sums: dict[str, torch.Tensor]) -> None:
    """Add Σ w·g of the units of one block, from pairs of stored weight and gradient."""
    terms: dict[str, torch.Tensor] = {}
    for (letters, module), (weight, gradient) in zip(layer.stored.items(), pairs, strict=True):
        product = out_in(weight.float() * gradient.float(), is_transposed(module))
        terms |= {letter: part_of(layer.linear(letter), product) for letter in letters}
    into = sum(terms[letter].sum(1) for letter in "gu" if letter in terms)
    sums["ffn.taylor"] += (into + terms["d"].sum(0)).cpu()
    groups = len(sums["heads.taylor"])
    read = sum(terms[letter].sum(1).view(groups, -1).sum(1) for letter in "qkv")
    sums["heads.taylor"] += (read + terms["o"].sum(0).view(groups, -1).sum(1)).cpu()
