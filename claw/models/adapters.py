"""A LoRA adapter that peft wrote, merged into its base: W + s B A in every matrix that it names.

Only the adapter's own file decides: plain LoRA, DoRA, rsLoRA and whole modules saved beside, from safetensors. Settings that
would import a module by name are refused, so that no code beside an adapter runs.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from claw.errors import InputError
from claw.models.folders import ADAPTER, read_json

WEIGHTS = "adapter_model.safetensors"
TAKEN = set(
    "r lora_alpha target_modules exclude_modules fan_in_fan_out bias use_rslora use_dora modules_to_save layers_to_transform "
    "layers_pattern rank_pattern alpha_pattern target_parameters lora_bias ensure_weight_tying".split()
)
"""Settings that decide what an adapter is."""
IRRELEVANT = set(
    "peft_type task_type base_model_name_or_path revision inference_mode auto_mapping lora_dropout init_lora_weights "
    "peft_version "
    "loftq_config eva_config corda_config lora_ga_config runtime_config megatron_core".split()
)
"""Settings of its training, of its beginning, or of where it is from."""


def base_of(folder: Path) -> str:
    """Name of the model that an adapter was trained on."""
    base = read_json(folder / ADAPTER).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise InputError(
            f"{folder / ADAPTER} names no base model. Set base_model_name_or_path to the folder of the dense model."
        )
    return base


def lora_settings(folder: Path) -> dict[str, Any]:
    """What a folder's adapter_config.json says of its LoRA; InputError for any other adapter."""
    from peft import LoraConfig

    content = read_json(folder / ADAPTER)
    kind, usual = content.get("peft_type"), LoraConfig().to_dict()
    followed = {name for name, value in content.items() if name in TAKEN | IRRELEVANT or not value or value == usual.get(name)}
    others = sorted(content.keys() - followed) if kind == "LORA" else []
    if kind != "LORA" or others:
        why = f"settings that are not followed here ({', '.join(others)})" if others else f"the type {kind}"
        raise InputError(
            f"{folder} is a peft adapter with {why}. LoRA adapters are merged here; merge another kind with peft's "
            "model.merge_and_unload(), save the result with save_pretrained, and name that folder."
        )
    if not (folder / WEIGHTS).is_file():
        pickle = (
            " Its adapter_model.bin is a pickle, which is never loaded." if (folder / "adapter_model.bin").is_file() else ""
        )
        raise InputError(f"{folder} is an adapter without {WEIGHTS}.{pickle} Save it again with peft, as safetensors.")
    return {name: value for name, value in content.items() if name in TAKEN and value is not None}


def merged(base: Any, folder: Path, settings: Mapping[str, Any]) -> Any:
    """`base` with the adapter in `folder` added to its weights. InputError unless every tensor of the adapter has its place."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    try:
        state = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise InputError(f"The adapter in {folder} is damaged or incomplete: {error}. Save or fetch it again.") from error
    try:
        model = get_peft_model(base, LoraConfig(**settings, task_type="CAUSAL_LM"))
        result = set_peft_model_state_dict(model, state)
        _check_places(model, state, result, folder)
        return model.merge_and_unload()
    except InputError:
        raise
    except Exception as error:  # peft and torch each raise their own kinds
        raise InputError(
            f"The adapter in {folder} does not fit its base {base_of(folder)}: {' '.join(str(error).split())[:400]}. Name the "
            "model that it was trained on as base_model_name_or_path."
        ) from error


def _check_places(model: Any, state: Mapping[str, Any], result: Any, folder: Path) -> None:
    """Every tensor of the file is in the model, and every part that the adapter adds is from the file."""
    own = re.compile(r"\.(lora_\w+|modules_to_save)\.")
    missing = sorted(name for name in result.missing_keys if own.search(name))
    unexpected = sorted(result.unexpected_keys)
    if missing or unexpected or not state:
        names = ", ".join((missing + unexpected)[:5]) or "it is empty"
        raise InputError(
            f"The adapter in {folder} is not whole or not of its base {base_of(folder)}: {len(missing)} of its tensors are "
            f"missing and {len(unexpected)} have no place in the model ({names}). Save or fetch it again, or correct "
            "base_model_name_or_path."
        )
