"""Findings say how well differences from the dense model are known, where the table tells."""

import numpy as np
import pandas as pd
import pytest

from claw import laws
from claw.advice.findings import findings_page
from claw.advice.sharpness import shares, sharpness

RATIOS = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]


@pytest.fixture
def table():
    rises = np.array(RATIOS) * 2
    frame = pd.DataFrame({"model": "m", "method": ["dense", *["flap"] * 5], "ratio": RATIOS, "loss": 3 + rises, "loss0": 3.0})
    frame = frame.assign(loss_stderr=0.06, loss0_stderr=0.08, loss_tokens=8176, excess_loss=rises)
    frame = frame.assign(excess_loss_stderr=rises * 0.02, accuracy=0.6 - rises / 10, accuracy0=0.6, chance=0.3)
    return frame.assign(accuracy_change=-rises / 10, accuracy_change_stderr=rises / 20)


def test_errors_are_shares_of_the_differences(table):
    paired, apart = shares(table, "excess_loss", "loss")
    assert paired == pytest.approx([0.02] * 5)
    assert apart == pytest.approx(0.1 / (2 * np.array(RATIOS[1:])))


def test_findings_say_them(table):
    page = findings_page(table, laws.fit(table), "t.csv")
    assert "on 8,176 tokens has a standard error of 2.0% of the rise in the median" in page
    assert "it would be 16.7% if the two were not paired" in page and "50% for accuracy" in page


def test_tables_without_pairs_are_not_spoken_of(table):
    assert not list(sharpness(table.drop(columns=["excess_loss_stderr", "accuracy_change_stderr"])))
    assert not list(sharpness(table[table["ratio"] == 0]))
