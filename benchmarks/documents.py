"""What a few documents of each task say, beside what all of them say: are the errors honest, and how many does a change need?

    claw run params/full_tasks.yaml && claw table params/full_tasks.yaml --out results/full_tasks.csv    # some six hours
    python benchmarks/documents.py                                # results/full_tasks.csv beside results/reference.csv
    python benchmarks/documents.py all.csv few.csv [--errors 5]   # two tables of claw's with the same experiments

Compared are changes against the dense model, on the same documents, of accuracy, of the probability of the right choice and of
the bits per byte of the right answer, task by task. `off` is how far the few are from all in standard errors of the few: 0.67
in the median where these errors are right and the few are a small part. `needs` is the number of documents at which a change is
`--errors` times its standard error: in the median, and in the hardest quarter.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from claw.paired import CONTINUOUS
from claw.records import primary_columns

RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("all", nargs="?", type=Path, default=RESULTS / "full_tasks.csv", help="all documents of each task")
    parser.add_argument("few", nargs="?", type=Path, default=RESULTS / "reference.csv", help="some of them")
    parser.add_argument("--errors", type=float, default=5.0, help="how many of its standard errors a change is to be")
    asked = parser.parse_args()
    if missing := [str(path) for path in (asked.all, asked.few) if not path.exists()]:
        parser.error(f"{' and '.join(missing)} not there: run the study and write its table first (--help shows how)")
    whole, few = (pd.read_csv(path, low_memory=False) for path in (asked.all, asked.few))
    print(describe(changes(whole, few), asked.errors))
    print(dense(whole, few))


def changes(whole: pd.DataFrame, few: pd.DataFrame) -> pd.DataFrame:
    """A row per experiment, task and metric that both tables have: the change and its error on all documents and on few."""
    pairs = whole[whole["method"] != "dense"].merge(few, on="experiment", suffixes=("", " few"))
    rows = []
    for task, accuracy in primary_columns(whole).items():
        for metric, column in {"accuracy": accuracy, **{name: f"{task}_{name}" for name in CONTINUOUS}}.items():
            columns = {"documents": f"{task}_n", "change": f"{column}_change", "error": f"{column}_change_stderr"}
            if {f"{name}{of}" for name in columns.values() for of in ("", " few")} <= set(pairs):
                values = {word + of: pairs[name + of] for word, name in columns.items() for of in ("", " few")}
                rows.append(pairs[["model", "method", "ratio"]].assign(task=task, metric=metric, **values))
    return pd.concat(rows, ignore_index=True).dropna()


def describe(frame: pd.DataFrame, errors: float) -> str:
    """The comparison by metric, and by task within it."""
    off = (frame["change few"] - frame["change"]).abs() / frame["error few"]
    needs = frame["documents"] * (errors * frame["error"] / frame["change"].abs()).replace(0, np.nan) ** 2
    frame = frame.assign(off=off, needs=needs)
    tables = []
    for by in (["metric"], ["metric", "task"]):
        groups = frame.groupby(by)
        table = groups.agg(pairs=("change", "size"), documents=("documents few", "median"), off=("off", "median"))
        table["needs"], table["hardest quarter"] = groups["needs"].median(), groups["needs"].quantile(0.75)
        tables.append(table.round({"off": 2, "needs": 0, "hardest quarter": 0}).to_string())
    return "\n\n".join(tables) + "\n"


def dense(whole: pd.DataFrame, few: pd.DataFrame) -> str:
    """Accuracies of the dense models on all documents and on few, with standard errors."""
    both, rows = whole[whole["method"] == "dense"].merge(few, on="experiment", suffixes=("", " few")), []
    for _, row in both.iterrows():
        for task, metric in primary_columns(whole).items():
            said = lambda of, row=row, task=task, metric=metric: (
                f"{row[metric + of]:.3f} ± {row[f'{metric}_stderr{of}']:.3f} ({row[f'{task}_n{of}']:.0f})"
            )
            rows.append({"model": row["model"], "task": task, "all": said(""), "few": said(" few")})
    return pd.DataFrame(rows).to_string(index=False)


if __name__ == "__main__":
    main()
