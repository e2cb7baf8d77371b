"""Curves of one model, method and number of tokens that differ in the recipe, or in what a ratio counts, are told apart."""

import numpy as np
import pandas as pd
import pytest

from claw import laws
from claw.advice.guide import advise
from claw.advice.recommend import advice_table
from claw.errors import InputError
from claw.show import explorer, how_far, report
from claw.specs.budget import Budget

RATIOS = np.array([0.1, 0.3, 0.5, 0.7])
BENDS = {("none", 0, "ffn"): 3.0, ("full", 1000, "ffn"): 2.0, ("lora", 1000, "ffn"): 1.0, ("none", 0, "heads"): 6.0}
SHARES = {"ffn": 0.6, "heads": 0.2}


@pytest.fixture(scope="module", params=[False, True])
def table(request) -> pd.DataFrame:
    """One method: without recovery, by two recipes, and by ratios that count something else; in either order of the rows."""
    place = {"model": "m", "seed": 0, "parameters0": 1e9, "heldout_data": "one", "loss_stderr": 0.01, "chance": 0.25}
    rows = [place | {"method": "dense", "ratio": 0.0, "loss": 3.0, "accuracy": 0.7, "ratio_params": 0.0}]
    for gain, recipe in ((0.5, "full"), (0.1, "lora")):
        trained = {"method": "dense", "ratio": 0.0, "loss": 3.0 - gain, "accuracy": 0.7 + gain / 10, "ratio_params": 0.0}
        rows.append(place | trained | {"recovery": recipe, "recovery_tokens": 1000})
    for (recipe, tokens, axis), bend in BENDS.items():
        for r in RATIOS:
            about = {"method": "flap", "ratio": r, "ratio_of": axis, "recovery": recipe, "recovery_tokens": tokens}
            measured = {"loss": 3 + bend * r**2, "accuracy": 0.7 - bend * r / 20, "ratio_params": SHARES[axis] * r}
            rows.append(place | about | measured)
    frame = pd.DataFrame(rows).fillna({"recovery": "none", "recovery_tokens": 0, "ratio_of": "own"})
    return frame.iloc[::-1].reset_index(drop=True) if request.param else frame


@pytest.fixture(scope="module")
def fitted(table) -> laws.Laws:
    return laws.fit(table, compare=False, draws=100)


def test_what_is_asked_of_one_is_answered_by_it(fitted):
    for (recipe, tokens, axis), bend in BENDS.items():
        which = {"recovery": recipe, "ratio_of": axis}
        expected = 3 + bend * RATIOS**2
        np.testing.assert_allclose(fitted.predict(RATIOS, "m", "flap", tokens, **which)["mean"], expected, rtol=1e-6)
        one = fitted.reading("m", "flap", tokens=tokens, **which)
        assert one.curve[2:] == (recipe, tokens, axis)
        assert fitted.curve("m", "flap", tokens=tokens, form="quadratic", **which).curve == one.curve
        assert fitted.critical_ratio(1.1, "m", "flap", tokens, **which) == one.critical_ratio(1.1)


def test_who_does_not_say_which_is_asked_to(fitted):
    for ask in (fitted.reading, fitted.curve, lambda *key, **tokens: fitted.predict(0.3, *key, **tokens)):
        with pytest.raises(InputError, match="differ in recovery: full, lora"):
            ask("m", "flap", tokens=1000)
        with pytest.raises(InputError, match="differ in ratio_of: ffn, heads"):
            ask("m", "flap")
    with pytest.raises(InputError, match="lore"):
        fitted.reading("m", "flap", tokens=1000, recovery="lore")


def test_advice_names_the_recipe_and_reads_everything_off_its_curve(fitted):
    finalists = advise(fitted, Budget(parameters=0.8e9), "loss").finalists.set_index("option")
    recovered = finalists[finalists["tokens"] > 0]
    assert set(recovered.index) == {"m with flap and 1k tokens of lora", "m with flap and 1k tokens of full"}
    for recipe, bend in (("lora", 1.0), ("full", 2.0)):
        row = recovered.loc[f"m with flap and 1k tokens of {recipe}"]
        assert row["value"] == pytest.approx(3 + bend * row["ratio"] ** 2, abs=0.05)
    whole = advise(fitted, Budget(parameters=2e9), "loss").options
    whole = whole[whole["method"] == "as it is"].set_index("option")["value"]
    assert whole["m as it is, trained on 1k tokens of full"] == 2.5 and whole["m as it is"] == 3.0
    row = advice_table(fitted).set_index("remove").loc["30 %"]
    assert row["do"].startswith("flap, then 1k tokens of lora (ratio 0.50 of the FFN)")
    assert row["accuracy kept"].startswith(f"{(0.7 - 0.5 / 20 - 0.25) / (0.7 - 0.25):.0%}")


def test_pages_hold_every_curve_with_its_own_points(fitted):
    for curves in (how_far.how_far_data(fitted)["curves"], report.slider_curves(fitted)):
        curves = [
            one for one in curves if one.get("response", "loss") == "loss" and one.get("axis", "ratio_params") == "ratio_params"
        ]
        assert {(one["recovery"], one["tokens"], one["ratio_of"]) for one in curves} == set(BENDS)
        for one in curves:
            share, loss = np.array([[row[0], row[1]] for row in one["points"]][1:], float).T
            bend = BENDS[one["recovery"], one["tokens"], one["ratio_of"]]
            np.testing.assert_allclose(loss, 3 + bend * (share / SHARES[one["ratio_of"]]) ** 2, rtol=1e-6)


def test_the_explorer_has_a_menu_for_what_tells_them_apart(fitted):
    shown = explorer.Explorer(fitted)
    hidden = lambda menu: menu.layout.display == "none"
    assert not hidden(shown.ratio_of) and hidden(shown.recovery)
    shown.ratio_of.value = "ffn"
    shown.tokens.value = 1000
    assert not hidden(shown.recovery) and [value for _, value in shown.recovery.options] == ["full", "lora"]
    for recipe, bend in (("full", 2.0), ("lora", 1.0)):
        shown.recovery.value = recipe
        points = shown.panels[0].view.measured
        cut = points[points["ratio"] > 0]
        np.testing.assert_allclose(cut["value"], 3 + bend * (cut["ratio"] / SHARES["ffn"]) ** 2, rtol=1e-6)
        assert f"1k tokens of {recipe}" in shown.words.value
