"""The training forward gives the hidden states and gradients of the stock one."""

import pytest
import torch
from conftest import tiny_model

from claw.recovery import forward, recipes
from claw.recovery.forward import Forward


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
    monkeypatch.setattr(forward, "QUERIES", 16)
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
    monkeypatch.setattr(forward, "LONGEST", 8)
    monkeypatch.setattr(Forward, "_block", None)
    compare(model, run, 1e-6)
