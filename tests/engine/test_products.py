"""Products by oneDNN are those of the linear itself up to rounding, and what it cannot multiply is left to the linear."""

import pytest
import torch
from torch import nn

from claw.engine import products

NEAR = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


@pytest.fixture(params=["float32", "bfloat16"])
def linear(request):
    torch.manual_seed(0)
    return nn.Linear(96, 160, bias=request.param == "float32").to(getattr(torch, request.param)).requires_grad_(False)


@pytest.mark.parametrize("rows", [0, 1, 3, 24, 200])
def test_products_are_those_of_the_linear(linear, rows):
    x = torch.randn(rows, 96).to(linear.weight.dtype)
    packed = products.PackedProducts([linear, nn.ReLU()])
    with torch.inference_mode():
        wanted, size = linear(x), NEAR[x.dtype]
        for product in (products.product, packed):
            assert torch.allclose(product(linear, x), wanted, rtol=size, atol=size)
        assert torch.equal(packed(torch.square, x), torch.square(x)) and torch.equal(products.product(torch.square, x), x * x)


def test_no_more_is_packed_than_is_allowed(linear, monkeypatch):
    others = [nn.Linear(96, 160).to(linear.weight.dtype) for _ in range(3)]
    monkeypatch.setattr(products, "PACKED_BYTES", 2 * linear.weight.nbytes)
    packed = products.PackedProducts([linear, *others])
    assert len(packed.packed) in (0, 2)  # none where oneDNN is not used
    x = torch.randn(5, 96).to(linear.weight.dtype)
    with torch.inference_mode():
        assert torch.allclose(packed(others[-1], x), others[-1](x), rtol=1e-2, atol=1e-2)


def test_without_onednn_the_linear_multiplies(linear, monkeypatch):
    monkeypatch.setattr(products, "_has_onednn", lambda: False)
    x = torch.randn(5, 96).to(linear.weight.dtype)
    assert not products.PackedProducts([linear]).packed
    assert torch.equal(products.product(linear, x), linear(x))
