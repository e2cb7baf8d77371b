"""Run a decoder one block at a time, as calibration, gradients, SliceGPT and regression do."""

from contextlib import suppress
from typing import Any

import torch
from torch import nn

from claw.models.anatomy import Anatomy, Layer, norm_epsilon

BATCH_TOKENS = 4096


def token_batches(parts: Anatomy, ids: torch.Tensor) -> list[torch.Tensor]:
    """Blocks (N, T) in batches of about BATCH_TOKENS tokens, on the model's device."""
    return list(ids.to(parts.device).split(max(1, BATCH_TOKENS // ids.shape[1])))


class _Stop(Exception):
    """Ends a forward pass once the arguments of every block are known."""


def first_inputs(parts: Anatomy, ids: torch.Tensor) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Hidden states (B, T, d) that enter the first block, and the keyword arguments of every block, for `ids` (B, T).

    The model's own forward prepares masks and rotary angles, so every architecture gets exactly its own.
    """
    hidden: list[torch.Tensor] = []
    arguments: list[dict[str, Any]] = []

    def record(hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        hidden.append(hidden_states)
        arguments.append(kwargs)
        if len(arguments) == parts.depth:
            raise _Stop
        return hidden_states  # blocks pass their input on unchanged: only the arguments are wanted

    own = [vars(layer.module).get("forward") for layer in parts.layers]  # as hooks of other libraries set it
    try:
        for layer in parts.layers:
            layer.module.forward = record
        with suppress(_Stop):
            parts.backbone(input_ids=ids, use_cache=False)
    finally:
        for layer, forward in zip(parts.layers, own, strict=True):
            vars(layer.module).pop("forward", None)  # the class's own shows again
            if forward is not None:
                layer.module.forward = forward
    return hidden[0], arguments


def run_block(layer: Layer, hidden: torch.Tensor, arguments: dict[str, Any]) -> torch.Tensor:
    """Output of one block for hidden states (B, T, d)."""
    out = layer.module(hidden, **arguments)
    return out[0] if isinstance(out, tuple) else out


def unit_rms(x: torch.Tensor, norm: nn.Module) -> torch.Tensor:
    """x / √(mean x² + ε) over the last axis: what an RMSNorm gives before its gain."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm_epsilon(norm))
