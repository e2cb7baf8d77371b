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

from claw.models.anatomy import Anatomy, Layer
from claw.progress import tqdm
from claw.prune.blockwise import first_inputs, run_block
from claw.texts.token_blocks import Blocks

TOKENS = 4096  # "a few calibration batches": more changes the order of scores little
BATCH_TOKENS = 1024
HEAD_TOKENS = 512


def collect(parts: Anatomy, blocks: Blocks, folder: Path) -> None:
    """Write `<block>.gradients.safetensors` with `ffn.taylor` (m,) and `heads.taylor` (G,) for every block."""
    count = max(1, min(len(blocks), TOKENS // blocks.length))
    batches = blocks.ids[:count].split(max(1, BATCH_TOKENS // blocks.length))
    scored = blocks.scored[:count].split(max(1, BATCH_TOKENS // blocks.length))
    sums = [{"ffn.taylor": torch.zeros(parts.width), "heads.taylor": torch.zeros(parts.groups)} for _ in parts.layers]
    for ids, targets in tqdm(
        list(zip(batches, scored, strict=True)), desc="gradients", unit=" batches", disable=None, leave=False
    ):
        _backward(parts, ids.to(parts.device), targets.to(parts.device), sums)
    for layer, found in zip(parts.layers, sums, strict=True):
        save_file({name: tensor.abs() for name, tensor in found.items()}, folder / f"{layer.index:03d}.gradients.safetensors")


def _backward(parts: Anatomy, ids: torch.Tensor, scored: torch.Tensor, sums: list[dict[str, torch.Tensor]]) -> None:
    """Add the Taylor terms of one batch (B, T) to `sums`."""
    with torch.no_grad():
        hidden, arguments = first_inputs(parts, ids)
        entering = []
        for layer in parts.layers:
            entering.append(hidden)
            hidden = run_block(layer, hidden, arguments[layer.index])
    gradient = loss_gradient(parts, hidden, ids, scored)
    for layer in reversed(parts.layers):
        weights = [layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down]
        before = [linear.weight.requires_grad for linear in weights]
        try:
            for linear in weights:
                linear.weight.requires_grad_(True)
            with torch.enable_grad():
                start = entering.pop().detach().requires_grad_(True)
                out = run_block(layer, start, arguments[layer.index])
                found = torch.autograd.grad(out, [start, *(linear.weight for linear in weights)], gradient)
        finally:
            for linear, flag in zip(weights, before, strict=True):
                linear.weight.requires_grad_(flag)
        gradient = found[0]
        _add(parts, layer, found[1:], sums[layer.index])


def loss_gradient(parts: Anatomy, hidden: torch.Tensor, ids: torch.Tensor, scored: torch.Tensor) -> torch.Tensor:
    """Gradient of the mean next-token loss with respect to the last block's output (B, T, d), a few positions at a time."""
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


@torch.no_grad()  # else the sums would keep every block's graph, and float32 copies of its weights with it
def _add(parts: Anatomy, layer: Layer, gradients: tuple[torch.Tensor, ...], found: dict[str, torch.Tensor]) -> None:
    weights = (layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down)
    q, k, v, o, gate, up, down = ((w.weight.float() * g.float()) for w, g in zip(weights, gradients, strict=True))
    found["ffn.taylor"] += (gate.sum(1) + up.sum(1) + down.sum(0)).cpu()
    per_group = (rows.sum(1).view(parts.groups, -1).sum(1) for rows in (q, k, v))
    found["heads.taylor"] += (sum(per_group) + o.sum(0).view(parts.groups, -1).sum(1)).cpu()
