"""Tokens per second of claw's recovery beside transformers' Trainer with peft, step by step in turns, and beside the machine.

    python benchmarks/recover.py [--model smollm2-135m] [--recipe lora] [--steps 6]

Both train the same model on the same blocks in the same number type, batch and optimiser; the Trainer's own step is timed from
its callbacks, and between two of its steps claw takes one; with `full`, also one of distillation from a teacher's 64 most
probable tokens, which were kept. Seconds of the clock and of the processor are given: where others use the machine, the latter
say more. The limit is what the model's own matrix products alone would take.
"""

import argparse
import statistics
import tempfile
import time

import torch
import transformers
from torch.nn import functional as F

import claw
from claw.models import load
from claw.models.anatomy import anatomy
from claw.recovery import recipes, schedule
from claw.recovery.run import Run
from claw.recovery.teacher import remember
from claw.specs.experiment import Recovery
from claw.specs.spec import build_spec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--recipe", default="lora", choices=["lora", "full"])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=8, help="blocks per optimiser step")
    parser.add_argument("--length", type=int, default=512, help="tokens per block")
    parser.add_argument("--rows", type=int, default=4, help="blocks per forward pass of the Trainer; its best here")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    asked = parser.parse_args()
    model, tokenizer = claw.load(asked.model, dtype=asked.dtype)
    count = asked.batch * asked.steps
    blocks = claw.blocks(tokenizer, "wikipedia-train", length=asked.length, count=count, purpose="recovery")
    choices = {"tokens": count * asked.length, "length": asked.length, "batch": asked.batch}
    recovery = build_spec(Recovery, {"recipe": asked.recipe, **choices})
    budgets = schedule.milestones([recovery.tokens], asked.length, asked.batch)
    runs = {"claw": Run(model, blocks, recovery, budgets, targets=recipes.TARGETS)}
    if asked.recipe == "full":
        known, distill = remember(model, blocks, 64), build_spec(Recovery, {"recipe": "distill", "top_k": 64, **choices})
        runs["claw, distill"] = Run(model, blocks, distill, budgets, teacher=known)
    seconds, busy = turns(runs, trainer(model, blocks, recovery, asked))
    limit = limits(model, asked)
    tokens = asked.batch * asked.length
    print(f"{asked.model}, {asked.recipe}, {asked.dtype}, {asked.steps} steps each of {asked.batch} blocks of {asked.length},")
    machine = f"{torch.get_num_threads()} threads, {next(model.parameters()).device}"
    print(f"{machine}; torch {torch.__version__}, transformers {transformers.__version__}")
    rates = {name: tokens / statistics.median(times[1:]) for name, times in seconds.items()}
    for name, rate in rates.items():
        print(f"  {name:34} {rate:8.0f} tokens/s")
    for kind, times in {"of turns": seconds, "of processor seconds": busy}.items():
        told("claw over Trainer", kind, times["Trainer"], times["claw"])
        if asked.recipe == "full":
            told("distill's time over full's", kind, times["claw, distill"], times["claw"])
    passes = 3 if asked.recipe == "full" else 2  # forward, gradient of what is read, gradient of weights
    products = passes * anatomy(model).shape.flops_per_token(asked.length)
    for name, rate in limit.items():
        print(f"  share of the limit, {name:14} {products * rates['claw'] / rate:8.0%}  ({rate / 1e9:.0f} GFLOP/s)")


def told(what: str, kind: str, above: list[float], below: list[float]) -> None:
    """Print the median ratio of two lists of times, the first of each left out."""
    ratios = [a / b for a, b in zip(above[1:], below[1:], strict=True)]
    name = f"{what}, median {kind}"
    print(f"  {name:56} {statistics.median(ratios):6.2f}  (lowest {min(ratios):.2f}, highest {max(ratios):.2f})")


def trainer(model, blocks, recovery: Recovery, asked) -> transformers.Trainer:
    """A Trainer on a copy of the model, with peft's adapters for LoRA."""
    import copy

    student = copy.deepcopy(model).train()
    if recovery.recipe == "lora":
        student = recipes.adapt(student, recovery.rank, recipes.TARGETS, 0)
    labels = blocks.ids.masked_fill(~blocks.scored, -100)
    rows = [{"input_ids": ids, "labels": label} for ids, label in zip(blocks.ids, labels, strict=True)]
    arguments = transformers.TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        max_steps=asked.steps,
        per_device_train_batch_size=asked.rows,
        gradient_accumulation_steps=asked.batch // asked.rows,
        learning_rate=recovery.learning_rate,
        optim="adamw_torch_fused",
        lr_scheduler_type="constant",
        report_to=[],
        **dict.fromkeys(("save_strategy", "logging_strategy"), "no"),
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    return transformers.Trainer(student, arguments, train_dataset=rows)


def turns(runs: dict[str, Run], other: transformers.Trainer) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of each step of the Trainer and of claw's runs, in turns: by the clock, and of the processor."""
    seconds: dict[str, list[float]] = {name: [] for name in (*runs, "Trainer")}
    busy: dict[str, list[float]] = {name: [] for name in seconds}
    for run in runs.values():
        run.student.model.train()

    class Clock(transformers.TrainerCallback):
        def on_step_begin(self, *_, **__):
            self.started = time.perf_counter(), time.process_time()

        def on_step_end(self, *_, **__):
            self.stop("Trainer")
            for name, run in runs.items():
                self.on_step_begin()
                loss, count = run._gradients(run._order(run.budgets[-1].blocks))
                run.weights.step(1.0)
                run.at.step += 1
                self.stop(name)
            taken = ", ".join(f"{name} {times[-1]:.2f} s" for name, times in seconds.items())
            print(f"  step {run.at.step}: {taken}, loss {loss / count:.3f}")

        def stop(self, name: str) -> None:
            seconds[name].append(time.perf_counter() - self.started[0])
            busy[name].append(time.process_time() - self.started[1])

    other.add_callback(Clock())
    other.train()
    return seconds, busy


def limits(model, asked) -> dict[str, float]:
    """FLOP/s of a square product, and of the model's own products at the tokens of one forward pass."""
    parts = anatomy(model)
    layer, tokens = parts.layers[0], asked.rows * asked.length
    linears = [x for x in (layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down) for _ in range(parts.depth)]
    taken = []
    for _ in range(4):
        spent = 0.0
        for linear in [*linears, parts.head]:
            given = torch.ones(tokens, linear.in_features, dtype=model.dtype, device=model.device)
            started = time.perf_counter()
            F.linear(given, linear.weight)[0, 0].item()
            spent += time.perf_counter() - started
        taken.append(spent)
    work = 2 * tokens * sum(linear.weight.numel() for linear in [*linears, parts.head])
    return {"1024³ product": load.matmul_rates(model.device)[asked.dtype], "own products": work / min(taken[1:])}


if __name__ == "__main__":
    main()
