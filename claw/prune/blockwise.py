"""Run a decoder one block at a time, as calibration, gradients, SliceGPT and regression do."""

from collections.abc import Callable
from typing import Any

import torch

from claw.models.anatomy import Anatomy, Layer

BATCH_TOKENS = 4096


def token_batches(parts: Anatomy, ids: torch.Tensor) -> list[torch.Tensor]:
    """Blocks (N, T) in batches of about BATCH_TOKENS tokens, on the model's device."""
    return list(ids.to(parts.device).split(max(1, BATCH_TOKENS // ids.shape[1])))


class _Stop(Exception):
    """Ends a forward pass once the first block's arguments are known."""


def first_inputs(parts: Anatomy, ids: torch.Tensor) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Hidden states (B, T, d) that enter the first block, and the keyword arguments of every block, for `ids` (B, T).

    The model's own forward prepares masks and rotary angles, so every architecture gets exactly its own.
    """
    hidden: list[torch.Tensor] = []
    arguments: list[dict[str, Any]] = [{} for _ in parts.layers]

    def take(index: int) -> Callable:
        def hook(module, args, kwargs):
            hidden.append(args[0] if args else kwargs["hidden_states"])
            arguments[index] = {k: v for k, v in kwargs.items() if k != "hidden_states"}
            if index == parts.depth - 1:
                raise _Stop
            return (hidden[0],), arguments[index]

        return hook

    handles = []
    for layer in parts.layers:  # blocks pass their input on unchanged: only the arguments are wanted
        handles.append(layer.module.register_forward_pre_hook(take(layer.index), with_kwargs=True))
        layer.module.forward = lambda hidden_states, *args, **kwargs: hidden_states
    try:
        parts.backbone(input_ids=ids, use_cache=False)
    except _Stop:
        pass
    finally:
        for handle, layer in zip(handles, parts.layers, strict=True):
            handle.remove()
            del layer.module.forward  # the class's own shows again
    return hidden[0], arguments


def run_block(layer: Layer, hidden: torch.Tensor, arguments: dict) -> torch.Tensor:
    """Output of one block for hidden states (B, T, d)."""
    out = layer.module(hidden, **arguments)
    return out[0] if isinstance(out, tuple) else out


def unit_rms(x: torch.Tensor, epsilon: float) -> torch.Tensor:
    """x / √(mean x² + ε) over the last axis: RMSNorm without its gain."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)
