"""Losses through the head have the value and the gradients that plain autograd gives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from claw.recovery import objective, schedule


def tensors(positions, seed, requires_grad=True):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *size: torch.randn(*size, generator=generator, dtype=torch.float32)
    hidden, weight = draw(positions, 8).requires_grad_(requires_grad), draw(50, 8).requires_grad_(requires_grad)
    return hidden, weight, torch.randint(50, (positions,), generator=generator)


def plain_divergence(logits, taught, targets, kind, data):
    p, q = logits.log_softmax(-1), taught.log_softmax(-1)
    forward = F.kl_div(p, q, log_target=True, reduction="sum")
    reverse = F.kl_div(q, p, log_target=True, reduction="sum")
    return (1 - data) * (forward if kind == "forward" else reverse) + data * F.cross_entropy(logits, targets, reduction="sum")


def compare(loss, expected, *leaves):
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    ours = torch.autograd.grad(0.5 * loss, leaves)
    theirs = torch.autograd.grad(0.5 * expected, leaves)
    for gradient, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(0, 99), st.sampled_from([3, 16, 1024]))
def test_cross_entropy_in_chunks(positions, seed, chunk):
    hidden, weight, targets = tensors(positions, seed)
    kept = objective.CHUNK
    objective.CHUNK = chunk
    try:
        loss = objective.head_cross_entropy(hidden, weight, targets)
        compare(loss, F.cross_entropy(hidden @ weight.t(), targets, reduction="sum"), hidden, weight)
    finally:
        objective.CHUNK = kept


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20), st.integers(0, 99), st.sampled_from(["forward", "reverse"]), st.sampled_from([0.0, 0.3, 1.0]))
def test_divergence(positions, seed, kind, data):
    hidden, weight, targets = tensors(positions, seed)
    other, head, _ = tensors(positions, seed + 1000, requires_grad=False)
    loss = objective.divergence(hidden, weight, other, head, targets, kind=kind, data=data)
    compare(loss, plain_divergence(hidden @ weight.t(), other @ head.t(), targets, kind, data), hidden, weight)


def test_a_frozen_head_gets_no_gradient():
    hidden, weight, targets = tensors(5, 0)
    weight.requires_grad_(False)
    objective.head_cross_entropy(hidden, weight, targets).backward()
    assert weight.grad is None and (hidden.grad != 0).any()


@given(st.integers(1, 500), st.integers(1, 16))
def test_a_budget_ends_with_a_rate_near_zero_and_all_its_blocks(blocks, batch):
    (budget,) = schedule.milestones([blocks * 64 + 3], 64, batch)
    assert budget.blocks == blocks and (budget.ends - 1) * batch < blocks <= budget.ends * batch
    assert 0 <= budget.decays < budget.ends
    rates = [budget.rate(step) for step in range(budget.decays, budget.ends)]
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[-1] == pytest.approx(schedule.stable_rate(budget.ends - 1) / (budget.ends - budget.decays + 1))
