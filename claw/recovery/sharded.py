"""Full fine-tuning of a model larger than one device: weights, gradients and AdamW's state spread over processes by FSDP.

Each process takes its share of a batch. Weights are float32 shards; products are computed in the model's own type, gradients
are added in float32. A budget ends in the same weights as in one process, up to rounding. Held-out loss is measured
afterwards on the saved checkpoint (notebook 30); a run that was killed starts again.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from claw.errors import InputError
from claw.models.anatomy import anatomy
from claw.recovery import schedule
from claw.recovery.recipes import Student, cast_weights, check_recipe
from claw.recovery.run import RecoveryReport, Run
from claw.specs.experiment import Recovery
from claw.texts.token_blocks import Blocks


class Objective(nn.Module):
    """A model with its loss as one module, so that FSDP gathers the head's weight around it."""

    def __init__(self, model: nn.Module, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]):
        super().__init__()
        self.model, self.forward = model, loss


class ShardedStudent(Student):
    """A student whose weights are spread over all processes."""

    def __init__(self, model: Any, recovery: Recovery, *_):
        super().__init__(model, recovery, None, (), 0)
        self.given, self.processes = model, dist.get_world_size()
        policy = MixedPrecisionPolicy(param_dtype=self.model.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        cast_weights(self.model, torch.float32)
        self.forward.decoder = None  # the stock forward, around whose modules FSDP gathers the weights
        self.objective = Objective(self.model, super().loss)
        for layer in anatomy(self.model).layers:
            fully_shard(layer.module, mp_policy=policy)
        fully_shard(self.objective, mp_policy=policy)
        self.trained = list(self.model.parameters())

    def loss(self, ids: torch.Tensor, scored: torch.Tensor) -> torch.Tensor:
        """Sum of the loss over this process's blocks, times the number of processes because FSDP averages gradients."""
        return self.objective(ids, scored) * self.processes

    @torch.no_grad()
    def plain(self, wide: Sequence[Any]) -> nn.Module:
        """The whole model, gathered on the CPU of every process."""
        result = copy.deepcopy(self.given).cpu()
        for parameter, value in zip(result.parameters(), wide, strict=True):
            parameter.data = value.full_tensor().cpu().to(self.dtype)
        return result.eval()


class ShardedRun(Run):
    """A run whose batches are shared out among processes."""

    student_type = ShardedStudent

    def _parts(self, order: list[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """This process's share, in as many parts as in every other; one without a block has nothing to predict."""
        mine, largest = order[dist.get_rank() :: self.student.processes], math.ceil(len(order) / self.student.processes)
        for part in torch.tensor(mine, dtype=torch.long).tensor_split(math.ceil(largest / self.rows)):
            if len(part):
                yield self.blocks.ids[part], self.blocks.scored[part]
            else:
                yield self.blocks.ids[:1], torch.zeros_like(self.blocks.scored[:1])

    def _gradients(self, order: list[int]) -> tuple[float, int]:
        """As in one process, with the losses of all added up."""
        loss, count = super()._gradients(order)
        total = torch.tensor(loss, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return float(total), count

    def _measure(self, model: nn.Module) -> None:
        self.at.measured(math.nan)


def recover_sharded(model: nn.Module, blocks: Blocks, recovery: Recovery, folder: Path) -> tuple[nn.Module, RecoveryReport]:
    """The recovered model, whole and on the CPU, and the report; called alike in every process of an initialised group."""
    if recovery.recipe != "full":
        raise InputError(f"Sharded recovery has recipe 'full' only; {recovery.recipe!r} fits one device: use claw.recover.")
    check_recipe(model, recovery, None, ())
    budgets = schedule.milestones(
        [recovery.tokens], recovery.length, recovery.batch, warmup=recovery.warmup, decay=recovery.decay
    )
    return next(ShardedRun(model, blocks, recovery, budgets, checkpointing=False).go(folder))
