"""The weights of a checkpoint folder, by the headers of its safetensors files, and whether a loaded model is made of them.

A model with one tensor that is not from the file gives numbers of no model. So names, shapes and number types are compared
with the model twice: as transformers reports them, and counted here from the headers.
"""

import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from claw.errors import InputError
from claw.models.other_files import no_weights, not_the_file
from claw.models.quantised import packed
from claw.words import plural

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = ("F64", "F32", "F16", "BF16")
BUFFER = re.compile(r"(^|\.)(inv_freq|position_ids|masked_bias|(attn|attention)\.bias)$")
"""What older versions of transformers saved beside the weights: made from the configuration, no parameters."""
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
LISTED = 5  # names in a message


@dataclass(frozen=True)
class Stored:
    """A tensor as a file's header describes it."""

    kind: str  # number type, in safetensors' letters
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that together hold a folder's weights; InputError where that is not clear, or one is missing."""
    single, index = folder / SINGLE, folder / INDEX
    if parallel := [path.name for path in folder.glob("shard-*-model-*.safetensors")]:
        raise InputError(
            f"{folder} has weights as a distributed run saves them, in parts for each process ({_some(parallel)}). Load it "
            "once with transformers and save_pretrained it to another folder; or move these files elsewhere."
        )
    if single.is_file() and index.is_file() and set(_shards(index)) != {SINGLE}:
        raise InputError(f"{folder} holds two sets of weights, {SINGLE} and those of {INDEX}. Move one of them elsewhere.")
    if single.is_file():
        return [single]
    if not index.is_file():
        if parts := [path for path in folder.glob("model-*.safetensors") if SHARD.fullmatch(path.name)]:
            raise InputError(f"{folder} has {plural(len(parts), 'part')} of a model but no {INDEX}. Fetch or copy that too.")
        raise no_weights(folder)
    names = _shards(index)
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise InputError(f"{folder} lacks {_some(missing)}, which {INDEX} names. Fetch or copy the missing part of the model.")
    if beyond := [
        path.name for path in folder.glob("model-*.safetensors") if SHARD.fullmatch(path.name) and path.name not in names
    ]:
        warnings.warn(f"{INDEX} in {folder} does not name {_some(beyond)}, so that is not read.", stacklevel=2)
    return [folder / name for name in names]


def _shards(index: Path) -> list[str]:
    """The files that an index names, each a plain name in its own folder."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError("its weight_map names no files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{index} is damaged ({error!r}). Fetch or copy it again.") from error
    outside = [name for name in names if Path(name).name != name or name in ("", ".", "..") or "\\" in name]
    if outside:
        raise InputError(
            f"{index} names files that are not in its own folder: {_some(outside)}. Weights are read from the model's folder "
            "only: put the files there and correct weight_map."
        )
    return names


def stored_tensors(folder: Path, paths: Iterable[Path]) -> dict[str, Stored]:
    """Number type and shape of every tensor in a folder's weights, which are in the files `paths` (see `weight_files`).

    InputError for damaged files, and for tensors of other types than floating point of 16 bits or more.
    """
    tensors: dict[str, Stored] = {}
    for path in paths:
        if said := not_the_file(path):
            raise InputError(f"{path} {said}")
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118  not a dictionary
                    part = file.get_slice(name)
                    if name in tensors:
                        raise InputError(f"{folder} holds {name} in two files, {path.name} and one before it. Remove one.")
                    tensors[name] = Stored(part.get_dtype(), tuple(part.get_shape()))
        except (SafetensorError, OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"The weights in {path} are damaged or incomplete: {error}. Delete the file and fetch or export it again."
            ) from error
    index = folder / INDEX
    if index.is_file() and (lost := json.loads(index.read_text(encoding="utf-8"))["weight_map"].keys() - tensors.keys()):
        raise InputError(f"{INDEX} in {folder} names tensors that no file holds: {_some(lost)}. Fetch or export it again.")
    other = [name for name, tensor in tensors.items() if tensor.kind not in FLOATS and not BUFFER.search(name)]
    if other:
        raise packed(folder, {name: tensors[name].kind for name in other}, tensors)
    return tensors


def check_loaded(model: Any, info: Mapping[str, Any], stored: Mapping[str, Stored], where: object) -> None:
    """Raise InputError unless every weight of the model is from the file, and all that is in the file went into the model.

    `info` is what transformers reports (`output_loading_info`), `stored` what the headers say.
    """
    patterns = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]
    state: dict[str, torch.Tensor] = model.state_dict()
    prefix = f"{model.base_model_prefix}."  # with which a model with a head, and without which one of its body is saved
    own = {name: next((n for n in (name, prefix + name, name.removeprefix(prefix)) if n in state), name) for name in stored}
    ignored = {name for name in own.values() if BUFFER.search(name) or any(p.search(name) for p in patterns)} - state.keys()
    files = {own[name]: tensor for name, tensor in stored.items() if own[name] not in ignored}
    tied: Mapping[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    missing, unexpected = set(info["missing_keys"]), {name for name in info["unexpected_keys"] if not BUFFER.search(name)}
    shapes = {name: tuple(map(tuple, sizes)) for name, *sizes in info["mismatched_keys"]}  # in the file, in the model
    if files.keys() <= state.keys():  # the usual case: names are those of the model
        covered = files.keys() | {a for a, b in tied.items() if b in files} | {b for a, b in tied.items() if a in files}
        missing |= {name for name in state.keys() - covered if not BUFFER.search(name)}
        shapes |= {n: (t.shape, tuple(state[n].shape)) for n, t in files.items() if t.shape != tuple(state[n].shape)}
    check_whole(model, missing, unexpected, shapes, where)
    check_count(model, sum(tensor.elements for tensor in files.values()), where)
    if info["error_msgs"]:
        raise InputError(f"The weights in {where} could not all be loaded: {'; '.join(map(str, info['error_msgs']))[:500]}.")
    head, embedding, config = model.get_output_embeddings(), model.get_input_embeddings(), model.config.get_text_config()
    if getattr(config, "tie_word_embeddings", False) and head is not None and head.weight is not embedding.weight:
        config.tie_word_embeddings = False  # both are in the file, and differ
        warnings.warn(
            f"{where} has a head of its own although its config.json ties it; the head of the file is used.", stacklevel=2
        )


def check_whole(
    model: Any, missing: Iterable[str], unexpected: Iterable[str], shapes: Mapping[str, tuple], where: object
) -> None:
    """Raise InputError that names tensors which are missing, not expected, or of another shape (in the file, in the model)."""
    faults = []
    if missing := sorted(missing):
        faults.append(f"{plural(len(missing), 'tensor')} of the model {_are(missing)} missing ({_some(missing)})")
    if unexpected := sorted(unexpected):
        faults.append(f"{plural(len(unexpected), 'tensor')} {_are(unexpected)} not expected ({_some(unexpected)})")
    if shapes:
        sizes = [f"{n} is {_size(file)}, where the model has {_size(own)}" for n, (file, own) in sorted(shapes.items())]
        faults.append(f"{plural(len(shapes), 'tensor')} {_are(shapes)} of another shape ({_some(sizes)})")
    if faults:
        raise InputError(
            f"The weights in {where} are not those of the {type(model).__name__} that its configuration describes: "
            f"{'; '.join(faults)}. A model of which a part would be random or left out is not loaded. Fetch or export it "
            "again, or correct the configuration; a model pruned to layers of different sizes has no stock configuration."
        )


def check_count(model: Any, elements: int, where: object) -> None:
    """Raise InputError unless so many elements are all of the model and nothing else; tied weights may be there twice."""
    tied: Mapping[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    state = {name: tensor.numel() for name, tensor in model.state_dict().items() if not BUFFER.search(name)}
    double = sum(count for name, count in state.items() if name in tied)
    own = sum(state.values()) - double
    if elements not in (own, own + double):
        raise InputError(
            f"{where} holds {elements:,} weights, but the {type(model).__name__} that its configuration describes has {own:,}. "
            "A model of which a part would be random or left out is not loaded. Fetch or export it again."
        )


def warn_if_damaged(model: nn.Module, where: object) -> None:
    """Warn of weights that are NaN or infinite: they are what the file says, and what a broken run leaves."""
    bad = [name for name, weight in model.named_parameters() if weight.device.type != "meta" and not _finite(weight.detach())]
    if bad:
        warnings.warn(
            f"{plural(len(bad), 'tensor')} in {where} {_are(bad)} not finite ({_some(bad)}): losses will be NaN.", stacklevel=2
        )


def _finite(weight: torch.Tensor) -> bool:
    return bool(torch.isfinite(weight.sum(dtype=torch.float32))) or bool(torch.isfinite(weight).all())


def _are(names: Any) -> str:
    return "is" if len(names) == 1 else "are"


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def _size(shape: Iterable[int]) -> str:
    return " × ".join(map(str, shape)) or "one number"
