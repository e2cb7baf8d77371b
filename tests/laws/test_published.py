"""The published Llama-3.2-1B curve gives its known figures to every printed digit."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from claw import laws

FILE = Path(os.environ.get("CLAW_SHARED", Path(__file__).parents[3] / "shared")) / "data" / "published_points.csv"
TASKS = ("hellaswag:acc_norm", "arc_challenge:acc_norm", "piqa:acc_norm", "winogrande:accuracy")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    if not FILE.is_file():
        pytest.skip("the published points are not here")
    points = pd.read_csv(FILE)
    points = points[(points["model"] == "Llama-3.2-1B") & points["method"].str.contains("MAW")]
    wide = points.pivot_table(index="ratio", columns="metric", values="value").reset_index()
    wide = wide[wide["wikitext:word_perplexity,none"].notna()]
    method, loss = np.where(wide["ratio"] == 0, "dense", "MAW"), np.log(wide["wikitext:word_perplexity,none"])
    accuracy = wide[list(TASKS)].mean(axis=1)
    return wide[["ratio"]].assign(model="Llama-3.2-1B", method=method, loss=loss, accuracy=accuracy)


def test_the_published_curve(table):
    assert len(table) == 7
    fitted = laws.fit(table, draws=100)
    law = fitted.curve("Llama-3.2-1B", "MAW", form="quadratic")
    assert (f"{law.quality['r2']:.3f}", f"{law.coefficients[2]:.2f}") == ("0.991", "5.67")
    assert [f"{edge:.2f}" for edge in law.intervals[2]] == ["1.68", "9.66"]
    assert f"{fitted.curve('Llama-3.2-1B', 'MAW', form='linear').quality['r2']:.3f}" == "0.957"
    accuracy = fitted.curve("Llama-3.2-1B", "MAW", "accuracy")
    assert (f"{accuracy.quality['r2']:.3f}", f"{accuracy.coefficients[1]:.2f}") == ("0.994", "-0.33")
    power = fitted.law("anchored")
    assert f"{power.coefficients[0]:.2f}" == "1.66"
    assert [f"{edge:.2f}" for edge in power.intervals["ordinary"][0]] == ["1.52", "1.80"]
    assert "one model" in fitted.verdicts[0].sentence or fitted.verdicts[0].verdict == "not distinguishable"
