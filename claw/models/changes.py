"""Whether a model is what its class and configuration say, or was changed by hand: hooks, patches, training mode."""

from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrize

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks", "_global_backward_pre_hooks")
REPLACEABLE = ("forward", "__call__", "_call_impl", "_slow_forward")  # what an instance may have got in place of its class's


def why_not_plain(model: nn.Module, *, training: bool = True) -> str:
    """Why weights and configuration alone do not say what this model computes; empty if they do.

    Reasons are hooks on any part, a forward that was replaced on a part or its class, parametrised weights, and training mode
    (not asked about with `training=False`). The sentence goes on from "because ...".
    """
    if any(getattr(torch_module, name, None) for name in GLOBAL_HOOKS):
        return "hooks act on every module"
    checked: set[type] = set()
    for name, part in model.named_modules():
        where = f"its part {name}" if name else "the model itself"
        if any(getattr(part, kind, None) for kind in HOOKS):
            return f"{where} has hooks"
        if any(attribute in vars(part) for attribute in REPLACEABLE):
            return f"the forward of {where} was replaced"
        if parametrize.is_parametrized(part):
            return f"{where} has parametrised weights"
        if training and part.training:
            return "it is in training mode" if not name else f"{where} is in training mode"
        if type(part) not in checked:
            checked.add(type(part))
            if not _has_own_forward(type(part)):
                return f"the forward of the class {type(part).__name__} was replaced"
    return ""


def _has_own_forward(kind: Any) -> bool:
    """Whether the forward of a class was written as part of that class, or of the one that it inherits it from."""
    owner = next(base for base in kind.__mro__ if "forward" in vars(base))
    function = vars(owner)["forward"]
    where = (getattr(function, "__module__", None), getattr(function, "__qualname__", None))
    return where == (owner.__module__, f"{owner.__qualname__}.forward") or owner is nn.Module
