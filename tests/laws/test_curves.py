"""Laws of one curve: claimed ones equal to statsmodels, those through the dense model, intervals that cover, JSON."""

import json
import subprocess
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from claw import laws
from claw.errors import InputError
from claw.laws import anchored, catalogue, critical, curves

fit = partial(laws.fit, compare=False)  # comparison of forms has its own tests

# Word perplexity of Llama-3.2-1B against the share of FFN neurons removed, no recovery:
# github.com/peremartra/llama-glu-expansion-pruning
RATIOS = np.arange(7) / 10
PERPLEXITY = np.array([11.5708, 17.5011, 25.0520, 38.5833, 56.3332, 117.0430, 322.9455])


def curve(loss, ratios=RATIOS, **columns) -> pd.DataFrame:
    method = ["dense" if r == 0 else "random" for r in ratios]
    return pd.DataFrame({"model": "m", "method": method, "ratio": ratios, "loss": loss}).assign(**columns)


def test_the_published_curve_gives_the_known_figures():
    law = fit(curve(np.log(PERPLEXITY))).curve("m", "random", form="quadratic")
    assert round(law.quality["r2"], 3) == 0.991
    assert round(law.coefficients[2], 2) == 5.67
    assert [round(edge, 2) for edge in law.intervals[2]] == [1.68, 9.66]
    linear = fit(curve(np.log(PERPLEXITY))).curve("m", "random", form="linear")
    assert round(linear.quality["r2"], 3) == 0.957


def test_bands_are_those_of_statsmodels():
    frame = curve(np.log(PERPLEXITY))
    law = fit(frame).curve("m", "random", form="quadratic")
    reference = smf.ols("loss ~ ratio + I(ratio**2)", frame).fit().get_prediction(pd.DataFrame({"ratio": [0.05, 0.5]}))
    expected = reference.summary_frame(alpha=0.05)
    ours = law.predict([0.05, 0.5])
    for here, there in (("mean", "mean"), ("confidence_low", "mean_ci_lower"), ("run_high", "obs_ci_upper")):
        np.testing.assert_allclose(ours[here], expected[there], rtol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.floats(1, 5), st.floats(0, 4), st.floats(0, 6))
def test_an_exact_curve_gives_its_own_coefficients(a, b, c):
    law = fit(curve(a + b * RATIOS + c * RATIOS**2)).curve("m", "random", form="quadratic")
    np.testing.assert_allclose(law.coefficients, [a, b, c], atol=1e-8)


def test_intervals_cover_the_truth_at_their_level():
    rng, truth, hits = np.random.default_rng(0), np.array([3.0, 1.0, 4.0]), []
    for _ in range(200):
        noisy = curve(np.polyval(truth[::-1], RATIOS) + rng.normal(0, 0.1, 7), loss0=3.0)
        law = curves.fit_curve(noisy, curves.CurveKey("m", "random"), "loss", "quadratic")
        hits.append((law.intervals[:, 0] <= truth) & (truth <= law.intervals[:, 1]))
    assert 0.92 <= np.mean(hits) <= 0.98


def test_accuracy_is_weighted_by_its_standard_error():
    stderr = np.array([0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.3])
    frame = curve(3 + RATIOS, accuracy=[0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.9], accuracy_stderr=stderr)
    law = fit(frame).curve("m", "random", "accuracy")
    assert law.weighted
    assert abs(law.coefficients[1] + 0.5) < 0.02


def test_the_dense_row_is_on_every_curve_of_its_model():
    frame = pd.concat(
        [curve(3 + RATIOS), curve(3 + 2 * RATIOS).query("ratio > 0").assign(method="magnitude", recovery_tokens=1000)]
    )
    fitted = fit(frame)
    assert {len(fitted.measured(law)) for law in fitted.curves} == {7}
    assert fitted.curve("m", "magnitude", tokens=1000).low == fitted.reading("m", "magnitude", tokens=1000).low == 0


def test_a_curve_without_a_band_has_no_interval_of_its_critical_ratio():
    """Below three degrees of freedom a law has no band; the interval was then from the end of the curve to beyond it."""
    band = pd.DataFrame({"ratio": [0.0, 0.5, 0.8], "mean": [2.0, 3.0, 4.0]}).assign(
        confidence_low=np.nan, confidence_high=np.nan
    )
    found = critical.ratio(band, 1.25, 2.0, "loss", level=0.95, title="m")
    assert found.ratio == 0.25 and np.isnan(found.low) and np.isnan(found.high) and not found.banded
    assert str(found) == "r = 0.250; no interval, because too little is known of the fitted curve for a band"


def test_the_critical_ratio_of_a_law_and_its_interval():
    exact = fit(curve(3 * (1 + RATIOS))).curve("m", "random", form="quadratic").critical_ratio(1.3)
    assert exact.ratio == pytest.approx(0.3, abs=1e-6)
    noisy = fit(curve(np.log(PERPLEXITY))).curve("m", "random", form="quadratic")
    found = noisy.critical_ratio(1.5)
    assert found.low < found.ratio < found.high
    edge = noisy.predict(found.low)
    assert edge["confidence_high"].iloc[0] == pytest.approx(1.5 * noisy.dense, abs=1e-3)
    assert np.isnan(noisy.critical_ratio(30).high)
    for wrong in (0.5, np.nan, -1):
        with pytest.raises(InputError, match="threshold"):
            noisy.critical_ratio(wrong)


THETA = {"power": [1.4], "capacity": [0.5, 1.5], "log-odds": [0.6, 2.0], "log-kept-power": [0.8, 1.3]}
THETA |= {"log-cubic": [0.5, -0.4, 2.0]}


def rising(form: str, theta, r):
    """L/L0 of a form, and the form."""
    law = catalogue.find_form(form)
    return np.exp(law.eta({"r": np.asarray(r, float), "dense": np.ones(len(r))}, np.array(theta, float))), law


@pytest.mark.parametrize("form", THETA)
def test_a_law_through_the_dense_model_is_recovered_exactly(form):
    ratios = np.arange(10) / 10
    fitted = fit(curve(3 * rising(form, THETA[form], ratios)[0], ratios))
    law = fitted.curve("m", "random", form=form)
    np.testing.assert_allclose(law.coefficients, THETA[form], rtol=1e-4)
    assert fitted.form_of("loss") == form  # the one that misses left-out ratios least
    band = law.predict([0.0, 0.5])
    assert band["confidence_low"][0] == band["mean"][0] == band["confidence_high"][0] == pytest.approx(3.0)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["capacity", "log-odds", "log-kept-power"]), st.integers(0, 10_000))
def test_many_problems_at_once_are_solved_as_well_as_one_by_scipy(form, seed):
    rng, ratios = np.random.default_rng(seed), np.arange(1, 10) / 10
    y = np.cumsum(rng.gamma(1.0, 0.15, 9))
    law = catalogue.find_form(form)
    c = {"r": ratios, "dense": np.ones(9)}
    theta = anchored.solve_many(law, ratios[None], y[None], np.ones((1, 9)))[0]
    ours = ((law.eta(c, theta) - y) ** 2).sum()
    finite = lambda theta: np.nan_to_num(law.eta(c, theta) - y, nan=1e3, posinf=1e3, neginf=-1e3)
    starts = [(a, k) for a in (0.01, 0.3, 3.0) for k in np.geomspace(law.low[1] * 1.5, law.high[1] / 1.5, 8)]
    limits = ([1e-12, law.low[1]], [np.inf, law.high[1]])
    theirs = min(2 * least_squares(finite, start, bounds=limits, x_scale="jac").cost for start in starts)
    assert ours <= theirs * (1 + 1e-4) + 1e-10


@pytest.mark.parametrize("form", ["power", "capacity", "log-cubic"])
def test_intervals_of_laws_through_the_dense_model_cover_the_truth(form):
    rng, ratios, hits = np.random.default_rng(0), np.arange(10) / 10, []
    true, law = rising(form, THETA[form], ratios)
    rows = []
    for number in range(250):
        loss = 3 * true * np.exp(np.append(0.0, rng.normal(0, 0.02, 9)))
        rows.append(curve(loss, ratios).assign(model=f"m{number}"))
    points = laws.read_points(pd.concat(rows))
    rises = [anchored.Ascent.of(own, key, "ratio") for key, own in curves.split(points, "loss")]
    for own in anchored.fit_anchored(rises, law, 0.95)[0]:
        hits.append((own.intervals[:, 0] <= THETA[form]) & (own.intervals[:, 1] >= THETA[form]))
    assert len(hits) == 250
    assert 0.92 <= np.mean(hits) <= 0.98


def test_seeds_weigh_as_many_and_the_law_does_not_shrink_the_unit():
    rng = np.random.default_rng(3)
    ratios = np.repeat(RATIOS[1:], 3)
    loss = 3 * (1 + ratios) ** 1.4 * np.exp(rng.normal(0, 0.02, len(ratios)))
    table = curve(np.append(3.0, loss), np.append(0.0, ratios)).assign(seed=np.append(0, np.tile(range(3), 6)))
    law = fit(table).curve("m", "random", form="power")
    x, y = np.log1p(ratios), np.log(loss / 3)
    reference = sm.OLS(y, x).fit()
    assert law.coefficients[0] == pytest.approx(reference.params[0])
    np.testing.assert_allclose(law.intervals, reference.conf_int(), rtol=1e-6)


def test_too_few_points_are_named_not_fitted():
    fitted = fit(curve(3 + RATIOS[:3], RATIOS[:3]))
    alone = fitted.unfitted[fitted.unfitted["model"].notna()]
    assert set(alone["form"]) == {"quadratic", "capacity", "log-odds", "log-kept-power", "log-cubic"}
    assert "3 points" in alone[alone["form"] == "quadratic"]["why"].iloc[0]
    assert "2 points at 2 ratios above 0" in alone[alone["form"] == "capacity"]["why"].iloc[0]
    single = fit(curve([3.0, 3.1, 3.2, 3.3], [0.3] * 4))
    assert {"linear", "quadratic"} <= set(single.unfitted["form"])


@pytest.mark.parametrize("wrong", [-0.1, 1.0, np.nan])
def test_a_ratio_outside_the_unit_interval_is_refused(wrong):
    with pytest.raises(InputError, match=r"\[0, 1\)"):
        fit(curve(3 + RATIOS)).predict([0.1, wrong], "m", "random")


def test_unknown_names_are_answered_with_near_ones():
    fitted = fit(curve(3 + RATIOS))
    with pytest.raises(InputError, match="did you mean 'random'"):
        fitted.curve("m", "randon")
    with pytest.raises(InputError, match="recovery tokens"):
        fitted.curve("m", "random", tokens=5)


def test_json_loses_nothing_and_needs_no_refit():
    fitted = fit(curve(np.log(PERPLEXITY)))
    again = laws.from_json(fitted.to_json())
    assert again.to_json() == fitted.to_json()
    pd.testing.assert_frame_equal(again.predict([0.2, 0.9], "m", "random"), fitted.predict([0.2, 0.9], "m", "random"))
    with pytest.raises(InputError, match="not laws"):
        laws.from_json('{"schema": 1}')


def test_a_page_without_python_draws_the_same_bands():
    fitted = fit(curve(np.log(PERPLEXITY)))
    plain = json.loads(json.dumps(fitted.slider_json(), allow_nan=False))[0]
    grid, at = plain["grid"], fitted.predict([0.45], "m", "random").iloc[0]
    assert {len(column) for column in grid.values()} == {61}
    for name, column in {"mean": "mean", "high": "confidence_high", "run_low": "run_low"}.items():
        assert grid[name][45] == pytest.approx(at[column], rel=1e-4)
    assert [point[1] for point in plain["points"]] == pytest.approx(np.log(PERPLEXITY))
    (r, mean), *_ = plain["beyond"]
    assert (r, plain["range"]) == (0.61, [0, 0.6])
    assert mean == pytest.approx(fitted.predict([0.61], "m", "random")["mean"].iloc[0], rel=1e-4)
    assert plain["law"].startswith(fitted.form_of("loss"))


def test_laws_need_no_torch():
    code = "import sys, claw.laws; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
