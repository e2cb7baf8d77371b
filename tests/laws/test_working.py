"""Controls and destroyed models are flagged and never pooled with what works, whatever the unit of loss."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_laws import crossed_table

from claw import laws
from claw.laws import tables, working
from claw.laws.sample import EVERY, WORKING, select


def table(**columns) -> pd.DataFrame:
    """Three methods on one model of 49,152 tokens (log V = 10.80), one of them a control, one of them past log V."""
    rows = [("dense", 0.0, 3.0)]
    rows += [("flap", r, 3 + 4 * r) for r in (0.2, 0.4, 0.6)]
    rows += [("random+ridge", r, 3 + 9 * r) for r in (0.2, 0.4, 0.6)]
    rows += [("ppm", r, loss) for r, loss in ((0.2, 5.0), (0.4, 10.7), (0.6, 10.9))]
    return pd.DataFrame(rows, columns=["method", "ratio", "loss"]).assign(**{"model": "smollm2-135m", **columns})


def flags(frame: pd.DataFrame) -> dict[str, int]:
    return laws.read_points(frame).rows["flag"].value_counts().to_dict()


def test_flags_are_typed_and_counted():
    frame = table(vocabulary=49_152)
    assert flags(frame) == {"": 6, working.CONTROL: 3, working.DESTROYED: 1}
    note = laws.read_points(frame).notes[-1]
    assert "3 rows are of controls" in note and "1 rows are of models that no longer work" in note
    assert set(working.FLAGS) == {working.CONTROL, working.DESTROYED}


@settings(max_examples=50, deadline=None)
@given(st.floats(0.02, 50))
def test_flags_do_not_depend_on_the_unit(unit):
    known = table(loss0=3.0).assign(token_perplexity=lambda rows: np.exp(rows["loss"]))  # tells the unit: log V is 10.80 nats
    bare = table(loss0=3.0, model="unheard-of")  # nothing is known of it: 3.5 times its dense loss
    for frame, many in ((known, 1), (bare, 2)):
        other = frame.assign(loss=frame["loss"] * unit, loss0=frame["loss0"] * unit)
        assert (working.flagged(other) == working.DESTROYED).sum() == many


def test_without_losses_guessing_is_what_is_destroyed():
    frame = table().rename(columns={"loss": "accuracy"}).assign(chance=0.25)
    frame["accuracy"] = 0.6 - 0.6 * frame["ratio"]
    assert flags(frame)[working.DESTROYED] == 3


def test_laws_are_fitted_without_and_with_them():
    frame, _ = crossed_table(0, methods=3, models=5)
    extra = frame[frame["method"] == "method-0"].assign(method="magnitude", loss=lambda rows: rows["loss0"] * 1.5**3)
    extra["loss"] *= 1 + extra["ratio"] / 100
    ruined = frame[frame["method"] == "method-1"].assign(method="ruined", loss=lambda rows: rows["loss0"] * 5)
    fitted = laws.fit(pd.concat([frame, extra, ruined]), draws=100, compare=False)
    alone = laws.fit(frame, draws=100, compare=False)
    for form in ("anchored", "unit-α"):
        np.testing.assert_allclose(fitted.law(form).coefficients, alone.law(form).coefficients)
        assert fitted.law(form, scope=EVERY).n == len(frame[frame["method"] != "dense"]) + len(extra) + len(ruined)
        assert fitted.law(form, scope=EVERY).coefficients[0] > fitted.law(form).coefficients[0] + 0.1
    assert fitted.law("anchored", method="magnitude").n == len(extra)  # a control has a law of its own
    assert {"working", "every row"} <= set(tables.across_table(fitted, "loss")["rows"])


def test_a_table_of_controls_alone_is_served():
    points = laws.read_points(table()[lambda rows: rows["method"].isin(("dense", "random+ridge"))])
    assert len(select(points, "loss", scope=WORKING).rows) == 4  # the dense point is of the one curve


@pytest.mark.parametrize(("name", "size"), [("gemma3-270m", 262_144), ("OPT-1.3B", 50_272), ("Llama-3.2-1B", 128_256)])
def test_vocabularies_are_known_by_name(name, size):
    assert working.vocabulary(pd.DataFrame({"model": [name]})).tolist() == [size]
    told = pd.DataFrame({"model": [name], "vocabulary": [1000]})
    assert working.vocabulary(told).tolist() == [1000]
