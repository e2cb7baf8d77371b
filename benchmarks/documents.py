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

RESULTS = Path(__file__).parents[1] / "results"
ACCURACY, CONTINUOUS = ("acc_norm", "acc"), ("p_right", "answer_bpb")
SAME = ["model", "method", "ratio", "ratio_of", "seed", "recovery_tokens"]


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


def tasks_of(table: pd.DataFrame) -> list[str]:
    return [name.removesuffix("_n") for name in table if name.endswith("_n")]


def changes(whole: pd.DataFrame, few: pd.DataFrame) -> pd.DataFrame:
    """A row per experiment, task and metric that both tables have: the change and its error on all documents and on few."""
    pairs = whole[whole["method"] != "dense"].merge(few, on=SAME, suffixes=("", " few"))
    rows = []
    for task in tasks_of(whole):
        own = next((metric for metric in ACCURACY if f"{task}_{metric}_change" in pairs), None)
        for metric in filter(None, (own, *CONTINUOUS)):
            name = f"{task}_{metric}_change"
            if name in pairs and f"{name} few" in pairs:
                columns = {"documents": f"{task}_n", "change": name, "error": f"{name}_stderr"}
                values = {word + of: pairs[column + of] for word, column in columns.items() for of in ("", " few")}
                kind = metric if metric in CONTINUOUS else "accuracy"
                rows.append(pairs[["model", "method", "ratio"]].assign(task=task, metric=kind, **values))
    return pd.concat(rows, ignore_index=True).dropna()


def describe(frame: pd.DataFrame, errors: float) -> str:
    """The comparison by metric, and by task within it."""
    off = (frame["change few"] - frame["change"]).abs() / frame["error few"]
    needs = frame["documents"] * (errors * frame["error"] / frame["change"].abs()).replace(0, np.nan) ** 2
    frame = frame.assign(off=off, needs=needs, hard=needs)
    tables = []
    for by in (["metric"], ["metric", "task"]):
        groups = frame.groupby(by)
        table = groups.agg(pairs=("change", "size"), documents=("documents few", "median"), off=("off", "median"))
        table["needs"], table["hardest quarter"] = groups["needs"].median(), groups["needs"].quantile(0.75)
        tables.append(table.round({"off": 2, "needs": 0, "hardest quarter": 0}).to_string())
    return "\n\n".join(tables) + "\n"


def dense(whole: pd.DataFrame, few: pd.DataFrame) -> str:
    """Accuracies of the dense models on all documents and on few, with standard errors."""
    rows = []
    for model, row in whole[whole["method"] == "dense"].groupby("model").first().iterrows():
        others = few[(few["model"] == model) & (few["method"] == "dense") & (few["recovery_tokens"] == 0)]
        for task in tasks_of(whole):
            metric = next((f"{task}_{name}" for name in ACCURACY if pd.notna(row.get(f"{task}_{name}"))), None)
            if metric is None or others.empty:
                continue
            said = [
                f"{one[metric]:.3f} ± {one[metric + '_stderr']:.3f} ({one[task + '_n']:.0f})" for one in (row, others.iloc[0])
            ]
            rows.append({"model": model, "task": task, "all": said[0], "few": said[1]})
    return pd.DataFrame(rows).to_string(index=False)


if __name__ == "__main__":
    main()
