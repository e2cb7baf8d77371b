"""Regression onto the dense model: nothing lost where nothing is cut, better than projection where something is."""

import copy

import pytest
import torch
from conftest import tiny_model
from trained import ENTROPY, chains, pairs, trained, trained_granite

from claw.evaluate import held_out
from claw.models.anatomy import anatomy
from claw.prune import compress, final_gain, regression, scores, whole_model, width_map
from claw.prune.dense_walk import DenseWalk
from claw.prune.statistics import calibrate
from claw.prune.surgery import Units
from claw.texts import token_blocks

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma3")


@pytest.fixture
def blocks(tokenizer, train_text):
    return token_blocks.blocks(tokenizer, train_text, length=32, count=128)


def units(parts, width=None, groups=None, layers=None):
    neurons = torch.arange(width or parts.width)
    kept = torch.arange(groups or parts.groups)
    indices = range(parts.depth)
    return Units(tuple(layers or indices), {"ffn": dict.fromkeys(indices, neurons), "heads": dict.fromkeys(indices, kept)})


@pytest.mark.parametrize("family", FAMILIES)
def test_at_full_size_the_model_is_itself(family, blocks, own_cache):
    model = tiny_model(family)
    parts = anatomy(model)
    same = regression.regressed(parts, parts.shape, units(parts), calibrate(model, blocks), blocks)
    ids = blocks.ids[:4]
    assert torch.allclose(same(ids).logits, model(ids).logits, atol=1e-4 if family != "gemma3" else 2e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_result_has_the_shape_asked_for_and_is_nearer_than_projection(family, blocks, own_cache, monkeypatch):
    model = tiny_model(family)
    parts = anatomy(model)
    statistics = calibrate(model, blocks)
    target = parts.shape.with_(width=40, groups=1, heads=2, hidden=24, depth=2)
    chosen = units(parts, 40, 1, (0, 2))
    fitted = regression.regressed(parts, target, chosen, statistics, blocks)
    assert anatomy(fitted).shape == target
    monkeypatch.setattr(regression, "_refit", lambda *_: None)
    projected = regression.regressed(parts, target, chosen, statistics, blocks)
    ids = blocks.ids[:16]
    with torch.no_grad():
        wanted = model(ids).logits.log_softmax(-1)
        fit, plain = ((m(ids).logits.log_softmax(-1) - wanted).square().mean() for m in (fitted, projected))
    assert fit < plain


def test_a_direction_that_the_stream_never_uses_costs_nothing(blocks, own_cache):
    """A model whose stream lives in 24 of its 32 dimensions is the same model at hidden width 24."""
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.norm.weight.fill_(1.0)
        model.model.embed_tokens.weight[:, 24:] = 0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[24:] = 0
            layer.mlp.down_proj.weight[24:] = 0
    parts = anatomy(model)
    target = parts.shape.with_(hidden=24)
    small = regression.regressed(parts, target, units(parts), calibrate(model, blocks), blocks)
    before, after = (held_out.cross_entropy(m, blocks).mean for m in (model, small))
    assert after == pytest.approx(before, abs=2e-3)


def test_the_ridge_is_pulled_towards_its_start():
    draw = torch.Generator().manual_seed(0)
    x, start = torch.randn(200, 6, generator=draw), torch.randn(3, 6, generator=draw)
    truth = torch.randn(3, 6, generator=draw)
    gram, cross = x.T @ x, truth @ x.T @ x
    assert torch.allclose(regression.ridge(gram.clone(), cross, start, 1e-7), truth, atol=1e-3)
    assert torch.allclose(regression.ridge(gram.clone(), cross, start, 1e7), start, atol=1e-3)


def test_more_text_asks_for_less_pull():
    few, many = (regression.Penalties.best_for(tokens) for tokens in (4096, 262144))
    assert few.reads > many.reads and few.writes > many.writes


@pytest.mark.parametrize("ratio", [0.05, 0.15, 0.3])
def test_multipliers_of_the_stream_are_regressed_too(ratio, own_cache):
    """Granite: with a multiplier forgotten the losses are 4."""
    model, heldout = trained_granite(), chains(64, 5, "heldout")
    dense = held_out.cross_entropy(model, heldout).mean
    assert dense < ENTROPY + 0.15
    statistics = calibrate(model, chains(96, 3, "calibration"))
    small, report = compress.compress(model, "claw", ratio, ratio_of="params", statistics=statistics)
    assert report.ratio_params > ratio / 2
    assert held_out.cross_entropy(small, heldout).mean < dense + (0.05 if ratio < 0.1 else 0.6)


def test_without_cutting_regression_changes_no_logit_of_granite(own_cache):
    model = trained_granite()
    parts, blocks = anatomy(model), chains(96, 3, "calibration")
    small = regression.regressed(parts, parts.shape, units(parts), calibrate(model, blocks), blocks)
    ids = chains(4, 7, "heldout").ids
    torch.testing.assert_close(small(ids).logits, model(ids).logits, atol=2e-2, rtol=0)


def test_the_final_gain_sees_what_follows_the_head(own_cache):
    """A model that is right as it is keeps its gain, though its logits are a quarter of what its head gives."""
    model = copy.deepcopy(trained_granite())
    before = held_out.cross_entropy(model, chains(64, 5, "heldout")).mean
    final_gain.refit(model, chains(96, 3, "calibration"))
    assert held_out.cross_entropy(model, chains(64, 5, "heldout")).mean < before + 0.01


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_a_block_that_is_removed_leaves_its_neurons_to_the_one_before(family, blocks, own_cache):
    """Nothing is lost where the removed block's attention and the kept one's neurons write nothing."""
    if family == "gpt2":
        model, blocks = copy.deepcopy(trained(family)), pairs(128, 1, "calibration")
    else:
        model = tiny_model(family)
    parts = anatomy(model)
    first, second = parts.layers[:2]
    with torch.no_grad():
        for linear in (first.down, second.o):
            linear.weight.mul_(0)
            if linear.bias is not None:
                linear.bias.mul_(0)
        for norm in (first.mlp_norm, second.mlp_norm):
            norm.weight.mul_(1 + torch.rand(parts.hidden, generator=torch.Generator().manual_seed(0)))
    statistics = calibrate(model, blocks)
    target = parts.shape.with_(depth=parts.depth - 1)
    neurons = scores.best_of_runs(parts, scores.NEURONS["flap"], parts.width, statistics, [(0, 1)])
    assert (len(neurons[0]), len(neurons[1])) == (0, parts.width)
    layers = [index for index in range(parts.depth) if index != 1]
    every = units(parts, layers=layers).kept
    kept = {"ffn": every["ffn"] | neurons, "heads": dict.fromkeys(layers, torch.arange(parts.groups))}
    ids = blocks.ids[:16]
    wanted = model(ids).logits.log_softmax(-1)
    off = lambda small: float((small(ids).logits.log_softmax(-1) - wanted).square().mean())
    joined = regression.regressed(parts, target, Units(layers, kept, {0: (0, 1)}), statistics, blocks)
    apart = regression.regressed(parts, target, units(parts, layers=layers), statistics, blocks)
    assert off(joined) < 1e-4 and 10 * off(joined) < off(apart)


def test_of_a_run_the_best_neurons_of_all_its_blocks_stay():
    parts = anatomy(tiny_model("llama"))
    ranks = {0: torch.arange(parts.width), 1: torch.arange(parts.width) + 10.0}
    score = lambda parts, layer, statistics, generator: ranks[layer.index]
    kept = scores.best_of_runs(parts, score, 20, None, [(0, 1)])
    assert kept[0].tolist() == list(range(parts.width - 5, parts.width))
    assert kept[1].tolist() == list(range(parts.width - 15, parts.width))
    assert set(kept) == {0, 1}


@pytest.mark.parametrize("family", ["gemma3", "olmo2", "phi"])
def test_other_kinds_of_blocks_are_removed_with_their_neurons_or_without(family, blocks, own_cache):
    """Blocks that normalise what they write keep to their own neurons; halves that read the same are no hindrance."""
    model, blocks = (tiny_model(family), blocks) if family == "gemma3" else (trained(family), pairs(128, 1, "calibration"))
    parts = anatomy(model)
    target = parts.shape.with_(depth=parts.depth - 1)
    small = whole_model.fitted_shape(parts, target, calibrate(model, blocks))
    assert anatomy(small).shape == target and small(blocks.ids[:2]).logits.isfinite().all()


@pytest.mark.parametrize("family", ["llama", "gemma3", "phi"])
def test_the_attention_of_a_run_aims_at_what_all_of_its_blocks_attended_to(family, blocks, own_cache):
    model, blocks = (trained(family), pairs(128, 1, "calibration")) if family == "phi" else (tiny_model(family), blocks)
    parts, written = anatomy(model), {}
    for layer in parts.layers[:2]:
        module = layer.after_attention or layer.o
        module.register_forward_hook(lambda _, args, output, index=layer.index: written.__setitem__(index, output))
    with torch.no_grad():
        mapping = width_map.width_map(parts, calibrate(model, blocks), parts.hidden)
        pair = regression._Pair(DenseWalk(parts, blocks.ids[:4]), parts, mapping)
        entering = pair.walk.stream
        for layer in parts.layers[:2]:
            pair.advance_dense(layer, (0, 1), gives=layer.index == 1)
    torch.testing.assert_close(pair.after[0], entering + written[0] + written[1], atol=1e-4, rtol=1e-4)
    assert torch.equal(pair.after[1], pair.walk.stream) and [len(each) for each in pair.read] == [1, 1]
