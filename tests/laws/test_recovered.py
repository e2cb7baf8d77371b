"""What recovery wins back is told from what the text alone gains, by dense models that were trained alike."""

import numpy as np
import pytest
from synthetic import TEXT, study_table

from claw import laws
from claw.advice.answers import unknowns
from claw.advice.options import dense_options
from claw.laws import recovered
from claw.laws.claims import recovery_verdicts
from claw.laws.evaluation_error import evaluation_errors


@pytest.fixture(scope="module")
def table():
    return study_table()


def without(table):
    """The table before dense models were trained."""
    return table[(table["method"] != "dense") | (table["recovery_tokens"] == 0)]


@pytest.fixture(scope="module")
def fitted(table):
    return laws.fit(table, compare=False)


def test_what_a_dense_model_gains_stands_beside_each_recovered_run(fitted):
    alone = recovered.text_gains(fitted.points).set_index(["model", "recovery_tokens"])["gain"]
    for (model, tokens), gain in alone.items():
        dense = fitted.points.dense_row(model)["loss0"]
        assert gain == pytest.approx(TEXT * (1 - np.exp(-tokens / 2e5)) / dense)
    table = recovered.gains(fitted.points)
    assert len(alone) == 6 and (table["ratio"] > 0).all()
    assert np.allclose(table["text"], [alone[one.model, one.recovery_tokens] for one in table.itertuples()])


def test_the_verdict_counts_runs_that_gain_no_more_than_the_dense_model(table, fitted):
    verdict = recovery_verdicts(fitted.points, 0.95)[0]
    gains = recovered.gains(fitted.points)
    low, high = gains["text"].min(), gains["text"].max()
    assert f"whole models trained alike change by {-low:+.1%} to {-high:+.1%}" in verdict.sentence
    assert f"and {(gains['gain'] <= gains['text']).sum()} of {len(gains)} recovered runs gain no more" in verdict.sentence
    plain = laws.fit(without(table), compare=False)
    assert "trained alike" not in recovery_verdicts(plain.points, 0.95)[0].sentence
    assert recovered.gains(plain.points)["text"].isna().all() and recovered.text_gains(plain.points).empty
    asked = "how much of what training gains is the text"
    assert asked in dict(unknowns(plain)) and asked not in dict(unknowns(fitted))


def test_the_laws_of_compressed_models_do_not_see_trained_dense_ones(table, fitted):
    plain = laws.fit(without(table), compare=False)
    for one, other in zip(fitted.pooled, plain.pooled, strict=True):
        assert np.allclose(one.coefficients, other.coefficients, equal_nan=True)
    for reading in fitted.readings("loss"):
        start = reading.points["value"].iloc[0]
        trained = TEXT * (1 - np.exp(-reading.curve.tokens / 2e5))  # a recovered curve begins at the dense model trained alike
        assert reading.points["ratio"].iloc[0] == 0 and start == pytest.approx(reading.dense - trained)


def test_a_trained_dense_model_has_an_error_and_the_dense_model_none(table):
    rows = table[table["method"] == "dense"].assign(excess_loss=lambda t: t["loss"] - t["loss0"], loss0_stderr=0.03)
    errors = evaluation_errors(rows.assign(excess_loss_stderr=0.01), "loss")
    assert ((errors == 0) == (rows["recovery_tokens"] == 0)).all()


def test_the_guide_offers_whole_models_trained_as_much_as_one_can_spend(fitted):
    names = lambda most: list(dense_options(fitted, ("model-s",), "loss", most)["option"])
    assert names(0) == ["model-s as it is"]
    assert names(1e5) == ["model-s as it is", "model-s as it is, trained on 100k tokens of lora"]
    assert dense_options(fitted, ("model-s",), "loss")["value"].is_monotonic_decreasing


def test_a_table_without_losses_has_no_control_and_says_what_is_unknown(table):
    bare = laws.fit(table.drop(columns=[name for name in table if "loss" in name or "bits" in name]), compare=False)
    assert recovered.text_gains(bare.points).empty and unknowns(bare)
