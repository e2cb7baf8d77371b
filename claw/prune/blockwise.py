"""Run a decoder one block at a time, as calibration, gradients, SliceGPT and regression do."""

from collections import OrderedDict
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from claw.models.anatomy import Anatomy, Layer, norm_epsilon

BATCH_TOKENS = 4096
PUT_IN = ("_forward_pre_hooks", "_forward_hooks", "forward")  # where a user's code may stand before or after a block's own


def token_batches(parts: Anatomy, ids: torch.Tensor) -> list[torch.Tensor]:
    """Blocks (N, T) in batches of about BATCH_TOKENS tokens, on the model's device."""
    return list(ids.to(parts.device).split(max(1, BATCH_TOKENS // ids.shape[1])))


class _Stop(Exception):
    """Ends a forward pass once the arguments of every block are known."""


def first_inputs(parts: Anatomy, ids: torch.Tensor) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Hidden states (B, T, d) that enter the first block, and the keyword arguments of every block, for `ids` (B, T).

    The model's own forward prepares masks and rotary angles, so every architecture gets exactly its own. What a user hooked to
    a block or put into it acts when the block is run, not here.
    """
    hidden: list[torch.Tensor] = []
    arguments: list[dict[str, Any]] = []

    def record(hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        hidden.append(hidden_states)
        arguments.append(kwargs)
        if len(arguments) == parts.depth:
            raise _Stop
        return hidden_states  # blocks pass their input on unchanged: only the arguments are wanted

    modules = [vars(layer.module) for layer in parts.layers]
    before = [{name: value for name, value in module.items() if name in PUT_IN} for module in modules]
    try:
        for module in modules:
            module.update(_forward_pre_hooks=OrderedDict(), _forward_hooks=OrderedDict(), forward=record)
        with suppress(_Stop):
            parts.backbone(input_ids=ids, use_cache=False)
    finally:
        for module, own in zip(modules, before, strict=True):
            module.pop("forward", None)  # the class's own shows again
            module.update(own)
    return hidden[0], arguments


def run_block(layer: Layer, hidden: torch.Tensor, arguments: dict[str, Any]) -> torch.Tensor:
    """Output of one block for hidden states (B, T, d)."""
    out = layer.module(hidden, **arguments)
    return out[0] if isinstance(out, tuple) else out


def unit_rms(x: torch.Tensor, norm: nn.Module) -> torch.Tensor:
    """x / √(mean x² + ε) over the last axis: what an RMSNorm gives before its gain."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm_epsilon(norm))
