"""Run a decoder one block at a time, as calibration, gradients, SliceGPT and regression do."""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn import functional as F

from claw.errors import InputError
from claw.models.anatomy import Anatomy, anatomy
from claw.models.arithmetic import error_line, once, readout_of
from claw.models.blocks import Layer, norm_epsilon, takes_mean
from claw.models.few_layers import few_layers

BATCH_TOKENS = {"cpu": 4096, "cuda": 32768}  # that pass a block together
HEAD_TOKENS = 512  # whose logits are held at a time in a backward pass
PUT_IN = ("_forward_pre_hooks", "_forward_hooks", "forward")  # where a user's code may stand before or after a block's own
TRIAL = 24  # tokens

_WALKS: WeakKeyDictionary[nn.Module, tuple[tuple, str]] = WeakKeyDictionary()


def token_batches(parts: Anatomy, ids: torch.Tensor, *, at_least: int = 1) -> list[torch.Tensor]:
    """Blocks (N, T) in batches of about BATCH_TOKENS tokens on the model's device; `at_least` so many, if blocks suffice."""
    rows = BATCH_TOKENS.get(parts.device.type, BATCH_TOKENS["cpu"]) // ids.shape[1]
    return list(ids.to(parts.device).split(max(1, min(rows, len(ids) // at_least))))


class _Stop(Exception):
    """Ends a forward pass once the arguments of every block are known."""


def first_inputs(parts: Anatomy, ids: torch.Tensor) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Hidden states (B, T, d) that enter the first block, and the keyword arguments of every block, for `ids` (B, T).

    The model's own forward prepares masks and rotary angles, so every architecture gets exactly its own. What a user hooked to
    a block or put into it acts when the block is run, not here.
    """
    hidden: list[torch.Tensor] = []
    arguments: list[dict[str, Any]] = []

    _, *names = inspect.signature(type(parts.layers[0].module).forward).parameters  # the first is self, the next the states

    def record(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        hidden.append(hidden_states)
        arguments.append(dict(zip(names[1:], args, strict=False)) | kwargs)
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


@torch.no_grad()
def check_walk(parts: Anatomy) -> None:
    """InputError unless a walk block by block gives what the model's own forward gives, on a copy of a few layers."""
    if why := once(_WALKS, parts.model, lambda: _why_no_walk(parts)):
        raise InputError(
            f"{type(parts.model).__name__} cannot be walked through block by block, as calibration does: {why}. Use a method "
            "that needs no calibration statistics."
        )


def _why_no_walk(parts: Anatomy) -> str:
    try:
        few = anatomy(few_layers(parts.model, at_least=2))
        ids = torch.arange(TRIAL, device=few.device)[None] % few.vocabulary
        hidden, arguments = first_inputs(few, ids)
        for layer in few.layers:
            hidden = run_block(layer, hidden, arguments[layer.index])
        own, stock = few.norm(hidden), few.backbone(input_ids=ids, use_cache=False).last_hidden_state
    except Exception as error:  # any architecture, each with errors of its own
        return f"a walk through a few layers fails ({error_line(error)})"
    if torch.allclose(own, stock, rtol=1e-3, atol=1e-4 * float(stock.abs().max())) or not stock.isfinite().all():
        return ""
    return "its blocks hand on more than the hidden states"


def run_block(layer: Layer, hidden: torch.Tensor, arguments: dict[str, Any]) -> torch.Tensor:
    """Output of one block for hidden states (B, T, d)."""
    out = layer.module(hidden, **arguments)
    return out[0] if isinstance(out, tuple) else out


@torch.no_grad()
def forward_through(parts: Anatomy, ids: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor], list[dict[str, Any]]]:
    """The last block's output (B, T, d) for `ids` (B, T), what entered each block, and the arguments of each."""
    hidden, arguments = first_inputs(parts, ids)
    entering = []
    for layer in parts.layers:
        entering.append(hidden)
        hidden = run_block(layer, hidden, arguments[layer.index])
    return hidden, entering, arguments


def head_backward(
    parts: Anatomy, hidden: torch.Tensor, ids: torch.Tensor, scored: torch.Tensor, weights: list[nn.Parameter]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Gradient of the mean next-token loss with respect to the last block's output (B, T, d), and to the last norm's `weights`.

    HEAD_TOKENS logits at a time, of scored targets alone.
    """
    places, readout = scored[:, 1:], readout_of(parts.model)
    flat, targets = hidden[:, :-1][places].detach(), ids[:, 1:][places]
    pieces, sums = [], [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
    for states, wanted in zip(flat.split(HEAD_TOKENS), targets.split(HEAD_TOKENS), strict=True):
        with torch.enable_grad(), differentiable(weights):
            states = states.clone().requires_grad_(True)
            logits = readout.logits(parts.head(parts.norm(states)).float())
            loss = F.cross_entropy(logits, wanted, reduction="sum") / max(1, len(targets))
            piece, *own = torch.autograd.grad(loss, [states, *weights])
        pieces.append(piece)
        for total, each in zip(sums, own, strict=True):
            total += each
    gradient = torch.zeros_like(hidden)
    gradient[:, :-1][places] = torch.cat(pieces) if pieces else flat
    return gradient, sums


@contextmanager
def differentiable(weights: list[nn.Parameter]) -> Iterator[None]:
    """Weights that require a gradient for a while."""
    before = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        yield
    finally:
        for weight, flag in zip(weights, before, strict=True):
            weight.requires_grad_(flag)


def backward_through(
    parts: Anatomy,
    entering: list[torch.Tensor],
    arguments: list[dict[str, Any]],
    gradient: torch.Tensor,
    weights_of: Callable[[Layer], list[nn.Parameter]],
) -> Iterator[tuple[Layer, torch.Tensor, list[nn.Parameter], tuple[torch.Tensor, ...]]]:
    """From the last block to the first: the block, its output's gradient, its weights of `weights_of`, and theirs.

    `gradient` is that of the last block's output. A block is computed again with gradients and then let go, and `entering` is
    used up, so memory never holds the activations or gradients of more than one block.
    """
    for layer in reversed(parts.layers):
        weights = weights_of(layer)
        with torch.enable_grad(), differentiable(weights):
            start = entering.pop().detach().requires_grad_(True)
            out = run_block(layer, start, arguments[layer.index])
            entered, *gradients = torch.autograd.grad(out, [start, *weights], gradient)
        yield layer, gradient, weights, tuple(gradients)
        gradient = entered


def unit_rms(x: torch.Tensor, norm: nn.Module) -> torch.Tensor:
    """x / √(mean x² + ε) over the last axis, less the mean first for a LayerNorm: what a norm gives before its gain.

    Zeros stay zeros where `norm` has no ε.
    """
    if takes_mean(norm):
        x = x - x.mean(-1, keepdim=True)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + (norm_epsilon(norm) or 1e-30))
