"""The law over many papers: it finds what a made table holds, and its bands cover papers left out."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from claw.errors import InputError
from claw.laws import hierarchical, published

SPREAD = {"method": 0.5, "family": 0.4, "model": 0.2, "paper": 0.3, "text": 0.2, "run": 0.15}
SLOPE, SIZE, TRAINED = 1.1, -0.5, -0.6


def made(seed: int, papers: int = 14) -> pd.DataFrame:
    """Losses of papers that share methods and models, drawn from the law itself."""
    rng = np.random.default_rng(seed)
    levels = {"method": 6, "family": 4, "model": 10, "paper": papers, "text": 3}
    effects = {name: rng.normal(0, SPREAD[name], count) for name, count in levels.items()}
    sizes = rng.uniform(8, 11, 10)
    rows = []
    for paper in range(papers):
        for model in rng.choice(10, 3, replace=False):
            for method in rng.choice(6, 2, replace=False):
                text, trained = rng.integers(3), rng.integers(2)
                for r in (0.1, 0.2, 0.3, 0.5):
                    place = {"paper": paper, "model": model, "family": model % 4, "method": method, "text": text}
                    z = -0.5 + SLOPE * np.log(-np.log1p(-r)) + SIZE * (sizes[model] - 9) + TRAINED * trained
                    z += sum(effects[name][level] for name, level in place.items()) + rng.normal(0, SPREAD["run"])
                    row = {name: f"{name}{level}" for name, level in place.items()} | {"heldout": f"text{text}", "line": 1}
                    row |= {"parameters0": 10 ** sizes[model], "ratio_params": r, "recovery": ["none", "trained"][trained]}
                    rows.append(row | {"loss0": 2.0, "loss": 2.0 * np.exp(np.exp(z))})
    return pd.DataFrame(rows).drop(columns="text")


@pytest.fixture(scope="module")
def law():
    return hierarchical.fit_hierarchical(made(0))


def test_it_finds_what_the_table_holds(law):
    for name, truth in (("x", SLOPE), ("size", SIZE), ("trained", TRAINED)):
        assert abs(law.fixed[name] - truth) < 4 * law.stderr[name], name
    assert law.spread["run"] == pytest.approx(SPREAD["run"], rel=0.25)
    assert "losses of 10 models, 6 methods, 14 papers" in str(law)


def test_bands_hold_points_of_papers_left_out(law):
    left = law.left_out()
    assert len(left) == len(law.points.rows)
    assert 0.88 <= left["covered"].mean() <= 1
    assert hierarchical.coverage(left)["points"].iloc[-1] == len(left)


def test_a_paper_left_out_is_foretold_as_by_a_law_of_the_others(law):
    """The closed form equals leaving the rows out in earnest, the spreads held."""
    rows = law.points.rows
    rest = hierarchical.HierarchicalLaw(
        points=hierarchical.Excess(
            rows=rows[rows["paper"] != "paper0"].reset_index(drop=True), left_out={}, centre=law.points.centre
        ),
        fixed=law.fixed,
        stderr=law.stderr,
        spread=law.spread,
        level=law.level,
    )
    own = rows[rows["paper"] == "paper0"].iloc[[0]]
    known = {name: own[name].iloc[0] for name in ("model", "family", "text", "paper")}
    trained = bool(own["trained"].iloc[0])
    band = rest.predict(own["ratio_params"], own["method"].iloc[0], float(own["parameters0"].iloc[0]), trained=trained, **known)
    left = law.left_out().query("paper == 'paper0'").iloc[0]
    assert band["mean"].iloc[0] == pytest.approx(left["predicted"], rel=1e-4)
    assert band["high"].iloc[0] == pytest.approx(left["high"], rel=1e-3)


def test_what_is_known_narrows_the_band_and_what_is_not_widens_it(law):
    width = lambda **known: float(np.ptp(np.log(np.log(law.predict(0.3, parameters=1e9, **known)[["low", "high"]].to_numpy()))))
    assert width(method="method0", model="model0", family="family0") < width(method="method0") < width(method="nobody's")
    assert width(method="method0") == width(method="method0", model="unheard of")


@settings(max_examples=25, deadline=None)
@given(r=st.floats(0.02, 0.8), more=st.floats(0.01, 0.15), size=st.floats(8, 11))
def test_removing_more_never_costs_less(law, r, more, size):
    band = law.predict([r, r + more], "method1", 10**size)
    assert band["mean"].is_monotonic_increasing and (band["low"] >= 1).all() and (band["low"] <= band["high"]).all()


def test_more_than_half_removed_is_told_apart(law):
    assert law.predict([0.3, 0.7], "method1", 1e9)["extrapolated"].tolist() == [False, True]


@pytest.mark.parametrize("wrong", [{"r": 0.0}, {"r": 1.0}, {"r": 30}, {"parameters": 0}, {"parameters": float("nan")}])
def test_what_cannot_be_foretold_is_refused(law, wrong):
    asked = {"r": 0.3, "parameters": 1e9} | wrong
    with pytest.raises(InputError):
        law.predict(asked["r"], "method0", asked["parameters"])


def test_a_table_that_cannot_carry_it_is_refused():
    with pytest.raises(InputError, match="loss0"):
        hierarchical.fit_hierarchical(made(0).drop(columns="loss0"))
    with pytest.raises(InputError, match="needs 30"):
        hierarchical.fit_hierarchical(made(0).head(12))
    with pytest.raises(InputError, match="unknown shape"):
        hierarchical.fit_hierarchical(made(0), shape="round")


def test_rows_left_out_are_counted():
    table = made(1)
    table.loc[0, "loss"] = 1.5
    table.loc[1, "ratio_params"] = 0.001
    table.loc[2, "loss0"] = np.nan
    points = hierarchical.excess_points(table)
    assert sum(points.left_out.values()) == 3 and len(points.rows) == len(table) - 3


def test_a_new_model_is_named_by_size_shape_or_name(law):
    by_size = published.predict_new(7e9, "method0", [0.2], law=law)
    assert by_size.equals(published.predict_new(type("Shape", (), {"parameters": 7e9})(), "method0", [0.2], law=law))
    named = published.predict_new("model3", "method0", [0.2], law=law)
    assert named["high"].iloc[0] < published.predict_new(1e9, "method0", [0.2], law=law)["high"].iloc[0] * 10
    with pytest.raises(InputError, match="unknown model 'model33'"):
        published.predict_new("model33", "method0", [0.2], law=law)


def test_training_after_compression_loses_less(law):
    before, after = (published.predict_new(7e9, "method0", [0.2], tokens, law=law)["mean"].iloc[0] for tokens in (0, 1e6))
    assert 1 < after < before


def test_forest_pools_papers_and_gives_no_interval_below_three_degrees_of_freedom(law):
    curves = published.slopes(law.points)
    forest = published.forest(curves)
    assert forest.loc[forest["df"] < 3, ["low", "high"]].isna().all(axis=None)
    for method, own in forest.groupby("method"):
        inside = own.loc[own["paper"] != "all", "beta"]
        assert inside.min() <= own.loc[own["paper"] == "all", "beta"].iloc[0] <= inside.max(), method


def test_sizes_are_compared_within_families_only():
    rows = [
        {
            "paper": "p",
            "method": f"m{m}",
            "model": f"{f}{s}",
            "family": f,
            "text": "t",
            "size": s,
            "beta": 2 - 0.3 * s + (f == "b") + m,
        }
        for f in "ab"
        for s in (0, 1, 2)
        for m in range(5)
    ]
    sizes = published.sizes_within(pd.DataFrame(rows)).set_index("family")
    assert sizes["change"].to_numpy() == pytest.approx(-0.3) and sizes["df"].iloc[0] == 4
