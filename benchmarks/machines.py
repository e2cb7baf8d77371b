"""The same experiments on two machines: how far apart are their losses?

    python benchmarks/machines.py                        # the committed pairs: two CPU cores and an NVIDIA H200, both bfloat16
    python benchmarks/machines.py one.csv other.csv      # two tables of claw's, e.g. of one study run on two machines

Compared is the excess over the dense model of the same machine, as a share of itself and in units of its standard error, which
is the noise of the text: a difference of a tenth of it changes nothing that is read off a table.
"""

import argparse
from pathlib import Path

import pandas as pd

COMMITTED = Path(__file__).parents[1] / "results" / "two_machines.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "tables", nargs="*", type=Path, default=[COMMITTED], help="tables of claw's; the committed pairs by default"
    )
    tables = [pd.read_csv(path, low_memory=False).assign(source=str(path)) for path in parser.parse_args().tables]
    rows = pd.concat(tables, ignore_index=True)
    rows["machine"] = rows["device"] if len(tables) == 1 else rows["source"]
    if (count := rows["machine"].nunique()) != 2:
        parser.error(f"rows of two machines are compared, and these are of {count}: name a table of each")
    print(describe(compare(rows)))


def compare(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per experiment that both machines measured: `apart` in nats, as a share of the excess, and in standard errors."""
    first, second = (part.set_index("experiment") for _, part in rows[rows["loss"].notna()].groupby("machine"))
    both = first.index.intersection(second.index)
    first, second = first.loc[both], second.loc[both]
    excess, other = (part["loss"] - part["loss0"] for part in (first, second))
    apart = (excess - other).abs()
    frame = first[["model", "method", "ratio", "seed"]].assign(dense=(first["loss0"] - second["loss0"]).abs(), apart=apart)
    frame = frame.assign(share=apart / excess.abs(), errors=apart / first["excess_loss_stderr"])
    return frame[frame["method"] != "dense"]


def describe(frame: pd.DataFrame) -> str:
    """The comparison by model and method: medians and the largest."""
    groups = frame.groupby(["model", "method"])
    table = groups["apart"].agg(["count", "median", "max"]).rename(columns={"median": "nats", "max": "largest"})
    table["% of excess"], table["standard errors"] = 100 * groups["share"].median(), groups["errors"].median()
    dense = frame.groupby("model")["dense"].max()
    lines = [f"{model}: the dense losses differ by {value:.4f} nats" for model, value in dense.items()]
    return "\n".join([table.round({"nats": 4, "largest": 4, "% of excess": 2, "standard errors": 2}).to_string(), "", *lines])


if __name__ == "__main__":
    main()
