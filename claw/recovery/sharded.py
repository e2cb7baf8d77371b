"""Full fine-tuning of a model larger than one device: weights, gradients and AdamW's state spread over processes by FSDP.

Each process takes its share of a batch. Weights are float32 shards; products are computed in the model's own type, gradients
are added in float32. A budget ends in the same weights as in one process, up to rounding. Held-out loss is measured
afterwards on the saved checkpoint (notebook 30); a run that was killed starts again.
"""

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from claw.errors import InputError
from claw.models.anatomy import anatomy
from claw.recovery import objective, schedule
from claw.recovery.recipes import Student, check_recipe
from claw.recovery.recovery_report import RecoveryReport
from claw.recovery.run import Run
from claw.specs.experiment import Recovery
from claw.texts.token_blocks import Blocks


class Objective(nn.Module):
    """A model with its loss as one module, so that FSDP gathers the head's weight around it."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, scored: torch.Tensor) -> torch.Tensor:
        """Summed cross-entropy of the targets of blocks (B, T)."""
        places = scored[:, 1:].flatten().nonzero()[:, 0]
        hidden = self.model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)[places]
        return objective.head_cross_entropy(hidden, self.model.lm_head.weight, ids[:, 1:].flatten()[places])


class ShardedStudent(Student):
    """A student whose weights are spread over all processes."""

    def __init__(self, model: Any, recovery: Recovery, *_):
        super().__init__(model, recovery, None, (), 0)
        self.given, compute = model, self.model.dtype
        for parameter in self.model.parameters():
            parameter.data = parameter.data.float()
        self.objective = Objective(self.model)
        policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for layer in anatomy(self.model).layers:
            fully_shard(layer.module, mp_policy=policy)
        fully_shard(self.objective, mp_policy=policy)
        self.trained = list(self.model.parameters())

    def loss(self, ids: torch.Tensor, scored: torch.Tensor) -> torch.Tensor:
        """Sum of the loss over this process's blocks, times the number of processes because FSDP averages gradients."""
        return self.objective(ids, scored) * dist.get_world_size()

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

    def _gradients(self, order: list[int]) -> tuple[float, int]:
        """As in one process; a process without a block in a short batch takes one with nothing to predict."""
        mine, targets = order[dist.get_rank() :: dist.get_world_size()], self.blocks.scored[order]
        count = max(1, int(targets[:, 1:].sum()))
        scored = self.blocks.scored[mine] if mine else torch.zeros_like(self.blocks.scored[:1])
        ids = self.blocks.ids[mine] if mine else self.blocks.ids[:1]
        total = torch.zeros((), dtype=torch.float64)
        parts = -(-len(range(0, len(order), dist.get_world_size())) // self.rows)  # alike in all processes
        for part_ids, part_scored in zip(ids.tensor_split(parts), scored.tensor_split(parts), strict=True):
            if not len(part_ids):
                part_ids, part_scored = ids[:1], torch.zeros_like(scored[:1])
            loss = self.student.loss(part_ids.to(self.device), part_scored.to(self.device))
            (loss / count).backward()
            total += float(loss.detach()) / dist.get_world_size()
        total = total.to(self.device)
        dist.all_reduce(total)
        return float(total), count

    def _measure(self, model: nn.Module) -> None:
        self.at.measured(math.nan)


def recover_sharded(model: nn.Module, blocks: Blocks, recovery: Recovery, folder: Path) -> tuple[nn.Module, RecoveryReport]:
    """The recovered model, whole and on the CPU, and the report; called alike in every process of an initialised group."""
    if recovery.recipe != "full":
        raise InputError(
            f"Sharded recovery trains all weights by recipe 'full'; {recovery.recipe!r} fits one device: use claw.recover."
        )
    check_recipe(model, recovery, None, ())
    budgets = schedule.milestones([recovery.tokens], recovery.length, recovery.batch)
    return next(ShardedRun(model, blocks, recovery, budgets, checkpointing=False).go(folder))
