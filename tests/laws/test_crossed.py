"""What methods share: equal to statsmodels, intervals that hold on designs like the real one, reasons where there are none."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from synthetic_laws import crossed_table

from claw import laws
from claw.laws import crossed, over_curves

VARYING = {"method": (0,), "model": (0,), "curve": (0,)}


def fitted(frame: pd.DataFrame, varying=VARYING) -> crossed.Crossed:
    x, y = np.log1p(frame["ratio"].to_numpy(float)), np.log((frame["loss"] / frame["loss0"]).to_numpy(float))
    places = (frame[name].to_numpy(str) for name in ("method", "model"))
    return crossed.fit_crossed(crossed.curve_sums(x[:, None], y, *places, np.ones(len(x))), varying)


def cut(seed: int, **design) -> tuple[pd.DataFrame, dict[str, float]]:
    table, truth = crossed_table(seed, **design)
    return table[table["method"] != "dense"], truth


@pytest.mark.filterwarnings("ignore")
def test_it_is_the_fit_of_statsmodels():
    frame, _ = cut(3, methods=6, models=4, curve_spread=0.2)
    ours = fitted(frame)
    frame = frame.assign(x=np.log1p(frame["ratio"]), y=np.log(frame["loss"] / frame["loss0"]), one=1)
    frame["curve"] = frame["method"] + frame["model"]
    parts = {name: f"0 + C({name}):x" for name in ("method", "model", "curve")}
    theirs = smf.mixedlm("y ~ 0 + x", frame, groups="one", re_formula="0", vc_formula=parts).fit(reml=True)
    assert ours.coefficients[0] == pytest.approx(theirs.params["x"], rel=1e-3)
    assert np.sqrt(ours.covariance[0, 0]) == pytest.approx(theirs.bse["x"], rel=2e-2)
    spread = dict(zip(theirs.model.exog_vc.names, np.sqrt(theirs.vcomp), strict=True))
    for name in parts:
        assert ours.spread[name][0] == pytest.approx(spread[name], abs=0.01)
    assert ours.sigma2 == pytest.approx(theirs.scale, rel=1e-2)


def test_intervals_hold_on_unequal_crossed_designs():
    rng, hits = np.random.default_rng(0), {"shared": [], "new method": [], "method": [], "new model": []}
    one = np.eye(1)
    for seed in range(120):
        frame, truth = cut(seed, methods=int(rng.integers(5, 9)), models=4)
        fit = fitted(frame)
        half = fit.half_width(one, 0.95)[0]
        hits["shared"].append(abs(fit.coefficients[0] - truth["β"]) <= half)
        new = truth["β"] + rng.normal(0, 0.8) + rng.normal(0, 0.25) + rng.normal(0, 0.1)
        hits["new method"].append(abs(fit.coefficients[0] - new) <= fit.half_width(one, 0.95, new=crossed.LEVELS)[0])
        for j, name in enumerate(fit.methods):
            hits["method"].append(abs(fit.own[j, 0] - truth[name]) <= fit.half_width(one, 0.95, name)[0])
            own = truth[name] + rng.normal(0, 0.25) + rng.normal(0, 0.1)
            wide = fit.half_width(one, 0.95, name, ("model", "curve"))[0]
            hits["new model"].append(abs(fit.own[j, 0] - own) <= wide)
    shares = {kind: float(np.mean(held)) for kind, held in hits.items()}
    assert all(0.90 <= share <= 0.99 for share in shares.values()), shares  # 120 draws know it to 0.02; the benchmark to 0.005


def test_most_of_the_variance_is_between_methods():
    table, _ = crossed_table(1, methods=8, models=4, recovery=True)
    law = laws.fit(table, draws=100, compare=False).law("anchored")
    frame = law.decomposition.set_index("level")
    assert frame["share of variance"].sum() == pytest.approx(1)
    assert frame.loc["between methods", "share of variance"] > 0.7
    assert 0.3 < frame.loc["between methods", "spread of β"] < 1.5
    assert frame.loc["between models within a method", "share of variance"] < 0.1


def test_few_models_give_a_reason_in_place_of_an_interval():
    table, _ = crossed_table(0, methods=2, models=3)
    fitted_laws = laws.fit(table, draws=100, compare=False)
    shared = fitted_laws.law("anchored")
    assert np.isnan(shared.interval).all()
    assert "2 methods on 3 models; β: 1.0 degrees of freedom, too few for an interval" in repr(shared)
    own = fitted_laws.law("anchored", method="method-0")
    assert np.isnan(own.interval).all() and "degrees of freedom, too few for an interval" in own.without_interval
    assert (own.df < 3).all()
    band = fitted_laws.predict([0.3], "new", "method-0", dense=3.0)
    assert np.isfinite(band["mean"]).all() and band["confidence_low"].isna().all()


def test_a_method_answers_for_itself_and_what_methods_share_for_others():
    table, _ = crossed_table(2, methods=6, models=4)
    unmeasured = (table["model"] == "model-3") & (table["method"] == "method-1")
    fitted_laws = laws.fit(table[~unmeasured], draws=100, compare=False)
    own = fitted_laws.predict([0.4], "model-3", "method-1")
    law = fitted_laws.law("anchored", method="method-1")
    dense = float(table.loc[table["model"] == "model-3", "loss0"].iloc[0])
    assert own.attrs["law"] == "anchored (method-1)"
    assert own["mean"].iloc[0] == pytest.approx(dense * 1.4 ** law.coefficients[0])
    other = fitted_laws.predict([0.4], "model-3", "never-measured")
    assert other.attrs["law"] == "anchored (all methods)"
    width = lambda frame: float(np.log(frame["model_high"] / frame["model_low"]).iloc[0])
    assert width(other) > 1.5 * width(own) > 0  # methods differ three times as much as models


def test_the_mean_over_curves_treats_few_models_as_these():
    values = np.array([0.1, 0.2, 0.15, 0.12, 0.3, 0.22])
    methods, models = np.array(list("abcdef")), np.array(["x", "x", "x", "y", "y", "y"])
    mean = over_curves.mean_over_curves(values, methods, models, 0.95)
    assert mean.basis == "6 curves of 6 methods on these 2 models"
    assert mean.value == pytest.approx(values.mean()) and mean.df == 5
    assert mean.error == pytest.approx(values.std(ddof=1) / np.sqrt(6))
    assert over_curves.mean_over_curves(values[:1], methods[:1], models[:1], 0.95).too_few == "one curve"
    assert np.isnan(over_curves.mean_over_curves(values[:2], methods[:2], models[:2], 0.95).low)
