"""Where tokens should go: calibration, recovery, or a smaller cut? Laws of both, and the best split of a budget of compute.

    python benchmarks/split.py [--out figures]           # fits results/, prints the rule, draws figures/text_split
    python benchmarks/split.py --measure rows.csv        # does recovery keep the same share whatever the calibration text?

The laws are those of `claw.laws.text_split`. A cut is the linear refit of `claw` at a fixed shape (rows `regression` of
results/calibration_text.csv), recovery is LoRA of rank 32 at 1e-3, the only recipe that results/recovery_recipes.csv has at
three cuts. `--measure` compresses one model after several amounts of calibration text and recovers each by the same text;
what it printed last is in results/calibration_then_recovery.csv.
"""

import argparse
from pathlib import Path

import pandas as pd

import claw
from claw.evaluate import held_out
from claw.figures.splits import text_splits
from claw.laws import text_split
from claw.models.anatomy import anatomy
from claw.recovery import run
from claw.specs.experiment import Recovery
from claw.specs.spec import build_spec
from claw.words import markdown

RESULTS = Path(__file__).resolve().parent.parent / "results"
CUTS = (0.2, 0.4, 0.6)  # shares of all parameters removed; 0.8 is beyond the cuts that recovery was measured at
LENGTH = 512
MOST = 131072  # tokens of calibration text beyond which nothing more was gained: docs/methods.md
DENSE_16K, DENSE_64K = 3.0712, 3.06  # the dense model on the held-out tokens of recovery_recipes.csv, of calibration_text.csv
BUDGETS = (3e12, 3e15)
TARGETS = (3.4, 3.75, 4.0, 4.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="draw the figure there")
    parser.add_argument(
        "--prices", type=float, nargs=2, metavar=("CALIBRATION", "RECOVERY"), help="of a token; FLOPs if not given"
    )
    parser.add_argument("--measure", type=Path, metavar="CSV", help="measure, and write the rows there")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--method", default="wanda-sp+ridge")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--calibration", type=int, nargs="+", default=[4096, 16384, 131072], help="tokens")
    parser.add_argument("--tokens", type=int, nargs="+", default=[51200, 102400], help="of recovery")
    parser.add_argument("--heldout-blocks", type=int, default=32, help="of 512 tokens")
    asked = parser.parse_args()
    if asked.measure:
        measure(asked)
    else:
        show(asked)


def show(asked: argparse.Namespace) -> None:
    """The laws with what they miss, the rule and the best splits, as tables; the figure, if a folder is given."""
    whole = anatomy(claw.load(asked.model)[0]).shape
    texts, recipes = (pd.read_csv(RESULTS / f"{name}.csv") for name in ("calibration_text", "recovery_recipes"))
    texts = texts[(texts["method"] == "regression") & texts["ratio"].isin(CUTS)]
    curves = text_split.calibration_laws(*(texts[name].to_numpy(float) for name in ("tokens", "loss", "ratio")))
    off = texts["loss"] - [curves[row.ratio].loss(row.tokens) for row in texts.itertuples()]
    print(f"Calibration, {len(texts)} points, rms {(off**2).mean() ** 0.5:.3f} nats:")
    for cut, law in curves.items():
        print(f"  {cut:.0%} removed: L(C) = {law.floor:.3f} + {law.size:.3f} (16,384 / C)^{law.exponent:.2f}")
    rows = recipes.query("recipe == 'lora' and rank == 32 and learning_rate == 0.001")
    kept = (rows["loss_16k"] - DENSE_16K) / (rows["start_16k"] - DENSE_16K)
    at = text_split.recovery_law(*(values.to_numpy(float) for values in (rows["ratio"], rows["tokens"], kept)))
    off = kept - [at(row.ratio).kept(row.tokens) for row in rows.itertuples()]
    print(f"Recovery, {len(rows)} points, rms {(off**2).mean() ** 0.5:.3f} of the share kept:")
    splits = {}
    for cut, law in curves.items():
        own = texts[texts["ratio"] == cut]
        small = text_split.shape_named(own["shape"].iloc[0], whole)
        flops = text_split.calibration_flops(whole, small, LENGTH), text_split.recovery_flops(small, LENGTH)
        recovery, prices = at(float(own["ratio_params"].iloc[0])), asked.prices or flops
        print(f"  {cut:.0%} removed: kept(D) = (1 + D / {recovery.onset:,.0f})^-{recovery.power:.3f}")
        splits[f"{cut:.0%}"] = text_split.TextSplit(
            calibration=law, recovery=recovery, dense=DENSE_64K, fewest=own["tokens"].min(), most=MOST,
            calibration_price=prices[0], recovery_price=prices[1],
        )  # fmt: skip
        if not asked.prices:
            told = [f"{price / whole.flops_per_token(LENGTH):.2f}" for price in (*flops, small.flops_per_token(LENGTH))]
            print(f"    in passes of the dense model: calibration {told[0]}, recovery {told[1]}, a token served {told[2]}")
    print()
    print(markdown(pd.DataFrame(table(splits, whole.flops_per_token(LENGTH) if not asked.prices else asked.prices[0]))))
    for name, split in splits.items():
        reached = ", ".join(f"{loss:g}: {split.needed(loss):.3g}" for loss in TARGETS if loss > split.dense)
        print(f"budget that reaches a loss at {name}: {reached}")
    if asked.out and not asked.prices:
        text_splits(splits, BUDGETS, rows["tokens"].max()).save(asked.out)


def table(splits: dict[str, text_split.TextSplit], unit: float) -> list[dict[str, str]]:
    """One row for each cut and budget, which is a number of tokens' worth of `unit`."""
    rows = []
    for name, split in splits.items():
        for budget in (10**5, 3 * 10**5, 10**6, 3 * 10**6):
            if budget * unit < split.cost(split.fewest, 0):
                continue
            calibration, recovery = split.best(budget * unit)
            loss, alone = split.lowest(budget * unit), min(budget * unit / split.calibration_price, split.most)
            rows.append({
                "removed": name, "budget": f"{budget:,}", "calibration": f"{calibration:,.0f}", "recovery": f"{recovery:,.0f}",
                "loss": f"{loss:.2f}", "all on calibration": f"{split.loss(alone, 0):.2f}",
                "break-even": f"{split.break_even:,.0f}",
            })  # fmt: skip
    return rows


def measure(asked: argparse.Namespace) -> None:
    """One row for each amount of calibration text and of recovery; written as soon as it is known."""
    model, tokenizer = claw.load(asked.model)
    heldout = claw.blocks(tokenizer, "wikipedia-heldout", purpose="heldout", count=asked.heldout_blocks)
    text = claw.blocks(tokenizer, "wikipedia-train", count=max(asked.tokens) // 512, purpose="recovery", seed=1)
    recoveries = [build_spec(Recovery, {"recipe": "lora", "tokens": tokens}) for tokens in sorted(asked.tokens)]
    dense = held_out.cross_entropy(model, heldout).mean
    rows = []
    for calibration in asked.calibration:
        statistics = claw.calibrate(model, claw.blocks(tokenizer, "wikipedia-train", count=calibration // 512))
        small, report = claw.compress(model, asked.method, asked.ratio, statistics=statistics)
        known = {"method": asked.method, "ratio_params": report.ratio_params, "calibration": calibration}
        known |= {"dense": dense, "start": held_out.cross_entropy(small, heldout).mean}
        print(known, flush=True)
        for recovered, done in run.recover_milestones(small, text, recoveries):
            last = held_out.cross_entropy(recovered, heldout).mean
            rows.append(known | {"tokens": done.tokens, "loss": last, "seconds": done.seconds})
            pd.DataFrame(rows).round(4).to_csv(asked.measure, index=False)
            print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
