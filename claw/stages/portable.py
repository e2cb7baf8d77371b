"""A saved checkpoint in words that transformers 4 knows, too, and without the paths of this machine.

transformers 5 writes the rotary settings as `rope_parameters`, the number type as `dtype`, and a tokenizer class of its own.
Version 4 reads none of these and falls back on its defaults without a warning: SmolLM2's θ of 100,000 becomes 10,000, another
model. Both spellings stand beside each other here; version 5 reads the first and gives the same model.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json")
NAMELESS = ("name_or_path", "local_files_only", "is_local")  # how keys end that say where something was loaded from
FAST = "PreTrainedTokenizerFast"  # a class that both versions have; it reads tokenizer.json and nothing else
ROPE_TYPES = ("full_attention", "sliding_attention")


def respell(folder: Path) -> None:
    """Rewrite the configurations that `save_pretrained` left in a folder: both spellings, no paths."""
    for name in CONFIGS:
        path = folder / name
        if path.is_file():
            config = without_paths(json.loads(path.read_text(encoding="utf-8")))
            if name == "config.json":
                config = both_spellings(config)
            if name == "tokenizer_config.json":
                config = older_tokenizer(config, fast=(folder / "tokenizer.json").is_file())
            path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def both_spellings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with `rope_theta`, `rope_scaling` (Gemma 3: `rope_local_base_freq`) and `torch_dtype` beside the new."""
    spelled = {name: both_spellings(part) if name == "text_config" else part for name, part in config.items()}
    if "dtype" in spelled:
        spelled.setdefault("torch_dtype", spelled["dtype"])
    rope = spelled.get("rope_parameters")
    if not isinstance(rope, dict):
        return spelled
    whole, sliding = (rope.get(kind) for kind in ROPE_TYPES)
    settings: dict[str, Any] = whole if isinstance(whole, dict) else rope
    if "rope_theta" in settings:
        spelled.setdefault("rope_theta", settings["rope_theta"])
    if isinstance(sliding, dict) and "rope_theta" in sliding:
        spelled.setdefault("rope_local_base_freq", sliding["rope_theta"])
    if "partial_rotary_factor" in settings:
        spelled.setdefault("partial_rotary_factor", settings["partial_rotary_factor"])
    scaling = {name: value for name, value in settings.items() if name not in ("rope_theta", "partial_rotary_factor")}
    if scaling.get("rope_type", "default") != "default":
        spelled.setdefault("rope_scaling", scaling)
    return spelled


def older_tokenizer(config: Mapping[str, Any], *, fast: bool) -> dict[str, Any]:
    """A tokenizer's configuration with a class and a list of special tokens that version 4 knows."""
    spelled = dict(config)
    if fast and str(spelled.get("tokenizer_class", "")).endswith("Backend"):
        spelled["tokenizer_class"] = FAST
        spelled.pop("backend", None)
    if isinstance(spelled.get("extra_special_tokens"), list):  # a mapping in version 4
        spelled["additional_special_tokens"] = spelled.pop("extra_special_tokens")
    return spelled


def without_paths(value: Any) -> Any:
    """Plain data without the entries that say from which place of this machine something was loaded."""
    if isinstance(value, dict):
        kept = {name: inner for name, inner in value.items() if not name.endswith(NAMELESS) and not _is_path(inner)}
        return {name: without_paths(inner) for name, inner in kept.items()}
    return [without_paths(inner) for inner in value if not _is_path(inner)] if isinstance(value, list) else value


def _is_path(value: Any) -> bool:
    with suppress(OSError, ValueError):
        return isinstance(value, str) and 1 < len(value) < 4096 and Path(value).is_absolute() and Path(value).exists()
    return False
