"""Speed of compressed checkpoints beside the dense model at true whole-model reductions, and what widths off the grid cost.

    python benchmarks/speed.py [--methods wanda-sp+ridge slicegpt shortgpt] [--ratios 0.5 0.9] [--rounding 1 8 32 64]

Weights do not change speed, so methods that cut the same shape are as fast as each other; the table is of shapes by method.
A ratio that a method cannot reach is said so. Prints one row per method, ratio, phase and batch, and one table of roundings.
"""

import argparse

import torch

import claw
from claw.errors import InputError
from claw.evaluate import timing
from claw.models.anatomy import anatomy, describe
from claw.specs import methods
from claw.specs.experiment import Calibration
from claw.stages.compress import statistics_for

OFF = 13  # neurons beside half the width: every multiple up to 16 rounds them elsewhere


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--methods", nargs="+", default=["magnitude", "slicegpt", "shortgpt"])
    parser.add_argument("--ratios", nargs="*", type=float, default=[0.5, 0.9], help="none: only the table of roundings")
    parser.add_argument("--ratio-of", default="params", help="what a ratio counts; params is the whole model")
    parser.add_argument("--rounding", nargs="*", type=int, default=[1, 8, 16, 32, 64], help="multiples of widths to compare")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--compiled", action="store_true")
    asked = parser.parse_args()
    dense, tokenizer = claw.load(asked.model, dtype=asked.dtype)
    choices = {name: getattr(asked, name) for name in ("prompt", "generate", "batches", "rounds", "compiled")}
    print(f"{asked.model} in {dense.dtype} on {dense.device}, {torch.get_num_threads()} threads, prompt {asked.prompt},")
    print(f"{asked.generate} tokens generated, {asked.rounds} rounds A B A B")
    print(f"{'method':24} {'ratio':>5} {'true':>5}  phase   batch  speed-up [95 % interval]  ideal  of ideal  memory")
    for method in asked.methods:
        statistics = None
        if methods.needs_statistics(method):
            gradients = methods.needs_gradients(method)
            statistics = statistics_for(Calibration(), 0, dense, tokenizer, gradients=gradients)
        for ratio in asked.ratios:
            try:
                small, report = claw.compress(dense, method, ratio, ratio_of=asked.ratio_of, statistics=statistics)
            except InputError as error:
                print(f"{method:24} {ratio:5.2f} not reached: {error}")
                continue
            show(f"{method:24} {ratio:5.2f} {report.ratio_params:5.2f}", claw.measure_speed(small, against=dense, **choices))
    if asked.rounding:
        roundings(dense, asked, choices)


def show(name: str, report: timing.SpeedReport) -> None:
    for t in report.timings:
        measured = f"{name}  {t.phase:8}{t.batch:5}  {t.speedup:6.2f} [{t.low:.2f}, {t.high:.2f}]".ljust(len(name) + 42)
        print(f"{measured}{t.ideal:6.2f}  {t.of_ideal:8.0%}  {report.memory / report.memory0:6.0%}", flush=True)


def roundings(dense, asked, choices) -> None:
    """Speed of one nominal width that falls off the grid, rounded to different multiples."""
    width = anatomy(dense).width
    print(f"\nFFN width asked for: {width * 0.5 + OFF:.0f} of {width}, rounded to multiples")
    for multiple in asked.rounding:
        small, _ = claw.compress(dense, "magnitude", 0.5 - OFF / width, ratio_of="ffn", round_to=multiple)
        show(f"multiple {multiple:4}, width {describe(small).width:5}", claw.measure_speed(small, against=dense, **choices))


if __name__ == "__main__":
    main()
