"""A change of regime is found where there is one, with an interval that holds it, and not where a curve is smooth."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from claw.errors import InputError
from claw.laws.changepoint import changepoints, find_changepoint

RATIOS = np.arange(0.05, 0.96, 0.05)


def broken(c: float, a: float = 0.5, b: float = 1.5, d: float = 4.0, noise: float = 0.01, seed: int = 0) -> np.ndarray:
    y = a * np.minimum(RATIOS, c) ** b + d * np.maximum(RATIOS - c, 0)
    return 2.5 * np.exp(y + np.random.default_rng(seed).normal(0, noise, len(RATIOS)))


def test_the_interval_holds_the_change_as_often_as_it_says():
    truths = np.random.default_rng(1).uniform(0.25, 0.75, 200)
    changes = [find_changepoint(RATIOS, broken(c, seed=seed), 2.5) for seed, c in enumerate(truths)]
    assert all(change.there for change in changes)
    covered = [change.low - 0.005 <= c <= change.high + 0.005 for c, change in zip(truths, changes, strict=True)]
    assert 0.9 <= np.mean(covered) <= 1.0
    assert np.median([change.high - change.low for change in changes]) < 0.1


def test_smooth_curves_have_none():
    said = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        y = rng.uniform(0.5, 3) * RATIOS ** rng.uniform(0.8, 3) + rng.normal(0, 0.01, len(RATIOS))
        said += find_changepoint(RATIOS, 2.5 * np.exp(y), 2.5).there
    assert said <= 10


@settings(max_examples=30, deadline=None)
@given(c=st.floats(0.25, 0.75), unit=st.floats(0.1, 10))
def test_the_unit_of_loss_does_not_matter(c, unit):
    one, other = find_changepoint(RATIOS, broken(c), 2.5), find_changepoint(RATIOS, unit * broken(c), unit * 2.5)
    assert one.ratio == other.ratio and one.gain == pytest.approx(other.gain, abs=1e-6)


def test_it_is_said_in_words():
    assert str(find_changepoint(RATIOS, broken(0.5), 2.5)).startswith("at r = 0.5")
    assert str(find_changepoint(RATIOS, 2.5 * np.exp(RATIOS**2), 2.5)) == "none"


def test_a_perfect_curve_and_too_few_ratios():
    assert find_changepoint(RATIOS, broken(0.5, noise=0.0), 2.5).ratio == pytest.approx(0.5, abs=0.01)
    with pytest.raises(InputError, match="6 different ratios"):
        find_changepoint([0.1, 0.2, 0.3], [3.0, 3.1, 3.2], 2.5)


def test_curves_of_a_table():
    table = pd.concat([pd.DataFrame({"ratio": RATIOS, "loss": broken(c), "dense": 2.5, "curve": f"{c}"}) for c in (0.3, 0.6)])
    table = pd.concat([table, pd.DataFrame({"ratio": [0.1], "loss": [3.0], "dense": [2.5], "curve": ["short"]})])
    found_changes = changepoints(table, "curve").set_index("curve")
    assert list(found_changes.index) == ["0.3", "0.6"] and found_changes["there"].all()
