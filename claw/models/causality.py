"""Whether attention, as this machine computes it, keeps from every token those that follow; kernels that do not are turned off.

On a GPU attention runs in fused kernels, another one for each card, library, number type and size of a head. Not all were
right: on an H200 with torch 2.11, all tokens of Gemma 3 270M (heads of 256, bfloat16) saw those that followed. Its loss was 10
nats instead of 2.8, and 1.3 once it was trained, since it had learned to copy. A comparison in float32 or of few tokens shows
nothing of it, because other kernels compute those. So the model itself is asked, in its own number type, on as many tokens as
the fused kernels are made for.
"""

import warnings
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.backends import cuda

from claw.errors import InputError
from claw.models.arithmetic import once

LENGTH = 512  # tokens of the trial
PLACES = 32  # whose results are compared
SEEN = 0.02  # relative difference that only tokens that follow can have made: nothing else differs, so rounding is alike
TRUSTED = ("cpu",)  # devices whose kernels the tests compare
KERNELS: dict[str, tuple[Callable[[], bool], Callable[[bool], None]]] = {
    "cuDNN's": (cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp),
    "the flash": (cuda.flash_sdp_enabled, cuda.enable_flash_sdp),
    "the memory-efficient": (cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp),
}
"""Kernels that can be turned off, the newest first: whether each may be used, and what decides it. The plain one stays."""

_ASKED: WeakKeyDictionary[nn.Module, tuple[tuple, bool]] = WeakKeyDictionary()


def keep_order(model: nn.Module, forward: Callable[[Tensor], Tensor] | None = None) -> None:
    """Turn off, in this process and with a warning, the attention kernels that let this model's tokens see those that follow.

    `forward` is a pass of one's own, ids (1, T) to results (1, T, n); without it the model's logits are looked at, once per
    model. Nothing is asked on a CPU, or of a model whose pass fails on plain ids. InputError where no kernel is right.
    """
    if next(model.parameters()).device.type in TRUSTED:
        return
    if forward is None:
        once(_ASKED, model, lambda: _keep_order(model, lambda ids: model(input_ids=ids, use_cache=False).logits))
    else:
        _keep_order(model, forward)


def _keep_order(model: Any, forward: Callable[[Tensor], Tensor]) -> bool:
    if not _sees_ahead(model, forward):
        return True
    device, off = next(model.parameters()).device, []
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    for name, (is_on, turn) in KERNELS.items():
        if not is_on():
            continue
        turn(False)
        off.append(name)
        if not _sees_ahead(model, forward):
            warnings.warn(
                f"With {name} attention kernel of torch {torch.__version__} on {where}, tokens of {type(model).__name__} see "
                f"those that follow, and every loss would be wrong. Until this process ends, {' and '.join(off)} kernel"
                f"{'s are' if len(off) > 1 else ' is'} not used.",
                stacklevel=4,
            )
            return True
    for name in off:
        KERNELS[name][1](True)
    raise InputError(
        f"{type(model).__name__} cannot be used on {where}: with torch {torch.__version__} its prediction of a token depends "
        "on the tokens that follow, whichever attention kernel computes it. Use another version of torch or the CPU; models "
        "that are meant to look ahead (encoders) are not accepted anywhere."
    )


@torch.inference_mode()
def _sees_ahead(model: Any, forward: Callable[[Tensor], Tensor]) -> bool:
    """Whether the results of the first half of some tokens change with the second half. False where they cannot be had."""
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", None) or 2
    length = min(LENGTH, getattr(model.config.get_text_config(), "max_position_embeddings", None) or LENGTH)
    first = torch.randint(vocabulary, (1, length), generator=torch.Generator().manual_seed(0))
    second = first.clone()
    second[:, length // 2 :] = (first[:, length // 2 :] + 1) % vocabulary
    training, device = model.training, next(model.parameters()).device
    places = slice(max(0, length // 2 - PLACES), length // 2)
    try:
        one, other = (forward(ids.to(device))[0, places].float() for ids in (first, second))
    except torch.OutOfMemoryError:
        raise
    except Exception:  # any architecture, each with errors of its own, which those who use the model report
        return False
    if training:  # dropout draws anew
        return False
    return bool((one - other).norm() > SEEN * (one - one.mean()).norm())
