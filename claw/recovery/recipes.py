"""The recipes: which weights are trained, by which loss, and how the result becomes a stock model again.

- `lora`: adapters on every linear layer of the blocks (SliceGPT's recovery: rank 32, alpha 10), by peft, merged at the end.
- `full`: all weights, cross-entropy on the text.
- `distill`: all weights, Kullback-Leibler divergence from the dense parent's next-token distribution.

Training works on a copy; the model that was given is not changed.
"""

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from claw.errors import InputError
from claw.models.anatomy import ATTENTION, FEED_FORWARD
from claw.models.arithmetic import readout_of
from claw.models.load import check_same_vocabulary
from claw.models.undisturbed import undisturbed
from claw.recovery import objective
from claw.recovery.forward import Forward
from claw.specs.experiment import Recovery

TARGETS = (*ATTENTION, *FEED_FORWARD)
ALPHA = 10


class Student:
    """A model in training. `trained` are its weights that change, `loss` its summed loss on a batch."""

    processes = 1  # that share a batch

    def __init__(self, model: Any, recovery: Recovery, teacher: Any, targets: Sequence[str], seed: int):
        self.recovery, self.teacher, self.dtype = recovery, teacher, model.dtype
        self.adapted: Any = None
        self.model = copy.deepcopy(model)
        if self.dtype == torch.float16:  # too narrow for gradients without a loss scale
            cast_weights(self.model, torch.bfloat16)
        self.forward = Forward(self.model)
        self.scale, self.taught_scale = (1.0 if one is None else readout_of(one).scale for one in (self.model, teacher))
        if recovery.recipe == "lora":
            self.adapted = adapt(self.model, cast(int, recovery.rank), targets, seed)
        else:
            self.model.requires_grad_(True)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]

    def loss(self, ids: torch.Tensor, scored: torch.Tensor) -> torch.Tensor:
        """Sum of the recipe's loss over the targets of blocks (B, T), float32."""
        places = scored[:, 1:].flatten().nonzero()[:, 0]
        targets = ids[:, 1:].flatten()[places]
        hidden = self.forward(ids)[:, :-1].flatten(0, 1)[places] * self.scale
        head = self.model.lm_head.weight
        if self.teacher is None:
            return objective.head_cross_entropy(hidden, head, targets)
        with torch.no_grad(), undisturbed(self.teacher):
            taught = self.teacher.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)[places]
            taught = taught * self.taught_scale
        choices: dict[str, Any] = {"kind": self.recovery.divergence, "data": self.recovery.data_loss}
        return objective.divergence(hidden, head, taught, self.teacher.lm_head.weight, targets, **choices)

    def recompute(self) -> None:
        """From now on keep no activations inside a block, and compute them again in the backward pass."""
        _switch(self.model, "enable")({"use_reentrant": False})
        self.forward.recomputes = True

    @torch.no_grad()
    def plain(self, wide: Sequence[torch.Tensor]) -> nn.Module:
        """A stock model with the trained weights `wide` (float32) in the type that the given model had."""
        kept = [p.data for p in self.trained]
        try:
            for parameter, value in zip(self.trained, wide, strict=True):
                parameter.data = value.detach() if self.adapted else value.detach().to(self.dtype)
            result = copy.deepcopy(self.adapted or self.model)
        finally:
            for parameter, value in zip(self.trained, kept, strict=True):
                parameter.data = value
        if self.adapted:
            result = result.merge_and_unload()
        if self.forward.recomputes:
            _switch(result, "disable")()
        return cast_weights(result, self.dtype).requires_grad_(True).eval()


def cast_weights(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model with its weights in another type; the rotary tables, which are no weights, stay exact."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def _switch(model: nn.Module, verb: str) -> Any:
    """Method that turns activation checkpointing on or off ("enable", "disable"); its name has changed in transformers."""
    return getattr(model, f"activation_checkpointing_{verb}", None) or getattr(model, f"gradient_checkpointing_{verb}")


def adapt(model: Any, rank: int, targets: Sequence[str], seed: int) -> nn.Module:
    """Put LoRA adapters into `model`, in its number type; the peft model around it."""
    import peft

    config = peft.LoraConfig(r=rank, lora_alpha=ALPHA, target_modules=list(targets), task_type="CAUSAL_LM")
    with undisturbed():
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config, autocast_adapter_dtype=False)


def check_recipe(model: Any, recovery: Recovery, teacher: nn.Module | None, targets: Sequence[str]) -> None:
    """InputError where the recipe cannot be carried out on this model."""
    kind = type(model).__name__
    if recovery.recipe == "lora":
        linears = sorted({name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)})
        missing = ", ".join(repr(name) for name in targets if name not in linears)
        if missing or not targets:
            raise InputError(
                f"LoRA target {missing or '(none named)'} does not exist in {kind}. Its linear layers are "
                f"{', '.join(linears)}: name some of these in targets."
            )
    if (recovery.recipe == "distill") != (teacher is not None):
        raise InputError("Recipe 'distill' learns from the dense parent: pass teacher=dense with it, no teacher with others.")
    if teacher is not None:
        check_same_vocabulary(model, teacher)
    if getattr(model, "is_quantized", False):
        raise InputError("A quantised model cannot be trained further. Load the unquantised checkpoint.")
    for one in (model, teacher):
        if one is not None and (cap := readout_of(one).cap):
            kind = type(one).__name__
            raise InputError(f"{kind} caps its logits at {cap}, which recovery's loss does not know. Use another model.")
