"""Prune, recover, prune again: the same cut and the same recovery tokens, in one step and in several.

    python benchmarks/gradual.py [--method wanda-sp+ridge] [--ratios .3 .5] [--steps 1 2 3] [--tokens 102400]

Each step removes an equal share of the dense model's parameters from the model as it is by then, with calibration statistics of
that model, and recovers it with an equal part of the tokens; all orders read the same recovery text and the same calibration
text. One line of JSON for each way, the table at the end.
"""

import argparse
import json
import time
from typing import Any

import pandas as pd

import claw
from claw.evaluate import held_out
from claw.models.anatomy import anatomy
from claw.words import markdown

LENGTH = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--method", default="wanda-sp+ridge")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.3, 0.5], help="of all parameters")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--tokens", type=int, default=102_400, help="of recovery, over all steps")
    parser.add_argument("--calibration", type=int, default=65_536, help="tokens, at each step")
    parser.add_argument("--recipe", default="lora")
    parser.add_argument("--heldout-blocks", type=int, default=32)
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    dense, tokenizer = claw.load(asked.model, device=asked.device)
    text = lambda purpose, count, corpus="wikipedia-train": claw.blocks(
        tokenizer, corpus, length=LENGTH, count=count, purpose=purpose
    )
    heldout = text("heldout", asked.heldout_blocks, "wikipedia-heldout")
    calibration = text("calibration", asked.calibration // LENGTH)
    recovery = text("recovery", asked.tokens // LENGTH)
    rows = [
        in_steps(dense, asked, ratio, steps, calibration, recovery, heldout) for ratio in asked.ratios for steps in asked.steps
    ]
    print(f"\n{markdown(pd.DataFrame(rows).round(4))}")


def in_steps(dense: Any, asked: argparse.Namespace, ratio: float, steps: int, calibration, recovery, heldout) -> dict[str, Any]:
    """The loss after a cut of `ratio` in so many steps, each recovered with its part of the blocks; the row that is printed."""
    started, small, cut_losses = time.perf_counter(), dense, []
    whole, size = anatomy(dense).shape.parameters, len(recovery) // steps
    for step in range(1, steps + 1):
        left = 1 - ratio * step / steps
        share = 1 - left * whole / anatomy(small).shape.parameters
        statistics = claw.calibrate(small, calibration)
        small, _ = claw.compress(small, asked.method, share, ratio_of="params", statistics=statistics)
        cut_losses.append(round(held_out.cross_entropy(small, heldout).mean, 4))
        part = recovery.part(slice((step - 1) * size, step * size))
        small, _ = claw.recover(small, part, tokens=size * LENGTH, recipe=asked.recipe)
    row = {
        "method": asked.method, "ratio": ratio, "steps": steps, "tokens": steps * size * LENGTH,
        "true": 1 - anatomy(small).shape.parameters / whole, "after_cuts": " ".join(map(str, cut_losses)),
        "loss": held_out.cross_entropy(small, heldout).mean, "seconds": round(time.perf_counter() - started),
    }  # fmt: skip
    print(json.dumps(row), flush=True)
    return row


if __name__ == "__main__":
    main()
