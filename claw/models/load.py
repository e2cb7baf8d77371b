"""Load a language model by known name, hub id, checkpoint folder or GGUF file, and say what was loaded.

Notable choices:
- Weights come from safetensors or GGUF only; no pickled file, no code from a repository.
- A known name whose weights are pinned archives never falls back to the hub, nor the other way round.
- The number type is chosen by timing a matrix product on this machine, because "bf16 is faster" is true on some
  processors and badly wrong on others.
"""

import functools
import hashlib
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from claw.errors import InputError, unknown
from claw.models import gguf, sources
from claw.progress import of_transformers
from claw.project import inside_project

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(name: str, *, dtype: str = "auto", device: str = "auto", device_map: Any = None) -> tuple[Any, Any]:
    """Model (evaluation mode) and tokenizer.

    `name` is a known name (`claw models` lists them), a folder with a Hugging Face checkpoint, a `.gguf` file, or a hub
    id such as "Qwen/Qwen2.5-0.5B". `dtype` is "auto" (measured, see `fast_dtype`), "float32", "bfloat16" or "float16";
    `device` is "auto", "cpu", "cuda", "cuda:1", "mps"; `device_map` is passed on for models larger than one device.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if dtype not in ("auto", *DTYPES):
        raise unknown("dtype", dtype, ("auto", *DTYPES))
    place = pick_device(device)
    location = resolve(name)
    chosen = fast_dtype(place) if dtype == "auto" else DTYPES[dtype]
    try:
        with of_transformers():
            model: Any = AutoModelForCausalLM.from_pretrained(
                location, dtype=chosen, use_safetensors=True, trust_remote_code=False, device_map=device_map
            )
        tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=False)
    except Exception as error:  # transformers, safetensors and the hub client each raise their own kinds
        raise _explain(name, location, error) from error
    check_vocabulary(model, tokenizer)
    return (model if device_map is not None else model.to(place)).eval(), tokenizer


def resolve(name: str) -> str:
    """Folder or hub id that `name` stands for; fetches and converts a pinned model where needed."""
    check_name(name)
    if known := sources.models().get(name):
        return known.hub or str(gguf.known_folder(known))
    path = inside_project(name)
    if path.suffix == ".gguf":
        return str(gguf.file_folder(path))
    return str(path) if path.is_dir() else name


def check_name(name: str) -> None:
    """Raise InputError unless `name` can stand for a model; nothing is downloaded or read."""
    path = inside_project(name)
    if name in sources.models():
        return
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"There is no GGUF file {path}. Check the path; it is read relative to {Path.cwd()}.")
    elif path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"{path} is not a checkpoint: it has no config.json. Name the folder that holds config.json.")
        if not any(path.glob("*.safetensors")):
            pickles = "".join(f" (only {p.name}, a pickle, which is never loaded)" for p in [*path.glob("*.bin")][:1])
            save = "Save the model again with save_pretrained(folder, safe_serialization=True)."
            raise InputError(f"{path} has no *.safetensors file{pickles}. {save}")
    elif name.count("/") != 1 or name.startswith((".", "~", "/")) or not all(name.split("/")):
        others = "Or give a folder with config.json and safetensors weights, a .gguf file, or a hub id like Qwen/Qwen2.5-0.5B."
        raise unknown("model", name, sources.models(), others)


def _explain(name: str, location: str, error: Exception) -> InputError:
    if Path(location).is_dir():
        return InputError(
            f"The checkpoint {location} ({name}) cannot be loaded: {error}. It is incomplete, corrupt or of an architecture "
            "that this version of transformers does not know. Delete and fetch or export it again."
        )
    return InputError(
        f"The hub model {location!r} cannot be loaded: {(str(error) or repr(error)).splitlines()[0]}. Check the id, "
        "the network and, for gated models, `hf auth login`. Offline, use one of the names with pinned archives: "
        f"{', '.join(n for n, s in sources.models().items() if not s.hub)}."
    )


def check_vocabulary(model: Any, tokenizer: Any) -> None:
    """Refuse a model whose embedding has fewer rows than the tokenizer has ids."""
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise InputError(
            f"The tokenizer has {len(tokenizer)} ids but the model embeds only {rows}. They do not belong together: use the "
            "tokenizer saved with the checkpoint, or resize the embedding first."
        )


def check_same_vocabulary(model: Any, other: Any) -> None:
    """Refuse two models whose tokens differ in number: their predictions cannot be compared."""
    sizes = [m.config.get_text_config().vocab_size for m in (model, other)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"The two models have vocabularies of {sizes[0]:,} and {sizes[1]:,} tokens, so they use different tokenizers. Give "
            "the compressed model and the dense model that it was made from."
        )


def check_same_tokenizer(tokenizer: Any, other: Any) -> None:
    """Refuse two tokenizers that give other ids to the same text."""
    if tokenizer.get_vocab() != other.get_vocab():
        raise InputError(
            f"The compressed and the dense model have different tokenizers ({len(tokenizer):,} and {len(other):,} ids, or "
            "other ids for the same tokens). Give the dense model that this one was made from."
        )


def pick_device(device: str = "auto") -> torch.device:
    """`device` itself, or the GPU if there is one and the CPU if not; refuses one that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        if chosen.type == "meta":
            raise RuntimeError("it holds no values")
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"device {device!r} cannot be used: {str(error).splitlines()[0]}. Accepted: auto, cpu, cuda, cuda:N, mps, as far "
            "as this machine and this build of torch have them."
        ) from error
    return chosen


@functools.cache
def matmul_rates(device: torch.device) -> dict[str, float]:
    """Measured matrix-product rate in FLOP/s by number type, the median of interleaved runs of (1024, 1024, 1024)."""
    size = 1024
    operands = {name: torch.full((size, size), 1 / size, device=device, dtype=DTYPES[name]) for name in ("float32", "bfloat16")}
    seconds: dict[str, list[float]] = {name: [] for name in operands}
    for _ in range(6):
        for name, matrix in operands.items():
            started = time.perf_counter()
            (matrix @ matrix)[0, 0].item()  # reading one number waits for a GPU to finish
            seconds[name].append(time.perf_counter() - started)
    return {name: 2 * size**3 / sorted(times[1:])[2] for name, times in seconds.items()}


def fast_dtype(device: torch.device | str = "cpu") -> torch.dtype:
    """bfloat16 where it is measured to be faster than float32 on this device, else float32."""
    rates = matmul_rates(torch.device(device))
    return torch.bfloat16 if rates["bfloat16"] > 1.2 * rates["float32"] else torch.float32


def weights_hash(model: nn.Module) -> str:
    """First 16 hex digits of a sha256 over names, shapes, types and bytes of all weights (tied ones once)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        plain = tensor.detach().cpu().contiguous().view(torch.uint8)
        digest.update(plain.numpy().data)
    return digest.hexdigest()[:16]
