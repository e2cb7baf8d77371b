"""Full fine-tuning of one checkpoint over several devices, from the command line.

accelerate launch --num_processes 8 -m claw.stages.recover_sharded CHECKPOINT OUT --tokens 10000000
torchrun --standalone --nproc_per_node 2 -m claw.stages.recover_sharded CHECKPOINT OUT --tokens 100000  # processors only
"""

import argparse
from pathlib import Path

import torch
import torch.distributed as dist

from claw.recovery.sharded import recover_sharded
from claw.specs.experiment import Recovery
from claw.stages import checkpoints


def main() -> None:
    """Recover a checkpoint over all processes that were launched; the first one saves it."""
    from accelerate import PartialState

    import claw

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--learning-rate", type=float)
    for name, default in {"corpus": "wikipedia-train", "length": 512, "batch": 8, "dtype": "auto"}.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    asked = parser.parse_args()
    checkpoints.check_place(asked.out, asked.checkpoint)  # before hours of work
    state = PartialState(cpu=not torch.cuda.is_available())
    model, tokenizer = claw.load(asked.checkpoint, dtype=asked.dtype, device=str(state.device))
    names = "tokens corpus length batch learning_rate".split()
    recovery = Recovery(recipe="full", **{name: getattr(asked, name) for name in names})
    count = recovery.tokens // recovery.length
    blocks = claw.blocks(tokenizer, asked.corpus, length=asked.length, count=count, purpose="recovery", seed=1)
    small, report = recover_sharded(model, blocks, recovery, asked.out.parent)
    first = dist.get_rank() == 0
    dist.destroy_process_group()  # saving loads the checkpoint again, in this process alone
    if first:
        print(f"{report.tokens:,} tokens in {report.seconds:.0f} s, {report.tokens_per_second:.0f} tokens/s")
        compression = checkpoints.experiment_of(asked.checkpoint).compression
        experiment = checkpoints.Experiment(compression=compression, recovery=recovery)
        checkpoints.save(small, tokenizer, asked.out, experiment=experiment, base_model=compression.model)


if __name__ == "__main__":
    main()
