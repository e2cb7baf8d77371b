"""The training forward gives the hidden states and gradients of the stock one."""

import pytest
import torch
from conftest import tiny_model
from trained import chains, trained_granite

import claw
from claw.engine import training
from claw.engine.training import Forward
from claw.recovery import recipes
from claw.specs.experiment import Recovery
from claw.specs.spec import build_spec


def compare(model, run, tolerance):
    """Relative differences of hidden states and of every gradient, own forward against stock."""
    ids = torch.randint(3, 259, (3, 40), generator=torch.Generator().manual_seed(0))
    stock = model.model(input_ids=ids, use_cache=False).last_hidden_state
    slope = torch.randn(stock.shape, generator=torch.Generator().manual_seed(1)).to(stock.dtype)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad and "lm_head" not in name}
    expected = torch.autograd.grad((stock * slope).sum(), trained.values(), allow_unused=True)
    ours = run(ids)
    gradients = torch.autograd.grad((ours * slope).sum(), trained.values(), allow_unused=True)
    pairs = {"hidden": (ours, stock)} | dict(zip(trained, zip(gradients, expected, strict=True), strict=True))
    for name, (mine, wanted) in pairs.items():
        if wanted is not None:
            difference = (mine - wanted).float().norm() / wanted.float().norm().clamp(min=1e-6)
            assert difference < tolerance, name


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_full_gradients(family, dtype, tolerance):
    model = tiny_model(family, dtype=dtype)
    run = Forward(model)
    assert run.decoder is not None
    compare(model, run, tolerance)


def test_several_blocks_of_queries_and_recomputation(family, monkeypatch):
    monkeypatch.setattr(training, "QUERIES", 16)
    model = tiny_model(family)
    run = Forward(model)
    run.recomputes = True
    compare(model, run, 1e-4)


def test_adapters(family):
    model = tiny_model(family)
    run = Forward(model)
    recipes.adapt(model, 4, recipes.TARGETS, seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    compare(model, run, 1e-4)


def test_long_blocks_take_the_stock_forward(monkeypatch):
    model = tiny_model("llama")
    run = Forward(model)
    monkeypatch.setattr(training, "LONGEST", 8)
    monkeypatch.setattr(Forward, "_block", None)
    compare(model, run, 1e-6)


def test_models_that_compute_more_take_the_stock_forward():
    hooked, dropping, unknown = (tiny_model("qwen3") for _ in range(3))
    hooked.model.layers[1].mlp.register_forward_hook(lambda module, inputs, output: output * 2)
    dropping.config.attention_dropout = 0.1
    unknown.config.mystery = 1
    reasons = {"hooks": hooked, "drops out": dropping, "mystery": unknown, "architecture": trained_granite()}
    for reason, model in reasons.items():
        run = Forward(model)
        assert run.decoder is None and reason in run.reason
        compare(model, run, 1e-6) if reason != "architecture" else None


def test_training_mode_is_no_obstacle():
    assert Forward(tiny_model("llama").train()).decoder is not None


def wrong_attention(q, k, v, **choices):
    return right_attention(q, k, v, **choices | {"scale": choices["scale"] * 1.02})


right_attention = training.training_attention


def test_a_small_mistake_in_this_forward_is_seen(monkeypatch):
    monkeypatch.setattr(training, "training_attention", wrong_attention)
    run = Forward(tiny_model("llama"))
    assert run.decoder is None and "hidden states differ" in run.reason


@pytest.mark.filterwarnings("ignore:claw scores")
def test_what_follows_the_head_is_in_the_loss():
    """Granite, whose logits are a quarter of what its head gives: forgotten, recovery makes a good model worse."""
    model, ids = trained_granite(), chains(8, 9, "recovery").ids
    stock = float(model(input_ids=ids, labels=ids).loss)
    asked = build_spec(Recovery, {"recipe": "full", "tokens": 32, "corpus": "chains", "length": 32})
    loss = recipes.Student(model, asked, None, (), 0).loss(ids, torch.ones_like(ids, dtype=torch.bool))
    assert float(loss) / ids[:, 1:].numel() == pytest.approx(stock, abs=1e-5)
    taught = build_spec(Recovery, {"recipe": "distill", "tokens": 32, "corpus": "chains", "length": 32})
    assert float(recipes.Student(model, taught, model, (), 0).loss(ids, torch.ones_like(ids, dtype=torch.bool))) < 1e-3


@pytest.mark.filterwarnings("ignore:claw scores")
def test_recovery_does_not_make_granite_worse():
    model, heldout = trained_granite(), chains(32, 5, "heldout")
    _, report = claw.recover(model, chains(96, 9, "recovery"), tokens=96 * 32, recipe="full", heldout=heldout)
    assert report.last < report.before + 0.01
