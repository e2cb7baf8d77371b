"""Blocks that go: cut out, or merged into the one before? The shapes that `claw` chooses, everything else alike.

    python benchmarks/merging.py [--model smollm2-135m] [--ratios .3 .5 .7]

- `cut`: a block that stays is fitted to what the dense one gave (as `claw` did before);
- `ahead`: it is fitted to what the dense one and the removed ones after it gave together;
- `merged`: the neurons of the removed ones compete with its own, too (`claw`).

All refits, those of the gains included, are those of `claw`.
"""

import argparse
import time

import pandas as pd

import claw
from claw.evaluate import held_out
from claw.models.anatomy import anatomy
from claw.prune import allocation, surgery, whole_model
from claw.words import markdown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.3, 0.5, 0.7], help="of all parameters")
    parser.add_argument("--ways", nargs="+", choices=("cut", "ahead", "merged"), default=["cut", "ahead", "merged"])
    parser.add_argument("--calibration", type=int, default=65_536, help="tokens")
    parser.add_argument("--heldout-blocks", type=int, default=16, help="of 512 tokens")
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    model, tokenizer = claw.load(asked.model, device=asked.device)
    parts = anatomy(model)
    heldout = claw.blocks(tokenizer, "wikipedia-heldout", purpose="heldout", count=asked.heldout_blocks)
    statistics = claw.calibrate(model, claw.blocks(tokenizer, "wikipedia-train", count=asked.calibration // 512))
    costs, rows = whole_model.costs(parts, statistics), []
    for ratio in asked.ratios:
        target = allocation.cheapest_shape(parts.shape, costs, ratio, "params")
        merged = whole_model.units_of(parts, target, statistics)
        cut = whole_model.units_of(parts, target, statistics, merge=False)
        ways = {"cut": cut, "ahead": surgery.Units(cut.layers, cut.kept, merged.runs), "merged": merged}
        for way in asked.ways:
            started = time.perf_counter()
            small = whole_model.build_shape(parts, target, statistics, ways[way])
            row = {"removed": ratio, "blocks": target.depth, "way": way, "loss": held_out.cross_entropy(small, heldout).mean}
            rows.append(row | {"seconds": round(time.perf_counter() - started)})
            print(rows[-1], flush=True)
    print(f"\n{markdown(pd.DataFrame(rows).round(3))}")


if __name__ == "__main__":
    main()
