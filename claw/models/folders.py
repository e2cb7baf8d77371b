"""What a folder is, found out from its small files before any weight is read: a decoder's checkpoint, an adapter, or what not.

`check_folder` is cheap (JSON and headers), so that a study is refused before its first job.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from claw.errors import InputError
from claw.models import other_files, tokenizer_files
from claw.models.pretrained import config_in
from claw.models.quantised import check_quantised
from claw.models.stored import Stored, stored_tensors, weight_files
from claw.models.towers import is_composite, tower_config
from claw.words import plural

CONFIG, ADAPTER = "config.json", "adapter_config.json"
ELSEWHERE = "lm-eval's own class (`lm_eval --model hf`) may measure it."
WITHOUT_STATE = {"attention", "full_attention", "sliding_attention", "chunked_attention", "mlp", "moe"}
CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")
RECURRENT = {"linear_attention", "mamba", "conv", "hybrid", "recurrent"}
LAYERS, MOST_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 10_000
SIZES = {"depth": "num_hidden_layers", "hidden": "hidden_size", "width": "intermediate_size", "vocabulary": "vocab_size"}


@dataclass(frozen=True)
class Checkpoint:
    """A decoder's complete checkpoint: its folder, configuration, and what its files hold."""

    folder: Path
    config: Any
    tensors: Mapping[str, Stored] = field(repr=False)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a peft adapter and no complete model."""
    return (folder / ADAPTER).is_file() and not (folder / CONFIG).is_file()


def check_folder(folder: Path) -> Checkpoint:
    """The checkpoint in a folder; InputError that says what the folder is and what to do, where it is something else."""
    try:
        os.listdir(folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error}. Correct its permissions.") from error
    content = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else None
    if content is None:
        raise other_files.no_config(folder)
    if (folder / ADAPTER).is_file():
        raise InputError(
            f"{folder} holds a complete model ({CONFIG}) and an adapter ({ADAPTER}), and which of them is meant is not clear. "
            "Move the adapter's files to a folder of their own, and name the folder that you mean."
        )
    check_quantised(folder, content)
    config = _config(folder, content)
    check_decoder(config, folder)
    _check_head(folder, content)
    weights = weight_files(folder)
    tokenizer_files.check_tokenizer_files(folder)
    tensors = stored_tensors(folder, weights)
    _check_size(folder, config, tensors)
    _check_report(folder, config)
    return Checkpoint(folder, config, tensors)


def read_json(path: Path) -> dict[str, Any]:
    """An object in a small JSON file beside a model."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(content, dict):
            raise ValueError(f"it holds {type(content).__name__}, not an object")
    except (OSError, ValueError, RecursionError) as error:
        said = other_files.not_the_file(path) or f"cannot be read: {error}. Fetch or export it again."
        raise InputError(f"{path} {said}") from error
    return content


def _config(folder: Path, content: Mapping[str, Any]) -> Any:
    """The configuration as transformers reads it."""
    import transformers

    for name in ("transformers_weights", "fusion_config"):  # which name other files, or patch the code
        if content.get(name):
            raise InputError(
                f"{folder / CONFIG} sets {name}, which is not followed here. Take it out, or export the model plainly."
            )
    for name in LAYERS:
        if isinstance(content.get(name), int) and content[name] > MOST_LAYERS:  # of which transformers makes lists
            raise InputError(
                f"{folder / CONFIG} describes a far larger model ({name} {content[name]:,}) than there is. Correct it."
            )
    kind = content.get("model_type")
    if kind is None:
        names = content.get("architectures")
        hint = f" (it names {names[0]})" if isinstance(names, list) and names else ""
        raise InputError(
            f"{folder / CONFIG} has no model_type, by which transformers knows the architecture{hint}. Add it, such as "
            '"model_type": "llama"; or take the release for transformers, if this is one for another program.'
        )
    _check_number_type(folder / CONFIG, content)
    if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING:
        code = content.get("auto_map")
        why = (
            "it brings its own code (auto_map), which is never run here" if code
            else f"transformers {transformers.__version__} does not know it; a newer one may"
        )  # fmt: skip
        raise InputError(
            f"{folder} is a model of type {kind!r}: {why}. Use a release of this model for an architecture that transformers "
            f"has itself. Outside claw, {ELSEWHERE}"
        )
    try:
        return config_in(folder)
    except Exception as error:  # each configuration has checks of its own
        raise InputError(
            f"{folder / CONFIG} is not a configuration of {kind}: {_first_line(error)}. Correct or fetch it again."
        ) from error


def _check_number_type(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse a number type that torch has not, which transformers reports as an attribute that is missing."""
    text = content.get("text_config")
    for part in (content, text if isinstance(text, Mapping) else {}):
        for name in ("dtype", "torch_dtype"):
            kind = part.get(name)
            if isinstance(kind, str) and not isinstance(getattr(torch, kind, None), torch.dtype):
                raise InputError(
                    f"{path} says {name} {kind!r}, which is no number type of torch. Write {kind.removeprefix('torch.')!r}."
                    if isinstance(getattr(torch, kind.removeprefix("torch."), None), torch.dtype)
                    else f"{path} says {name} {kind!r}, which is no number type of torch. Write that of its weights, such as "
                    "'bfloat16', or leave the line out."
                )


def check_decoder(config: Any, where: object) -> None:
    """Refuse what is not a causal decoder of text with attention, by what it is."""
    from transformers.models.auto import modeling_auto as auto

    kind = config.model_type
    if is_composite(config) and (tower := tower_config(config)) is not None:
        return check_decoder(tower, f"The text tower of {where}")
    causal = auto.MODEL_FOR_CAUSAL_LM_MAPPING
    if config.is_encoder_decoder:
        what, instead = "an encoder-decoder model", "a decoder such as Llama, Qwen or Gemma"
    elif is_composite(config):
        what = "a model of several inputs (text with images, sound or video) whose text tower is no plain decoder"
        instead = "the release of its language model alone"
    elif kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        what, instead = "an encoder that fills in masked words, not a decoder", "a decoder such as Llama, Qwen or Gemma"
    elif type(config) not in causal:
        what, instead = "not a language model that predicts the next token", "a decoder such as Llama, Qwen or Gemma"
    elif _keeps_state(config, causal[type(config)]):
        what, instead = "a state-space or recurrent model, or a hybrid with such layers", "a decoder of attention layers only"
    else:
        return
    raise InputError(f"{where} is of type {kind!r}: {what}. claw compresses causal decoders: use {instead}. {ELSEWHERE}")


def _check_head(folder: Path, content: Mapping[str, Any]) -> None:
    """Refuse a decoder's body that was trained to classify, also where its embedding could pass for a head."""
    names = content.get("architectures")
    other = [name for name in names if str(name).endswith(CLASSIFIERS)] if isinstance(names, list) else []
    if other:
        raise InputError(
            f"{folder / CONFIG} names the architecture {other[0]}: its head gives classes or a reward, and claw compresses "
            "models that predict the next token. Name the language model that it was trained from."
        )


def _keeps_state(config: Any, kinds: Any) -> bool:
    """Whether some layers hand on a state, as transformers marks the class or names the layers."""
    marked = any(getattr(kind, "_is_stateful", False) for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
    layers = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None)
    return marked if not layers else (marked and not set(layers) <= WITHOUT_STATE) or not RECURRENT.isdisjoint(layers)


def _check_size(folder: Path, config: Any, tensors: Mapping[str, Stored]) -> None:
    """Refuse a configuration of a model far larger than its files before memory is taken for it."""
    sizes = {name: getattr(config.get_text_config(), name, None) for name in SIZES.values()}
    depth, hidden, width, vocabulary = (size if isinstance(size, int) else 0 for size in sizes.values())
    held = sum(tensor.elements for tensor in tensors.values())
    if depth > len(tensors) or max(vocabulary, width, hidden) * hidden > 4 * held:
        told = ", ".join(f"{name} {size:,}" for name, size in sizes.items() if isinstance(size, int))
        raise InputError(
            f"{folder / CONFIG} describes a far larger model ({told}) than the {plural(len(tensors), 'tensor')} with {held:,} "
            "weights beside it. They do not belong together: fetch or export the folder again."
        )


def _check_report(folder: Path, config: Any) -> None:
    """Refuse a checkpoint of claw whose configuration is not that of the model that claw wrote."""
    try:
        told = json.loads((folder / "claw.json").read_text(encoding="utf-8"))["report"]["small"]
        sizes = {axis: told[axis] for axis in SIZES}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return  # not a compressed checkpoint of claw, or its claw.json is damaged: its reader says so
    other = [
        f"{name} {getattr(config, name, None)}, not {sizes[axis]}"
        for axis, name in SIZES.items()
        if getattr(config, name, None) != sizes[axis]
    ]
    if other:
        raise InputError(
            f"{folder / CONFIG} is not that of the model that claw.json beside it tells of: it has {', '.join(other)}. The "
            "model was exchanged after claw wrote it. Compress again; or remove claw.json, if this is another model now."
        )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:400] or repr(error)
