"""What a model's configuration tells before its weights are loaded: its anatomy, and how much text it takes at once."""

import json
from pathlib import Path
from typing import Any

import torch

from claw.errors import InputError
from claw.models import sources
from claw.models.anatomy import Anatomy, parts_of
from claw.models.pretrained import config_in
from claw.models.towers import is_composite, tower_config
from claw.progress import of_transformers
from claw.project import cache, inside_project


def local_folder(name: str) -> Path | None:
    """Folder on this machine with the configuration of a model; None for one that is still to be fetched or converted."""
    if (known := sources.models().get(name)) and not known.hub:
        folder = cache() / "models" / f"{known.name}-{known.gguf_sha256[:12]}"  # as `claw.models.gguf` names it
    elif not known and inside_project(name).exists():
        folder = inside_project(name)
    else:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            config = try_to_load_from_cache(known.hub if known else name, "config.json")
        except HFValidationError:
            return None
        folder = Path(config).parent if isinstance(config, str) else Path()
    return folder if (folder / "config.json").is_file() else None


def planned_config(name: str) -> Any:
    """The configuration of a model; None for one that is not on this machine yet. InputError for one that cannot be read."""
    if (folder := local_folder(name)) is None:
        return None
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
        with of_transformers():
            config = config_in(folder)
            return tower_config(config) or config if is_composite(config) else config
    except Exception as error:  # a configuration may be wrong in any way, and each class reads it in its own
        reason = (str(error) or repr(error)).splitlines()[0]
        raise InputError(
            f"{folder / 'config.json'} cannot be read as the configuration of a model: {reason}. It is damaged, or of an "
            "architecture that this version of transformers does not know."
        ) from error


def planned_anatomy(config: Any) -> Anatomy:
    """The anatomy of a configuration's model, whose weights have shapes and no values."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"), of_transformers():
        return parts_of(AutoModelForCausalLM.from_config(config, trust_remote_code=False))


def check_window(config: Any, length: int, what: str) -> None:
    """InputError where texts of `length` tokens are longer than the model was made for; `what` names them."""
    window = getattr(config.get_text_config(), "max_position_embeddings", None)
    if isinstance(window, int) and length > window > 0:
        raise InputError(
            f"{what} of {length:,} tokens is beyond this model's window of {window:,} (max_position_embeddings in its "
            f"configuration), where its losses mean nothing. Use blocks of at most {window:,} tokens."
        )
