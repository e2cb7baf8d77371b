"""Load a language model by known name, hub id, checkpoint folder or GGUF file, and say what was loaded.

Notable choices:
- Weights come from safetensors or GGUF only; no pickled file, no code from a repository.
- Every weight of the model is from its files, and all that is in them went into the model; else it is refused by name.
- A known name whose weights are pinned archives never falls back to the hub, nor the other way round. A hub model is fetched
  as files and then read as a folder, so there is one way of reading.
- The number type is chosen by timing a matrix product on this machine, because "bf16 is faster" is true on some
  processors and badly wrong on others.
"""

import functools
import os
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from claw.errors import InputError, unknown, without_credentials
from claw.models import adapters, folders, gguf, other_files, pretrained, sources, stored, towers
from claw.models.tokenizer_files import TOKENIZERS, read_tokenizer
from claw.models.undisturbed import leaves_as_before
from claw.project import cache, inside_project
from claw.words import plural

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ACCEPTED = "a folder with config.json and safetensors weights, a .gguf file, or a hub id like Qwen/Qwen2.5-0.5B"
HUB_FILES = ["*.json", "model*.safetensors", "adapter_model.safetensors", "*.model", "merges.txt", "vocab.txt", "*.jinja"]


@leaves_as_before
def load(name: str, *, dtype: str = "auto", device: str = "auto", device_map: Any = None) -> tuple[Any, Any]:
    """Model (evaluation mode) and tokenizer.

    `name` is a known name (`claw models` lists them), a folder with a Hugging Face checkpoint or a LoRA adapter (it is merged
    into its base), a `.gguf` file, or a hub id such as "Qwen/Qwen2.5-0.5B". `dtype` is "auto" (measured, see `fast_dtype`),
    "float32", "bfloat16" or "float16"; `device` is "auto", "cpu", "cuda", "cuda:1", "mps"; `device_map` is passed on for models
    larger than one device. InputError unless every weight is from the files, and all that is in them was taken.
    """
    if dtype not in ("auto", *DTYPES):
        raise unknown("dtype", dtype, ("auto", *DTYPES))
    place = pick_device(device)
    location = resolve(name)
    chosen = fast_dtype(place) if dtype == "auto" else DTYPES[dtype]
    looked_at = (cache() / "models") in location.parents
    model, tokenizer = _read(location, chosen, device_map, looked_at=looked_at)
    if not _path(name := os.fspath(name)).exists():  # a hub id or a known name, not the place in a cache
        model.config._name_or_path = tokenizer.name_or_path = name
    if not looked_at or len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        check_vocabulary(model, tokenizer)
    return (model if device_map is not None else model.to(place)).eval(), tokenizer


def _read(location: Path, dtype: torch.dtype, device_map: Any, *, looked_at: bool = False) -> tuple[Any, Any]:
    """Model and tokenizer in a folder; what was `looked_at` when claw converted it is not searched for NaN again."""
    if folders.is_adapter(location):
        settings = adapters.lora_settings(location)
        if beside := other_files.checkpoints_below(location):
            warnings.warn(
                f"{location} holds an adapter, which is taken, and others below it, which are not: name one of "
                f"{', '.join(map(str, beside[:5]))} for another.",
                stacklevel=2,
            )
        model, tokenizer = _read(resolve(_base(location)), dtype, device_map)
        own = any((location / file).is_file() for file in TOKENIZERS)
        return adapters.merged(model, location, settings), read_tokenizer(location) if own else tokenizer
    checkpoint = folders.check_folder(location)
    composite = towers.is_composite(checkpoint.config)
    read = towers.text_tower if composite else pretrained.checkpoint_in
    try:
        model = read(location, checkpoint.tensors, checkpoint.config, dtype=dtype, device_map=device_map)
    except InputError:
        raise
    except Exception as error:  # transformers, safetensors and accelerate each raise their own kinds
        raise InputError(
            f"The checkpoint {location} cannot be loaded: {_in_short(error, checkpoint.config)}. Its files are "
            "whole by their headers, so look at what the message names: a setting in config.json or generation_config.json, "
            "memory, or the version of transformers."
        ) from error
    if (location / "modules.json").is_file():
        warnings.warn(
            f"{location} is a model of sentence-transformers, made to embed text; as a decoder it predicts tokens as far as it "
            "still can, and losses tell nothing of its embeddings.",
            stacklevel=2,
        )
    if composite:
        warnings.warn(
            f"{location} is a model of text and images ({checkpoint.config.model_type}); its text tower is taken, as a "
            f"{type(model).__name__}. claw.put_back puts a smaller one back.",
            stacklevel=2,
        )
    if not looked_at:
        stored.warn_if_damaged(model, location)
        check_causal(model)
    return model, read_tokenizer(location)


def resolve(name: str | os.PathLike) -> Path:
    """Folder that `name` stands for; fetches and converts where needed."""
    path = _place(name)
    known = sources.models().get(os.fspath(name))
    if known and not known.hub:
        return gguf.known_folder(known)
    if path and _is_gguf(path):
        return gguf.file_folder(path)
    return path or hub_folder(known.hub if known else os.fspath(name))


def hub_folder(name: str) -> Path:
    """Folder of a hub model's files, fetched where they are not there yet: configuration, tokenizer and safetensors weights."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES, ignore_patterns=["*/*"]))
    except Exception as error:  # the hub's client and requests each raise their own kinds
        offline = ", ".join(n for n, s in sources.models().items() if not s.hub)
        told = str(error) or repr(error)
        raise InputError(
            f"The hub model {name!r} cannot be loaded: {told.splitlines()[0]}. Check the id (there is no folder of this name "
            f"at {Path.cwd()}), the network and, for gated models, `hf auth login`. Offline, use one of the names with pinned "
            f"archives: {offline}."
        ) from (error if told == without_credentials(told) else None)


def check_name(name: str | os.PathLike) -> None:
    """Raise InputError unless `name` can stand for a model. Only small files and headers are read, nothing is fetched."""
    path = _place(name)
    if path and _is_gguf(path):
        gguf.check_file(path)
    elif path and folders.is_adapter(path):
        adapters.lora_settings(path)
        check_name(_base(path))
    elif path:
        folders.check_folder(path)


def _place(name: str | os.PathLike) -> Path | None:
    """The folder or GGUF file that a name means; None for a known name and a hub id. InputError for what is none of these."""
    if not isinstance(name, (str, os.PathLike)):
        raise InputError(f"A model is named by text, not by {name!r}. Give {ACCEPTED}, or a known name (`claw models`).")
    name = os.fspath(name)
    if name in sources.models():
        return None
    path = _path(name)
    if path.is_dir() or (path.is_file() and _is_gguf(path)):
        return path
    if _is_gguf(path):
        raise InputError(f"There is no GGUF file {path}. Check the path; it is read relative to {Path.cwd()}.")
    if path.exists():
        raise InputError(f"{path} is not a model. Give {ACCEPTED}; a single safetensors file is named by its folder.")
    if name.startswith((".", "~", "/")) or name.count("/") > 1 or "\\" in name:
        raise InputError(f"There is no folder {name}; a relative one is read from {Path.cwd()}. Give {ACCEPTED}.")
    if name.count("/") != 1 or not all(part.strip(".- ") for part in name.split("/")):
        raise unknown("model", name, sources.models(), f"Or give {ACCEPTED}.")
    return None


def _path(name: str) -> Path:
    """The path that a name would be: as seen from here, else below the project. InputError where it cannot be one."""
    try:
        path = Path(name).expanduser()
        path.exists()  # refuses a name that is too long
        return inside_project(name)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{name[:80]!r} cannot name a model: {str(error)[:200].rstrip('.')}. Give {ACCEPTED}.") from error


def _is_gguf(path: Path) -> bool:
    return path.suffix.lower() == ".gguf" and not path.is_dir()


def _base(adapter: Path) -> str:
    """Name of an adapter's base, which must be here: a known name, a GGUF file, a folder as seen from here or from the adapter,
    or a hub model that was fetched before."""
    base = adapters.base_of(adapter)
    for place in (_path(base), adapter / base):
        if place.is_dir() and folders.is_adapter(place):
            raise InputError(
                f"{adapter} is an adapter on another adapter, {base!r}, and one at a time is merged. Make a whole model of "
                f'that first: model, tokenizer = claw.load("{place}"); claw.save(model, tokenizer, "merged"). Then set '
                f"base_model_name_or_path in the {folders.ADAPTER} of {adapter} to it."
            )
        if place.is_dir() or (place.is_file() and _is_gguf(place)):
            return str(place)
    if base in sources.models():
        return base
    if kept := _fetched_before(base):
        return kept
    fetch = f"for a hub model, `hf download {base}`" if base.count("/") == 1 else "or copy it"
    raise InputError(
        f"{adapter} is a LoRA adapter, not a whole model, and its base {base!r} is not here. Fetch the base ({fetch}), or set "
        f"base_model_name_or_path in its {folders.ADAPTER} to the folder that it is in; then the adapter is merged into it. Or "
        "merge it with peft's model.merge_and_unload() and save that."
    )


def _fetched_before(name: str) -> str:
    """Folder of a hub model in the hub's cache on this machine; empty where it is not, or not whole. Nothing is fetched."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except Exception:  # no id, or nothing under it; the hub's client raises its own kinds
        return ""
    return str(folder) if (folder / folders.CONFIG).is_file() else ""


def _in_short(error: Exception, config: Any = None) -> str:
    """What an error says; of one that says a bare name, its kind too, or that it is a way of rotating positions."""
    rope = getattr(config.get_text_config(), "rope_parameters", None) if config else None
    if isinstance(error, KeyError) and isinstance(rope, dict) and error.args[0] == rope.get("rope_type"):
        return f"its rope_parameters (rope_scaling in older ones) are of the type {error.args[0]!r}, which transformers has not"
    return repr(error)[:400] if isinstance(error, LookupError) else " ".join(str(error).split())[:400] or repr(error)


def check_vocabulary(model: Any, tokenizer: Any) -> None:
    """Warn of a tokenizer with ids beyond the model's embedding. They are refused where they occur in a text: `check_ids`.

    Tokenizers of Gemma 3 and Llama 2 name such ids, and no ordinary text has them.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    beyond = sorted((number, token) for token, number in tokenizer.get_vocab().items() if number >= rows)
    if beyond:
        some = ", ".join(f"{token!r} ({number})" for number, token in beyond[:3]) + (", ..." if len(beyond) > 3 else "")
        warnings.warn(
            f"The tokenizer has {plural(len(beyond), 'id')} beyond the {rows:,} rows that the model embeds: {some}. Texts in "
            "which one occurs are refused.",
            stacklevel=3,
        )


def check_ids(ids: Any, model: Any) -> None:
    """Raise InputError for token ids (a tensor, an array, or lists of them) that the model does not embed."""
    rows = model.get_input_embeddings().weight.shape[0]
    arrays = [ids] if hasattr(ids, "max") else ids
    largest = max((int(part.max()) if hasattr(part, "max") else max(part) for part in arrays if len(part)), default=0)
    if largest >= rows:
        raise InputError(
            f"The text has a token with id {largest:,}, but the model embeds only {rows:,} ids (0 to {rows - 1:,}): tokenizer "
            "and model do not belong together. Use the tokenizer saved with the checkpoint, resize the embedding, or leave the "
            "text with this token out."
        )


@torch.no_grad()
def check_causal(model: Any) -> None:
    """Raise InputError for a model whose predictions change with tokens that come later."""
    if model.config.model_type in ("llama", "mistral", "qwen2", "qwen3", "gemma3_text") or getattr(
        model, "hf_device_map", None
    ):
        return
    rows = min(model.get_input_embeddings().weight.shape[0], model.config.get_text_config().vocab_size)
    ids = torch.arange(1, 9, device=model.device)[None] % rows
    other = ids.clone()
    other[0, -1] = (other[0, -1] + 1) % rows
    try:
        first, second = (model(tokens, use_cache=False).logits[0, :-1].float().nan_to_num() for tokens in (ids, other))
    except Exception as error:  # each architecture has its own demands on its configuration
        raise InputError(
            f"The {type(model).__name__} loads, but does not run: {_in_short(error)}. Its config.json may contradict itself."
        ) from error
    accepted = 1e-4 if model.dtype == torch.float32 else 3e-2
    if (first - second).abs().max() > accepted * first.abs().max():
        raise InputError(
            f"{type(model).__name__} predicts a token from what comes after it too, so it is no causal decoder. claw "
            "compresses causal decoders such as Llama, Qwen and Gemma."
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
        torch.empty(0, device=chosen).cpu()  # refuses meta, which holds nothing
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
