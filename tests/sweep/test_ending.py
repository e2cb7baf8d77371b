"""The end of a run: few lines, plain words, measured numbers; and a finished run that is started again says so in three."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_laws import points_alone

from claw import files, laws
from claw.sweep import ending, plan

REFERENCE = Path(__file__).parents[2] / "results" / "reference.csv"
QUICK = ("dense", "random", "magnitude", "wanda-sp+ridge")


def quickstart() -> pd.DataFrame:
    """What params/quickstart.yaml measures, out of the reference study."""
    table = laws.read(REFERENCE).table
    rows = (table["model"] == "smollm2-135m") & table["method"].isin(QUICK) & (table["recovery_tokens"] == 0)
    rows &= (table["seed"] == 0) & table["ratio"].isin([0, 0.1, 0.3, 0.5, 0.7, 0.9])
    return table[rows].drop(columns=[name for name in table if name.startswith("speedup")])


@pytest.mark.parametrize("some", ["quickstart", "all", "one method", "no accuracy", "controls only", "no shares"])
def test_the_last_lines_are_few(some):
    table = laws.read(REFERENCE).table if some == "all" else quickstart()
    table = table[table["method"].isin(["dense", "wanda-sp+ridge"])] if some == "one method" else table
    table = table[table["method"].isin(["dense", "random"])] if some == "controls only" else table
    table = table.drop(columns=["accuracy", "accuracy0"]) if some == "no accuracy" else table
    gone = ["ratio_params", "parameters", "parameters0", "ratio_nonembedding", "ratio_flops"]
    table = table.drop(columns=gone) if some == "no shares" else table
    lines = ending.last_lines(points_alone(table), Path("runs/quickstart"), "50_laws-0123456789", ("arc_easy", "piqa"))
    lines = "\n".join(lines).splitlines()
    assert len(lines) + 1 <= 15  # the total time follows
    assert len(" ".join(lines).split()) + 4 <= (210 if some == "all" else 170)
    said = "\n".join(lines)
    assert "not distinguishable" not in said and "BIC" not in said
    assert said.count("activate") == 1 and "`make lab`" in said and "`claw " in said
    assert all(name in said for name in ("report.html", "findings/findings.md", "notebooks/50_laws"))
    assert "With 10 % more loss" in said and "Unknown: " in said and "To find out: " in said


def test_the_numbers_of_the_last_lines_are_those_of_the_table():
    table = quickstart()
    said = "\n".join(ending.last_lines(points_alone(table), Path("runs/quickstart"), "50_laws"))
    own = table[table["method"].isin(["dense", "wanda-sp+ridge"])].sort_values("ratio_params")
    share = float(re.search(r"one can remove ([\d.]+) %", said)[1]) / 100
    beside = np.interp([share - 0.006, share + 0.006], own["ratio_params"], np.log(own["loss"] / own["loss"].iloc[0]))
    low, high = own[own["ratio_params"] <= share]["loss"].max(), own[own["ratio_params"] > share]["loss"].min()
    assert low <= 1.1 * own["loss"].iloc[0] <= high and beside[0] < np.log(1.12)
    (row,) = [line for line in said.splitlines() if line.strip().startswith("wanda-sp+ridge")]
    near = own.iloc[(own["ratio_params"] - 0.3).abs().argmin()]
    assert f"{near['loss']:.2f}*" in row  # 29.6 % is within rounding of 30 %: measured, and said to be
    assert not row.split()[1].endswith("*")  # nothing was measured at 10 %


def test_a_finished_run_says_so_in_three_lines(study, tmp_path, monkeypatch):
    made = plan.make(study, tmp_path / "run")
    assert not ending.is_finished(made)  # nothing was run
    lines = ending.finished_lines(made)
    assert len(lines) == 3 and "is finished" in lines[0] and "nothing to run" in lines[0] and "report.html" in lines[1]
    for page in ending.pages(made.folder):
        files.write_own(page, "{}" if page.suffix == ".json" else "a page")
    monkeypatch.setattr(plan.Plan, "missing", lambda self: 0)
    done = plan.make(study, tmp_path / "run")
    assert not ending.is_finished(done)  # jobs are left
