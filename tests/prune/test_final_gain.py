"""The gain of the final norm after compression: as sure as the text allows, and nothing else touched."""

import pytest
import torch
from conftest import tiny_model

from claw.evaluate import held_out
from claw.models.anatomy import anatomy
from claw.prune import final_gain, whole_model
from claw.prune.statistics import calibrate
from claw.texts import token_blocks

FAMILIES = ("llama", "qwen2", "gemma3")


def scaled(model, factors):
    """The model with the gain of its final norm multiplied."""
    parts = anatomy(model)
    with torch.no_grad():
        parts.norm.weight.copy_((parts.norm.weight + parts.gain_offset) * factors - parts.gain_offset)
    return model


@pytest.fixture(params=FAMILIES)
def speaker(request, tokenizer, train_text):
    """A function that makes a model with opinions, and text that it said itself: nobody is as right about that as the model."""
    make = lambda: scaled(tiny_model(request.param), 20.0)
    model, blocks = make(), token_blocks.blocks(tokenizer, train_text, length=32, count=96)
    draw = torch.Generator().manual_seed(0)
    ids = blocks.ids[:, :1]
    with torch.no_grad():
        while ids.shape[1] < blocks.length:
            chances = model(ids).logits[:, -1].float().softmax(-1)
            ids = torch.cat([ids, torch.multinomial(chances, 1, generator=draw)], dim=1)
    return make, token_blocks.replace(blocks, ids=ids)


@pytest.mark.parametrize("wrong", [0.25, 1, 4])
def test_a_model_that_is_too_sure_or_unsure_is_made_right(speaker, wrong):
    make, blocks = speaker
    model, right = scaled(make(), wrong), held_out.cross_entropy(make(), blocks).mean
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if wrong != 1:
        assert held_out.cross_entropy(model, blocks).mean > right + 0.05
    final_gain.refit(model, blocks)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"model.norm.weight"} and all(p.grad is None for p in model.parameters())
    assert held_out.cross_entropy(model, blocks).mean == pytest.approx(right, abs=0.01)


def test_each_dimension_finds_its_own_gain(speaker):
    make, blocks = speaker
    factors = torch.ones(anatomy(make()).hidden)
    factors[::4] = 3.0
    losses = []
    for each in (False, True):
        model = scaled(make(), factors)
        final_gain.refit(model, blocks, each=each)
        losses.append(held_out.cross_entropy(model, blocks).mean)
        assert all(p.grad is None for p in model.parameters())
    right = held_out.cross_entropy(make(), blocks).mean
    assert losses[1] - right < 0.5 * (losses[0] - right)


def test_text_that_is_not_scored_does_not_count(speaker):
    """Half of the targets are masked: what stands there changes nothing."""
    make, blocks = speaker
    masked = blocks.scored.clone()
    masked[:, 16:] = False
    gains = []
    for ids in (blocks.ids, torch.cat([blocks.ids[:, :16], blocks.ids[:, 16:].flip(0)], dim=1)):
        model = scaled(make(), 3.0)
        final_gain.refit(model, token_blocks.replace(blocks, ids=ids, scored=masked))
        gains.append(anatomy(model).norm.weight.clone())
    assert torch.equal(*gains)


@pytest.mark.parametrize(
    ("sizes", "each"), [({"width": 16}, False), ({"depth": 3}, False), ({"depth": 2}, True), ({"hidden": 24}, True)]
)
def test_dimensions_are_refitted_apart_where_hidden_width_or_most_blocks_are_cut(
    sizes, each, tokenizer, train_text, own_cache, monkeypatch
):
    parts = anatomy(tiny_model("llama", num_hidden_layers=4))
    statistics = calibrate(parts.model, token_blocks.blocks(tokenizer, train_text, length=32, count=64))
    asked = []
    monkeypatch.setattr(final_gain, "refit", lambda model, blocks, each: asked.append(each))
    whole_model.build_shape(parts, parts.shape.with_(**sizes), statistics)
    assert asked == [each]
