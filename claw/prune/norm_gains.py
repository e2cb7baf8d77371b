"""Refit the gains of all norms of a compressed model on calibration text: what a linear fit of each layer cannot know.

Every linear was fitted to give what the dense one gave, each dimension as important as any other. What the next token needs is
known only at the end of the model, so the gains that weigh the dimensions before each half, and before the head, follow the
gradient of the cross-entropy. They are a few thousandths of the weights, so little text does not overfit them, and one pass
over it is enough.

A backward pass holds the activations of one block at a time: what enters each block is kept, and the block computed again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from claw.models.anatomy import Anatomy, anatomy
from claw.models.arithmetic import Readout, readout_of
from claw.models.blocks import has_gain
from claw.progress import tqdm
from claw.prune.blockwise import backward_through, forward_through
from claw.texts.token_blocks import Blocks

STEP_TOKENS = 2048  # of one step
RATE, STEEPEST = 0.075, 0.02  # Adam's, falling to zero: RATE times the square of the share removed, at most STEEPEST
HEAD_TOKENS = 512  # whose logits are held at a time


def refit_gains(model: nn.Module, blocks: Blocks, removed: float) -> None:
    """Train the norms' gains in place, one pass over `blocks`; `removed` is the share of the parameters that the model lost."""
    parts = anatomy(model)
    norms = [norm for layer in parts.layers for norm in layer.norms if has_gain(norm)] + [parts.norm] * has_gain(parts.norm)
    batches = list(zip(*(t.split(max(1, STEP_TOKENS // blocks.length)) for t in (blocks.ids, blocks.scored)), strict=True))
    if not norms or not any(scored[:, 1:].any() for _, scored in batches):
        return
    weights = [norm.weight for norm in norms]
    wide = [weight.detach().float().clone() for weight in weights]
    optimiser = torch.optim.Adam(wide, lr=min(STEEPEST, RATE * removed**2))
    falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / len(batches))
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.requires_grad_(False)
        for ids, scored in tqdm(batches, desc="norm gains", unit=" steps", leave=False):
            gradients = _gradients(parts, ids.to(parts.device), scored.to(parts.device))
            if not all(gradient.isfinite().all() for gradient in gradients):
                break
            for value, gradient in zip(wide, gradients, strict=True):
                value.grad = gradient.float()
            optimiser.step()
            falling.step()
            for weight, value in zip(weights, wide, strict=True):
                weight.data = value.to(weight.dtype)
    finally:
        for parameter, flag in before:
            parameter.requires_grad_(flag)


def _gradients(parts: Anatomy, ids: torch.Tensor, scored: torch.Tensor) -> list[torch.Tensor]:
    """Of the mean next-token loss of a batch (B, T), for each norm's weight in the order of the blocks, the last norm last."""
    hidden, entering, arguments = forward_through(parts, ids)
    last = [parts.norm.weight] if has_gain(parts.norm) else []
    gradient, of_norms = _of_head(parts, readout_of(parts.model), hidden, ids, scored, last)
    own: Any = lambda layer: [norm.weight for norm in layer.norms if has_gain(norm)]
    for _, _, gradients in backward_through(parts, entering, arguments, gradient, own):
        of_norms = [*gradients, *of_norms]
    return of_norms


@contextmanager
def _trained(weights: list[nn.Parameter]) -> Iterator[None]:
    """Weights that require a gradient for a while."""
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(False)


def _of_head(
    parts: Anatomy, readout: Readout, hidden: torch.Tensor, ids: torch.Tensor, scored: torch.Tensor, last: list[nn.Parameter]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Gradient of the mean loss with respect to the last block's output (B, T, d), and to the weight of the last norm."""
    places = scored[:, 1:]
    flat, targets = hidden[:, :-1][places].detach(), ids[:, 1:][places]
    pieces, sums = [], [torch.zeros_like(weight, dtype=torch.float32) for weight in last]
    for states, wanted in _split(flat, targets):
        with torch.enable_grad(), _trained(last):
            states = states.clone().requires_grad_(True)
            logits = readout.logits(parts.head(parts.norm(states)).float())
            loss = F.cross_entropy(logits, wanted, reduction="sum") / max(1, len(targets))
            piece, *own = torch.autograd.grad(loss, [states, *last])
        pieces.append(piece)
        for total, each in zip(sums, own, strict=True):
            total += each
    gradient = torch.zeros_like(hidden)
    inner = torch.zeros_like(hidden[:, :-1])
    inner[places] = torch.cat(pieces) if pieces else flat
    gradient[:, :-1] = inner
    return gradient, sums


def _split(flat: torch.Tensor, targets: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return zip(flat.split(HEAD_TOKENS), targets.split(HEAD_TOKENS), strict=True)
