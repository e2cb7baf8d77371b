"""Gains of all norms: found where they are wrong, and nothing but them touched."""

import pytest
import torch
from conftest import tiny_model

from claw.evaluate import held_out
from claw.models.anatomy import anatomy
from claw.prune import norm_gains
from claw.texts import token_blocks


@pytest.fixture
def blocks(tokenizer, train_text):
    return token_blocks.blocks(tokenizer, train_text, length=64, count=256)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3"])
def test_the_loss_falls_and_only_gains_change(family, blocks):
    model = tiny_model(family)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    start = held_out.cross_entropy(model, blocks).mean
    norm_gains.refit_gains(model, blocks, 0.5)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all("norm" in name for name in changed)
    assert held_out.cross_entropy(model, blocks).mean < start
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gradients_are_those_of_a_plain_backward_pass(blocks):
    model = tiny_model("llama")
    parts, part = anatomy(model), blocks.part(slice(0, 6))
    scored = part.scored.clone()
    scored[2:, 20:] = False
    weights = [norm.weight for layer in parts.layers for norm in layer.norms] + [parts.norm.weight]
    model.requires_grad_(False)
    found = norm_gains._gradients(parts, part.ids, scored)
    for weight in weights:
        weight.requires_grad_(True)
    logits = model(part.ids).logits[:, :-1][scored[:, 1:]]
    torch.nn.functional.cross_entropy(logits, part.ids[:, 1:][scored[:, 1:]]).backward()
    for weight, gradient in zip(weights, found, strict=True):
        torch.testing.assert_close(gradient, weight.grad, rtol=1e-4, atol=1e-6)


def test_text_without_targets_changes_nothing(blocks):
    model = tiny_model("llama")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    norm_gains.refit_gains(model, token_blocks.replace(blocks, scored=torch.zeros_like(blocks.scored)), 0.5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
