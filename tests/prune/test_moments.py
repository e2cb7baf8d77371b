"""Moments: right to the precision they promise, the same every time, however the text is cut into batches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from claw.prune.moments import PANELS, Cross, Gram

SIZES = (1, 7, 256, 300, 513, 1030)
CPU = torch.device("cpu")


def rows(size, count=400, dtype=torch.bfloat16, seed=0):
    """Correlated rows with a few large columns, as activations have them."""
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, size, generator=draw) @ torch.randn(size, size, generator=draw) / size**0.5
    mixed[:, :: max(1, size // 3)] *= 30
    return mixed.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", SIZES)
def test_a_gram_matrix_is_within_a_thousandth_of_float64_and_symmetric(size, dtype):
    x = rows(size, dtype=dtype)
    gram = Gram(size, CPU, dtype)
    for part in x.split(150):
        gram.add(part)
    truth = x.double().T @ x.double()
    assert (gram.total() - truth).norm() <= 1e-5 * truth.norm()
    torch.testing.assert_close(gram.total(), gram.total().T, rtol=1e-4, atol=1e-5 * float(truth.abs().max()))
    assert len(gram.panels) <= PANELS


def test_what_a_norm_has_scaled_loses_less_than_a_thousandth():
    x = rows(576, 2000).float()
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True))  # no longer bfloat16 numbers
    gram = Gram(576, CPU, torch.bfloat16)
    gram.add(x)
    truth = x.double().T @ x.double()
    assert (gram.total() - truth).norm() <= 1e-3 * truth.norm()


@settings(deadline=None, max_examples=20)
@given(some.integers(1, 40), some.integers(1, 40), some.integers(1, 60))
def test_cross_moments(out, size, count):
    x, y = rows(size, count, torch.float32), rows(out, count, torch.float32, seed=1)
    cross = Cross(out, size, CPU, torch.float32)
    for a, b in zip(y.split(7), x.split(7), strict=True):
        cross.add(a, b)
    torch.testing.assert_close(cross.sum, y.T @ x, rtol=1e-4, atol=1e-2)


def test_the_same_text_gives_the_same_bits_and_leaves_the_precision_of_others_alone():
    before, x = torch.backends.mkldnn.matmul.fp32_precision, rows(700)
    sums = []
    for _ in range(2):
        gram = Gram(700, CPU, torch.bfloat16)
        gram.add(x)
        sums.append(gram.total())
    assert torch.equal(*sums) and torch.backends.mkldnn.matmul.fp32_precision == before
