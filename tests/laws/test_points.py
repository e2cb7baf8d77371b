"""Every row is used or left out for a stated reason, and tables that cannot be pooled are refused."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from claw import laws
from claw.errors import InputError
from claw.laws.points import REASONS

METHODS, RATIOS, LOSSES = ["dense", "a", "b"], [0.0, 0.2, 0.5, 0.9, 1.0, -0.1], [3.0, 4.0, -1.0, np.nan, np.inf]
STATUSES = ["done", "failed", "nan"]


def table(**columns) -> pd.DataFrame:
    ratios = [0.0, 0.1, 0.3, 0.5, 0.7]
    frame = pd.DataFrame(
        {"model": "m", "method": ["dense"] + ["random"] * 4, "ratio": ratios, "loss": [3.0, 3.2, 3.7, 4.4, 5.3]}
    )
    return frame.assign(**columns)


@pytest.mark.parametrize("gone", ["model", "method", "ratio"])
def test_a_missing_column_is_named(gone):
    with pytest.raises(InputError, match=f"no column {gone}"):
        laws.fit(table().drop(columns=gone))


def test_loss_or_accuracy_is_needed():
    with pytest.raises(InputError, match="loss or accuracy"):
        laws.fit(table().drop(columns="loss"))


def test_percentages_are_recognised():
    with pytest.raises(InputError, match="divide a column of percentages by 100"):
        laws.fit(table(ratio=[0, 10, 30, 50, 70]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ratio": [0, 0.1, 0.3, 0.5, 1.0]}, "ratio_outside"),
        ({"ratio": [0, 0.1, -0.3, 0.5, 0.7]}, "ratio_outside"),
        ({"ratio": [0, 0.1, np.nan, 0.5, 0.7]}, "ratio_missing"),
        ({"loss": [3, 3.2, -3.7, 4.4, 5.3]}, "not_positive"),
        ({"loss": [3, 3.2, np.inf, 4.4, 5.3]}, "not_finite"),
        ({"loss": [3, 3.2, np.nan, 4.4, 5.3]}, "missing"),
        ({"loss": [3, 3.2, np.nan, 4.4, 5.3], "status": ["done", "done", "nan", "done", "done"]}, "not_finite"),
        ({"status": ["done", "done", "done", "done", "failed"]}, "failed"),
        ({"method": ["dense"] * 2 + ["random"] * 3}, "dense_cut"),
        ({"accuracy": [0.5, 0.5, 1.4, 0.4, 0.4]}, "outside_unit"),
    ],
)
def test_an_unusable_row_is_left_out_for_a_stated_reason(change, reason):
    points = laws.read_points(table(**change))
    assert list(points.excluded["reason"]) == [reason]
    assert reason in REASONS


def test_duplicates_and_conflicts_are_told_apart():
    frame = table(seed=0)
    again = pd.concat([frame, frame.iloc[[2]]])
    assert list(laws.read_points(again).excluded["reason"]) == ["duplicate"]
    other = pd.concat([frame, frame.iloc[[2]].assign(loss=9.0)])
    assert list(laws.read_points(other).excluded["reason"]) == ["conflict", "conflict"]
    replicates = pd.concat([table(), table().iloc[[2]].assign(loss=9.0)])
    assert laws.read_points(replicates).excluded.empty  # without a seed column, equal keys are replicates


@pytest.mark.parametrize("name", ["heldout", "context"])
def test_losses_on_different_texts_are_not_pooled(name):
    mixed = pd.concat([table(model="a", **{name: 1}), table(model="b", **{name: 2})])
    with pytest.raises(InputError, match=f"fit_each\\(table, by='{name}'\\)"):
        laws.fit(mixed)
    assert set(laws.fit_each(mixed, by=name)) == {"1", "2"}


def test_one_model_on_two_texts_is_refused():
    with pytest.raises(InputError, match="heldout_data"):
        laws.fit(table(heldout_data=["x", "x", "x", "y", "y"]))


def test_text_in_a_column_of_numbers_is_named():
    with pytest.raises(InputError, match="'high'"):
        laws.fit(table(loss=[3.0, "high", 3.7, 4.4, 5.3]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*map(st.sampled_from, (METHODS, RATIOS, LOSSES, STATUSES))), min_size=1, max_size=30))
def test_rows_used_and_left_out_add_up(rows):
    frame = pd.DataFrame(rows, columns=["method", "ratio", "loss", "status"]).assign(model="m")
    try:
        points = laws.read_points(frame)
    except InputError:
        return
    assert len(points.rows) + (points.excluded["response"] == "all").sum() == len(frame)
    assert points.rows["use_loss"].sum() + len(points.excluded) == len(frame)
