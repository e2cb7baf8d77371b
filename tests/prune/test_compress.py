"""Every method on every family: identity at 0, plain reload, honest report, and the property its score promises."""

import pytest
import torch
from conftest import tiny_model

from claw.errors import InputError
from claw.models.anatomy import anatomy
from claw.prune import compress, scores, surgery
from claw.prune.statistics import calibrate
from claw.specs import methods
from claw.stages import checkpoints
from claw.texts import token_blocks


@pytest.fixture
def blocks(tokenizer, train_text):
    return token_blocks.blocks(tokenizer, train_text, length=32, count=64)


PLAIN_METHODS = [name for name in methods.method_names() if methods.find_method(name)[0].plain]


@pytest.mark.parametrize("method", PLAIN_METHODS)
def test_every_method_on_every_family(model, method, blocks, own_cache, tokenizer, tmp_path):
    if method == "slicegpt" and anatomy(model).family == "Gemma3":
        pytest.skip("refused, see test_slicegpt_refuses_norms_on_what_is_written")
    statistics = calibrate(model, blocks, gradients=methods.needs_gradients(method))
    same, report = compress.compress(model, method, 0.0, statistics=statistics)
    ids = blocks.ids[:2]
    assert torch.equal(same(ids).logits, model(ids).logits) and report.ratio_params == 0
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ratio = 1 / 3 if methods.axis_of(method, "own") == "layers" else 0.5
    small, report = compress.compress(model, method, ratio, statistics=statistics, seed=1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    count = sum(p.numel() for p in small.parameters())
    assert count == report.small.parameters < report.dense.parameters
    assert report.ratio_params == pytest.approx(1 - count / sum(p.numel() for p in model.parameters()))
    checkpoints.save(small, tokenizer, tmp_path / "small", report)  # raises unless it reloads with equal logits
    out = small.generate(ids[:, :4], max_new_tokens=4, do_sample=False, use_cache=True)
    slow = small.generate(ids[:, :4], max_new_tokens=4, do_sample=False, use_cache=False)
    assert torch.equal(out, slow)
    again, _ = compress.compress(model, method, ratio, statistics=statistics, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), again.parameters(), strict=True))


GROUP_METHODS = [name for name in methods.method_names() if "heads" in methods.find_method(name)[0].axes]


@pytest.mark.parametrize("method", GROUP_METHODS)
def test_every_group_method_on_every_family(model, method, blocks, own_cache, tokenizer, tmp_path):
    statistics = calibrate(model, blocks, gradients=methods.needs_gradients(method))
    small, report = compress.compress(model, method, 0.5, ratio_of="heads", statistics=statistics)
    assert (report.small.groups, report.small.heads) == (1, 2)
    assert sum(p.numel() for p in small.parameters()) == report.small.parameters
    checkpoints.save(small, tokenizer, tmp_path / "small", report)


def test_random_depends_on_the_seed_and_on_nothing_else():
    model = tiny_model("llama")
    kept = [compress.compress(model, "random", 0.5, seed=seed)[1].kept for seed in (0, 0, 1)]
    assert kept[0] == kept[1] != kept[2]


def test_magnitude_removes_a_neuron_that_writes_nothing():
    model = tiny_model("llama")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight[:, 7] = 0
    small, report = compress.compress(model, "magnitude", 1 / 64, round_to=1)
    assert all(7 not in kept and len(kept) == 63 for kept in report.kept)
    ids = torch.arange(3, 19).view(1, -1)
    assert torch.allclose(small(ids).logits, model(ids).logits, atol=1e-5)


def test_wanda_removes_the_neuron_that_never_fires(blocks, own_cache):
    model = tiny_model("llama")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.up_proj.weight[11] = 0  # its product with the gate is zero whatever it reads
            layer.mlp.down_proj.weight[:, 11] *= 100  # magnitude would love it
    statistics = calibrate(model, blocks)
    _, report = compress.compress(model, "wanda-sp", 1 / 64, statistics=statistics, round_to=1)
    assert all(11 not in kept for kept in report.kept)


def activations(model, module, ids):
    """What a module reads, flattened over tokens, and the same per sequence."""
    seen = []
    handle = module.register_forward_pre_hook(lambda m, args: seen.append(args[0].detach()))
    with torch.no_grad():
        model(ids)
    handle.remove()
    return seen[0]


def test_scores_follow_their_formulas(blocks, own_cache):
    model = tiny_model("qwen2")
    parts, statistics = anatomy(model), calibrate(model, blocks)
    layer = parts.layers[1]
    x = activations(model, layer.down, blocks.ids)
    weight = layer.down.weight.detach()
    generator = torch.Generator()
    flap = x.flatten(0, 1).var(0, correction=0) * weight.square().sum(0)
    assert torch.allclose(scores.NEURONS["flap"](parts, layer, statistics, generator), flap, rtol=1e-3, atol=1e-6)
    minitron = x.abs().mean(1).square().sum(0).sqrt()
    assert torch.allclose(scores.NEURONS["minitron"](parts, layer, statistics, generator), minitron, rtol=1e-4)
    gate, up = layer.gate.weight, layer.up.weight
    ppm = (gate.amax(1) - gate.amin(1)) + (up.amax(1) - up.amin(1))
    assert torch.allclose(scores.NEURONS["ppm"](parts, layer, None, generator), ppm)
    z = activations(model, layer.o, blocks.ids).flatten(0, 1)
    wanda = (layer.o.weight.abs().mean(0) * z.square().mean(0).sqrt()).view(2, -1).sum(1)
    assert torch.allclose(scores.GROUPS["wanda-sp"](parts, layer, statistics, generator), wanda.detach(), rtol=1e-4)


def test_taylor_is_the_gradient_of_shrinking_a_unit(family, blocks, own_cache):
    """Σ w·g over everything that scales with a unit's on/off factors is the derivative in those factors."""
    model = tiny_model(family)
    parts = anatomy(model)
    statistics = calibrate(model, blocks, gradients=True)
    count = min(len(blocks), 4096 // blocks.length)
    ids, scored = blocks.ids[:count], blocks.scored[:count, 1:]
    logits = model(ids).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    steps = max(1, 1024 // blocks.length)
    batch = torch.arange(count).repeat_interleave(blocks.length - 1) // steps
    share = scored.flatten().float()
    means = [(losses * share)[batch == b].sum() / share[batch == b].sum() for b in range(int(batch.max()) + 1)]
    sum(means).backward()
    for layer in parts.layers:
        product = [(linear.weight * linear.weight.grad).detach() for linear in (layer.gate, layer.up, layer.down)]
        expected = (product[0].sum(1) + product[1].sum(1) + product[2].sum(0)).abs()
        assert torch.allclose(statistics.taylor(layer.index, "ffn"), expected, rtol=1e-3, atol=1e-5)
        q, k, v, o = ((linear.weight * linear.weight.grad).detach() for linear in (layer.q, layer.k, layer.v, layer.o))
        groups = sum(rows.sum(1).view(parts.groups, -1).sum(1) for rows in (q, k, v))
        expected = (groups + o.sum(0).view(parts.groups, -1).sum(1)).abs()
        assert torch.allclose(statistics.taylor(layer.index, "heads"), expected, rtol=1e-3, atol=1e-5)


def test_taylor_terms_hold_no_graph_of_the_blocks_they_come_from(blocks, own_cache, monkeypatch):
    """A graph would keep float32 copies of all weights until the last batch."""
    written = []
    monkeypatch.setattr("claw.prune.statistics.save_file", lambda tensors, path: written.extend(tensors.items()))
    calibrate(tiny_model("llama"), blocks, gradients=True)
    terms = [term for name, term in written if name.endswith(".taylor")]
    assert terms and not any(term.requires_grad for term in terms)


def test_taylor_without_gradients_is_asked_for(blocks, own_cache):
    model = tiny_model("llama")
    with pytest.raises(InputError, match="gradients=True"):
        compress.compress(model, "taylor", 0.5, statistics=calibrate(model, blocks))


def silent_block(model, index):
    """Make a block pass its input on unchanged."""
    with torch.no_grad():
        model.model.layers[index].self_attn.o_proj.weight.zero_()
        model.model.layers[index].mlp.down_proj.weight.zero_()


@pytest.mark.parametrize("method", ["shortgpt", "blocks"])
def test_depth_removes_the_block_that_does_nothing(family, method, blocks, own_cache):
    model = tiny_model(family)
    silent_block(model, 1)
    small, report = compress.compress(model, method, 1 / 3, statistics=calibrate(model, blocks))
    assert report.kept == ((0, 2),)
    ids = blocks.ids[:2]
    assert torch.allclose(small(ids).logits, model(ids).logits, atol=1e-5)


def test_depth_brings_every_per_layer_list_along(blocks, own_cache):
    model = tiny_model("gemma3")
    small, report = compress.compress(model, "shortgpt", 1 / 3, statistics=calibrate(model, blocks))
    kept = report.kept[0]
    kinds = model.config.layer_types
    assert small.config.layer_types == [kinds[i] for i in kept] and small.config.num_hidden_layers == 2
    assert [layer.self_attn.layer_idx for layer in small.model.layers] == [0, 1]


def test_blocks_are_contiguous(blocks, own_cache):
    model = tiny_model("llama", num_hidden_layers=6)
    _, report = compress.compress(model, "blocks", 0.5, statistics=calibrate(model, blocks))
    gone = sorted(set(range(6)) - set(report.kept[0]))
    assert len(gone) == 3 and gone[-1] - gone[0] == 2


def test_a_group_that_writes_nothing_goes_first(blocks, own_cache):
    model = tiny_model("mistral", num_key_value_heads=4)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[:, 8:16] = 0  # query head 1 is group 1
    statistics = calibrate(model, blocks, gradients=True)
    for method in ("magnitude", "wanda-sp", "flap"):
        small, report = compress.compress(model, method, 0.25, ratio_of="heads", statistics=statistics)
        assert all(kept == (0, 2, 3) for kept in report.kept), method
        assert torch.allclose(small(blocks.ids[:1]).logits, model(blocks.ids[:1]).logits, atol=1e-5)


def test_wanda_scores_follow_the_formula(blocks, own_cache):
    model = tiny_model("llama")
    statistics = calibrate(model, blocks)
    layer = model.model.layers[0]
    inputs = activations(model, layer.mlp.down_proj, blocks.ids).flatten(0, 1)
    expected = layer.mlp.down_proj.weight.abs().mean(0) * inputs.square().mean(0).sqrt()
    parts = anatomy(model)
    assert torch.allclose(scores.NEURONS["wanda-sp"](parts, parts.layers[0], statistics, None), expected.detach(), rtol=1e-4)


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
    statistics = calibrate(tiny_model("llama", seed=0), blocks)
    with pytest.raises(InputError, match="belong to another model"):
        compress.compress(tiny_model("llama", seed=1), "wanda-sp", 0.5, statistics=statistics)


def test_missing_statistics_are_asked_for():
    with pytest.raises(InputError, match=r"needs calibration statistics.*claw\.calibrate"):
        compress.compress(tiny_model("llama"), "wanda-sp", 0.5)


def test_nan_weights_are_refused():
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.up_proj\.weight holds NaN"):
        compress.compress(model, "magnitude", 0.5)


def test_an_unknown_method_names_near_ones():
    with pytest.raises(InputError, match="did you mean 'magnitude'"):
        compress.compress(tiny_model("llama"), "magnitud", 0.5)
