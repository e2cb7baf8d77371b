"""Out of sample: what generates the data wins, folds leave out what they say, and verdicts follow from numbers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from claw import laws
from claw.errors import InputError
from claw.laws import catalogue, outside, simulate, verdicts, wald
from claw.laws.sample import gather
from claw.laws.simulate import Design, Truth

DESIGN = Design(models=5, methods=("a", "b"), ratios=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), tokens=(0,))
CONVEX = {"loss": Truth("own", "log-odds", {"a": 0.6, "s": 2.0}, {"a": 0.03}, 0.01)}
SQUARE = {"loss": Truth("competing", "quadratic", {"b": 0.4, "c": 1.5}, {"b": 0.03, "c": 0.05}, 0.01)}


@pytest.fixture(scope="module")
def convex() -> laws.Points:
    return laws.read_points(simulate.simulated_table(DESIGN, CONVEX))


def test_the_true_form_wins_out_of_sample_and_halves_the_originals_error(convex):
    for split in ("model", "ratio"):
        table = outside.compare(convex, "loss", split).set_index("form")
        assert table.loc["log-odds", "error"] < 0.5 * table.loc["unit-α", "error"]
        assert table.loc["log-odds", "ratio"] < 0.5
    assert table.loc["log-odds", "near"]


def test_the_simplest_form_within_one_standard_error_is_chosen(convex):
    table = outside.compare(convex, "loss", "model")
    assert table["chosen"].sum() == 1
    chosen = table[table["chosen"]].iloc[0]
    near = table[table["near"] == True]  # noqa: E712
    assert chosen["coefficients"] == near["coefficients"].min()


@pytest.mark.parametrize("split", ["model", "method", "family", "ratio", "size"])
def test_folds_leave_out_what_they_say(convex, split):
    sample = gather(convex, catalogue.find_form("unit-α", "cross"), "loss")
    tested = np.zeros(sample.n, bool)
    for name, train, test in outside.folds(sample, split):
        assert not (train & test).any()
        tested |= test
        if split in ("model", "method", "family"):
            assert set(sample.rows[split][test]) == {name}
            assert name not in set(sample.rows[split][train])
    if split == "ratio":
        assert sample.covariates["r"][~tested].max() <= 0.5 < sample.covariates["r"][tested].min()
    if split == "size":
        assert sample.covariates["size"][~tested].max() < sample.covariates["size"][tested].min()
    with pytest.raises(InputError, match="split"):
        next(outside.folds(sample, "planet"))


def test_predictions_do_not_depend_on_what_is_left_out(convex):
    frame, _ = outside.relative_predictions(convex, "loss", "model")
    spoiled = convex.rows.copy()
    spoiled.loc[(spoiled["model"] == "model-0") & (spoiled["ratio"] > 0), "loss"] *= 3
    other, _ = outside.relative_predictions(replace(convex, rows=spoiled), "loss", "model")
    own = frame["model"] == "model-0"
    np.testing.assert_allclose(frame["unit-α"][own] * frame["y"][own], other["unit-α"][own] * other["y"][own])
    assert not np.allclose(frame["unit-α"][~own], other["unit-α"][~own])


def claimed(verdicts_of_table: list[laws.Verdict], claim: str) -> laws.Verdict:
    return next(judged for judged in verdicts_of_table if claim in judged.claim)


def verdict(points: laws.Points, claim: str) -> laws.Verdict:
    comparisons = {}
    for response in points.responses:
        for split in ("model", "ratio"):
            comparisons[f"{response}|{split}|method"] = outside.compare(points, response, split)
    return claimed(verdicts.judge(points, comparisons, wald.ask_all(points)), claim)


def test_a_quadratic_world_supports_the_claims_and_another_does_not(convex):
    square = laws.read_points(simulate.simulated_table(DESIGN, SQUARE))
    assert verdict(square, "faster than in proportion").verdict == "supported"
    assert verdict(square, "a quadratic describes").verdict == "supported"
    assert verdict(convex, "better than a quadratic").verdict == "contradicted"
    assert "log-odds" in verdict(convex, "better than a quadratic").evidence["better"]


def test_a_verdict_quotes_the_numbers_it_rests_on(convex):
    quadratic = verdict(convex, "a quadratic describes")
    assert quadratic.verdict in quadratic.sentence
    assert f"{quadratic.evidence['error']:.1%}" in quadratic.sentence
    assert f"({quadratic.evidence['best']}) {quadratic.evidence['best_error']:.1%}" in quadratic.sentence


@pytest.mark.parametrize(("gain", "expected"), [(0.7, "contradicted"), (0.55, "supported"), (0.2, "not distinguishable")])
def test_the_bound_on_recovery(gain, expected):
    rows = [("dense", 0.0, 0, 3.0), ("a", 0.5, 0, 10.0), ("a", 0.5, 1_000_000, 10.0 * (1 - gain))]
    frame = pd.DataFrame(rows, columns=["method", "ratio", "recovery_tokens", "loss"]).assign(model="m", seed=0)
    judged = verdicts.judge(laws.read_points(frame), {}, pd.DataFrame(columns=wald.COLUMNS))
    assert claimed(judged, "55 %").verdict == expected


@pytest.mark.parametrize(("kept", "expected"), [(0.57, "supported"), (0.9, "contradicted")])
def test_the_figure_for_accuracy_kept(kept, expected):
    rows = [
        {"model": m, "method": "a", "ratio": 0.3, "accuracy": 0.6 * kept + 0.001 * (i - 2), "accuracy0": 0.6}
        for i, m in enumerate("vwxyz")
    ]
    judged = verdicts.judge(laws.read_points(pd.DataFrame(rows)), {}, pd.DataFrame(columns=wald.COLUMNS))
    assert claimed(judged, "57%").verdict == expected


def test_tests_are_corrected_together_and_find_what_is_there():
    truth = {"loss": Truth("cross", "unit-α×size", {"β": 1.2, "λ": -0.5, "γ": 0.3}, {"β": 0.02, "γ": 0.01}, 0.01)}
    points = laws.read_points(
        simulate.simulated_table(Design(models=8, methods=("a",), ratios=(0.2, 0.5, 0.8), tokens=(0, 1e6)), truth)
    )
    tests = wald.ask_all(points).set_index("name")
    assert (tests["p_holm"] >= tests["p"] - 1e-12).all()
    assert tests.loc["size", "p_holm"] < 0.05
    assert tests.loc["size", "estimate"] == pytest.approx(-0.5, abs=0.15)
    judged = verdicts.judge(points, {}, wald.ask_all(points))
    assert claimed(judged, "larger models compress better").verdict == "supported"
