"""What is lent is given back as it was: a model's training or evaluation mode, and the random states of the process.

claw measures in evaluation mode and draws from generators of its own; libraries below it seed the global ones. Whoever calls a
public function finds both as before.
"""

import functools
import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import nn

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")


@contextmanager
def undisturbed(*models: Any) -> Iterator[None]:
    """`models` in evaluation mode; afterwards all modes, and the random states of torch, numpy and Python, are as before."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)


def leaves_as_before(function: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """`function` with the models among its arguments `undisturbed`; of a generator, every step is."""

    def lent(args: tuple, kwargs: dict[str, Any]) -> list[nn.Module]:
        return [value for value in (*args, *kwargs.values()) if isinstance(value, nn.Module)]

    @functools.wraps(function)
    def at_once(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
        with undisturbed(*lent(args, kwargs)):
            return function(*args, **kwargs)

    @functools.wraps(function)
    def in_steps(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Any:
        models, end = lent(args, kwargs), object()
        steps: Any = function(*args, **kwargs)
        while True:
            with undisturbed(*models):
                step = next(steps, end)
            if step is end:
                return
            yield step

    return in_steps if inspect.isgeneratorfunction(function) else at_once
