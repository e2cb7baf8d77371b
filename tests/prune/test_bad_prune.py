"""Models and texts that are degenerate, and callers' models that must stay as they are: no method fails, shares or changes."""

import copy
import math

import pytest
import torch
from conftest import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from claw.evaluate import held_out
from claw.models.anatomy import anatomy
from claw.prune import compress, surgery
from claw.prune.statistics import calibrate
from claw.recovery import run
from claw.specs import methods
from claw.texts import token_blocks

METHODS = methods.method_names()


@pytest.fixture
def blocks(tokenizer, train_text):
    return token_blocks.blocks(tokenizer, train_text, length=32, count=12)


def storages(model) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers()) if tensor.numel()}


def bits(model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def same(before, model) -> bool:
    now = bits(model)
    return before.keys() == now.keys() and all(torch.equal(before[name], tensor) for name, tensor in now.items())


@pytest.mark.parametrize("family", ["llama", "qwen2"])  # tied; not tied, with biases
def test_a_compressed_model_shares_no_memory_with_the_dense_one(family, blocks, own_cache):
    model = tiny_model(family)
    statistics, before = calibrate(model, blocks, gradients=True), bits(model)
    for method in METHODS:
        for ratio in (0.0, 1 / 3):
            small, report = compress.compress(model, method, ratio, statistics=statistics)
            assert storages(small).isdisjoint(storages(model)), (method, ratio)
            assert (small.lm_head.weight is small.model.embed_tokens.weight) == report.small.tied
            with torch.no_grad():
                for tensor in (*small.parameters(), *small.buffers()):  # as any training does
                    tensor.add_(1.0)
            assert same(before, model), (method, ratio)


def test_training_the_small_model_does_not_move_the_dense_one(blocks):
    model = tiny_model("llama")
    small, before = compress.compress(model, "magnitude", 0.4)[0], held_out.cross_entropy(model, blocks).mean
    optimiser = torch.optim.SGD(small.parameters(), lr=0.5)
    for _ in range(5):
        small(input_ids=blocks.ids[:2], labels=blocks.ids[:2]).loss.backward()
        optimiser.step()
    assert held_out.cross_entropy(model, blocks).mean == before


def test_only_what_would_be_shared_is_copied(blocks):
    model = tiny_model("llama")
    small, _ = compress.compress(model, "magnitude", 0.5)
    parts = anatomy(model)
    cut = surgery.cut(parts, parts.shape, surgery.Units(range(parts.depth)))
    assert not storages(cut).isdisjoint(storages(model))  # inside claw, until it is given away
    assert sum(p.untyped_storage().nbytes() for p in set(small.parameters())) == sum(p.nbytes for p in set(small.parameters()))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("method", ["slicegpt", "taylor", "claw"])
def test_the_callers_model_stays_as_it_was(method, training, blocks, own_cache):
    model = tiny_model("llama", attention_dropout=0.5).train(training)
    model.model.layers[1].eval()
    model.model.norm.weight.requires_grad_(False)
    calls = []
    model.model.layers[0].register_forward_hook(lambda *parts: calls.append(1))
    plain = model.model.layers[2].forward
    model.model.layers[2].forward = wrapped = lambda *args, **kwargs: plain(*args, **kwargs)  # as accelerate does
    state, config, before = torch.get_rng_state(), copy.deepcopy(model.config.to_dict()), bits(model)
    modes = [module.training for module in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    given_config = model.config
    statistics = calibrate(model, blocks, gradients=methods.needs_gradients(method))
    small, _ = compress.compress(model, method, 1 / 3, statistics=statistics)
    assert modes == [module.training for module in model.modules()] and not any(m.training for m in small.modules())
    assert flags == [p.requires_grad for p in model.parameters()] and all(p.grad is None for p in model.parameters())
    assert hooks == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    assert model.config is given_config and model.config.to_dict() == config and small.config is not config
    assert same(before, model) and torch.equal(state, torch.get_rng_state()) and calls
    assert vars(model.model.layers[2])["forward"] is wrapped


@pytest.mark.parametrize("recipe", ["full", "lora", "distill"])
def test_recovery_leaves_the_models_that_it_is_given(recipe, blocks, tokenizer, train_text):
    teacher, model = tiny_model("llama", attention_dropout=0.5).train(), tiny_model("llama", seed=1)
    model.model.norm.weight.requires_grad_(False)
    text = token_blocks.blocks(tokenizer, train_text, length=32, count=16, purpose="recovery")
    before = [bits(teacher), bits(model)]
    config, flags = copy.deepcopy(model.config.to_dict()), [p.requires_grad for p in model.parameters()]
    given_teacher = {"teacher": teacher} if recipe == "distill" else {}
    small, _ = run.recover(model, text, tokens=256, recipe=recipe, batch=4, **given_teacher)
    assert same(before[0], teacher) and same(before[1], model) and all(module.training for module in teacher.modules())
    assert flags == [p.requires_grad for p in model.parameters()] and model.config.to_dict() == config
    assert storages(small).isdisjoint(storages(model) | storages(teacher)) and not model.training


def dead_neurons(model, some):
    for layer in model.model.layers:
        layer.mlp.up_proj.weight[some % 64 :] = 0


def dead_heads(model, some):
    for layer in model.model.layers:
        layer.self_attn.v_proj.weight[: 8 * (1 + some % 2)] = 0


def silent_block(model, some):
    layer = model.model.layers[some % len(model.model.layers)]
    for linear in (layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj, layer.self_attn.v_proj):
        linear.weight.zero_()


def no_writers(model, some):
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.zero_()
        layer.self_attn.o_proj.weight.zero_()


def dead_dimensions(model, some):
    model.model.embed_tokens.weight[:, : 4 + some % 24] = 0
    for layer in model.model.layers:
        layer.mlp.down_proj.weight[: 4 + some % 24] = 0
        layer.self_attn.o_proj.weight[: 4 + some % 24] = 0


def no_gains(model, some):
    model.model.norm.weight[: 20 + some % 12] = 0


def all_zero(model, some):
    for parameter in model.parameters():
        parameter.zero_()


def tiny_and_huge(model, some):
    for number, layer in enumerate(model.model.layers):
        layer.mlp.up_proj.weight.mul_(10.0 ** (6 * (-1) ** number))


def twins(model, some):
    for layer in model.model.layers:
        for linear in (layer.mlp.gate_proj, layer.mlp.up_proj):
            linear.weight[32:] = linear.weight[:32]


FAULTS = (dead_neurons, dead_heads, silent_block, no_writers, dead_dimensions, no_gains, all_zero, tiny_and_huge, twins)


@pytest.mark.parametrize("fault", FAULTS)
def test_degenerate_models_are_compressed_to_finite_ones(fault, blocks, own_cache):
    model = tiny_model("llama", num_hidden_layers=2)
    with torch.no_grad():
        fault(model, 7)
    statistics = calibrate(model, blocks, gradients=True)
    for method in METHODS:
        small, _ = compress.compress(model, method, 0.5, statistics=statistics)
        assert all(torch.isfinite(p).all() for p in small.parameters()), method
        assert math.isfinite(held_out.cross_entropy(small, blocks.part(slice(0, 4))).mean), method


def test_dead_units_are_said(blocks, own_cache):
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[:5] = 0
        model.model.layers[2].self_attn.v_proj.weight[8:] = 0
    _, report = compress.compress(model, "wanda-sp+ridge", 0.5, statistics=calibrate(model, blocks))
    assert "5 feed-forward neurons are zero on all of the calibration text (by block, 1: 5)" in report.notes[0]
    assert "1 key-value groups" in report.notes[1] and "2: 1" in report.notes[1] and report.notes[0] in report._repr_html_()
    assert len(report.notes) == 2 and report.to_dict()["notes"] == report.notes
    assert compress.compress(model, "magnitude", 0.5)[1].notes == ()


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_tokens_than_columns_are_enough_and_said(count, tokenizer, train_text, own_cache):
    model = tiny_model("llama", num_hidden_layers=2)
    few = token_blocks.blocks(tokenizer, train_text, length=8, count=count)
    statistics, words = calibrate(model, few, gradients=True), f"has {8 * count} tokens, fewer than the 64 inputs"
    for method in METHODS:
        small, report = compress.compress(model, method, 0.5, statistics=statistics)
        assert torch.isfinite(small(few.ids).logits).all(), method
        assert any(words in note for note in report.notes) == methods.needs_statistics(method), method


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 12),
    columns=st.integers(1, 12),
    kept=st.integers(1, 12),
    dead=st.integers(0, 12),
    scale=st.sampled_from([0.0, 1e-18, 1e-6, 1.0, 1e6, 1e15]),
    penalty=st.sampled_from([0.0, 1e-9, 1e-2, 1.0]),
    seed=st.integers(0, 99),
)
def test_compensation_is_finite_and_never_worse_than_the_plain_cut(rows, columns, kept, dead, scale, penalty, seed):
    """For any moments: few tokens, dead inputs, any scale. On its own moments the refit loses at most what the cut loses."""
    generator = torch.Generator().manual_seed(seed)
    inputs = scale**0.5 * torch.randn(rows, columns, generator=generator)
    inputs[:, :dead] = 0
    gram = inputs.T @ inputs / max(rows, 1)
    weight = torch.randn(3, columns, generator=generator)
    keep = torch.randperm(columns, generator=generator)[: min(kept, columns)].sort().values
    refitted = surgery.compensated(weight, gram, keep, penalty)
    assert torch.isfinite(refitted).all()
    whole = inputs @ weight.T
    lost = [(inputs[:, keep] @ new.T - whole).square().sum().item() for new in (refitted, weight[:, keep])]
    assert lost[0] <= lost[1] * (1 + 1e-3) + 1e-4 * whole.square().sum().item()
