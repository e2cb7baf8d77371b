"""Advice follows what was measured: values at measured points are quoted, shares are true ones, nothing drops in silence."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_laws import points_alone

from claw import laws
from claw.advice import guide, reach, recommend, true_shares
from claw.advice.options import AS_IS, LEAST
from claw.laws.points import is_dense
from claw.specs.budget import Budget

QUICK = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
SLICED = """Method,OPT-1.3B,OPT-2.7B,OPT-6.7B,Llama-2-7B,Llama-2-13B
Dense,14.61,12.46,10.85,5.47,4.88
SliceGPT (10%),15.10,12.75,10.92,5.89,5.21
SliceGPT (20%),16.43,13.73,11.48,6.64,5.81
SliceGPT (25%),17.46,14.56,11.90,7.24,6.30
SliceGPT (30%),19.09,15.83,12.51,8.12,6.99
"""
"""Five models of SliceGPT's Table 1 (arXiv 2401.15024), perplexities on WikiText-2."""


def generated(seed: int, *, methods: int = 3, accuracy: bool = True) -> pd.DataFrame:
    """One or two models of one tokenizer; curves of any shape, dips included; each method counts its ratio differently."""
    rng = np.random.default_rng(seed)
    rows = []
    for m in range(int(rng.integers(1, 3))):
        size, dense = 1e9 * (m + 1), float(rng.uniform(2, 4))
        place = {"model": f"model-{m}", "heldout_data": "one", "parameters0": size, "seed": 0, "recovery_tokens": 0}
        place |= {"chance": 0.25} if accuracy else {}
        top = float(rng.uniform(0.4, 0.7))
        row = place | {"method": "dense", "ratio": 0.0, "ratio_params": 0.0, "loss": dense, "loss_stderr": 0.02}
        rows.append(row | ({"accuracy": top, "accuracy_stderr": 0.02} if accuracy else {}))
        for j in range(methods):
            share, bend = rng.uniform(0.3, 1.0), rng.uniform(0.5, 3)
            for r in np.sort(rng.choice(np.arange(1, 10) / 10, rng.integers(3, 7), replace=False)):
                loss = dense * np.exp(bend * r ** rng.uniform(0.8, 2.5)) * np.exp(rng.normal(0, 0.02))
                cut = place | {"method": f"method-{j}", "ratio": r, "ratio_params": share * r, "loss": loss}
                kept = {"accuracy": max(0.0, 0.25 + (top - 0.25) * (1 - r) + rng.normal(0, 0.05)), "accuracy_stderr": 0.02}
                rows.append(cut | {"loss_stderr": 0.02} | (kept if accuracy else {}))
    return pd.DataFrame(rows)


@QUICK
@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 0.6))
def test_what_is_advised_is_measured_or_lies_between_measured_points(seed, share):
    table = generated(seed)
    fitted = points_alone(table)
    size = table["parameters0"].max()
    advice = guide.advise(fitted, Budget(parameters=(1 - share) * size))
    for _, option in advice.finalists[advice.finalists["method"] != AS_IS].iterrows():
        own = table[(table["model"] == option["model"]) & ((table["method"] == option["method"]) | is_dense(table))]
        own = own.sort_values("ratio")
        assert option["parameters"] <= (1 - share) * size * (1 + 1e-9)
        if option["measured"]:
            (row,) = own[np.isclose(own["ratio"], option["ratio"])].to_dict("records")
            assert option["value"] == pytest.approx(row["loss"]) and option["share"] == pytest.approx(row["ratio_params"])
        else:
            beside = own[np.isclose(own["ratio"], option["bracket_low"]) | np.isclose(own["ratio"], option["bracket_high"])]
            assert beside["loss"].min() - 1e-9 <= option["value"] <= beside["loss"].max() + 1e-9
            near = own["ratio_params"].between(option["share"] - 1e-9, option["share"] + true_shares.ROUNDING)
            assert not (near & (own["ratio"] > 0)).any()  # else the measured value would be quoted


@QUICK
@given(seed=st.integers(0, 10_000))
def test_the_advised_option_is_the_likeliest_of_those_to_count_on_and_never_without_a_chance(seed):
    table = generated(seed, methods=5)
    advice = guide.advise(points_alone(table), Budget(parameters=0.7 * table["parameters0"].max()))
    for own in advice.groups:
        best = own.iloc[0]
        assert best["probability"] == own.loc[own["counts"], "probability"].max()
        assert best["probability"] >= min(LEAST, own["probability"].max())
        assert own["probability"].sum() == pytest.approx(1)
        order = own.sort_values("value")["rank"].tolist()
        assert order == sorted(order)
    said = " ".join(advice.sentences)
    assert not re.search(r"the best of the \d+ that fit \(probability 0%\)", said)
    if len(advice.equals) > 1:
        assert "cannot be told apart" in said and all(name in said for name in advice.equals[:2])


@QUICK
@given(seed=st.integers(0, 10_000), threshold=st.sampled_from([1.05, 1.1, 1.25]))
def test_how_far_is_read_off_the_points_and_true_shares_lead(seed, threshold):
    table = generated(seed)
    fitted = points_alone(table)
    for model in set(table["model"]):
        answers = reach.reaches(fitted, threshold, model)
        assert [one.share for one in answers] == sorted((one.share for one in answers), reverse=True)
        for one in answers:
            own = table[(table["model"] == model) & (table["method"] == one.curve.method)]
            dense = table[is_dense(table) & (table["model"] == model)]["loss"].iloc[0]
            knots = {0.0: dense} | dict(zip(own["ratio_params"].round(9), own["loss"], strict=True))
            values = [knots[min(knots, key=lambda x: abs(x - share))] for share, _ in one.beside]
            assert values == pytest.approx([value for _, value in one.beside])
            below = [share for share, _ in one.beside if share <= one.share + 1e-9]
            assert knots[min(knots, key=lambda x: abs(x - below[-1]))] <= threshold * dense * (1 + 1e-9)
            assert one.removed.startswith(true_shares.percent(one.share)) and one.removed.index(" %") < one.removed.index(
                "ratio"
            )
            slope = (own["ratio_params"] / own["ratio"]).iloc[0]
            assert one.ratio * slope == pytest.approx(one.share, abs=1e-6)


@QUICK
@given(seed=st.integers(0, 10_000))
def test_accuracy_kept_is_never_below_guessing_nor_above_all(seed):
    shown = recommend.advice_table(points_alone(generated(seed)))
    for cell in shown.get("accuracy kept", pd.Series(dtype=str)).dropna():
        numbers = [int(number) for number in re.findall(r"-?\d+", cell)]
        assert all(0 <= number <= 100 for number in numbers)


def test_a_wreck_that_loses_least_is_not_recommended_without_a_word():
    place = {"model": "model-0", "heldout_data": "one", "parameters0": 1e9, "seed": 0, "recovery_tokens": 0, "chance": 0.25}
    points = {0.0: (3.0, 0.6), 0.1: (3.2, 0.55), 0.3: (4.5, 0.26), 0.5: (14.0, 0.25), 0.7: (16.0, 0.24), 0.9: (18.0, 0.25)}
    table = pd.DataFrame(
        [
            {**place, "method": "flap" if r else "dense", "ratio": r, "ratio_params": r, "loss": loss, "accuracy": right}
            | {"loss_stderr": 0.02, "accuracy_stderr": 0.02}
            for r, (loss, right) in points.items()
        ]
    )
    shown = recommend.advice_table(points_alone(table)).set_index("remove")
    assert shown["do"].str.startswith("nothing that still works; nearest: flap").to_dict() == {
        "10 %": False,
        "30 %": False,
        "50 %": True,
        "70 %": True,
        "90 %": True,
    }
    said = shown["accuracy kept"].str.extract(r": (.*)")[0].fillna("").to_dict()
    assert said["10 %"] == "" and all(said[share] == "no better than guessing" for share in ("30 %", "50 %", "90 %"))


def test_a_quote_is_measured_within_rounding_only():
    table = generated(3)
    one = next(one for one in points_alone(table).readings("loss", "ratio_params") if len(one.points) > 3)
    r = one.points["ratio"].to_numpy()
    at = reach.quote(one, r[1] + 0.004)
    assert at.measured and at.value == pytest.approx(one.points["value"].iloc[1]) and at.source == "measured"
    middle = reach.quote(one, (r[1] + r[2]) / 2)
    assert not middle.measured and middle.beside == (r[1], r[2]) and "between the measured" in middle.source
    assert reach.quote(one, r[-1] + 0.02) is None


def sliced(tmp_path, **said) -> laws.Laws:
    (tmp_path / "sliced.csv").write_text(SLICED)
    return points_alone(laws.read(tmp_path / "sliced.csv", **said))


@pytest.mark.parametrize("each", [2.0, 1.0])
def test_a_table_without_shares_is_judged_by_the_models_shapes(tmp_path, each):
    """Six gigabytes: OPT-2.7B is no settled answer while a compressed Llama-2-7B is unheard of."""
    advice = guide.advise(sliced(tmp_path), Budget(memory=6, bytes_per_parameter=each))
    said = " ".join(advice.sentences)
    assert "Llama-2-7B with SliceGPT" in said or "Llama-2-7B's parameters" in said
    assert "do not compare" in said and "derived" in said
    options = advice.options[advice.options["method"] == "SliceGPT"]
    assert options["parameters"].notna().all()
    llama = options[(options["model"] == "Llama-2-7B") & np.isclose(options["ratio"], 0.25)].iloc[0]
    assert llama["share"] == pytest.approx(0.160364, abs=1e-5) and llama["value"] == pytest.approx(math.log(7.24))
    if each == 1.0:
        assert advice.best is None and set(advice.finalists["group"]) == {"OPT", "Llama-2"}
        assert "remove 15 % of Llama-2-7B's parameters" in said
    else:
        assert "Nothing of the Llama-2 models fits" in said and "of the OPT models, take OPT-2.7B" in said


def test_what_cannot_be_judged_is_named_with_the_column_that_would_tell(tmp_path):
    strange = sliced(tmp_path).points.rows.replace({"method": {"SliceGPT": "mystery"}})
    advice = guide.advise(points_alone(strange[["model", "method", "ratio", "loss", "parameters0"]]), Budget(memory=6))
    (line,) = advice.unjudged
    assert "Llama-2-7B with mystery" in line and "ratio_params" in line and line in advice.sentences
    assert "of what can be judged" in advice.sentences[0] and "clearly the best" not in advice.sentences[0]


def test_shares_follow_from_the_column_of_parameters_and_are_nobody_elses():
    table = generated(1).assign(parameters=lambda rows: rows["parameters0"] * (1 - rows["ratio_params"]))
    points, notes = true_shares.complete_shares(points_alone(table.drop(columns="ratio_params")).points)
    assert points.rows["ratio_params"].to_numpy() == pytest.approx(table["ratio_params"].to_numpy()) and len(notes) == 1
    half = table.assign(ratio_params=table["ratio_params"].where(table["method"] != "method-1")).drop(columns="parameters")
    advice = guide.advise(points_alone(half), Budget(parameters=0.8 * half["parameters0"].max()))
    assert advice.options.loc[advice.options["method"] == "method-1", "parameters"].isna().all()
    assert any("with method-1" in line for line in advice.unjudged)


@pytest.mark.parametrize("column", [None, "bits_per_byte", "heldout_data"])
def test_models_of_unknown_texts_are_not_compared_per_token(column):
    table = pd.concat([generated(seed).query("model == 'model-0'").assign(model=f"net{seed}") for seed in (1, 2)])
    table = table.drop(columns="heldout_data")
    table = table.assign(bits_per_byte=table["loss"] / 3) if column == "bits_per_byte" else table
    table = table.assign(heldout_data="one") if column == "heldout_data" else table
    advice = guide.advise(points_alone(table), Budget(parameters=0.9e9))
    assert (advice.best is None) == (column is None)
    assert advice.unit == ("bits per byte" if column == "bits_per_byte" else "nats per token")
    assert ("do not compare" in " ".join(advice.sentences)) == (column is None)


def test_the_default_budget_is_half_of_the_largest_model():
    table = generated(5)
    assert guide.half_of_largest(points_alone(table)).parameters == table["parameters0"].max() / 2
    assert guide.half_of_largest(points_alone(table.drop(columns="parameters0"))).limits == {}


@pytest.mark.parametrize(
    ("share", "text"), [(0.1, "10 %"), (0.004, "0.4 %"), (0.0, "0 %"), (-0.03, "-3 %"), (math.nan, "an unkn")]
)
def test_percent(share, text):
    assert true_shares.percent(share).startswith(text)
