"""The one door to transformers' loaders: no other module calls `from_pretrained` (a test looks).

No code beside a model runs, and nobody is asked whether it may: `trust_remote_code=False` everywhere. Weights are read from
safetensors or GGUF. What was loaded is compared with what the files hold.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from claw.models.stored import Stored, check_loaded
from claw.progress import of_transformers

NO_CODE: dict[str, Any] = {"trust_remote_code": False}
SILENCED = ("transformers.modeling_utils", "transformers.distributed.tensor_parallel")
"""Loggers that report missing tensors, which is raised here, and layers that a plan for several devices does not name."""
TOLD: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # so that all other shapes are named


def config_in(folder: str | Path) -> Any:
    """The configuration in a checkpoint folder."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, **NO_CODE)
    if "/" in str(config._attn_implementation or ""):  # a kernel to be fetched from the hub, which is code
        config._attn_implementation = None
    return config


def tokenizer_in(folder: str | Path, **choices: Any) -> Any:
    """The tokenizer in a checkpoint folder, or with `gguf_file` in a GGUF file there."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, **NO_CODE, **choices)


def checkpoint_in(
    folder: str | Path, stored: Mapping[str, Stored], config: Any, *, images: bool = False, **choices: Any
) -> Any:
    """The model in a checkpoint folder whose headers say `stored`; InputError unless it is made of all of that and no more.

    A causal decoder, or with `images` a model of text and images.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    loader: Any = AutoModelForImageTextToText if images else AutoModelForCausalLM
    with _reported():
        model, info = loader.from_pretrained(folder, config=config, use_safetensors=True, **TOLD, **NO_CODE, **choices)
    check_loaded(model, info, stored, folder)
    return model


def gguf_config_in(folder: str | Path, name: str) -> Any:
    """The configuration that transformers reads from a GGUF file."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, gguf_file=name, **NO_CODE)


def gguf_in(folder: str | Path, name: str, config: Any) -> tuple[Any, Mapping[str, Any]]:
    """The model in a GGUF file, dequantised to bfloat16, and what transformers reports of the loading."""
    import transformers
    from transformers import AutoModelForCausalLM

    # newer releases of transformers keep weights packed where they have kernels, unless asked
    plain = {"quantization_config": transformers.GgufConfig(dequantize=True)} if hasattr(transformers, "GgufConfig") else {}
    loader: Any = AutoModelForCausalLM
    with _reported():
        choices = {"config": config, "dtype": torch.bfloat16} | plain
        return loader.from_pretrained(folder, gguf_file=name, **choices, **TOLD, **NO_CODE)


def stock_reload(folder: str | Path, *, images: bool = False, **choices: Any) -> Any:
    """The model that a stranger's script gets from a folder: transformers alone, without the checks of this room."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    loader: Any = AutoModelForImageTextToText if images else AutoModelForCausalLM
    with _reported():
        return loader.from_pretrained(folder, **NO_CODE, **choices)


def assembled(kind: Any, config: Any, state: Mapping[str, torch.Tensor], **choices: Any) -> Any:
    """A model of class `kind` with the weights `state`; InputError unless they are all of its weights and no others."""
    with _reported():
        model, info = kind.from_pretrained(None, config=config, state_dict=dict(state), **TOLD, **choices)
    kinds = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
    stored = {name: Stored(kinds.get(tensor.dtype, ""), tuple(tensor.shape)) for name, tensor in state.items()}
    check_loaded(model, info, stored, "memory")
    return model


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    """transformers' bars as ours, and not its table of missing tensors: what is amiss is raised."""
    loggers = [logging.getLogger(name) for name in SILENCED]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with of_transformers():
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
