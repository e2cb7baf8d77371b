"""What is read off a curve is what was measured: never beside its own points, never against their order, in whatever unit."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scripts import script

from claw import laws
from claw.errors import InputError
from claw.laws import interpolation, reading, tables

ROOT = Path(__file__).parents[2]
STUDIES = {"first": Path(__file__).parent / "data" / "first_study.csv", "reference": ROOT / "results" / "reference.csv"}
DESIGN = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def table_of(**methods) -> pd.DataFrame:
    """Rows of one model; a method is its losses (or lists of seeds) at 0.1, 0.2 ...; the dense loss is 3."""
    rows = [("dense", 0.0, 0, 3.0)]
    for method, losses in methods.items():
        for r, seeds in zip(DESIGN, losses, strict=False):
            rows += [(method, r, seed, loss) for seed, loss in enumerate(np.atleast_1d(seeds))]
    frame = pd.DataFrame(rows, columns=["method", "ratio", "seed", "loss"])
    return frame.assign(model="m", recovery_tokens=0, loss_stderr=0.02 * frame["loss"])


def read(table: pd.DataFrame, response: str = "loss", axis: str = "ratio") -> list[laws.Reading]:
    said = laws.read(table, ratio="removed", loss="nats") if "loss" in table else table  # whatever hypothesis draws
    return reading.read_curves(laws.read_points(said), response, axis)


@pytest.fixture(scope="module")
def committed() -> pd.DataFrame:
    return pd.read_csv(STUDIES["first"])


FEW = ["dense", "flap", "shortgpt", "wanda-sp+ridge"]


def some(committed: pd.DataFrame) -> pd.DataFrame:
    """A few methods of one model, losses only, recovered runs among them."""
    rows = committed[(committed["model"] == "smollm2-135m") & committed["method"].isin(FEW)]
    return rows.drop(columns="accuracy")


@pytest.fixture(scope="module")
def fitted(committed) -> laws.Laws:
    return laws.fit(some(committed), draws=100, compare=False)


@pytest.mark.parametrize("axis", ["ratio", "ratio_params"])
def test_seeds_that_reach_nearly_the_same_ratio_are_one_point(axis):
    table = table_of(claw=[(3.19, 3.17, 3.18), (3.42, 3.41, 3.44), (3.71, 3.70, 3.72)])
    apart = {0: -0.0015, 1: 0.0012, 2: 0.0}
    reached = table["ratio"] + table["seed"].map(apart) * (table["ratio"] > 0)
    (one,) = read(table.assign(**{axis: reached, "ratio_of": "own"}), axis=axis)
    assert one.points["seeds"].tolist() == [1, 3, 3, 3]
    assert one.points["ratio"].tolist() == pytest.approx([0, *DESIGN[:3]], abs=1e-3)
    grid = one.predict(np.linspace(0, one.high, 301))["mean"]
    assert (np.diff(grid) > 0).all()


def test_ratios_of_one_seed_stay_apart_however_close():
    table = table_of(flap=[3.19, 3.42, 3.71]).replace({"ratio": {0.1: 0.298, 0.2: 0.299, 0.3: 0.3}})
    (one,) = read(table)
    assert one.points["ratio"].tolist() == [0, 0.298, 0.299, 0.3]


def test_the_same_ratio_asked_for_is_no_reason_to_join_what_was_reached_far_apart():
    table = table_of(flap=[(3.19, 3.8), (3.42, 4.1)])
    reached = table["ratio"] + 0.05 * table["seed"]
    (one,) = read(table.assign(ratio_params=reached), axis="ratio_params")
    assert one.points["ratio"].tolist() == pytest.approx([0, 0.1, 0.15, 0.2, 0.25])


def goes_through_its_points(one: laws.Reading) -> None:
    points = one.points[one.points["ratio"] >= 0]
    band = one.predict(points["ratio"])
    np.testing.assert_allclose(band["mean"], points["value"], rtol=1e-9)
    for edge in ("confidence", "run"):
        assert (band[f"{edge}_low"] <= points["value"].to_numpy() * (1 + 1e-12)).all()
        assert (band[f"{edge}_high"] >= points["value"].to_numpy() * (1 - 1e-12)).all()
    np.testing.assert_allclose(band["bracket_low"], points["ratio"])
    np.testing.assert_allclose(band["bracket_high"], points["ratio"])
    fine = one.predict(np.linspace(max(one.low, 0), max(one.high, 0), 151))
    half = (
        one.quantile * one.points["stderr"] / one.points["value"]
        if one.response == "loss"
        else one.quantile * one.points["stderr"]
    )
    lowest = one.points["value"] * np.exp(-half) if one.response == "loss" else one.points["value"] - half
    assert fine["mean"].min() >= one.points["value"].min() * (1 - 1e-9)  # it dips nowhere that the points do not
    assert fine["mean"].max() <= one.points["value"].max() * (1 + 1e-9)
    assert fine["confidence_low"].min() >= max(lowest.min(), 0 if one.response == "accuracy" else -1) - 1e-9
    assert (fine["confidence_low"] <= fine["mean"]).all() and (fine["mean"] <= fine["confidence_high"]).all()
    assert (fine["run_low"] <= fine["confidence_low"]).all() and (fine["confidence_high"] <= fine["run_high"]).all()


def finds_every_crossing(one: laws.Reading, threshold: float) -> None:
    points = one.points[one.points["ratio"] >= 0]
    above = np.flatnonzero(points["value"].to_numpy() > threshold * one.dense * (1 + 1e-9))
    critical = one.critical_ratio(threshold)
    if not len(above):
        assert critical.ratio == one.high
        return
    r = points["ratio"].to_numpy()
    assert r[above[0] - 1] - 1e-9 <= critical.ratio <= r[above[0]] + 1e-9
    assert math.isnan(critical.low) or critical.low <= critical.ratio + 1e-9
    assert math.isnan(critical.high) or critical.ratio <= critical.high + 1e-9
    assert "measured: " in str(critical)
    assert {place for place, _ in critical.bracket} <= set(one.points["ratio"])


@pytest.mark.parametrize("study", STUDIES)
def test_every_curve_of_a_study_is_read_as_it_was_measured(study):
    seen, points = 0, laws.read_points(pd.read_csv(STUDIES[study]))
    for response in ("loss", "accuracy"):
        for axis in ("ratio", "ratio_params"):
            for one in reading.read_curves(points, response, axis):
                goes_through_its_points(one)
                seen += 1
                if response == "loss" and axis == "ratio":
                    for threshold in (1.05, 1.1, 1.5, 3.0):
                        finds_every_crossing(one, threshold)
    assert seen > 90


def test_every_measured_curve_that_crosses_answers(fitted, committed):
    every = read(committed)
    assert len(every) == 28 and all(one.critical_ratio(1.1).ratio < one.high for one in every)
    frame = laws.critical_table(fitted, 1.1)
    assert len(frame) == len(fitted.readings("loss")) == 5 and frame["ratio"].notna().all()
    best = fitted.critical_ratio(1.1, "smollm2-135m", "wanda-sp+ridge")
    assert best.ratio == pytest.approx(0.17, abs=0.01)
    assert str(best).endswith("measured: 3.24 at r = 0.1 and 3.44 at r = 0.2")


@pytest.mark.parametrize("study", STUDIES)
def test_methods_rank_as_they_were_measured(study):
    committed = pd.read_csv(STUDIES[study])
    curves = [one for one in read(committed) if one.curve.model == "smollm2-135m" and not one.curve.tokens]
    for r in (0.1, 0.2, 0.3, 0.5):
        rows = committed[
            (committed["model"] == "smollm2-135m") & (committed["ratio"] == r) & (committed["recovery_tokens"] == 0)
        ]
        measured = np.log(rows["loss"]).groupby(rows["method"]).mean().sort_values()
        read_off = {one.curve.method: one.mean([r])[0] for one in curves}
        order = sorted(measured.index, key=read_off.__getitem__)
        assert order == list(measured.index)
        assert study != "first" or order.index("shortgpt") >= 7  # which a parabola through its points ranked first


losses = st.lists(st.floats(0.5, 60), min_size=1, max_size=9)


@settings(max_examples=30, deadline=None)
@given(st.lists(losses, min_size=1, max_size=3), st.sampled_from([1.05, 1.3, 2.0]), st.booleans())
def test_every_table_is_read_as_it_was_measured(curves, threshold, known):
    table = table_of(**{f"a{number}": values for number, values in enumerate(curves)})
    for one in read(table if known else table.drop(columns="loss_stderr")):
        goes_through_its_points(one)
        finds_every_crossing(one, threshold)


@settings(max_examples=12, deadline=None)
@given(
    # losses as printed: what differs by rounding alone has a spread of nothing but rounding
    st.lists(st.lists(st.integers(1000, 30000).map(lambda n: n / 1000), min_size=2, max_size=3), min_size=2, max_size=9),
    st.floats(1e-3, 1e3),
)
def test_nothing_depends_on_the_unit_of_loss(values, unit):
    table = table_of(cut=values, random=[3 + i for i in range(len(values))])
    other = table.assign(loss=unit * table["loss"], loss_stderr=unit * table["loss_stderr"])
    r = np.linspace(0, 0.1 * len(values), 23)
    for here, there in zip(read(table), read(other), strict=True):
        pd.testing.assert_frame_equal(
            here.predict(r).filter(regex="mean|_low|_high").drop(columns=["bracket_low", "bracket_high"]) * unit,
            there.predict(r).filter(regex="mean|_low|_high").drop(columns=["bracket_low", "bracket_high"]),
            rtol=1e-6,
        )
        for threshold in (1.01, 1.4):
            one, two = here.critical_ratio(threshold), there.critical_ratio(threshold)
            np.testing.assert_allclose([one.ratio, one.low, one.high], [two.ratio, two.low, two.high], atol=1e-6)
        assert (here.df, here.noise) == (pytest.approx(there.df), there.noise)


@pytest.mark.parametrize("unit", [1 / math.log(2), 40.0])
def test_laws_of_curves_do_not_depend_on_the_unit_of_loss(committed, unit):
    rows = some(committed)
    other = rows.assign(**{name: unit * rows[name] for name in ("loss", "loss0", "loss_stderr")})
    one, two = (laws.fit(each, draws=100) for each in (rows, other))
    assert one.form_of("loss") == two.form_of("loss")
    for here, there in zip(one.curves, two.curves, strict=True):
        assert (here.curve, here.form) == (there.curve, there.form)
        scale = unit if here.form in ("linear", "quadratic") else 1.0
        np.testing.assert_allclose(there.coefficients, scale * here.coefficients, rtol=1e-4, atol=1e-6 * scale)
    about = ("loss is quadratic in the ratio", "models below 50 %", "recovery")
    judged = [{v.claim: v.verdict for v in each.verdicts if v.claim.startswith(about)} for each in (one, two)]
    assert judged[0] == judged[1] and len(judged[0]) >= 2
    for response_rank in (0.1, 0.5):
        ranked = [sorted(each.readings("loss"), key=lambda one: one.mean([response_rank])[0]) for each in (one, two)]
        assert [each.curve for each in ranked[0]] == [each.curve for each in ranked[1]]


def test_an_answer_names_its_bracket_and_ends_with_what_was_measured():
    table = table_of(cut=[3.1, 3.3, 3.6, 3.98])
    one = read(table)[0]
    at = one.predict([0.0, 0.25, 0.3, 0.5])
    assert at["bracket_low"].tolist()[:3] == [0.0, 0.2, 0.3]
    assert at["bracket_high"].tolist()[:3] == [0.0, 0.3, 0.3]
    assert 3.3 < at["mean"][1] < 3.6
    assert at["extrapolated"].tolist() == [False, False, False, True]
    assert at.loc[3, ["mean", "confidence_low", "run_high", "bracket_low"]].isna().all()
    assert str(one.critical_ratio(1.05)).endswith("measured: 3.1 at r = 0.1 and 3.3 at r = 0.2")
    assert str(one.critical_ratio(1.2)).endswith("measured: 3.6 at r = 0.3")
    everything = one.critical_ratio(2.0)
    assert "all of the measured range" in str(everything) and math.isnan(everything.high)
    assert one.critical_ratio(1.0).ratio == pytest.approx(0, abs=1e-9)
    for wrong in (0.5, np.nan, -1):
        with pytest.raises(InputError, match="threshold"):
            one.critical_ratio(wrong)


def test_a_dip_is_honoured_and_the_first_crossing_counts():
    one = read(table_of(cut=[3.5, 2.8, 3.2, 5.0]))[0]
    assert one.mean([0.2])[0] == pytest.approx(2.8)
    assert one.critical_ratio(1.1).ratio < 0.1
    assert one.critical_ratio(1.2).ratio > 0.3


def test_seeds_are_averaged_by_logarithm_and_pooled_over_ratios():
    rng = np.random.default_rng(1)
    scatter = np.exp(rng.normal(0, 0.03, (9, 3)))
    one = read(table_of(cut=(3 + np.arange(9))[:, None] * scatter).drop(columns="loss_stderr"))[0]
    assert one.noise == "noise between seeds of this curve"
    np.testing.assert_allclose(one.points["value"][1:], (3 + np.arange(9)) * np.exp(np.log(scatter).mean(axis=1)))
    pooled = math.sqrt(np.log(scatter).var(axis=1, ddof=1).mean())
    assert one.run == pytest.approx(pooled)
    assert (one.df, one.points["seeds"].tolist()) == (18, [1] + [3] * 9)
    np.testing.assert_allclose(one.points["stderr"][1:] / one.points["value"][1:], pooled / math.sqrt(3))
    at = one.predict([0.3]).iloc[0]
    assert math.log(at["confidence_high"] / at["mean"]) == pytest.approx(stats.t.ppf(0.975, 18) * pooled / math.sqrt(3))


def test_the_error_of_the_evaluation_is_that_of_one_text_and_not_averaged_away():
    exact = table_of(cut=[[3.1, 3.1], [3.3, 3.3], [3.6, 3.6], [4.0, 4.0]])
    assert (read(exact)[0].points["stderr"] / read(exact)[0].points["value"]).tolist() == pytest.approx([0.02] * 5)


def test_where_the_noise_comes_from_is_said():
    seeds = [[3.1 * (1 + r), 3.15 * (1 + r)] for r in DESIGN]
    single = [3.1 * (1 + r) for r in DESIGN]
    sources = {one.curve.method: one.noise for one in read(table_of(cut=single, flap=seeds, random=single))}
    assert sources["cut"] == "noise between seeds of the other methods of this table"
    only = {one.curve.method: one for one in read(table_of(cut=single, random=seeds))}
    assert only["cut"].noise == "noise between seeds of this table"  # a control speaks where nobody else does
    two = pd.concat([table_of(flap=seeds), table_of(flap=single).assign(model="n")])
    assert read(two)[1].noise == "noise between seeds of flap on all models"
    alone = read(table_of(cut=single))[0]
    assert alone.noise.startswith("noise of the evaluation only") and alone.df == math.inf
    assert alone.run == pytest.approx(0.02)
    bare = read(table_of(cut=[3.1, 3.4, 3.3, 4.0, 4.2]).drop(columns="loss_stderr"))[0]
    assert bare.noise.startswith("noise at most, from how far points lie off") and 0 < bare.run < 0.2
    assert read(table_of(cut=[3.1]).drop(columns="loss_stderr"))[0].noise.startswith("no noise is known")


def test_one_ratio_is_a_reading_and_a_curve_without_a_dense_model_too():
    one = read(table_of(cut=[3.5]))[0]
    assert one.predict([0.1])["mean"][0] == 3.5 and 3 < one.predict([0.05])["mean"][0] < 3.5
    alone = table_of(cut=[3.5]).query("method != 'dense'")
    bare = read(alone)[0]
    assert bare.predict([0.1, 0.05])["mean"].tolist() == pytest.approx([3.5, np.nan], nan_ok=True)
    with pytest.raises(InputError, match="no dense loss"):
        bare.critical_ratio(1.1)
    known = read(alone.assign(loss0=3.0))[0]
    assert known.points["ratio"].tolist() == [0.0, 0.1] and 0 < known.critical_ratio(1.1).ratio < 0.1


def test_accuracy_is_read_as_it_is_and_stays_a_share():
    table = table_of(cut=[3.1, 3.3, 3.6, 4.0, 4.4]).assign(accuracy=[0.6, 0.62, 0.5, 0.3, 0.02, 0.01], accuracy_stderr=0.03)
    one = read(table, "accuracy")[0]
    goes_through_its_points(one)
    band = one.predict(np.linspace(0, 0.5, 51))
    assert band["run_low"].min() == 0
    assert 0.2 < one.critical_ratio(0.8).ratio < 0.3


def test_a_method_that_adds_parameters_is_read_against_the_true_share():
    table = table_of(cut=[3.5, 3.8, 4.2, 5.0]).assign(ratio_params=[0.0, -0.05, 0.03, 0.15, 0.25])
    one = read(table, "loss", "ratio_params")[0]
    assert one.low == pytest.approx(-0.05)
    goes_through_its_points(one)
    assert 0 <= one.critical_ratio(1.1).ratio < 0.03


def test_predict_reads_first_and_goes_on_as_a_law(fitted):
    one = fitted.reading("smollm2-135m", "flap")
    auto = fitted.predict([0.3, 0.35, 0.95], "smollm2-135m", "flap")
    only = fitted.predict([0.3, 0.35, 0.95], "smollm2-135m", "flap", law="reading")
    pd.testing.assert_frame_equal(auto[:2], only[:2])
    assert math.isnan(only["mean"][2])
    law = fitted.curve("smollm2-135m", "flap").predict([0.9, 0.95])["mean"]
    assert auto["mean"][2] == pytest.approx(one.points["value"].iloc[-1] * law[1] / law[0])
    assert auto["extrapolated"].tolist() == [False, False, True] and math.isnan(auto["run_high"][2])
    assert f"as its {fitted.form_of('loss')} law goes on" in auto.attrs["law"]
    short = fitted.reading("smollm2-135m", "wanda-sp+ridge", tokens=49664)  # two ratios: no law of its own goes on
    beyond = fitted.predict([0.7, 0.95], "smollm2-135m", "wanda-sp+ridge", 49664)
    assert short.high == 0.9 and beyond["mean"].notna().all() and beyond["extrapolated"].tolist() == [False, True]
    with pytest.raises(InputError, match="did you mean 'flap'"):
        fitted.reading("smollm2-135m", "flapp")
    with pytest.raises(InputError, match="recovery tokens"):
        fitted.reading("smollm2-135m", "flap", tokens=5)
    with pytest.raises(InputError, match="response or axis"):
        fitted.reading("smollm2-135m", "flap", "speed")


def test_stored_laws_read_the_same(fitted):
    again = laws.from_json(fitted.to_json())
    for here, there in zip(fitted.readings("loss"), again.readings("loss"), strict=True):
        pd.testing.assert_frame_equal(here.predict([0.1, 0.45]), there.predict([0.1, 0.45]))
        assert here.noise == there.noise
    assert "Between points" in fitted.readings("loss")[0]._repr_html_()


def test_three_models_give_the_band_of_a_fourth():
    frames = [table_of(cut=[3 * (1 + s * r) for r in DESIGN]).assign(model=f"m{s}") for s in (1, 2, 3)]
    one = laws.fit(pd.concat(frames), draws=100, compare=False)
    at = one.predict([0.5], "m2", "cut").iloc[0]
    rises = np.log([1.5, 2.0, 2.5])
    half = stats.t.ppf(0.975, 2) * rises.std(ddof=1) * math.sqrt(4 / 3)
    assert at["model_high"] == pytest.approx(3 * math.exp(rises.mean() + half))
    assert one.predict([0.5], "m2", "cut", law="curve").iloc[0]["model_high"] == pytest.approx(at["model_high"])
    two = laws.fit(pd.concat(frames[:2]), draws=100, compare=False)
    assert math.isnan(two.predict([0.5], "m2", "cut")["model_high"][0])


def test_interpolation_is_exact_for_what_is_straight_over_its_scale():
    x = np.array([0.0, 0.1, 0.4, 0.9])
    y = interpolation.stretched(x)[:, None]
    at = np.linspace(0, 0.9, 40)
    np.testing.assert_allclose(interpolation.through(x, y, at)[:, 0], interpolation.stretched(at), atol=1e-12)
    assert np.abs(interpolation.misses(x, y)).max() < 1e-12


def test_intervals_of_critical_ratios_hold_the_truth():
    brackets = script("benchmarks/brackets.py")
    cells = [brackets.bracket_coverage(shape, brackets.FIVE, 3, True, 60) for shape in brackets.SHAPES]
    assert 0.92 <= np.mean([share for share, _ in cells]) <= 0.985  # 300 curves know it to 0.012
    assert all(0.02 < width < 0.12 for _, width in cells)


def test_curve_tables_name_the_form_and_readings(fitted):
    frame = tables.curve_table(fitted, "loss")
    assert len(frame) and fitted.form_of("loss") in {form.form for form in fitted.curves_of("loss")}
