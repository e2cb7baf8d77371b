"""Second moments of activations, added up batch by batch: Σ x xᵀ and Σ y xᵀ in float32, repeatable bit for bit.

Notable choices:
- A Gram matrix is symmetric, so only its panels on and above the diagonal are computed (`PANELS`), and mirrored at the end.
- Activations of a bfloat16 model need no float32 products. On a processor with bfloat16 units the products are taken there and
  summed in float32 (`products`), twice as fast; what is bfloat16 already loses nothing, and what a norm has scaled loses
  less than 1e-3 of the matrix. A float32 model keeps float32 products.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

PANELS = 6  # of a Gram matrix, along each side: 21 of 36 are computed
SMALL = 144  # columns in a panel at least: smaller products cost more than they save


class Gram:
    """Running Σ x xᵀ of rows x (n,) of a model with weights of type `dtype`."""

    def __init__(self, size: int, device: torch.device, dtype: torch.dtype):
        self.sum, self.dtype = torch.zeros(size, size, device=device), dtype
        count = max(1, min(PANELS, size // SMALL))
        edges = [size * i // count for i in range(count + 1)]
        self.panels = [slice(a, b) for a, b in itertools.pairwise(edges)]

    def add(self, rows: Tensor) -> None:
        """Add the rows of a tensor (N, n)."""
        rows = rows.float()
        with products(rows.device, self.dtype):
            for panel in self.panels:
                right = rows[:, panel.start :]
                self.sum[panel, panel.start :].addmm_(rows[:, panel].T, right)

    def total(self) -> Tensor:
        """The whole matrix (n, n)."""
        for index, panel in enumerate(self.panels):
            for other in self.panels[index + 1 :]:
                self.sum[other, panel] = self.sum[panel, other].T
        return self.sum


class Cross:
    """Running Σ y xᵀ of rows y (m,) and x (n,)."""

    def __init__(self, rows: int, columns: int, device: torch.device, dtype: torch.dtype):
        self.sum, self.dtype = torch.zeros(rows, columns, device=device), dtype

    def add(self, targets: Tensor, rows: Tensor) -> None:
        """Add the rows of two tensors (N, m) and (N, n)."""
        with products(rows.device, self.dtype):
            self.sum.addmm_(targets.float().T, rows.float())


@contextmanager
def products(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Float32 products with bfloat16 factors and float32 sums, for bfloat16 weights on a processor that has them."""
    settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    if device.type != "cpu" or dtype != torch.bfloat16 or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        yield
        return
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before
