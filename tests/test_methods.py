"""Every method on every family: identity at 0, plain reload, honest report, and the property its score promises."""

import pytest
import torch
from conftest import tiny_model

from claw import checkpoints, data
from claw.errors import InputError
from claw.prune import catalogue, methods, scores, surgery
from claw.prune.statistics import calibrate


@pytest.fixture
def blocks(tokenizer, train_text):
    return data.blocks(tokenizer, train_text, length=32, count=64)


def statistics(model, blocks, own_cache):
    return calibrate(model, blocks)


@pytest.mark.parametrize("method", catalogue.names())
def test_every_method_on_every_family(model, method, blocks, own_cache, tokenizer, tmp_path):
    found = calibrate(model, blocks)
    same, report = methods.compress(model, method, 0.0, statistics=found)
    ids = blocks.ids[:2]
    assert torch.equal(same(ids).logits, model(ids).logits) and report.ratio_params == 0
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small, report = methods.compress(model, method, 0.5, statistics=found, seed=1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    count = sum(p.numel() for p in small.parameters())
    assert count == report.small.parameters < report.dense.parameters
    assert report.ratio_params == pytest.approx(1 - count / sum(p.numel() for p in model.parameters()))
    checkpoints.save(small, tokenizer, tmp_path / "small", report)  # raises unless it reloads with equal logits
    out = small.generate(ids[:, :4], max_new_tokens=4, do_sample=False, use_cache=True)
    slow = small.generate(ids[:, :4], max_new_tokens=4, do_sample=False, use_cache=False)
    assert torch.equal(out, slow)
    again, _ = methods.compress(model, method, 0.5, statistics=found, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), again.parameters(), strict=True))


def test_random_depends_on_the_seed_and_on_nothing_else():
    model = tiny_model("llama")
    kept = [methods.compress(model, "random", 0.5, seed=seed)[1].kept for seed in (0, 0, 1)]
    assert kept[0] == kept[1] != kept[2]


def test_magnitude_removes_a_neuron_that_writes_nothing():
    model = tiny_model("llama")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight[:, 7] = 0
    small, report = methods.compress(model, "magnitude", 1 / 64, round_to=1)
    assert all(7 not in kept and len(kept) == 63 for kept in report.kept)
    ids = torch.arange(3, 19).view(1, -1)
    assert torch.allclose(small(ids).logits, model(ids).logits, atol=1e-5)


def test_wanda_removes_the_neuron_that_never_fires(blocks, own_cache):
    model = tiny_model("llama")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.up_proj.weight[11] = 0  # its product with the gate is zero whatever it reads
            layer.mlp.down_proj.weight[:, 11] *= 100  # magnitude would love it
    found = calibrate(model, blocks)
    _, report = methods.compress(model, "wanda-sp", 1 / 64, statistics=found, round_to=1)
    assert all(11 not in kept for kept in report.kept)


def test_wanda_scores_follow_the_formula(blocks, own_cache):
    model = tiny_model("llama")
    found = calibrate(model, blocks)
    inputs = []
    layer = model.model.layers[0]
    handle = layer.mlp.down_proj.register_forward_pre_hook(lambda m, args: inputs.append(args[0]))
    with torch.no_grad():
        model(blocks.ids)
    handle.remove()
    activations = inputs[0].flatten(0, 1)
    expected = layer.mlp.down_proj.weight.abs().mean(0) * activations.square().mean(0).sqrt()
    from claw.anatomy import anatomy

    assert torch.allclose(scores.wanda_neurons(anatomy(model).layers[0], found, None), expected.detach(), rtol=1e-4)


def test_compensation_is_least_squares():
    torch.manual_seed(0)
    inputs = torch.randn(400, 12) @ torch.randn(12, 12)
    weight = torch.randn(5, 12)
    gram = inputs.T @ inputs / 400
    keep = torch.tensor([0, 2, 3, 7, 8, 11])
    refitted = surgery.compensated(weight, gram, keep, penalty=1e-9)
    exact = torch.linalg.lstsq(inputs[:, keep], inputs @ weight.T).solution.T
    assert torch.allclose(refitted, exact, atol=1e-2)
    plain = surgery.compensated(weight, gram, keep, penalty=1e9)
    assert torch.allclose(plain, weight[:, keep], atol=1e-4)


def test_compensation_restores_a_neuron_that_is_a_sum_of_others(blocks, own_cache):
    """If a removed input is a linear combination of kept ones, nothing is lost."""
    torch.manual_seed(0)
    free = torch.randn(300, 7)
    inputs = torch.cat([free, free @ torch.randn(7, 1)], dim=1)
    weight = torch.randn(3, 8)
    refitted = surgery.compensated(weight, inputs.T @ inputs / 300, torch.arange(7), penalty=1e-6)
    assert torch.allclose(inputs[:, :7] @ refitted.T, inputs @ weight.T, atol=1e-2)


def test_statistics_of_another_model_are_refused(blocks, own_cache):
    found = calibrate(tiny_model("llama", seed=0), blocks)
    with pytest.raises(InputError, match="belong to another model"):
        methods.compress(tiny_model("llama", seed=1), "wanda-sp", 0.5, statistics=found)


def test_missing_statistics_are_asked_for():
    with pytest.raises(InputError, match=r"needs calibration statistics.*claw\.calibrate"):
        methods.compress(tiny_model("llama"), "wanda-sp", 0.5)


def test_nan_weights_are_refused():
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.up_proj\.weight holds NaN"):
        methods.compress(model, "magnitude", 0.5)


def test_an_unknown_method_names_near_ones():
    with pytest.raises(InputError, match="did you mean 'magnitude'"):
        methods.compress(tiny_model("llama"), "magnitud", 0.5)


def test_untouched_weights_are_shared_and_cut_ones_are_not():
    model = tiny_model("llama")
    small, _ = methods.compress(model, "magnitude", 0.5)
    assert small.model.embed_tokens.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert small.model.layers[0].mlp.up_proj.weight.data_ptr() != model.model.layers[0].mlp.up_proj.weight.data_ptr()
