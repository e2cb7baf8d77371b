"""First-order Taylor terms of neurons and key-value groups, with gradients of one block at a time.

A forward pass keeps only what enters each block. The backward pass then visits the blocks from the last to the first,
recomputes one with gradients, takes what the scores need from them and lets them go, so memory never holds the gradient
of more than one block: a 1.5B model needs a few hundred megabytes beyond its weights.

With w the weights and g their gradient of the mean loss, the term of a unit is Σ w·g over everything that goes when the
unit goes: gate and up rows and down columns of a neuron; q, k, v rows and o columns of a group (LLM-Pruner, Ma et al.
2023, arXiv 2305.11627, its vectorised first order). Sums over batches are taken before the absolute value.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from claw.models.anatomy import Anatomy
from claw.progress import tqdm
from claw.prune.blockwise import first_inputs, run_block
from claw.texts.token_blocks import Blocks

TOKENS = 4096  # "a few calibration batches": more changes the order of scores little
BATCH_TOKENS = 1024
HEAD_TOKENS = 512


def write_taylor_terms(parts: Anatomy, blocks: Blocks, folder: Path) -> None:
    """Write `<block>.gradients.safetensors` with `ffn.taylor` (m,) and `heads.taylor` (G,) for every block."""
    count = max(1, min(len(blocks), TOKENS // blocks.length))
    batches = (values[:count].split(max(1, BATCH_TOKENS // blocks.length)) for values in (blocks.ids, blocks.scored))
    terms = [{"ffn.taylor": torch.zeros(parts.width), "heads.taylor": torch.zeros(parts.groups)} for _ in parts.layers]
    for ids, scored in tqdm(list(zip(*batches, strict=True)), desc="gradients", unit=" batches", leave=False):
        _add_batch(parts, ids.to(parts.device), scored.to(parts.device), terms)
    for layer, sums in zip(parts.layers, terms, strict=True):
        save_file({name: tensor.abs() for name, tensor in sums.items()}, folder / f"{layer.index:03d}.gradients.safetensors")


def _add_batch(parts: Anatomy, ids: torch.Tensor, scored: torch.Tensor, terms: list[dict[str, torch.Tensor]]) -> None:
    """Add the Taylor terms of one batch (B, T) to `terms`."""
    with torch.no_grad():
        hidden, arguments = first_inputs(parts, ids)
        entering = []
        for layer in parts.layers:
            entering.append(hidden)
            hidden = run_block(layer, hidden, arguments[layer.index])
    gradient = loss_gradient(parts, hidden, ids, scored)
    for layer in reversed(parts.layers):
        weights = [linear.weight for linear in (layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down)]
        before = [weight.requires_grad for weight in weights]
        try:
            for weight in weights:
                weight.requires_grad_(True)
            with torch.enable_grad():
                start = entering.pop().detach().requires_grad_(True)
                out = run_block(layer, start, arguments[layer.index])
                gradient, *gradients = torch.autograd.grad(out, [start, *weights], gradient)
        finally:
            for weight, flag in zip(weights, before, strict=True):
                weight.requires_grad_(flag)
        _add_terms(parts, weights, gradients, terms[layer.index])


@torch.no_grad()  # else the sums would keep every block's graph, and float32 copies of its weights with it
def _add_terms(
    parts: Anatomy, weights: list[torch.Tensor], gradients: list[torch.Tensor], sums: dict[str, torch.Tensor]
) -> None:
    q, k, v, o, gate, up, down = (weight.float() * grad.float() for weight, grad in zip(weights, gradients, strict=True))
    sums["ffn.taylor"] += (gate.sum(1) + up.sum(1) + down.sum(0)).cpu()
    q, k, v = (rows.sum(1).view(parts.groups, -1).sum(1) for rows in (q, k, v))
    sums["heads.taylor"] += (q + k + v + o.sum(0).view(parts.groups, -1).sum(1)).cpu()


def loss_gradient(parts: Anatomy, hidden: torch.Tensor, ids: torch.Tensor, scored: torch.Tensor) -> torch.Tensor:
    """Gradient of the mean next-token loss with respect to the last block's output (B, T, d), HEAD_TOKENS at a time."""
    flat = hidden[:, :-1].flatten(0, 1).detach()
    targets = ids[:, 1:].flatten()
    weight = scored[:, 1:].flatten().float() / scored[:, 1:].sum().clamp_min(1)
    pieces = []
    for states, wanted, share in zip(*(t.split(HEAD_TOKENS) for t in (flat, targets, weight)), strict=True):
        with torch.enable_grad():
            states = states.clone().requires_grad_(True)
            logits = parts.head(parts.norm(states)).float()
            loss = (nn.functional.cross_entropy(logits, wanted, reduction="none") * share).sum()
            pieces.append(torch.autograd.grad(loss, states)[0])
    inner = torch.cat(pieces).view(hidden.shape[0], hidden.shape[1] - 1, -1)
    return torch.cat([inner, torch.zeros_like(hidden[:, :1])], dim=1)
