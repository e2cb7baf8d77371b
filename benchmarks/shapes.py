"""How well the costs of single axes predict models that are cut on several: `claw` chooses its shapes by them.

python benchmarks/shapes.py                 # 24 shapes drawn at random; resumes where it stopped
python benchmarks/shapes.py --shapes 8

Budgets are drawn evenly from 10 to 90 %, and a shape evenly from all that meet them. Each is built and its held-out excess loss
compared with what two rules would have said beforehand: that of `claw`, and the plain sum of the costs.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
from methods import rows, setting
from scipy.stats import spearmanr

import claw
from claw.evaluate import held_out
from claw.models.anatomy import anatomy
from claw.models.shape import Shape
from claw.prune import allocation, targets, whole_model
from claw.specs.methods import AXES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--shapes", type=int, default=24)
    parser.add_argument("--calibration-blocks", type=int, default=32, help="of 512 tokens")
    parser.add_argument("--heldout-blocks", type=int, default=32, help="of 512 tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-shapes"))
    asked = parser.parse_args()

    model, calibration, heldout = setting(asked)
    parts, statistics = anatomy(model), claw.calibrate(model, calibration)
    dense, costs = parts.shape, whole_model.costs(parts, statistics)
    asked.out.mkdir(parents=True, exist_ok=True)
    known = rows(asked.out)
    shapes = drawn(dense, costs, asked.shapes, asked.seed)
    dense_loss = held_out.cross_entropy(model, heldout).mean
    print("  hidden  blocks  groups   width  removed  measured  predicted", flush=True)
    excess = []
    for shape in shapes:
        measured = next((row["excess"] for row in known if row["shape"] == dataclasses.asdict(shape)), None)
        if measured is None:
            measured = held_out.cross_entropy(whole_model.build_shape(parts, shape, statistics), heldout).mean - dense_loss
            with (asked.out / "rows.jsonl").open("a") as file:
                file.write(json.dumps({"shape": dataclasses.asdict(shape), "excess": measured}) + "\n")
        excess.append(measured)
        sizes = f"  {shape.hidden:6}  {shape.depth:6}  {shape.groups:6}  {shape.width:6}"
        removed, predicted = targets.removed(dense, shape, "params"), costs.of(dense, shape)
        print(f"{sizes}  {removed:7.3f}  {measured:8.3f}  {predicted:9.3f}", flush=True)
    report(dense, costs, shapes, np.array(excess))


def drawn(dense: Shape, costs: allocation.Costs, count: int, seed: int) -> list[Shape]:
    """Shapes whose costs are known on every axis, at budgets drawn evenly."""
    generator, shapes = np.random.default_rng(seed), []
    removed = lambda shape: targets.removed(dense, shape, "params")
    while len(shapes) < count:
        ratio = generator.uniform(0.1, 0.9)
        near = [
            shape
            for shape in allocation.candidate_shapes(dense, costs.points, ratio, removed)
            if abs(removed(shape) - ratio) <= allocation.NEAR and np.isfinite(costs.of(dense, shape))
        ]
        if near:
            shapes.append(near[generator.integers(len(near))])
    return shapes


def report(dense: Shape, costs: allocation.Costs, shapes: list[Shape], excess: np.ndarray) -> None:
    """Root mean square error of each rule, and how well it orders the shapes."""
    added = [sum(costs.excess(axis, targets.removed(dense, shape, axis)) for axis in AXES) for shape in shapes]
    print(f"over {len(shapes)} shapes: rms error in nats per token, and rank correlation with what was measured")
    for name, predicted in (("claw's rule", [costs.of(dense, shape) for shape in shapes]), ("sum of the costs", added)):
        off = float(np.sqrt(np.mean((np.array(predicted) - excess) ** 2)))
        print(f"  {name:18} {off:.3f}  {spearmanr(predicted, excess).statistic:.2f}")


if __name__ == "__main__":
    main()
