"""Does the interval of a critical ratio hold the truth? Curves of five shapes, with noise, read off as users read theirs.

    python benchmarks/brackets.py [--curves 300]

Each curve has its own coefficients and its own threshold, a share of its rise. Seeds scatter by 1, 2 or 3 % of the loss (as
they do on models of this size), each evaluation errs by 0.5 %, the same for all seeds of a ratio, as one text is read.
Designs: nine ratios (0.1 to 0.9) or five (0.1, 0.3 ... 0.9), with three seeds, or with one seed in a table where another
method has three. Prints shape × design: share of 95 % intervals that hold the truth (target: 93 to 97 %) and their median
width in r; below, the same for curves with one seed in a table that knows no noise at all.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from claw.laws import read_points
from claw.laws.reading import read_curves

NINE = tuple(round(0.1 * i, 1) for i in range(1, 10))
FIVE = (0.1, 0.3, 0.5, 0.7, 0.9)
NOISE, EVALUATION = (0.01, 0.02, 0.03), 0.005
DESIGNS = {
    "9 ratios, 3 seeds": (NINE, 3, True),
    "9 ratios, 1 seed": (NINE, 1, True),
    "5 ratios, 3 seeds": (FIVE, 3, True),
    "5 ratios, 1 seed": (FIVE, 1, True),
    "9 ratios, 1 seed, noise unknown": (NINE, 1, False),
    "5 ratios, 1 seed, noise unknown": (FIVE, 1, False),
}
TOGETHER = 10  # curves in one table, which share what is known of its noise
END = 0.9
Curve = Callable[[np.ndarray], np.ndarray]


def convex(draw: np.random.Generator) -> Curve:
    """1 + a r^b."""
    a, b = even_log(draw, 0.5, 4), draw.uniform(1.5, 3)
    return lambda r: 1 + a * r**b


def sigmoid(draw: np.random.Generator) -> Curve:
    """1 + p r^k / (r^k + m^k): half of the rise at m."""
    p, m, k = even_log(draw, 1, 5), draw.uniform(0.3, 0.7), draw.uniform(2, 6)
    return lambda r: 1 + p * r**k / (r**k + m**k)


def capacity(draw: np.random.Generator) -> Curve:
    """1 + a ((1-r)^-k - 1)."""
    rise, k = even_log(draw, 0.5, 5), even_log(draw, 0.2, 2)
    return lambda r: 1 + rise * np.expm1(-k * np.log1p(-r)) / np.expm1(-k * np.log1p(-END))


def nearly_linear(draw: np.random.Generator) -> Curve:
    """1 + b r (1 + c r)."""
    b, c = even_log(draw, 0.4, 3), draw.uniform(-0.2, 0.2)
    return lambda r: 1 + b * r * (1 + c * r)


def plateau(draw: np.random.Generator) -> Curve:
    """1 + p (1 - exp(-(r/s)^k))."""
    p, s, k = even_log(draw, 0.5, 4), draw.uniform(0.15, 0.5), draw.uniform(1, 3)
    return lambda r: 1 - p * np.expm1(-((r / s) ** k))


SHAPES = (convex, sigmoid, capacity, nearly_linear, plateau)


def even_log(draw: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(draw.uniform(np.log(low), np.log(high))))


def measured(draw, curve: Curve, name: str, ratios, seeds: int, noise: float, method: str = "cut") -> list[dict]:
    """Rows of one curve as an experiment would give them."""
    start, rows = even_log(draw, 1.5, 4), []
    for r in (0.0, *ratios):
        error = EVALUATION * draw.standard_normal()
        for seed in range(seeds if r else 1):
            scatter = noise * draw.standard_normal() if r else 0.0
            row = {"model": name, "method": method if r else "dense", "ratio": r, "seed": seed, "recovery_tokens": 0}
            rows.append(row | {"loss": start * float(curve(np.array(r))) * np.exp(error + scatter)})
    return rows


def truth(draw, curve: Curve) -> tuple[float, float]:
    """A threshold between a tenth and nine tenths of the rise in log loss, and the ratio at which it is met."""
    threshold = float(np.exp(draw.uniform(0.1, 0.9) * np.log(curve(np.array(END)))))
    low, high = 0.0, END
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if curve(np.array(middle)) < threshold else (low, middle)
    return threshold, low


def bracket_coverage(shape, ratios, seeds: int, known: bool, curves: int, seed: int = 0) -> tuple[float, float]:
    """Share of intervals that hold the truth, and their median width; an end beyond the measured range counts as that range."""
    draw, hits, widths = np.random.default_rng([seed, len(ratios), seeds, known, SHAPES.index(shape)]), [], []
    for noise in np.repeat(NOISE, max(1, curves // len(NOISE) // TOGETHER)):
        rows, truths = [], {}
        for number in range(min(TOGETHER, curves // len(NOISE))):
            curve, name = shape(draw), f"m{number}"
            rows += measured(draw, curve, name, ratios, seeds, noise)
            truths[name] = truth(draw, curve)
        if known and seeds == 1:
            rows += measured(draw, curve, "other", ratios, 3, noise, "seeded")
        table = pd.DataFrame(rows)
        table = table.assign(loss_stderr=EVALUATION * table["loss"]) if known else table
        for one in read_curves(read_points(table), "loss"):
            if one.curve.model in truths:
                threshold, at = truths[one.curve.model]
                answer = one.critical_ratio(threshold)
                low, high = np.nan_to_num(answer.low, nan=0.0), np.nan_to_num(answer.high, nan=END)
                hits.append(low <= at <= high)
                widths.append(high - low)
    return float(np.mean(hits)), float(np.median(widths))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--curves", type=int, default=600, help="per shape and design")
    asked = parser.parse_args()
    started = time.perf_counter()
    print("share of 95 % intervals that hold the truth (median width in r)")
    print(f"{'':34}" + "".join(f"{shape.__name__:>18}" for shape in SHAPES) + f"{'all':>10}", flush=True)
    with threadpool_limits(1):
        for name, (ratios, seeds, known) in DESIGNS.items():
            cells = [bracket_coverage(shape, ratios, seeds, known, asked.curves) for shape in SHAPES]
            shown = "".join(f"{f'{share:.1%} ({width:.3f})':>18}" for share, width in cells)
            print(f"{name:34}{shown}{np.mean([share for share, _ in cells]):>10.1%}", flush=True)
    print(f"{asked.curves} curves in each cell, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
