"""Which forward a model gets: the fast one where all that computes is known and was seen to agree, else the stock one."""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from claw.engine.agreement import why_not_equal
from claw.engine.architectures import why_not_known
from claw.engine.decoder import Decoder
from claw.errors import InputError
from claw.models.anatomy import anatomy
from claw.models.arithmetic import once
from claw.models.changes import why_not_plain

TYPES = (torch.float32, torch.bfloat16, torch.float16)

_AGREEMENTS: WeakKeyDictionary[nn.Module, tuple[tuple, str]] = WeakKeyDictionary()


def build_decoder(model: nn.Module, *, training: bool = False) -> tuple[Decoder | None, str]:
    """The fast decoder of a model, or None and the reason why the stock forward must be used.

    `training` is for a forward of one's own that will train: the model may be in training mode, but must not drop out.
    The comparison with the stock logits is made once per model, and again when something but its weights has changed.
    """
    reason = why_not_plain(model, training=not training) or why_not_known(model, training=training) or _of_weights(model)
    if reason:
        return None, reason
    try:
        parts = anatomy(model)
    except InputError as error:
        return None, str(error)
    reason = once(_AGREEMENTS, model, lambda: _disagreement(model))
    return (None, reason) if reason else (Decoder(parts), "")


def _of_weights(model: nn.Module) -> str:
    types = {parameter.dtype for parameter in model.parameters()}
    if len(types) > 1 or not types <= set(TYPES):
        return f"its weights are of type {', '.join(sorted(str(kind).removeprefix('torch.') for kind in types))}"
    return ""


def _disagreement(model: Any) -> str:
    try:
        return why_not_equal(model)
    except (RuntimeError, AttributeError, TypeError, ValueError, IndexError, KeyError, InputError) as error:
        return f"its blocks do not compute as expected ({error})"
