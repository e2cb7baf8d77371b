"""Laws of one curve: exact on exact data, equal to statsmodels, intervals that cover, JSON that loses nothing."""

import json
import subprocess
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st

from claw import laws
from claw.errors import InputError
from claw.laws import curves

fit = partial(laws.fit, compare=False)  # comparison of forms has its own tests

# Word perplexity of Llama-3.2-1B against the share of FFN neurons removed, no recovery:
# github.com/peremartra/llama-glu-expansion-pruning
RATIOS = np.arange(7) / 10
PERPLEXITY = np.array([11.5708, 17.5011, 25.0520, 38.5833, 56.3332, 117.0430, 322.9455])


def curve(loss, ratios=RATIOS, **columns) -> pd.DataFrame:
    method = ["dense" if r == 0 else "random" for r in ratios]
    return pd.DataFrame({"model": "m", "method": method, "ratio": ratios, "loss": loss}).assign(**columns)


def test_the_published_curve_gives_the_known_figures():
    law = fit(curve(np.log(PERPLEXITY))).curve("m", "random")
    assert round(law.quality["r2"], 3) == 0.991
    assert round(law.coefficients[2], 2) == 5.67
    assert [round(edge, 2) for edge in law.intervals[2]] == [1.68, 9.66]
    linear = fit(curve(np.log(PERPLEXITY))).curve("m", "random", form="linear")
    assert round(linear.quality["r2"], 3) == 0.957


def test_bands_are_those_of_statsmodels():
    frame = curve(np.log(PERPLEXITY))
    law = fit(frame).curve("m", "random")
    reference = smf.ols("loss ~ ratio + I(ratio**2)", frame).fit().get_prediction(pd.DataFrame({"ratio": [0.05, 0.5]}))
    expected = reference.summary_frame(alpha=0.05)
    ours = law.predict([0.05, 0.5])
    for here, there in (("mean", "mean"), ("confidence_low", "mean_ci_lower"), ("run_high", "obs_ci_upper")):
        np.testing.assert_allclose(ours[here], expected[there], rtol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.floats(1, 5), st.floats(0, 4), st.floats(0, 6))
def test_an_exact_curve_gives_its_own_coefficients(a, b, c):
    law = fit(curve(a + b * RATIOS + c * RATIOS**2)).curve("m", "random")
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
    assert [len(fitted.measured(law)) for law in fitted.curves] == [7, 7, 7, 7]
    assert fitted.curve("m", "magnitude", tokens=1000).low == 0


def test_the_critical_ratio_and_its_interval():
    exact = fit(curve(3 * (1 + RATIOS))).curve("m", "random").critical_ratio(1.3)
    assert exact.ratio == pytest.approx(0.3, abs=1e-6)
    noisy = fit(curve(np.log(PERPLEXITY))).curve("m", "random")
    critical = noisy.critical_ratio(1.5)
    assert critical.low < critical.ratio < critical.high
    edge = noisy.predict(critical.low)
    assert edge["confidence_high"].iloc[0] == pytest.approx(1.5 * noisy.dense, abs=1e-3)
    assert np.isnan(noisy.critical_ratio(30).high)
    for wrong in (0.5, np.nan, -1):
        with pytest.raises(InputError, match="threshold"):
            noisy.critical_ratio(wrong)


def test_too_few_points_are_named_not_fitted():
    fitted = fit(curve(3 + RATIOS[:3], RATIOS[:3]))
    alone = fitted.unfitted[fitted.unfitted["model"].notna()]
    assert list(alone["form"]) == ["quadratic"]
    assert "3 points" in alone["why"].iloc[0]
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
    law = fitted.curve("m", "random")
    plain = json.loads(json.dumps(fitted.slider_json(), allow_nan=False))[0]
    x = np.array([0.45**power for power in plain["powers"]])
    mean, variance = x @ plain["coefficients"], x @ np.array(plain["covariance"]) @ x
    at = law.predict(0.45).iloc[0]
    assert mean == pytest.approx(at["mean"])
    assert mean + plain["t"] * np.sqrt(variance) == pytest.approx(at["confidence_high"])
    assert mean - plain["t"] * np.sqrt(variance + plain["sigma2"]) == pytest.approx(at["run_low"])
    assert plain["new_model"] is None


def test_laws_need_no_torch():
    code = "import sys, claw.laws; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
