"""Trained weights with their float32 masters and AdamW, and how both are written to disk between two steps."""

import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor

from claw.errors import InputError
from claw.files import whole

BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.01
LARGEST_NORM = 1.0


class Weights:
    """Working weights, in the type that products are computed in, with masters, gradients and AdamW's state in float32.

    Gradients are added up in float32 as soon as a working gradient is whole, and the working one is freed. A weight that is
    float32 already is its own master.
    """

    def __init__(self, working: Sequence[nn.Parameter], rate: float):
        self.rate = rate
        self.wide = [p if p.dtype == torch.float32 else p.detach().float().requires_grad_() for p in working]
        self.narrow = [(p, w) for p, w in zip(working, self.wide, strict=True) if p is not w]
        self.hooks = [p.register_post_accumulate_grad_hook(partial(_move_gradient, w)) for p, w in self.narrow]
        sharded = isinstance(self.wide[0], DTensor)
        self.optimizer = torch.optim.AdamW(self.wide, lr=rate, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=not sharded)

    @torch.no_grad()
    def step(self, factor: float) -> float:
        """One step of AdamW at `factor` times the peak rate, gradients clipped; their norm. Not finite: nothing is changed."""
        total = nn.utils.clip_grad_norm_(self.wide, LARGEST_NORM)
        norm = float(total.full_tensor() if isinstance(total, DTensor) else total)
        if norm < float("inf"):
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * factor
            self.optimizer.step()
            self._narrow()
        for weight in self.wide:
            if weight.grad is not None:
                weight.grad.zero_()
        return norm

    def _narrow(self) -> None:
        if self.narrow:
            torch._foreach_copy_([p.data for p, _ in self.narrow], [w.data for _, w in self.narrow])

    def close(self) -> None:
        """Take the hooks off the working weights."""
        for hook in self.hooks:
            hook.remove()

    def save(self, path: Path, about: Mapping[str, Any]) -> None:
        """Write masters and AdamW's state to a safetensors file, whole or not at all; `about` is any JSON."""
        tensors: dict[str, torch.Tensor] = {}
        for number, weight in enumerate(self.wide):
            state = self.optimizer.state.get(weight, {})
            tensors |= {f"{number}.{name}": value.contiguous() for name, value in state.items()}
            tensors[f"{number}.weight"] = weight.detach().contiguous()
        try:
            with whole(path) as scratch:
                save_file(tensors, scratch, metadata={"about": json.dumps(about)})
                with scratch.open("rb") as written:
                    os.fsync(written.fileno())
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"The state cannot be written to {path.parent}: {error}. Records are kept: free disk space and run again."
            ) from error

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Take masters and AdamW's state from a file that `save` wrote."""
        self.optimizer.state.clear()
        with safe_open(path, "pt") as file:
            for key in sorted(file.keys()):
                number, _, name = key.partition(".")
                weight, value = self.wide[int(number)], file.get_tensor(key)
                if name == "weight":
                    weight.copy_(value)
                else:
                    self.optimizer.state[weight][name] = value.to(weight.device)
        self._narrow()


def read_header(path: Path) -> dict[str, Any] | None:
    """The JSON beside saved weights, or None where there is no readable file."""
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["about"])
    except (FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _move_gradient(wide: torch.Tensor, working: Any) -> None:
    """Add a working gradient to its master's and free it."""
    wide.grad = working.grad.float() if wide.grad is None else wide.grad.add_(working.grad)
    working.grad = None
