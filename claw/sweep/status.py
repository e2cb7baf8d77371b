"""What is planned, done and failed, from the records on disk alone."""

import pandas as pd

from claw import records
from claw.sweep.plan import Plan, records_of


def frame(plan: Plan) -> pd.DataFrame:
    """One row per experiment and stage: model, method, ratio, seed, recovery tokens, stage, status (planned, done, nan or failed)."""
    rows = []
    for experiment in plan.study.experiments:
        compression = experiment.compression
        tokens = experiment.recovery.tokens if experiment.recovery else 0
        for stage, name in records_of(plan.study, experiment).items():
            content = records.read(plan.folder / "records" / name)
            status = content["status"] if content else "planned"
            rows.append((compression.model, compression.method, compression.ratio, compression.seed, tokens, stage, status))
    return pd.DataFrame(rows, columns=["model", "method", "ratio", "seed", "recovery_tokens", "stage", "status"])


def text(plan: Plan) -> str:
    """A table for a terminal: per model and method, how many records are done at each ratio."""
    found = frame(plan)
    found["finished"] = found["status"].isin(["done", "nan"])
    counts = found.groupby(["model", "method", "ratio"])["finished"].agg(["sum", "count"]).reset_index()
    counts["cell"] = counts["sum"].astype(str) + "/" + counts["count"].astype(str)
    grid = counts.pivot(index=["model", "method"], columns="ratio", values="cell").fillna("")
    grid.columns = [f"r={ratio:g}" for ratio in grid.columns]
    totals = found["status"].value_counts()
    summary = ", ".join(f"{totals.get(name, 0)} {name}" for name in ("done", "nan", "failed", "planned"))
    return f"{plan.study.name}: {len(found)} records: {summary}\n\n{grid.to_string()}"
