"""The law of calibration text: held-out loss against tokens of it, by method and ratio, and what training on as much would do.

    python benchmarks/calibration_text.py                      # the table and the law of results/calibration_text.csv
    python benchmarks/calibration_text.py --measure rows.csv --methods claw flap+ridge --tokens 16384 65536 --device cuda

L(C) = L_inf + a (16384 / C)^b is fitted to each method and ratio with at least four points. `bends` is the number of tokens
beyond which twice as many gain less than .02 nats. Rows of `regression` are the linear refit alone at a fixed shape; those of
`claw` choose a shape and refit the norms' gains too.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

import claw
from claw.evaluate import held_out
from claw.models.anatomy import anatomy
from claw.words import markdown

KEPT = Path(__file__).resolve().parent.parent / "results" / "calibration_text.csv"
UNIT = 16384  # tokens: where the law's factor is 1
ENOUGH = 0.02  # nats that a doubling must gain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", type=Path, metavar="CSV", help="measure first, and write the rows there")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--methods", nargs="+", default=["wanda-sp+ridge", "flap+ridge", "claw"])
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.3, 0.5, 0.7, 0.9])
    parser.add_argument("--tokens", nargs="+", type=int, default=[4096, 16384, 65536, 262144])
    parser.add_argument("--heldout-blocks", type=int, default=128, help="of 512 tokens")
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    if asked.measure:
        measured(asked).to_csv(asked.measure, index=False)
    show(pd.read_csv(asked.measure or KEPT))


def measured(asked: argparse.Namespace) -> pd.DataFrame:
    """One row for each method, ratio of its own axis and number of calibration tokens."""
    model, tokenizer = claw.load(asked.model, device=asked.device)
    heldout = claw.blocks(tokenizer, "wikipedia-heldout", purpose="heldout", count=asked.heldout_blocks)
    rows = []
    for tokens in sorted(asked.tokens):
        statistics = claw.calibrate(model, claw.blocks(tokenizer, "wikipedia-train", count=tokens // 512))
        for method in asked.methods:
            for ratio in asked.ratios:
                small, report = claw.compress(model, method, ratio, statistics=statistics)
                loss = held_out.cross_entropy(small, heldout).mean
                shape = anatomy(small).shape
                named = f"d {shape.hidden} depth {shape.depth} m {shape.width} groups {shape.groups}"
                known = {"method": method, "ratio_of": report.ratio_of, "ratio": ratio, "ratio_params": report.ratio_params}
                rows.append(known | {"tokens": tokens, "shape": named, "loss": loss})
                print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def show(rows: pd.DataFrame) -> None:
    """Losses by tokens, and the law of each curve."""
    table = rows.pivot_table(index=["method", "ratio", "ratio_params"], columns="tokens", values="loss").sort_index(axis=1)
    print(table.round(3).to_string(na_rep="-"))
    laws = []
    for (method, ratio), part in rows.groupby(["method", "ratio"], sort=False):
        if len(part) >= 4:
            laws.append({"method": method, "ratio": ratio} | law(part["tokens"].to_numpy(float), part["loss"].to_numpy(float)))
    print(f"\nL(C) = L_inf + a ({UNIT:,} / C)^b\n")
    print(markdown(pd.DataFrame(laws)))


def law(tokens: np.ndarray, losses: np.ndarray) -> dict[str, float | str]:
    """Floor, size and exponent of one curve with standard errors, and where it bends."""

    def off(values: np.ndarray) -> np.ndarray:
        floor, size, power = values
        return floor + np.exp(size) * (UNIT / tokens) ** np.exp(power) - losses

    start = np.array([losses.min() - 0.02, np.log(max(losses.max() - losses.min(), 0.01)), np.log(0.7)])
    fit = least_squares(off, start)
    floor, size, power = fit.x[0], np.exp(fit.x[1]), np.exp(fit.x[2])
    spread = np.sqrt(2 * fit.cost / max(1, len(losses) - 3))
    errors = spread * np.sqrt(np.diag(np.linalg.pinv(fit.jac.T @ fit.jac)))
    # a doubling gains a (UNIT/C)^b (1 - 2^-b)
    bends = UNIT * (size * (1 - 2**-power) / ENOUGH) ** (1 / power)
    return {
        "L_inf": f"{floor:.3f} ± {errors[0]:.3f}", "a": f"{size:.3f}", "b": f"{power:.2f} ± {power * errors[2]:.2f}",
        "off by": f"{spread:.3f}", "bends at": f"{bends:,.0f}" if bends <= 4 * tokens.max() else "beyond what was measured",
    }  # fmt: skip


if __name__ == "__main__":
    main()
