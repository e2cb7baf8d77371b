"""What calibration text says about a model, collected once and shared by all methods and ratios.

For every block and each of four sites, the second moments of what a linear layer reads:

| site | what it is the input of | size |
|---|---|---|
| attention | q, k, v projections (after the norm) | d |
| heads | o projection | H·h |
| mlp | gate and up projections (after the norm) | d |
| ffn | down projection | m |

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
from tqdm import tqdm

from claw.anatomy import Anatomy, Layer, anatomy
from claw.archives import cache
from claw.data import Blocks
from claw.errors import InputError
from claw.models import weights_hash

SITES = ("attention", "heads", "mlp", "ffn")
PENALTIES = tuple(10.0**e for e in (-4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0))
BATCH_TOKENS = 4096
VERSION = 1  # of the stored format and the arithmetic; part of the cache key


@dataclass(frozen=True)
class Statistics:
    """Moments of a model's activations on calibration text, read from `folder` one block at a time."""

    folder: Path
    model: str  # weights_hash of the model they belong to
    corpus: str
    data: str  # hash of the token blocks
    tokens: int
    depth: int
    influence: tuple[float, ...]  # per block: 1 - mean cosine of its input and output

    def layer(self, index: int) -> Mapping[str, torch.Tensor]:
        """Lazy tensors of one block: `<site>.gram` (n, n) and `<site>.mean`, `<site>.spread` (n,), `<site>.ridge` ()."""
        return _Stored(self.folder / f"{index:03d}.safetensors")

    def gram(self, index: int, site: str) -> torch.Tensor:
        """Mean of x xᵀ over tokens at a site, (n, n) float32."""
        return self.layer(index)[f"{site}.gram"]


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


def calibrate(model: nn.Module, blocks: Blocks) -> Statistics:
    """Statistics of `model` on `blocks`, from the cache where this pair was seen before."""
    parts = anatomy(model)
    identity, data = weights_hash(model), blocks.sha256
    key = hashlib.sha256(f"{VERSION} {identity} {data} {parts.dtype}".encode()).hexdigest()[:16]
    folder = cache() / "statistics" / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "about.json").exists():
            scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".collecting-"))
            try:
                influence = _collect(parts, blocks, scratch)
                about = {"model": identity, "corpus": blocks.corpus, "data": data, "tokens": blocks.ids.numel()}
                about |= {"depth": parts.depth, "influence": influence}
                (scratch / "about.json").write_text(json.dumps(about))
                scratch.replace(folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    about = json.loads((folder / "about.json").read_text())
    return Statistics(folder, **{**about, "influence": tuple(about["influence"])})


def check_belongs(statistics: Statistics, model: nn.Module) -> None:
    """Refuse statistics that were collected from another model."""
    if statistics.model != weights_hash(model):
        raise InputError(
            f"The calibration statistics belong to another model (weights {statistics.model}, here {weights_hash(model)}). "
            "Call claw.calibrate(model, blocks) with the model that is to be compressed, in the same number type."
        )


class _Stop(Exception):
    """Ends a forward pass once the first block's arguments are known."""


def first_inputs(parts: Anatomy, ids: torch.Tensor) -> tuple[torch.Tensor, list[dict]]:
    """Hidden states (B, T, d) that enter the first block, and the keyword arguments of every block, for `ids` (B, T).

    The model's own forward prepares masks and rotary angles, so every architecture gets exactly its own.
    """
    hidden, arguments = [], [{} for _ in parts.layers]

    def take(index):
        def hook(module, args, kwargs):
            hidden.append(args[0] if args else kwargs["hidden_states"])
            arguments[index] = {k: v for k, v in kwargs.items() if k != "hidden_states"}
            if index == parts.depth - 1:
                raise _Stop
            return (hidden[0],), arguments[index]

        return hook

    handles = []
    for layer in parts.layers:  # blocks pass their input on unchanged: only the arguments are wanted
        handles.append(layer.module.register_forward_pre_hook(take(layer.index), with_kwargs=True))
        layer.module.forward = lambda hidden_states, *args, **kwargs: hidden_states
    try:
        parts.backbone(input_ids=ids, use_cache=False)
    except _Stop:
        pass
    finally:
        for handle, layer in zip(handles, parts.layers, strict=True):
            handle.remove()
            del layer.module.forward  # the class's own shows again
    return hidden[0], arguments


def run_block(layer: Layer, hidden: torch.Tensor, arguments: dict) -> torch.Tensor:
    """Output of one block for hidden states (B, T, d)."""
    out = layer.module(hidden, **arguments)
    return out[0] if isinstance(out, tuple) else out


def linears(layer: Layer) -> dict[str, nn.Linear]:
    """The linear whose input each site is."""
    return {"attention": layer.q, "heads": layer.o, "mlp": layer.gate, "ffn": layer.down}


@torch.no_grad()
def _collect(parts: Anatomy, blocks: Blocks, folder: Path) -> list[float]:
    rows = max(1, BATCH_TOKENS // blocks.length)
    batches = [ids.to(parts.device) for ids in blocks.ids.split(rows)]
    arguments, states = [], []
    for ids in batches:
        hidden, kwargs = first_inputs(parts, ids)
        states.append(hidden)
        arguments.append(kwargs)
    influence = []
    for layer in tqdm(parts.layers, desc="calibrating", unit=" blocks", disable=None, leave=False):
        moments = {site: _Moments(linear.in_features, parts.device) for site, linear in linears(layer).items()}
        handles = [linear.register_forward_pre_hook(moments[site].hook) for site, linear in linears(layer).items()]
        cosine = 0.0
        for batch, hidden in enumerate(states):
            for one in moments.values():
                one.half = batch % 2
            out = run_block(layer, hidden, arguments[batch][layer.index])
            cosine += torch.cosine_similarity(hidden.float(), out.float(), dim=-1).sum().item()
            states[batch] = out
        for handle in handles:
            handle.remove()
        influence.append(1 - cosine / blocks.ids.numel())
        tensors = {f"{s}.{name}": t.contiguous() for s, m in moments.items() for name, t in m.result().items()}
        if not all(torch.isfinite(t).all() for t in tensors.values()):
            raise InputError(
                f"Block {layer.index} gives NaN or infinite activations on {blocks.corpus}: the weights are damaged."
            )
        save_file(tensors, folder / f"{layer.index:03d}.safetensors")
    return influence


class _Moments:
    """Running second moments of one site, in two halves of the text."""

    def __init__(self, size: int, device: torch.device):
        self.grams = [torch.zeros(size, size, device=device) for _ in range(2)]
        self.total = torch.zeros(size, device=device, dtype=torch.float64)
        self.spread = torch.zeros(size, device=device, dtype=torch.float64)
        self.tokens = [0, 0]
        self.half = 0

    def hook(self, module: nn.Module, args: tuple) -> None:
        sequences = args[0].detach().float()  # (B, T, n)
        flat = sequences.flatten(0, -2)
        self.grams[self.half].addmm_(flat.T, flat)
        self.total += flat.sum(0)
        self.spread += sequences.abs().mean(dim=-2).square().sum(0)
        self.tokens[self.half] += flat.shape[0]

    def result(self) -> dict[str, torch.Tensor]:
        tokens = sum(self.tokens)
        ridge = best_penalty(*(g / max(n, 1) for g, n in zip(self.grams, self.tokens, strict=True)))
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
