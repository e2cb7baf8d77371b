"""What calibration text says about a model, collected once and shared by all methods and ratios.

For every block and each of four sites, the second moments of what is read there:

| site | what it is | size |
|---|---|---|
| attention | normalised block input, before the norm's gain: what q, k, v read | d |
| heads | input of the o projection | H·h |
| mlp | normalised input of the feed-forward, before the norm's gain: what gate and up read | d |
| ffn | input of the down projection | m |

and for the stream between blocks the mean cosine and the mean angle between any two depths.

Notable choices:
- The model is walked block by block: all calibration tokens pass one block before the next, so only one block's moments
  are in memory while the hidden states of all tokens are a few dozen megabytes.
- Moments are kept in float32 and written per block as safetensors under the hash of weights and tokens; a second call
  with the same model and text reads them back, one block at a time.
- With each Gram matrix comes the ridge penalty that predicts best across two halves of the text (`ridge`): too small a
  penalty overfits the calibration tokens, and the right one depends on how many there are.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from claw.errors import InputError
from claw.models.anatomy import Anatomy, Layer, anatomy, norm_epsilon
from claw.models.load import weights_hash
from claw.progress import tqdm
from claw.project import cache
from claw.prune.blockwise import first_inputs, run_block, token_batches, unit_rms
from claw.texts.token_blocks import Blocks

PENALTIES = tuple(10.0**e for e in (-4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0))
VERSION = 3  # of the stored format and the arithmetic; part of the cache key


@dataclass(frozen=True)
class Statistics:
    """Moments of a model's activations on calibration text, read from `folder` one block at a time."""

    folder: Path
    model: str  # weights_hash of the model they belong to
    corpus: str
    data: str  # hash of the token blocks
    tokens: int
    depth: int
    cosine: tuple[tuple[float, ...], ...]  # [i][j]: mean cosine between the stream before block i and before block j
    angle: tuple[tuple[float, ...], ...]  # [i][j]: mean angle between them, as a fraction of π

    def blocks(self) -> Blocks:
        """The calibration blocks themselves, for methods that pass the text through a model again."""
        stored = _Stored(self.folder / "blocks.safetensors")
        ids, scored = stored["ids"], stored["scored"].bool()
        return Blocks(ids=ids, scored=scored, words=0.0, bytes=0, corpus=self.corpus, purpose="calibration")

    def layer(self, index: int) -> Mapping[str, torch.Tensor]:
        """Lazy tensors of one block: `<site>.gram` (n, n) and `<site>.mean`, `<site>.spread` (n,), `<site>.ridge` ()."""
        return _Stored(self.folder / f"{index:03d}.safetensors")

    def gram(self, index: int, site: str) -> torch.Tensor:
        """Mean of x xᵀ over tokens at a site, (n, n) float32."""
        return self.layer(index)[f"{site}.gram"]

    def taylor(self, index: int, site: str) -> torch.Tensor:
        """First-order Taylor terms of the units of "ffn" (m,) or "heads" (G,)."""
        path = self.folder / f"{index:03d}.gradients.safetensors"
        if not path.exists():
            raise InputError(
                "These statistics hold no gradients: collect them with claw.calibrate(model, blocks, gradients=True)."
            )
        return _Stored(path)[f"{site}.taylor"]


class _Stored(Mapping):
    """Tensors of one safetensors file, read when asked for."""

    def __init__(self, path: Path):
        self.path = path

    def __getitem__(self, name: str) -> torch.Tensor:
        with safe_open(self.path, "pt") as tensors:
            return tensors.get_tensor(name)

    def __iter__(self):
        with safe_open(self.path, "pt") as tensors:
            return iter(tensors.keys())

    def __len__(self) -> int:
        return len(list(iter(self)))


def calibrate(model: nn.Module, blocks: Blocks, *, gradients: bool = False) -> Statistics:
    """Statistics of `model` on `blocks`, from the cache where this pair was seen before.

    `gradients` adds the first-order Taylor terms that the method `taylor` needs.
    """
    parts = anatomy(model)
    identity, data = weights_hash(model), blocks.sha256
    key = hashlib.sha256(f"{VERSION} {identity} {data} {parts.dtype}".encode()).hexdigest()[:16]
    folder = cache() / "statistics" / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "about.json").exists():
            scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".collecting-"))
            try:
                cosine, angle = _collect(parts, blocks, scratch)
                save_file({"ids": blocks.ids, "scored": blocks.scored.byte()}, scratch / "blocks.safetensors")
                about = {"model": identity, "corpus": blocks.corpus, "data": data, "tokens": blocks.ids.numel()}
                about |= {"depth": parts.depth, "cosine": cosine, "angle": angle}
                (scratch / "about.json").write_text(json.dumps(about))
                scratch.replace(folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        if gradients and not (folder / "gradients").exists():
            from claw.prune import gradients as taylor

            taylor.collect(parts, blocks, folder)
            (folder / "gradients").touch()
    about = json.loads((folder / "about.json").read_text())
    tables = {name: tuple(map(tuple, about.pop(name))) for name in ("cosine", "angle")}
    return Statistics(folder, **about, **tables)


def check_belongs(statistics: Statistics, model: nn.Module) -> None:
    """Refuse statistics that were collected from another model."""
    if statistics.model != weights_hash(model):
        raise InputError(
            f"The calibration statistics belong to another model (weights {statistics.model}, here {weights_hash(model)}). "
            "Call claw.calibrate(model, blocks) with the model that is to be compressed, in the same number type."
        )


def sites(layer: Layer) -> dict[str, tuple[nn.Module, int]]:
    """The module whose input each site is, and the size of that input."""
    width = layer.q.in_features
    return {
        "attention": (layer.input_norm, width),
        "heads": (layer.o, layer.o.in_features),
        "mlp": (layer.mlp_norm, width),
        "ffn": (layer.down, layer.down.in_features),
    }


@torch.no_grad()
def _collect(parts: Anatomy, blocks: Blocks, folder: Path) -> tuple[list[list[float]], list[list[float]]]:
    batches = token_batches(parts, blocks.ids)
    arguments, states = [], []
    for ids in batches:
        hidden, kwargs = first_inputs(parts, ids)
        states.append(hidden)
        arguments.append(kwargs)
    sample = [_sample(states)]
    for layer in tqdm(parts.layers, desc="calibrating", unit=" blocks", disable=None, leave=False):
        moments = {site: _Moments(site, size, parts.device) for site, (_, size) in sites(layer).items()}
        handles = [module.register_forward_pre_hook(moments[s].hook) for s, (module, _) in sites(layer).items()]
        for batch, hidden in enumerate(states):
            for one in moments.values():
                one.half = batch % 2
            states[batch] = run_block(layer, hidden, arguments[batch][layer.index])
        for handle in handles:
            handle.remove()
        sample.append(_sample(states))
        tensors = {f"{s}.{name}": t.contiguous() for s, m in moments.items() for name, t in m.result().items()}
        if not all(torch.isfinite(t).all() for t in tensors.values()):
            raise InputError(
                f"Block {layer.index} gives NaN or infinite activations on {blocks.corpus}: the weights are damaged."
            )
        save_file(tensors, folder / f"{layer.index:03d}.safetensors")
    return _similarity(sample)


def _sample(states: list[torch.Tensor]) -> torch.Tensor:
    """About a thousand hidden states, evenly spread, of unit length."""
    flat = torch.cat([hidden.flatten(0, 1) for hidden in states])
    chosen = flat[:: max(1, len(flat) // 1024)].float()
    return nn.functional.normalize(chosen, dim=-1)


def _similarity(sample: list[torch.Tensor]) -> tuple[list[list[float]], list[list[float]]]:
    """Mean cosine and mean angle over π between the streams at every two depths."""
    size = len(sample)
    cosine, angle = torch.eye(size), torch.zeros(size, size)
    for i in range(size):
        for j in range(i + 1, size):
            each = (sample[i] * sample[j]).sum(-1).clamp(-1, 1)
            cosine[i, j] = cosine[j, i] = each.mean()
            angle[i, j] = angle[j, i] = each.arccos().mean() / torch.pi
    return cosine.tolist(), angle.tolist()


class _Moments:
    """Running second moments of one site, in two halves of the text."""

    def __init__(self, site: str, size: int, device: torch.device):
        self.normalised = site in ("attention", "mlp")
        self.compensable = site in ("heads", "ffn")
        self.grams = [torch.zeros(size, size, device=device) for _ in range(2)]
        self.total = torch.zeros(size, device=device, dtype=torch.float64)
        self.spread = torch.zeros(size, device=device, dtype=torch.float64)
        self.tokens = [0, 0]
        self.half = 0

    def hook(self, module: nn.Module, args: tuple) -> None:
        sequences = args[0].detach().float()  # (B, T, n)
        if self.normalised:
            sequences = unit_rms(sequences, norm_epsilon(module))
        flat = sequences.flatten(0, -2)
        self.grams[self.half].addmm_(flat.T, flat)
        self.total += flat.sum(0)
        self.spread += sequences.abs().mean(dim=-2).square().sum(0)
        self.tokens[self.half] += flat.shape[0]

    def result(self) -> dict[str, torch.Tensor]:
        tokens = sum(self.tokens)
        halves = (g / max(n, 1) for g, n in zip(self.grams, self.tokens, strict=True))
        ridge = best_penalty(*halves) if self.compensable else 0.0
        gram = (self.grams[0] + self.grams[1]) / tokens
        return {
            "gram": gram.cpu(),
            "mean": (self.total / tokens).float().cpu(),
            "spread": self.spread.sqrt().float().cpu(),
            "ridge": torch.tensor(ridge),
        }


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
    projected = vectors.T @ fit[kept, rest]
    best, least = 1e-2, float("inf")
    for penalty in PENALTIES:
        weights = vectors @ (projected / (values.clamp_min(0) + penalty * size)[:, None])
        error = validation.diagonal()[rest].sum() - 2 * (weights * validation[kept, rest]).sum()
        error = error + (weights * (validation[kept, kept] @ weights)).sum()
        if error < least:
            best, least = penalty, float(error)
    return best
