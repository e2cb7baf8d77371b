"""Nothing depends on the unit of loss: nats, bits, per token or per byte give the same verdicts, rankings and exponents."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_laws import crossed_table

from claw import laws
from claw.laws import outside, verdicts, wald
from claw.laws.catalogue import UNIT_BOUND

LOSSES = ("loss", "loss0", "loss_stderr", "bits_per_byte")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Four models of four tokenizers with recovery, and their losses per byte too."""
    frame, _ = crossed_table(4, methods=2, models=5, recovery=True)
    per_byte = frame["model"].map({f"model-{i}": share for i, share in enumerate((0.33, 0.3, 0.37, 0.31, 0.35))})
    return frame.assign(heldout_data=frame["model"], bits_per_byte=frame["loss"] * per_byte, loss_stderr=0.01 * frame["loss"])


def multiplied(frame: pd.DataFrame, unit: float, every: bool) -> pd.DataFrame:
    """In another unit: all columns that are losses, or only those of the table's own unit, bits per byte as given."""
    names = [name for name in LOSSES if name in frame and (every or name != "bits_per_byte")]
    return frame.assign(**{name: frame[name] * unit for name in names})


def said(frame: pd.DataFrame) -> tuple:
    """Verdicts, forms in the order of their errors, and tests of a table."""
    points = laws.read_points(frame)
    comparisons = {f"loss|{split}|method": outside.compare(points, "loss", split) for split in ("model", "ratio")}
    tests = wald.ask_all(points)
    judged = {one.claim: (one.verdict, one.sentence) for one in verdicts.judge(points, comparisons, tests)}
    orders = [list(errors.loc[~errors["form"].isin(UNIT_BOUND), "form"]) for errors in comparisons.values()]
    return judged, orders, tests.set_index("name")[["estimate", "stderr", "df", "p_holm"]].astype(float)


_seen: list[tuple] = []


def _said_once(frame: pd.DataFrame) -> tuple:
    """Of the table as it is, which every example is compared with."""
    if not _seen:
        _seen.append(said(frame))
    return _seen[0]


@settings(max_examples=3, deadline=None)
@given(st.floats(0.05, 2.2), st.booleans())
def test_a_unit_changes_no_verdict_no_ranking_and_no_test(table, unit, every):
    judged, orders, tests = _said_once(table)
    again, orders_again, tests_again = said(multiplied(table, unit, every))
    assert again == judged and orders_again == orders
    pd.testing.assert_frame_equal(tests_again, tests, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("unit", "one_tokenizer"), [(1 / np.log(2), True), (0.31, False)])
def test_a_unit_changes_no_exponent_but_the_intercept(table, unit, one_tokenizer):
    frame = table.drop(columns=["heldout_data", "bits_per_byte"]) if one_tokenizer else table
    before, after = (laws.fit(one, draws=100, compare=False) for one in (frame, multiplied(frame, unit, True)))
    assert [law.form for law in before.pooled] == [law.form for law in after.pooled]
    for law, other in zip(before.pooled, after.pooled, strict=True):
        if law.form in UNIT_BOUND or law.group == "post-training":
            continue
        for name, value, same in zip(law.coefficient_names, law.coefficients, other.coefficients, strict=True):
            if name != "κ":
                assert same == pytest.approx(value, rel=2e-3, abs=2e-4), (law.form, law.method, name)


def test_the_form_as_published_depends_on_the_unit_and_says_so(table):
    frame = table.drop(columns=["heldout_data", "bits_per_byte"])
    law, other = (laws.fit(one, draws=100, compare=False).law("original") for one in (frame, multiplied(frame, 0.31, True)))
    assert abs(other.coefficients[0] - law.coefficients[0]) > 0.05
    assert any("depends on the unit of loss" in note for note in law.notes)
    errors = outside.compare(laws.read_points(frame), "loss", "model").set_index("form")
    assert np.isfinite(errors.loc["original", "error"]) and not errors.loc["original", ["best", "near", "chosen"]].any()
