"""Losses through the head have the value and the gradients that plain autograd gives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from claw.engine import head_loss
from claw.engine.head_loss import Head
from claw.recovery import objective, schedule


def tensors(positions, seed, requires_grad=True):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *size: torch.randn(*size, generator=generator, dtype=torch.float32)
    hidden, weight = draw(positions, 8).requires_grad_(requires_grad), draw(50, 8).requires_grad_(requires_grad)
    return hidden, weight, torch.randint(50, (positions,), generator=generator)


def divergence_of(kind, p, q, skew):
    """Of log-probabilities, in the words of the paper."""
    divergence = lambda a, b: F.kl_div(b, a, log_target=True, reduction="sum")  # of a from b
    if kind == "forward":
        return divergence(q, p)
    if kind == "reverse":
        return divergence(p, q)
    if kind == "skew":
        return divergence(q, (skew * q.exp() + (1 - skew) * p.exp()).log())
    return divergence(p, ((1 - skew) * q.exp() + skew * p.exp()).log())


def bucketed(logits, ids):
    """Log-probabilities of some tokens and, in one bucket, of the others."""
    p = logits.softmax(-1)
    others = torch.ones_like(p).scatter(1, ids, 0.0)
    return torch.cat([p.gather(1, ids), (p * others).sum(-1, keepdim=True)], -1).log()


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
    kept = head_loss.CHUNK
    head_loss.CHUNK = chunk
    try:
        loss = head_loss.head_cross_entropy(hidden, Head(weight), targets)
        compare(loss, F.cross_entropy(hidden @ weight.t(), targets, reduction="sum"), hidden, weight)
    finally:
        head_loss.CHUNK = kept


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("biased", [False, True])
def test_a_head_with_a_bias_and_a_cap(cap, biased):
    hidden, weight, targets = tensors(30, 4)
    other, taught, _ = tensors(30, 5, requires_grad=False)
    bias = torch.randn(50, generator=torch.Generator().manual_seed(6)).requires_grad_() if biased else None
    leaves = [hidden, weight, *([bias] if biased else [])]
    capped = lambda z: z if cap is None else cap * torch.tanh(z / cap)
    logits = lambda: capped(F.linear(hidden, weight, bias))
    head, teacher = Head(weight, bias, cap), Head(taught, None, cap)
    torch.testing.assert_close(head.logits(hidden), logits())
    compare(head_loss.head_cross_entropy(hidden, head, targets), F.cross_entropy(logits(), targets, reduction="sum"), *leaves)
    wanted = divergence_of("forward", logits().log_softmax(-1), capped(other @ taught.t()).log_softmax(-1), 0.1)
    choices = dict(kind="forward", data=0.0)
    compare(objective.divergence(hidden, head, other, teacher, targets, **choices), wanted, *leaves)
    top = objective.Top.of(*objective.top_of(other, teacher, 7))
    wanted = divergence_of("forward", bucketed(logits(), top.ids), top.logarithms, 0.1)
    compare(objective.top_divergence(hidden, head, top, targets, **choices), wanted, *leaves)


KINDS = ("forward", "reverse", "skew", "skew-reverse")
draws = given(
    positions=st.integers(1, 20),
    seed=st.integers(0, 99),
    kind=st.sampled_from(KINDS),
    data=st.sampled_from([0.0, 0.3, 1.0]),
    skew=st.sampled_from([0.1, 0.5]),
)


@settings(max_examples=40, deadline=None)
@draws
def test_divergence(positions, seed, kind, data, skew):
    hidden, weight, targets = tensors(positions, seed)
    other, head, _ = tensors(positions, seed + 1000, requires_grad=False)
    loss = objective.divergence(hidden, Head(weight), other, Head(head), targets, kind=kind, data=data, skew=skew)
    logits, taught = hidden @ weight.t(), other @ head.t()
    expected = divergence_of(kind, logits.log_softmax(-1), taught.log_softmax(-1), skew)
    compare(loss, (1 - data) * expected + data * F.cross_entropy(logits, targets, reduction="sum"), hidden, weight)


@settings(max_examples=40, deadline=None)
@draws
def test_divergence_over_the_most_probable_tokens(positions, seed, kind, data, skew):
    hidden, weight, targets = tensors(positions, seed)
    other, head, _ = tensors(positions, seed + 1000, requires_grad=False)
    top = objective.Top.of(*objective.top_of(other, Head(head), 7))
    loss = objective.top_divergence(hidden, Head(weight), top, targets, kind=kind, data=data, skew=skew)
    logits = hidden @ weight.t()
    expected = divergence_of(kind, bucketed(logits, top.ids), top.logarithms, skew)
    compare(loss, (1 - data) * expected + data * F.cross_entropy(logits, targets, reduction="sum"), hidden, weight)


@pytest.mark.parametrize("kind", KINDS)
def test_the_most_probable_tokens_are_all_tokens_where_k_is_the_vocabulary(kind):
    hidden, weight, targets = tensors(9, 0)
    other, head, _ = tensors(9, 1, requires_grad=False)
    logarithms, ids = (other @ head.t()).log_softmax(-1).topk(50)
    top = objective.Top.of(ids, F.pad(logarithms, (0, 1), value=objective.LEAST))
    choices = dict(kind=kind, data=0.2, skew=0.1)
    whole = objective.divergence(hidden, Head(weight), other, Head(head), targets, **choices)
    compare(objective.top_divergence(hidden, Head(weight), top, targets, **choices), whole, hidden, weight)
    kept = objective.Top.of(*objective.top_of(other, Head(head), 50))  # rounded as it is on disk
    near = objective.top_divergence(hidden, Head(weight), kept, targets, **choices)
    assert float(near.detach()) == pytest.approx(float(whole.detach()), rel=2e-3)


def test_what_others_have_is_what_is_left():
    other, head, _ = tensors(30, 3, requires_grad=False)
    top = objective.Top.of(*objective.top_of(other, Head(head), 5))
    torch.testing.assert_close(top.logarithms, bucketed(other @ head.t(), top.ids), rtol=0, atol=3e-3)
    torch.testing.assert_close(top.logarithms.exp().sum(-1), torch.ones(30))


def test_hidden_states_are_compared_relative_to_the_teachers():
    s, t = torch.randn(2, 6, 8)
    assert float(objective.hidden_distance([(t, t)])) == 0
    far = objective.hidden_distance([(s, t), (t, t)])
    assert float(far) == pytest.approx(float(((s - t).norm(dim=-1) / t.norm(dim=-1)).square().sum() / 2), rel=1e-5)
    assert float(objective.hidden_distance([(9 * s, 9 * t), (t, t)])) == pytest.approx(float(far), rel=1e-5)


def test_a_frozen_head_gets_no_gradient():
    hidden, weight, targets = tensors(5, 0)
    weight.requires_grad_(False)
    head_loss.head_cross_entropy(hidden, Head(weight), targets).backward()
    assert weight.grad is None and (hidden.grad != 0).any()


@given(st.integers(1, 500), st.integers(1, 16), st.sampled_from([0, 1, 10]), st.sampled_from([0.1, 0.2, 1.0]))
def test_a_budget_ends_with_a_rate_near_zero_and_all_its_blocks(blocks, batch, warmup, decay):
    (budget,) = schedule.milestones([blocks * 64 + 3], 64, batch, warmup=warmup, decay=decay)
    assert budget.blocks == blocks and (budget.ends - 1) * batch < blocks <= budget.ends * batch
    assert 0 <= budget.decays < budget.ends
    rates = [budget.rate(step) for step in range(budget.decays, budget.ends)]
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[-1] == pytest.approx(budget.stable_rate(budget.ends - 1) / (budget.ends - budget.decays + 1))
