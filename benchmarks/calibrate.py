"""Tokens per second of calibration beside the model's plain forward pass, and of the step that refits gains, in turns.

    python benchmarks/calibrate.py [--model smollm2-135m] [--tokens 16384] [--rounds 3]

Calibration passes the text through all blocks and adds up what each linear reads (`claw.prune.statistics`). It is timed with
freed memory kept in the process and without (`claw.allocator`), with the page faults of each. Two calibrations are compared bit
by bit, and the moments of a block in the middle with those summed in float64. A step of gains is timed by the training pass of
the engine and block by block (`claw.prune.norm_gains`).
"""

import argparse
import contextlib
import resource
import statistics as averages
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

import claw
from claw.allocator import freed_memory_kept
from claw.engine.training import Forward
from claw.models.anatomy import anatomy
from claw.prune import norm_gains, statistics
from claw.prune.blockwise import first_inputs, run_block, token_batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    model, tokenizer = claw.load(asked.model)
    parts, blocks = anatomy(model), claw.blocks(tokenizer, "wikipedia-train", length=512, count=asked.tokens // 512)
    print(f"{asked.model}, {parts.dtype}, {blocks.ids.numel():,} tokens, {torch.get_num_threads()} threads, {parts.device}")
    turns: dict[str, list[tuple[float, int]]] = {}
    with tempfile.TemporaryDirectory() as place:
        for number in range(asked.rounds):
            kept, plain = Path(place) / f"kept-{number}", Path(place) / f"plain-{number}"
            turns.setdefault("blocks alone, stock", []).append(timed(lambda: walk(parts, blocks), freed_memory_kept()))
            for name, folder, memory in (
                ("calibration, freed memory kept", kept, freed_memory_kept()),
                ("calibration, as glibc has it", plain, contextlib.nullcontext()),
            ):
                folder.mkdir()
                collect = lambda folder=folder: statistics._collect(parts, blocks, folder)
                turns.setdefault(name, []).append(timed(collect, memory))
        for name, values in turns.items():
            rates = [blocks.ids.numel() / seconds for seconds, _ in values]
            faults = averages.median(count for _, count in values)
            said = f"{averages.median(rates):6.0f} tokens/s ({min(rates):.0f} to {max(rates):.0f})"
            print(f"  {name:34} {said}, {faults:12,.0f} page faults")
        print(f"  all calibrations equal bit by bit: {same(place)}")
    print(f"  largest relative difference of a moment from float64: {error(parts, blocks):.1e}")
    gains(parts, blocks)


def timed(run, memory) -> tuple[float, int]:
    """Seconds, and page faults."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
    with memory:
        run()
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@torch.no_grad()
def walk(parts, blocks) -> None:
    """The text through all blocks, batch by batch."""
    for ids in token_batches(parts, blocks.ids, at_least=2):
        hidden, arguments = first_inputs(parts, ids)
        for layer in parts.layers:
            hidden = run_block(layer, hidden, arguments[layer.index])


def same(place: str) -> bool:
    """Whether all folders hold the same moments."""
    first, *others = sorted(Path(place).iterdir())
    names = sorted(path.name for path in first.glob("*.safetensors"))
    equal = lambda one, other: one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    return all(equal(load_file(first / name), load_file(other / name)) for other in others for name in names)


@torch.no_grad()
def error(parts, blocks) -> float:
    """Of what the down projection of the middle block reads: |G - G₆₄| / |G₆₄|."""
    layer, rows = parts.layers[parts.depth // 2], []
    handle = layer.down.register_forward_pre_hook(lambda module, args: rows.append(args[0].flatten(0, -2)))
    try:
        walk(parts, blocks)
    finally:
        handle.remove()
    gram = statistics.Gram(layer.down.in_features, parts.device, parts.dtype)
    for part in rows:
        gram.add(part)
    exact = sum(part.double().T @ part.double() for part in rows)
    return float((gram.total() - exact).norm() / exact.norm())


def gains(parts, blocks) -> None:
    """Print how long a step of gains takes in both ways."""
    parts.model.requires_grad_(False)
    forward, part = Forward(parts.model), blocks.part(slice(0, norm_gains.STEP_TOKENS // blocks.length))
    if forward.decoder is None:
        print(f"  gains block by block only: {forward.reason}")
        return
    chosen = lambda layer: norm_gains._cheap_ones(layer, biases=True)
    weights = [weight for layer in parts.layers for weight in chosen(layer)] + list(parts.norm.parameters())
    at_once, apart = [], []
    for _ in range(4):
        at_once.append(timed(lambda: norm_gains._at_once(forward, part.ids, part.scored, weights), freed_memory_kept())[0])
        apart.append(timed(lambda: norm_gains._gradients(parts, part.ids, part.scored, chosen), freed_memory_kept())[0])
    ratios = [slow / fast for slow, fast in zip(apart[1:], at_once[1:], strict=True)]
    print(
        f"  a step of gains, {part.ids.numel():,} tokens: {averages.median(at_once[1:]):.1f} s, block by block "
        f"{averages.median(apart[1:]):.1f} s: {averages.median(ratios):.2f} times as fast "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
