"""The claims on the project's own published measurements: their words follow from the numbers beside them."""

import re

import pandas as pd
import pytest

from claw.errors import InputError
from claw.laws import hierarchical, published

TABLE = published.read_published()


@pytest.fixture(scope="module")
def claims():
    """Spreads as printed by a fit of the whole table; fitting takes ten seconds and is tested elsewhere."""
    points = hierarchical.excess_points(TABLE)
    spread = dict.fromkeys(hierarchical.FACTORS, 0.3) | {"slope": 0.2, "run": 0.3}
    fixed, stderr = {"size": -0.56, "x": 1.04, "trained": -0.7}, {"size": 0.11, "x": 0.05, "trained": 0.18}
    law = hierarchical.HierarchicalLaw(points=points, fixed=fixed, stderr=stderr, spread=spread, level=0.95)
    return published.claims(TABLE, law).set_index("claim")


def test_every_claim_has_a_verdict_and_its_evidence(claims):
    assert set(claims["verdict"]) <= {"supported", "contradicted", "undecided", "not reached"}
    assert not claims["evidence"].str.contains("nan").any()


def test_retention_is_judged_by_its_interval(claims):
    for claim, row in claims[claims.index.str.contains("below 50 %")].iterrows():
        low, high = (int(edge) for edge in re.findall(r"\[(\d+)%, (\d+)%\]", row["evidence"])[0])
        claimed = int(re.search(r"keep (\d+)%", claim)[1])
        assert (row["verdict"] == "supported") == (low <= claimed <= high), claim


def test_the_largest_gain_is_a_measured_pair(claims):
    gains = published.gains_by_tokens(TABLE)
    best = gains.loc[gains["gain"].idxmax()]
    assert f"{best['gain']:.0%} ({best['model']}" in claims.loc["recovery improves loss by up to 55 %", "evidence"]
    pair = TABLE[(TABLE["model"] == best["model"]) & (TABLE["paper"] == best["paper"]) & (TABLE["heldout"] == best["heldout"])]
    assert any(abs(pair["loss"] - best["after"]) < 1e-5)


def test_slicegpts_own_table_shrinks_with_size_in_opt():
    """SliceGPT Table 1: OPT loses less the larger it is."""
    curves = published.slopes(hierarchical.excess_points(TABLE))
    opt = curves[(curves["paper"] == "slicegpt") & (curves["family"] == "OPT")].sort_values("size")
    assert opt["beta"].is_monotonic_decreasing


def test_another_table_and_a_missing_one(tmp_path):
    assert len(published.measured_by_family(TABLE)) > 30
    with pytest.raises(InputError, match=r"tidy\.py"):
        published.read_published(tmp_path / "none.csv")
    with pytest.raises(InputError, match="no table"):
        published.both_ways(TABLE, tmp_path / "none.csv", None)


def test_claws_table_enters_the_same_columns():
    own = published.own_measurements(pd.read_csv("results/reference.csv"))
    points = hierarchical.excess_points(own)
    assert set(points.rows["family"]) >= {"Gemma-3", "Qwen2.5", "smollm2"} and len(points.rows) > 100
