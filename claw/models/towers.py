"""The text tower of a model of text and images, taken out as the plain causal decoder that it is.

The whole model is loaded by its own class, with every weight from its files. The tower's weights then go into the class that
transformers has for a decoder of that configuration, and both must give the same logits on text: what a tower has beyond a
plain decoder (layers that look at images, other positions) is refused by that, and no list of architectures is needed.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from claw.errors import InputError
from claw.models import pretrained
from claw.models.stored import Stored

PLAIN = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}
"""Towers that are, on text alone, another family's decoder: their three positions of a token are then the same."""
OWN = ("model_type", "architectures", "transformers_version", "_name_or_path", "torch_dtype", "dtype", "auto_map")
"""Fields that name a configuration, and do not go from one kind to another."""


def is_composite(config: Any) -> bool:
    """Whether a configuration is that of a model of several inputs, one of which is text."""
    return not config.is_encoder_decoder and config.get_text_config(decoder=True) is not config


def tower_config(config: Any) -> Any:
    """The configuration of the text tower as a plain decoder's; None where transformers has no such decoder."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto import modeling_auto as auto

    if type(config) not in auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return None
    text = config.get_text_config(decoder=True)
    if type(text) in auto.MODEL_FOR_CAUSAL_LM_MAPPING:
        return copy.deepcopy(text)
    if text.model_type not in PLAIN:
        return None
    fields = {name: value for name, value in text.to_dict().items() if name not in OWN}
    rope = fields.get("rope_parameters")
    if isinstance(rope, dict):
        fields["rope_parameters"] = {name: value for name, value in rope.items() if not name.startswith("mrope")}
    return CONFIG_MAPPING[PLAIN[text.model_type]](**fields)


def text_tower(folder: Path, stored: Mapping[str, Stored], config: Any, **choices: Any) -> Any:
    """The tower of the model in a folder whose headers say `stored`, as a causal decoder of a stock class.

    `choices` are `dtype` and `device_map`. InputError where the tower does not compute on text what the whole model computes.
    """
    plain = tower_config(config)
    whole = pretrained.checkpoint_in(folder, stored, config, images=True, dtype=choices["dtype"]).eval()
    head = whole.get_output_embeddings().weight
    plain.tie_word_embeddings = head is whole.get_input_embeddings().weight
    kind = _class_of(plain)
    state = {f"{kind.base_model_prefix}.{name}": tensor for name, tensor in whole.get_decoder().state_dict().items()}
    if not plain.tie_word_embeddings:
        state["lm_head.weight"] = head
    tower = pretrained.assembled(kind, plain, state, **choices).eval()
    tower.generation_config = copy.deepcopy(whole.generation_config)
    tower.config._name_or_path = str(folder)
    check_same_on_text(tower, whole, folder)
    return tower


def with_tower(whole: Any, tower: Any) -> Any:
    """The model of text and images `whole` with a compressed `tower` in place of its own; neither of them is changed.

    InputError where its configuration cannot say what the tower became: another hidden width, which what looks at images writes
    into, or another vocabulary.
    """
    before, now = tower_config(whole.config), tower.config
    if type(before) is not type(now):
        raise InputError(
            f"A {type(tower).__name__} is not the text tower of a {type(whole).__name__}. Give the one made from it."
        )
    for name in ("hidden_size", "vocab_size"):
        if getattr(before, name) != getattr(now, name):
            raise InputError(
                f"The tower's {name} is {getattr(now, name):,}, but what reads images writes into {getattr(before, name):,}: "
                "it cannot be put back. Cut its neurons, heads or layers (not its hidden width): methods other than slicegpt "
                "and claw."
            )
    config = copy.deepcopy(whole.config)
    text = config.get_text_config(decoder=True)
    old = before.to_dict()
    for name, value in now.to_dict().items():
        if name not in OWN and value != old.get(name):
            setattr(text, name, copy.deepcopy(value))
    tied = tower.get_output_embeddings().weight is tower.get_input_embeddings().weight
    config.tie_word_embeddings = text.tie_word_embeddings = tied
    names = {id(module): name for name, module in whole.named_modules()}
    place, head = names[id(whole.get_decoder())], f"{names[id(whole.get_output_embeddings())]}.weight"
    state = {name: t for name, t in whole.state_dict().items() if name != head and not name.startswith(f"{place}.")}
    state |= {f"{place}.{name}": tensor for name, tensor in tower.base_model.state_dict().items()}
    state |= {} if tied else {head: tower.get_output_embeddings().weight}
    made = pretrained.assembled(type(whole), config, state, dtype=tower.dtype).eval()
    made.generation_config = copy.deepcopy(whole.generation_config)
    return made


def _class_of(config: Any) -> Any:
    from transformers.models.auto import modeling_auto as auto

    kind = auto.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return kind[0] if isinstance(kind, tuple) else kind


@torch.no_grad()
def check_same_on_text(tower: Any, whole: Any, where: object, *, within: float | None = None) -> None:
    """InputError unless a tower and the whole model give the same logits on text, within a share of the largest.

    `within` is rounding of the number type unless named.
    """
    config = whole.config
    text = config.get_text_config()
    special = {value for part in (config, text) for name, value in part.to_dict().items() if _names_token(name, value)}
    rows = min(text.vocab_size, tower.get_input_embeddings().weight.shape[0])
    plain = [number for number in range(min(rows, 4096)) if number not in special]
    ids = torch.tensor(plain)[torch.arange(7, 7 + 24 * 11, 11) % len(plain)].view(2, 12)
    theirs = whole(input_ids=ids.to(whole.device), use_cache=False).logits.float().cpu().nan_to_num()
    mine = tower(input_ids=ids.to(tower.device), use_cache=False).logits.float().cpu().nan_to_num()
    accepted = (1e-4 if tower.dtype == torch.float32 else 3e-2) if within is None else within
    if mine.shape != theirs.shape or (mine - theirs).abs().max() > accepted * theirs.abs().max():
        raise InputError(
            f"The text tower of {where} ({type(whole).__name__}) is not a {type(tower).__name__}: on the same text their "
            "logits differ, so it has more than a plain decoder. Use the release of its language model alone."
        )


def _names_token(name: str, value: object) -> bool:
    return name.endswith(("token_id", "token_index")) and isinstance(value, int)
