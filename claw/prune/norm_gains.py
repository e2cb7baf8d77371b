"""Refit the gains of all norms of a compressed model on calibration text: what a linear fit of each layer cannot know.

Where norms have a bias, and where what writes to the stream has one, these are refitted with them if the text gives enough
steps: on small trained models of five families that took .00 to .08 nats off at half of the parameters, and added up to .13
with a single step.

Every linear was fitted to give what the dense one gave, each dimension as important as any other. What the next token needs is
known only at the end of the model, so the gains that weigh the dimensions before each half, and before the head, follow the
gradient of the cross-entropy. They are a few thousandths of the weights, so little text does not overfit them, and one pass
over it is enough.

The gradients come from the forward pass that recovery trains with (`claw.engine.training`), where a model gets that. Else a
backward pass holds the activations of one block at a time: what enters each block is kept, and the block computed again.
"""

import functools
from collections.abc import Callable

import torch
from torch import nn

from claw.engine.head_loss import head_cross_entropy, head_of
from claw.engine.training import LONGEST, Forward, activation_bytes, needs_checkpointing
from claw.models.anatomy import Anatomy, anatomy
from claw.models.arithmetic import readout_of
from claw.models.blocks import Layer
from claw.progress import tqdm
from claw.prune.blockwise import backward_through, differentiable, forward_through, head_backward
from claw.texts.token_blocks import Blocks

STEP_TOKENS = 2048  # of one step
STEP_BYTES = 2 << 30  # of activations at a time: a step of a large model goes in pieces, and its gradients are added up
STEPS_FOR_BIASES = 8  # fewer fit the text more than the language
RATE, STEEPEST = 0.075, 0.02  # Adam's, falling to zero: RATE times the square of the share removed, at most STEEPEST


def refit_gains(model: nn.Module, blocks: Blocks, removed: float) -> None:
    """Train the norms' gains in place, one pass over `blocks`; `removed` is the share of the parameters that the model lost."""
    parts = anatomy(model)
    batches = list(zip(*(t.split(max(1, STEP_TOKENS // blocks.length)) for t in (blocks.ids, blocks.scored)), strict=True))
    chosen = functools.partial(_cheap_ones, biases=len(batches) >= STEPS_FOR_BIASES)
    weights = _weights(parts, chosen)
    if not weights or not any(scored[:, 1:].any() for _, scored in batches):
        return
    forward = Forward(model)
    at_once = forward.decoder is not None and blocks.length <= LONGEST
    of_block = activation_bytes(model, 1, blocks.length, lean=True)
    rows = min(len(batches[0][0]), max(1, STEP_BYTES // of_block))
    forward.recomputes = at_once and needs_checkpointing(model, rows, blocks.length, lean=True)
    wide = [weight.detach().float().clone() for weight in weights]
    optimiser = torch.optim.Adam(wide, lr=min(STEEPEST, RATE * removed**2))
    falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / len(batches))
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.requires_grad_(False)
        for ids, scored in tqdm(batches, desc="norm gains", unit=" steps", leave=False):
            where = ids.to(parts.device), scored.to(parts.device)
            gradients = _at_once(forward, *where, weights, rows) if at_once else _gradients(parts, *where, chosen)
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


def _at_once(
    forward: Forward, ids: torch.Tensor, scored: torch.Tensor, weights: list[nn.Parameter], rows: int
) -> list[torch.Tensor]:
    """As `_gradients`, of `weights`, by forward and backward passes of so many `rows` of the batch."""
    count, total = max(1, int(scored[:, 1:].sum())), [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
    with torch.enable_grad(), differentiable(weights):
        for some, marked in zip(ids.split(rows), scored.split(rows), strict=True):
            states, targets, _ = forward.scored_states(some, marked)
            hidden = states * readout_of(forward.model).scale
            loss = head_cross_entropy(hidden, head_of(forward.model), targets) / count
            for sum_of, part in zip(total, torch.autograd.grad(loss, weights), strict=True):
                sum_of += part
    return total


def _gradients(
    parts: Anatomy, ids: torch.Tensor, scored: torch.Tensor, chosen: Callable[[Layer], list[nn.Parameter]]
) -> list[torch.Tensor]:
    """Of the mean next-token loss of a batch (B, T), for what is refitted in the order of the blocks, the last norm last."""
    hidden, entering, arguments = forward_through(parts, ids)
    gradient, of_norms = head_backward(parts, hidden, ids, scored, _of_norm(parts.norm, biases=True))
    for *_, gradients in backward_through(parts, entering, arguments, gradient, chosen):
        of_norms = [*gradients, *of_norms]
    return of_norms


def _weights(parts: Anatomy, chosen: Callable[[Layer], list[nn.Parameter]]) -> list[nn.Parameter]:
    """What is refitted: `chosen` of each block in order, then all of the last norm."""
    return [weight for layer in parts.layers for weight in chosen(layer)] + _of_norm(parts.norm, biases=True)


def _cheap_ones(layer: Layer, *, biases: bool) -> list[nn.Parameter]:
    """Gains of a block's norms; with `biases` theirs too, and those of what writes to the stream."""
    norms = [parameter for norm in layer.norms for parameter in _of_norm(norm, biases=biases)]
    writers = (layer.owner(letter) for letter in "od" if biases)
    return norms + [writer.bias for writer in writers if writer.bias is not None]


def _of_norm(norm: nn.Module, *, biases: bool) -> list[nn.Parameter]:
    return [parameter for name, parameter in norm.named_parameters() if biases or name == "weight"]
