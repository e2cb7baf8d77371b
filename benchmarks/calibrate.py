"""Tokens per second of calibration, with freed memory kept in the process and without, and of the step that refits gains.

    python benchmarks/calibrate.py [--model smollm2-135m] [--tokens 12288] [--rounds 3]

Calibration passes the text through all blocks and adds up what each linear reads (`claw.prune.statistics`). Each turn is a
process of its own, because what glibc does with freed memory (`claw.allocator`) depends on what the process did before; page
faults are counted. In this process the plain pass through the blocks is timed, the moments of the middle block are compared
with those summed in float64, and a step of gains is timed by the training pass of the engine and block by block
(`claw.prune.norm_gains`).
"""

import argparse
import contextlib
import json
import resource
import statistics as averages
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import claw
from claw.allocator import freed_memory_kept
from claw.engine.training import Forward
from claw.files import sha256
from claw.models.anatomy import anatomy
from claw.prune import norm_gains, statistics
from claw.prune.blockwise import check_walk, forward_through, token_batches

TURNS = {"kept": "calibration, freed memory kept", "usual": "calibration, as glibc has it"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=12288)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turn", choices=TURNS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    model, tokenizer = claw.load(asked.model)
    parts, blocks = anatomy(model), claw.blocks(tokenizer, "wikipedia-train", length=512, count=asked.tokens // 512)
    if asked.turn:
        print(json.dumps(turn(parts, blocks, asked.turn)))
        return
    print(f"{asked.model}, {parts.dtype}, {blocks.ids.numel():,} tokens, {torch.get_num_threads()} threads, {parts.device}")
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in TURNS}
    command = [sys.executable, __file__, "--model", asked.model, "--tokens", str(asked.tokens), "--turn"]
    for _ in range(asked.rounds):
        for name, results in turns.items():
            results.append(json.loads(subprocess.run([*command, name], capture_output=True, text=True, check=True).stdout))
    for name, results in turns.items():
        faults = averages.median(result["faults"] for result in results)
        print(f"  {TURNS[name]:34} {rate(blocks, [one['seconds'] for one in results])}, {faults:12,.0f} page faults")
    digests = {result["digest"] for results in turns.values() for result in results}
    print(f"  all calibrations equal bit by bit: {len(digests) == 1}")
    walks = [timed(lambda: walk(parts, blocks))[0] for _ in range(asked.rounds)]
    print(f"  {'the blocks alone, stock':34} {rate(blocks, walks)}")
    print(f"  largest relative difference of a moment from float64: {error(parts, blocks):.1e}")
    gains(parts, blocks)


def turn(parts: Any, blocks: Any, memory: str) -> dict[str, Any]:
    """Calibrate once: seconds, page faults, and a digest of all moments."""
    check_walk(parts)
    with tempfile.TemporaryDirectory() as folder, freed_memory_kept() if memory == "kept" else contextlib.nullcontext():
        seconds, faults = timed(lambda: statistics._collect(parts, blocks, Path(folder)))
        digest = "".join(sha256(path) for path in sorted(Path(folder).iterdir()))
    return {"seconds": seconds, "faults": faults, "digest": digest}


def rate(blocks: Any, seconds: list[float]) -> str:
    """Tokens per second in words."""
    rates = [blocks.ids.numel() / each for each in seconds]
    return f"{averages.median(rates):6.0f} tokens/s ({min(rates):.0f} to {max(rates):.0f})"


def timed(run: Any) -> tuple[float, int]:
    """Seconds, and page faults."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
    run()
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def walk(parts: Any, blocks: Any) -> None:
    """The text through all blocks, batch by batch."""
    for ids in token_batches(parts, blocks.ids, at_least=2):
        forward_through(parts, ids)


@torch.no_grad()
def error(parts: Any, blocks: Any) -> float:
    """The largest |G - G₆₄| / |G₆₄| of the sites of the middle block, whose moments a calibration gave."""
    layer = parts.layers[parts.depth // 2]
    rows: dict[str, list[torch.Tensor]] = {"heads": [], "ffn": []}
    keep = lambda site: lambda module, args: rows[site].append(args[0].flatten(0, -2))
    handles = [layer.o.register_forward_pre_hook(keep("heads")), layer.down.register_forward_pre_hook(keep("ffn"))]
    try:
        walk(parts, blocks)
    finally:
        for handle in handles:
            handle.remove()
    with tempfile.TemporaryDirectory() as folder:
        statistics._collect(parts, blocks, Path(folder))
        moments = load_file(Path(folder) / f"{layer.index:03d}.safetensors")
    apart = []
    for site, parts_of in rows.items():
        exact = sum(part.double().T @ part.double() for part in parts_of) / blocks.ids.numel()
        apart.append(float((moments[f"{site}.gram"] - exact).norm() / exact.norm()))
    return max(apart)


def gains(parts: Any, blocks: Any) -> None:
    """Print how long a step of gains takes in both ways."""
    parts.model.requires_grad_(False)
    forward, part = Forward(parts.model), blocks.part(slice(0, norm_gains.STEP_TOKENS // blocks.length))
    if forward.decoder is None:
        print(f"  gains block by block only: {forward.reason}")
        return
    chosen = lambda layer: norm_gains._cheap_ones(layer, biases=True)
    weights = norm_gains._weights(parts, chosen)
    at_once, apart = [], []
    for _ in range(5):
        at_once.append(timed(lambda: norm_gains._at_once(forward, part.ids, part.scored, weights, len(part.ids)))[0])
        apart.append(timed(lambda: norm_gains._gradients(parts, part.ids, part.scored, chosen))[0])
    ratios = [slow / fast for slow, fast in zip(apart[1:], at_once[1:], strict=True)]
    both = f"{averages.median(at_once[1:]):.1f} s, block by block {averages.median(apart[1:]):.1f} s"
    times = f"{averages.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"  a step of gains, {part.ids.numel():,} tokens: {both}: {times}")


if __name__ == "__main__":
    main()
