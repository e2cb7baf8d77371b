"""Laws across models: known laws are recovered, intervals hold the truth, every trap is met, and bad input is named."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from claw import laws
from claw.errors import InputError
from claw.laws import catalogue, clusters, diagnostics, forms, pooled, simulate, tables
from claw.laws.sample import gather
from claw.laws.simulate import Design, Truth

SMALL = Design(models=5, methods=("a", "b"), ratios=(0.1, 0.3, 0.5, 0.7, 0.9), tokens=(0, 1e6, 25e6))
FEW = replace(SMALL, models=3, tokens=(0, 25e6))


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return simulate.simulated_table(SMALL, simulate.TRUTHS)


@pytest.fixture(scope="module")
def five_models(table) -> laws.Laws:
    return laws.fit(table, draws=300, compare=False)


def fit_one(table, form, group="cross", response="loss", kinds=("bias-reduced", "clustered", "ordinary"), **options):
    law = catalogue.find_form(form, group)
    return pooled.fit_pooled(gather(laws.read_points(table), law, response, **options), kinds=kinds, draws=200)


@pytest.mark.parametrize(
    ("response", "truth"),
    [
        ("loss", Truth("cross", "anchored", {"β": 1.2, "γ": 0.2})),
        ("loss", Truth("cross", "original", {"α": 1.05, "β": 1.2, "γ": 0.2})),
        ("loss", Truth("cross", "unit-α×size", {"β": 1.2, "λ": -0.3, "γ": 0.2})),
        ("accuracy", Truth("retention", "retention-quadratic", {"b": 0.6, "q": 0.2, "g": 0.3})),
        ("accuracy", Truth("retention", "retention-logit", {"b": 1.5, "g": 0.3})),
        ("loss", Truth("competing", "plateau", {"p": 2.5, "s": 0.5, "k": 2.0})),
        ("loss", Truth("competing", "exponential", {"b": 0.9})),
        ("loss", Truth("own", "log-odds", {"a": 0.6, "s": 2.0})),
        ("loss", Truth("own", "half-way", {"p": 3.0, "m": 0.6, "k": 2.0})),
        ("loss", Truth("post-training", "P² of one size", {"D_C": 0.9, "E": 0.3, "γ": -1.5, "β": 0.4})),
    ],
)
def test_a_law_without_noise_is_recovered_exactly(response, truth):
    design = replace(SMALL, tokens=(1e6, 5e6, 25e6)) if truth.group == "post-training" else SMALL
    exact = simulate.simulated_table(design, {response: Truth(truth.group, truth.form, truth.theta, {}, 1e-9)})
    recovered = truth.group not in ("competing", "own")
    law = fit_one(exact, truth.form, truth.group, response, ("bias-reduced",), recovered=recovered)
    np.testing.assert_allclose(law.coefficients, [truth.theta[name] for name in law.coefficient_names], rtol=1e-4)
    assert law.quality["r2"] > 1 - 1e-8


def test_default_intervals_cover_where_ordinary_ones_do_not():
    truth, rng = {"loss": Truth("cross", "unit-α", {"β": 1.2, "γ": 0.15}, {"β": 0.2, "γ": 0.05})}, np.random.default_rng(0)
    kinds = ("bias-reduced", "clustered", "ordinary")
    design = Design(models=6, methods=("a", "b"), ratios=(0.1, 0.3, 0.5, 0.7, 0.9), tokens=(0, 5e6))
    law = catalogue.find_form("unit-α", "cross")
    sample = gather(laws.read_points(simulate.simulated_table(design, truth)), law, "loss")
    hits, estimates = {kind: [] for kind in kinds}, []
    for _ in range(250):
        y = simulate.draw(sample.rows, truth["loss"], "loss", rng)
        drawn = pooled.fit_pooled(with_response(sample, y), kinds=kinds, draws=100)
        estimates.append(drawn.coefficients)
        for kind in kinds:
            low, high = drawn.intervals[kind].T
            hits[kind].append((low <= [1.2, 0.15]) & (high >= [1.2, 0.15]))
    share = {kind: np.mean(inside) for kind, inside in hits.items()}
    assert 0.92 <= share["bias-reduced"] <= 0.98
    assert share["ordinary"] < 0.75
    bias = (np.mean(estimates, axis=0) - [1.2, 0.15]) / np.std(estimates, axis=0)
    assert np.abs(bias).max() < 0.2  # 250 draws know it to 0.06


def with_response(sample, y):
    """The sample with another response."""
    return replace(sample, y=y, target=forms.to_scale("log", y, sample.covariates))


def test_clustered_covariance_is_that_of_statsmodels(table):
    import statsmodels.formula.api as smf

    sample = gather(laws.read_points(table), catalogue.find_form("original", "cross"), "loss")
    design = catalogue.find_form("original", "cross").design(sample.covariates)
    frame = pd.DataFrame(design, columns=["l", "x", "d"]).assign(y=sample.target, model=sample.groups)
    codes = pd.factorize(frame["model"])[0]
    reference = smf.ols("y ~ 0 + l + x + d", frame).fit(cov_type="cluster", cov_kwds={"groups": codes}, use_t=True)
    law = fit_one(table, "original")
    np.testing.assert_allclose(law.coefficients, reference.params, rtol=1e-8)
    np.testing.assert_allclose(law.intervals["clustered"], reference.conf_int(), rtol=1e-6)
    np.testing.assert_allclose(clusters.clustered(law.clusters), reference.cov_params(), rtol=1e-6)


def test_every_kind_of_interval_stands_beside_the_others(five_models):
    law = five_models.law("unit-α", method="a")
    assert set(law.intervals) == set(law.degrees) == set(laws.KINDS) - {"runs"}  # of one curve only
    for kind, interval in law.intervals.items():
        enough = law.degrees[kind] >= 3
        assert enough.any() or kind == "wild"
        assert (np.isfinite(interval).all(axis=1) == enough).all()
        assert (interval[enough, 0] < law.coefficients[enough]).all()
        assert (law.coefficients[enough] < interval[enough, 1]).all()


def test_three_bands_are_told_apart(five_models):
    band = five_models.predict([0.2, 0.5, 0.8], "model-0", "a", law="anchored")
    assert (band["confidence_low"] < band["mean"]).all()
    assert (band["model_low"] <= band["confidence_low"]).all()
    assert (band["run_high"] - band["run_low"] > 0).all()
    assert five_models.predict([0.2], "model-0", "a").attrs["law"].startswith("measured points")
    new = five_models.predict([0.3], "new", dense=3.0)
    assert new.attrs["law"] == "anchored (all methods)"
    with pytest.raises(InputError, match="pass dense="):
        five_models.predict([0.3], "new")


def test_the_critical_ratio_of_an_anchored_law_is_in_closed_form():
    exact = simulate.simulated_table(FEW, {"loss": Truth("cross", "anchored", {"β": 1.2, "γ": 0.2}, {}, 1e-9)})
    fitted = laws.fit(exact, draws=100, compare=False)
    critical = fitted.critical_ratio(1.3, "model-0", "a", law="anchored")
    assert critical.ratio == pytest.approx(1.3 ** (1 / 1.2) - 1, abs=1e-4)
    recovered = fitted.critical_ratio(1.3, "model-0", "a", 25e6, law="anchored")
    assert recovered.ratio > critical.ratio


def test_equal_seeds_give_equal_laws_and_json_keeps_every_digit(five_models):
    few = simulate.simulated_table(replace(FEW, models=5), {"loss": simulate.TRUTHS["loss"]})
    first, again, other = (laws.fit(few, seed=seed, draws=100, compare=False) for seed in (0, 0, 1))
    assert again.to_json() == first.to_json()
    pairs = [fitted.law("anchored", method="a").intervals["pairs"] for fitted in (other, first)]
    assert np.isfinite(pairs).any() and not np.array_equal(*pairs)
    read = laws.from_json(five_models.to_json())
    assert read.to_json() == five_models.to_json()
    for kind in laws.KINDS:
        args = ([0.15, 0.6], "model-1", "b", 1e6)
        expected = five_models.predict(*args, law="anchored", interval=kind)
        pd.testing.assert_frame_equal(read.predict(*args, law="anchored", interval=kind), expected)


# The traps, in the order of the list they are known from.


def test_trap_1_competing_forms_share_one_response():
    assert {form.scale for form in (*catalogue.COMPETING, *catalogue.OWN)} == {"relative"}
    assert all("y/y0" in form.formula for form in (*catalogue.COMPETING, *catalogue.OWN))


def test_trap_2_tokens_count_in_millions_and_the_unit_matters(table):
    estimates = diagnostics.sensitivity(laws.read_points(table), form="anchored").set_index(["choice", "coefficient"])[
        "estimate"
    ]
    millions, tokens = estimates["as reported (D in millions)", "γ"], estimates["D in tokens", "γ"]
    assert millions == pytest.approx(fit_one(table, "anchored").coefficients[1])
    assert abs(tokens - millions) > 0.01
    assert catalogue.switch({"d": 1e6}) < 1e-5 < 0.1 < catalogue.switch({"d": 1.0})


def test_trap_3_alpha_rests_on_as_many_numbers_as_there_are_models(table):
    original = catalogue.find_form("original", "cross")
    basis = diagnostics.diagnose(laws.read_points(table), original, "loss").coefficients.set_index("coefficient")
    assert basis.loc["α", "rests on"] == "5 models, one value each"
    assert basis.loc["α", "values"] == 5
    two = table[table["model"].isin(["model-0"])]
    why = laws.fit(two, draws=100, compare=False).unfitted
    assert "1 model" in why[why["form"] == "original"]["why"].iloc[0]


def test_trap_4_the_original_law_misses_the_dense_loss_and_says_by_how_much(five_models):
    assert five_models.law("original").quality["anchor_error"] > 0.01
    assert five_models.law("anchored").quality["anchor_error"] < 1e-12


def test_trap_5_both_r2_are_reported_and_the_uncentred_flatters(five_models):
    quality = five_models.law("original").quality
    assert quality["r2_uncentred"] > quality["r2"]
    assert "R² uncentred" in five_models._repr_html_()


def test_trap_6_mean_and_median_and_the_jacobian(table, five_models):
    median, mean = (
        five_models.predict([0.9], "model-0", "a", law="anchored", statistic=s)["mean"][0] for s in ("median", "mean")
    )
    assert mean > median
    law = catalogue.find_form("unit-α", "cross")
    sample = gather(laws.read_points(table), law, "loss")
    fit = fit_one(table, "unit-α")
    sigma = math.sqrt(np.mean((sample.target - law.eta(sample.covariates, fit.coefficients)) ** 2))
    density = stats.lognorm.logpdf(sample.y, sigma, scale=np.exp(law.eta(sample.covariates, fit.coefficients)))
    assert fit.quality["loglike"] == pytest.approx(density.sum())


@pytest.mark.parametrize("scale", ["log", "relative", "retention", "inverse", "logit", "identity"])
def test_trap_6_every_scale_is_invertible_and_has_its_jacobian(scale):
    y, step = np.array([0.35, 0.42, 0.6]), 1e-6
    c = {"dense": np.full(3, 0.7), "chance": np.full(3, 0.25)}
    np.testing.assert_allclose(forms.from_scale(scale, forms.to_scale(scale, y, c), c), y)
    slope = (forms.to_scale(scale, y + step, c) - forms.to_scale(scale, y - step, c)) / (2 * step)
    assert forms.log_jacobian(scale, y, c) == pytest.approx(np.log(np.abs(slope)).sum(), abs=1e-6)


def test_trap_7_accuracy_has_a_floor_weights_and_a_logit_beside_the_line(table, five_models):
    law = five_models.law("retention-linear", "accuracy")
    assert five_models.law("retention-logit", "accuracy").n <= law.n
    noisy = table.assign(accuracy_stderr=np.where(table["ratio"] > 0.8, 10.0, 0.01))
    noisy.loc[noisy["ratio"] > 0.8, "accuracy"] = 0.9
    assert fit_one(noisy, "retention-linear", "retention", "accuracy").coefficients[0] == pytest.approx(
        law.coefficients[0], abs=0.1
    )


def test_trap_8_the_collapse_is_left_out_on_request(table):
    rows = diagnostics.sensitivity(laws.read_points(table)).groupby("choice")["n"].max()
    assert rows["without r > 0.7"] == round(rows["as reported (D in millions)"] * 4 / 5)


def test_trap_9_nominal_and_true_ratio_give_different_laws_and_a_conversion(five_models):
    nominal, true = (five_models.law("unit-α", axis=axis).coefficients[0] for axis in ("ratio", "ratio_params"))
    assert true > nominal * 1.3
    np.testing.assert_allclose(five_models.conversion()["mean"], 0.62)
    assert "0.62 × r of all parameters" in five_models.summary()


def test_one_ratio_carries_no_law(table):
    single = table[table["ratio"].isin([0.0, 0.3])]
    fitted = laws.fit(single, draws=100, compare=False)
    assert not fitted.curves
    assert not fitted.pooled
    assert fitted.unfitted["why"].str.contains("one ratio").any()


def test_losses_of_other_tokenizers_are_not_pooled_in_absolute_terms(table):
    few = table[table["model"].isin(["model-0", "model-1"])].drop(columns="accuracy")
    mixed = few.assign(heldout_data=few["model"])
    fitted = laws.fit(mixed, draws=100, compare=False)
    assert any("tokenizers" in note for note in fitted.points.notes)
    why = fitted.unfitted[fitted.unfitted["form"] == "original"]["why"].iloc[0]
    assert "fit_each(table, by='heldout_data')" in why
    assert fitted.law("anchored").n == fitted.law("unit-α").n > 0


def test_one_model_speaks_of_itself_only(table):
    fitted = laws.fit(table[table["model"] == "model-0"], draws=100, compare=False)
    law = fitted.law("anchored")
    assert law.unit == "curve"
    assert "say nothing of other models" in " ".join(law.notes)
    band = fitted.predict([0.5], "model-0", "a", law="anchored")
    assert band["model_low"].isna().all()
    assert "nothing of any other" in fitted.summary()


def test_a_table_of_one_model_has_laws_of_its_curves_and_of_what_methods_share():
    one = simulate.simulated_table(Design(models=1, methods=tuple("abcde"), ratios=(0.1, 0.3, 0.5, 0.7)), simulate.TRUTHS)
    fitted = laws.fit(one[one["recovery_tokens"] == 0], draws=100)
    own = fitted.law("anchored", method="a")
    assert own.unit == "run" and set(own.intervals) == {"runs", "ordinary", "bias-reduced"} and own.mixed is None
    assert np.isfinite(own.interval).all()
    shared = fitted.law("anchored")
    assert shared.basis == "5 methods on 1 model" and np.isfinite(shared.interval).all() and shared.df == [4.0]
    assert laws.from_json(fitted.to_json()).to_json() == fitted.to_json()


@pytest.mark.parametrize("ratios", [[0.0, 0.2], [0.0, 0.2, 0.4, 0.6]])
def test_sensitivity_of_a_perfect_fit_has_a_note_where_weights_are_not_defined(ratios):
    method = ["dense"] + ["a"] * (len(ratios) - 1)
    exact = pd.DataFrame({"model": "m", "method": method, "ratio": ratios, "loss": 3 * (1 + np.array(ratios))})
    rows = diagnostics.sensitivity(laws.read_points(exact)).set_index("choice")
    assert rows.loc["as reported (D in millions)", "estimate"] == pytest.approx(1.0)
    assert (rows["estimate"].notna() | rows["why"].ne("")).all()
    if len(ratios) == 2:
        assert "perfect" in rows.loc["Huber weights", "why"]


def test_the_conversion_names_the_method_that_adds_parameters():
    rows = [("dense", 0.0, 0.0), ("cuts", 0.2, 0.1), ("cuts", 0.4, 0.3), ("rotates", 0.2, -0.1), ("rotates", 0.4, 0.2)]
    frame = pd.DataFrame(rows, columns=["method", "ratio", "ratio_params"]).assign(model="m", loss=[3, 3.2, 3.6, 3.3, 3.8])
    text = tables.conversion_text(laws.fit(frame, draws=100, compare=False))
    assert "removes 0.50 to 0.75 × r of all parameters" in text
    assert "rotates adds parameters at some ratios: from 0.50 × r added to 0.50 × r removed." in text
    alone = frame[frame["method"] != "cuts"].assign(ratio_params=[0.0, -0.1, -0.1])
    text = tables.conversion_text(laws.fit(alone, draws=100, compare=False))
    assert text == "rotates adds parameters at some ratios: from 0.50 × r added to 0.25 × r added."


def test_unknown_laws_and_intervals_are_answered_with_names(five_models):
    with pytest.raises(InputError, match="did you mean 'anchored'"):
        five_models.law("anchord")
    with pytest.raises(InputError, match="bias-reduced"):
        five_models.predict([0.1], "model-0", "a", law="anchored", interval="normal")
    with pytest.raises(InputError, match="level"):
        laws.fit(pd.DataFrame(), level=95)
    with pytest.raises(InputError, match="draws"):
        laws.fit(pd.DataFrame(), draws=1)


def test_speed_follows_the_share_truly_removed():
    rows = simulate.simulated_table(FEW, {"loss": simulate.TRUTHS["loss"]})
    rows["speedup_decode"] = (1 - rows["ratio_params"]) ** -0.8
    fitted = laws.fit(rows, draws=100, compare=False)
    assert fitted.law("speed-power-one-size", "speedup_decode", axis="ratio_params").coefficients[0] == pytest.approx(0.8)
    at = fitted.predict([0.5], "model-0", "a", response="speedup_decode").iloc[0]
    assert at["share"] == pytest.approx(0.31)
    assert at["mean"] == pytest.approx(0.69**-0.8)
    with pytest.raises(InputError, match="speedup_prefill"):
        fitted.predict([0.5], "model-0", "a", response="speedup_prefill")


def test_a_table_of_accuracy_alone_is_served(table):
    few = table[table["model"] == "model-1"].drop(columns=["loss", "loss0"])
    fitted = laws.fit(few, draws=100)
    assert {law.response for law in fitted.curves} == {"accuracy"}
    assert "accuracy" in fitted.summary()
    with pytest.raises(InputError, match="no column loss"):
        diagnostics.diagnose(fitted.points, catalogue.find_form("anchored", "cross"), "loss")


def test_the_dense_point_of_an_anchored_law_of_one_curve_is_no_degree_of_freedom():
    one = simulate.simulated_table(Design(models=1, methods=("a",), ratios=(0.1, 0.3, 0.5, 0.7)), simulate.TRUTHS)
    rows = one[(one["recovery_tokens"] == 0) & (one["seed"] == 0)]
    fitted = laws.fit(rows, draws=100, compare=False)
    law = fitted.law("anchored")
    assert law.unit == "run" and law.n == 5 and list(law.df) == [3.0]
    residual = np.log(rows["loss"] / rows["loss0"]) - law.coefficients[0] * np.log1p(rows["ratio"])
    assert law.sigma2 == pytest.approx((residual**2).sum() / 3)
