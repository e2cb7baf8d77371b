"""Gains of all norms: found where they are wrong, and nothing but them touched."""

import pytest
import torch
from conftest import tiny_model
from trained import pairs, untrained

from claw.engine.training import Forward
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


WRITERS = {"gpt2": ("c_proj.bias",), "opt": ("out_proj.bias", "fc2.bias"), "phi": ("dense.bias", "fc2.bias")}


@pytest.mark.parametrize("family", WRITERS)
def test_biases_are_refitted_where_the_text_gives_enough_steps(family):
    steps = norm_gains.STEPS_FOR_BIASES
    for blocks in (pairs(64 * steps, 3, "calibration"), pairs(64, 3, "calibration")):
        model = untrained(family)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        norm_gains.refit_gains(model, blocks, 0.5)
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        norms = {name for name in changed if "ln_" in name or "norm" in name}
        enough = len(blocks) > 64
        assert norms and bool(changed - norms) == enough
        assert all(name.endswith(WRITERS[family]) for name in changed - norms)


def some_targets(model, part):
    """A part with targets in some places only, what is refitted of a block, and of the model, whose weights are frozen."""
    scored = part.scored.clone()
    scored[2:, 20:] = False
    chosen = lambda layer: norm_gains._cheap_ones(layer, biases=True)
    parts = anatomy(model)
    model.requires_grad_(False)
    return scored, chosen, [weight for layer in parts.layers for weight in chosen(layer)] + list(parts.norm.parameters())


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi", "olmo2"])
def test_gradients_are_those_of_a_plain_backward_pass(family):
    model = untrained(family)
    parts, part = anatomy(model), pairs(6, 4, "calibration")
    scored, chosen, weights = some_targets(model, part)
    found = norm_gains._gradients(parts, part.ids, scored, chosen)
    for weight in weights:
        weight.requires_grad_(True)
    logits = model(part.ids).logits[:, :-1][scored[:, 1:]]
    torch.nn.functional.cross_entropy(logits, part.ids[:, 1:][scored[:, 1:]]).backward()
    for weight, gradient in zip(weights, found, strict=True):
        torch.testing.assert_close(gradient, weight.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
@pytest.mark.parametrize(("recomputes", "rows"), [(False, 6), (True, 6), (False, 4), (False, 1)])
def test_gradients_of_the_fast_pass_are_the_same(family, recomputes, rows, tokenizer, train_text):
    model = tiny_model(family)
    parts, forward = anatomy(model), Forward(model)
    part = token_blocks.blocks(tokenizer, train_text, length=64, count=6)
    assert forward.decoder is not None
    forward.recomputes = recomputes
    scored, chosen, weights = some_targets(model, part)
    slow = norm_gains._gradients(parts, part.ids, scored, chosen)
    for one, other in zip(norm_gains._at_once(forward, part.ids, scored, weights, rows), slow, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * float(other.abs().max()))


def test_a_step_goes_in_pieces_that_fit(tokenizer, train_text, monkeypatch):
    """The fewer bytes, the fewer blocks at a time, and never none; the gains that come out are the same."""
    part = token_blocks.blocks(tokenizer, train_text, length=64, count=6)
    one_pass, rows, gains = norm_gains._at_once, [], []
    monkeypatch.setattr(norm_gains, "_at_once", lambda *args: rows.append(args[-1]) or one_pass(*args))
    for blocks in (100, 2, 0):
        model = tiny_model("llama")
        monkeypatch.setattr(norm_gains, "STEP_BYTES", blocks * norm_gains.activation_bytes(model, 1, 64, lean=True))
        norm_gains.refit_gains(model, part, 0.5)
        gains.append(model.model.norm.weight.detach().clone())
    assert rows == [6, 2, 1]
    for each in gains[1:]:
        torch.testing.assert_close(each, gains[0], rtol=1e-4, atol=1e-5)


def test_text_without_targets_changes_nothing(blocks):
    model = tiny_model("llama")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    norm_gains.refit_gains(model, token_blocks.replace(blocks, scored=torch.zeros_like(blocks.scored)), 0.5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
