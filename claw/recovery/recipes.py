"""The recipes: which weights are trained, by which loss, and how the result becomes a stock model again.

- `lora`: adapters on every linear layer of the blocks (SliceGPT's recovery: rank 32, alpha 10), by peft, merged at the end.
- `full`: all weights, cross-entropy on the text.
- `norms`: the gains of norms and the biases only, cross-entropy on the text.
- `distill`: all weights (or those of another recipe), divergence from the dense parent's next-token distribution, to which the
  cross-entropy on the text and the distance of hidden states from the parent's may be added.

Training works on a copy; the model that was given is not changed.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from claw.engine.head_loss import Head, head_cross_entropy
from claw.engine.training import Forward
from claw.errors import InputError
from claw.models.anatomy import anatomy
from claw.models.arithmetic import readout_of
from claw.models.families import family_of
from claw.models.linears import is_linear
from claw.models.load import check_same_vocabulary
from claw.models.undisturbed import undisturbed
from claw.recovery import objective
from claw.recovery.kept_blocks import kept_blocks
from claw.recovery.teacher import Remembered, Teacher
from claw.specs.experiment import Recovery

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Adapted by LoRA; in models that call these otherwise, their own linears (`lora_targets`)."""
ALPHA = 10


class Student:
    """A model in training. `trained` are its weights that change, `loss` its summed loss on a batch."""

    processes = 1  # that share a batch

    def __init__(self, model: Any, recovery: Recovery, teacher: Any, targets: Sequence[str], seed: int):
        self.recovery, self.dtype = recovery, model.dtype
        self.adapted: Any = None
        self.model = copy.deepcopy(model)
        if self.dtype == torch.float16:  # too narrow for gradients without a loss scale
            cast_weights(self.model, torch.bfloat16)
        self.forward = Forward(self.model)
        self.scale, self.cap = readout_of(model).scale, readout_of(model).cap
        self.flops_per_token = _flops(model, recovery, teacher)
        self.teacher = Teacher(teacher) if isinstance(teacher, nn.Module) else teacher
        self.kept = kept_blocks(model, teacher) if recovery.hidden_loss else []
        if recovery.trained == "lora":
            self.adapted = adapt(self.model, cast(int, recovery.rank), targets, seed)
        else:
            for parameter in self.model.parameters():
                parameter.requires_grad_(recovery.trained == "full" or parameter.ndim == 1)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]

    @property
    def head(self) -> Head:
        """As it is now; FSDP puts another weight there while a batch is computed."""
        head: Any = self.model.get_output_embeddings()
        return Head(head.weight, head.bias, self.cap)

    def loss(self, ids: torch.Tensor, scored: torch.Tensor) -> torch.Tensor:
        """Sum of the recipe's loss over the targets of blocks (B, T), float32."""
        recovery, head = self.recovery, self.head
        inputs: list[torch.Tensor] | None = [] if self.kept else None
        states, targets, places = self.forward.scored_states(ids, scored, inputs)
        hidden = states * self.scale
        if self.teacher is None:
            return head_cross_entropy(hidden, head, targets)
        choices: dict[str, Any] = {"kind": recovery.divergence, "data": recovery.data_loss, "skew": recovery.skew or 0.0}
        if recovery.top_k and not self.kept:
            top = self.teacher.top(ids, recovery.top_k).at(places)
            return objective.top_divergence(hidden, head, top, targets, **choices)
        wanted: list[torch.Tensor] = []
        taught = self.teacher.hidden(ids, wanted if self.kept else None).flatten(0, 1)[places]
        if recovery.top_k:
            top = objective.Top.of(*objective.top_of(taught, self.teacher.head, recovery.top_k))
            total = objective.top_divergence(hidden, head, top, targets, **choices)
        else:
            total = objective.divergence(hidden, head, taught, self.teacher.head, targets, **choices)
        if not self.kept:
            return total
        # what each kept block but the first reads, and what the head reads, is to be as it was in the parent
        own = lambda states: states.view(*ids.shape, -1)[:, :-1].flatten(0, 1)[places]
        pairs = [(own(inputs[i]), own(wanted[j])) for i, j in enumerate(self.kept) if i] if inputs else []
        return total + recovery.hidden_loss * objective.hidden_distance([*pairs, (hidden, taught)])

    def recompute(self) -> None:
        """From now on keep no activations inside a block, and compute them again in the backward pass."""
        _switch(self.model, "enable")({"use_reentrant": False})
        self.forward.recomputes = True

    def measurable(self, wide: Sequence[torch.Tensor]) -> nn.Module:
        """What is measured on the way: the weights in training, or a plain model where adapters would go the slow stock way."""
        return self.plain(wide) if self.adapted else self.model

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


def _flops(model: Any, recovery: Recovery, teacher: Any) -> float:
    """FLOPs of training on a token: a pass forward, one back, one for weights if all are trained, and that of a teacher.

    Passes that are made again to save memory, and a teacher whose answers were kept, do not count. NaN where it is not known.
    """
    try:
        models = (one for one in (model, teacher) if isinstance(one, nn.Module))
        own, *asked = (anatomy(one).shape.flops_per_token(recovery.length) for one in models)
    except InputError:
        return math.nan
    return float((3 if recovery.trained == "full" else 2) * own + sum(asked))


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

    names = lora_targets(model, targets)
    config = peft.LoraConfig(r=rank, lora_alpha=ALPHA, target_modules=names, task_type="CAUSAL_LM")
    with undisturbed():
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config, autocast_adapter_dtype=False)


def lora_targets(model: Any, targets: Sequence[str]) -> list[str]:
    """The linears to adapt: `targets`, or for the default ones those of the model's family, whatever it calls them."""
    names = family_of(model) if tuple(targets) == TARGETS else None
    return list(targets) if names is None else list(dict.fromkeys(path.rpartition(".")[2] for path in names.stored))


def check_recipe(model: Any, recovery: Recovery, teacher: nn.Module | Remembered | None, targets: Sequence[str]) -> None:
    """InputError where the recipe cannot be carried out on this model."""
    kind = type(model).__name__
    if recovery.trained == "lora":
        targets = lora_targets(model, targets)
        linears = sorted({name.rsplit(".", 1)[-1] for name, module in model.named_modules() if is_linear(module)})
        missing = ", ".join(repr(name) for name in targets if name not in linears)
        if missing or not targets:
            raise InputError(
                f"LoRA target {missing or '(none named)'} does not exist in {kind}. Its linear layers are "
                f"{', '.join(linears)}: name some of these in targets."
            )
    if recovery.trained == "norms" and not any(parameter.ndim == 1 for parameter in model.parameters()):
        raise InputError(f"{kind} has neither norm gains nor biases to train. Use recipe lora or full.")
    if (recovery.recipe == "distill") != (teacher is not None):
        raise InputError("Recipe 'distill' learns from the dense parent: pass teacher=dense with it, no teacher with others.")
    if isinstance(teacher, Remembered) and (recovery.hidden_loss or not recovery.top_k):
        raise InputError(
            "Only this teacher's most probable tokens were kept: ask for top_k and no hidden_loss, or pass the model itself."
        )
    if isinstance(teacher, nn.Module):
        check_same_vocabulary(model, teacher)
        if recovery.hidden_loss:
            kept_blocks(model, teacher)
    if getattr(model, "is_quantized", False):
        raise InputError("A quantised model cannot be trained further. Load the unquantised checkpoint.")
