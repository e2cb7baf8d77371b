"""benchmarks/documents.py: what a few documents say beside what all of them say."""

import numpy as np
import pandas as pd
import pytest
from scripts import script

ALL, FEW, SPREAD = 2000, 40, 0.5  # documents, documents, standard deviation of a document's change


@pytest.fixture
def tables():
    """Forty experiments: the changes of all documents and of the first ones, with their errors; accuracy also without."""
    random = np.random.default_rng(0)
    rows = {"all": [], "few": []}
    for seed in range(40):
        values = random.normal(-0.1, SPREAD, ALL)
        for name, some in (("all", values), ("few", values[:FEW])):
            own = {
                "experiment": f"a{seed}",
                "model": "m",
                "method": "a",
                "ratio": 0.1,
                "seed": seed,
                "piqa_n": len(some),
                "piqa_chance": 0.5,
            }
            for metric in ("acc_norm", "p_right"):
                column = f"piqa_{metric}_change"
                own |= {f"piqa_{metric}": 0.4, column: some.mean(), f"{column}_stderr": some.std(ddof=1) / len(some) ** 0.5}
            rows[name].append(own)
    for name, count in (("all", ALL), ("few", FEW)):
        dense = {
            "experiment": "dense",
            "model": "m",
            "method": "dense",
            "ratio": 0.0,
            "seed": 0,
            "piqa_n": count,
            "piqa_chance": 0.5,
        }
        rows[name].append(dense | {"piqa_acc_norm": 0.5, "piqa_acc_norm_stderr": 0.5 / count**0.5})
    return tuple(pd.DataFrame(rows[name]) for name in ("all", "few"))


def test_honest_errors_are_off_by_two_thirds_of_themselves(tables):
    documents = script("benchmarks/documents.py")
    frame = documents.changes(*tables)
    assert len(frame) == 80 and set(frame["metric"]) == {"accuracy", "p_right"}
    off = (frame["change few"] - frame["change"]).abs() / frame["error few"]
    assert 0.45 < off.median() < 0.9
    said = documents.describe(frame, errors=5.0)
    needs = float(said.splitlines()[2].split()[4])  # accuracy
    assert needs == pytest.approx((5 * SPREAD / 0.1) ** 2, rel=0.15)


def test_an_experiment_that_only_one_table_has_is_left_out(tables):
    documents = script("benchmarks/documents.py")
    whole, few = tables
    assert len(documents.changes(whole[whole["seed"] > 9], few)) == 60
    assert "0.500 ± 0.011 (2000)" in documents.dense(whole, few) and "0.500 ± 0.079 (40)" in documents.dense(whole, few)
