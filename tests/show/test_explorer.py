"""The explorer: menus that fit together, artists that move, words that say what the laws say."""

import html
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from claw import laws
from claw.errors import InputError
from claw.laws import CurveKey, simulate
from claw.laws.simulate import Design
from claw.show import explorer as widgets


@pytest.fixture(scope="module")
def fitted() -> laws.Laws:
    design = Design(models=3, methods=("a", "b"), ratios=(0.1, 0.3, 0.5, 0.7, 0.9), tokens=(0, 1e6))
    table = simulate.simulated_table(design, simulate.TRUTHS)
    table["speedup_decode"] = (1 - table["ratio_params"]) ** -0.8
    table = table[~((table["method"] == "b") & (table["recovery_tokens"] > 0))]
    return laws.fit(table, compare=False, draws=100)


def test_a_move_changes_image_and_words_and_nothing_is_drawn_anew(fitted):
    explorer = widgets.Explorer(fitted)
    artists = [panel.inside for panel in explorer.panels]
    before, words = explorer.panels[0].image.value, explorer.words.value
    explorer.ratio.value = 0.4
    assert explorer.panels[0].image.value != before
    assert explorer.words.value != words
    assert "Removing 40.0% of model-0's parameters (own ratio" in html.unescape(explorer.words.value)
    assert [panel.inside for panel in explorer.panels] == artists
    assert all(len(panel.axes.lines) == 7 for panel in explorer.panels)


def test_words_hold_the_laws_own_numbers(fitted):
    explorer = widgets.Explorer(fitted)
    explorer.ratio.value = 0.3
    expected = fitted.predict(0.3, "model-0", "a", axis="ratio_params")["mean"].iloc[0]
    assert f"loss {expected:.3g} nats per token" in explorer.words.value
    far = fitted.critical_ratio(1.1, "model-0", "a", axis="ratio_params").ratio
    assert f"one can remove {far:.1%} of the parameters" in explorer.words.value
    assert "decode 1." in explorer.words.value


def test_menus_offer_what_was_measured(fitted):
    explorer = widgets.Explorer(fitted)
    explorer.tokens.value = 1e6
    explorer.method.value = "b"
    assert [value for _, value in explorer.tokens.options] == [0.0]
    assert explorer.choice == widgets.Choice(CurveKey("model-0", "b"), "own")
    explorer.model.value = "model-2"
    assert "of model-2&#x27;s parameters" in explorer.words.value


def test_the_interval_menu_changes_what_bands_rest_on(fitted):
    explorer = widgets.Explorer(fitted)
    laws_shown = {}
    for kind in ("own", "bias-reduced", "wild"):
        explorer.interval.value = kind
        view = explorer.panels[0].view
        laws_shown[kind] = (view.band.attrs["law"], view.band["confidence_high"].iloc[50])
    assert laws_shown["own"][0].startswith("measured points")
    assert laws_shown["wild"][0].startswith("anchored")
    assert len({width for _, width in laws_shown.values()}) == 3


def test_allowing_more_loss_reaches_farther(fitted):
    explorer = widgets.Explorer(fitted)
    explorer.allowed.value = 0.05
    near = explorer.panels[0].view.critical.ratio
    explorer.allowed.value = 0.5
    assert explorer.panels[0].view.critical.ratio > near
    np.testing.assert_allclose(explorer.panels[0].limit.get_xdata()[0], explorer.panels[0].view.critical.ratio)


@pytest.mark.parametrize("unmeasured", ["speedup_decode", "accuracy"])
def test_a_model_of_which_something_was_not_measured_is_shown_too(unmeasured):
    """The first model of the menu, as where speeds were taken of another one only."""
    design = Design(models=3, methods=("a", "b"), ratios=(0.1, 0.3, 0.5, 0.7, 0.9), tokens=(0,))
    table = simulate.simulated_table(design, simulate.TRUTHS)
    table["speedup_decode"] = (1 - table["ratio_params"]) ** -0.8
    table["accuracy"] = 0.7 - 0.3 * table["ratio"]
    dense = table["method"].eq("dense")
    table = table.assign(accuracy0=table["model"].map(table[dense].set_index("model")["accuracy"]))
    own = table["model"].eq("model-0")
    table.loc[own, [unmeasured, *(["accuracy0"] if unmeasured == "accuracy" else [])]] = np.nan
    explorer = widgets.Explorer(laws.fit(table, compare=False, draws=100))
    assert explorer.model.value == "model-0"
    for kind, model in itertools.product(dict(widgets.INTERVALS).values(), ("model-0", "model-1")):
        explorer.interval.value, explorer.model.value = kind, model
        said = html.unescape(explorer.words.value)
        assert "loss 3." in said or "loss 2." in said
        assert all(np.isfinite(panel.view.end) for panel in explorer.panels if panel.view is not None)
        assert ("not measured of it" in said) == (model == "model-0" and unmeasured == "speedup_decode"), said


def test_a_curve_without_accuracies_is_answered_by_the_law_of_the_others_and_says_so():
    design = Design(models=3, methods=("a", "b"), ratios=(0.1, 0.3, 0.5, 0.7, 0.9), tokens=(0,))
    table = simulate.simulated_table(design, simulate.TRUTHS)
    table["accuracy"] = 0.7 - 0.3 * table["ratio"]
    table["accuracy0"] = 0.7
    table.loc[table["model"].eq("model-0") & table["method"].eq("b"), "accuracy"] = np.nan
    explorer = widgets.Explorer(laws.fit(table, compare=False, draws=100))
    explorer.interval.value, explorer.method.value = "runs", "b"
    said = html.unescape(explorer.words.value)
    assert "not measured of it" in said and "less accuracy allowed" not in said and "the most that was measured" not in said
    explorer.method.value = "a"
    said = html.unescape(explorer.words.value)
    assert "not measured of it" not in said and "less accuracy allowed" in said


def test_a_table_without_laws_says_what_is_missing():
    frame = pd.DataFrame({"model": "m", "method": ["dense", "a"], "ratio": [0.0, 0.3], "loss": [3.0, 3.5]})
    with pytest.raises(InputError, match="three ratios"):
        widgets.Explorer(laws.fit(frame, compare=False))


def test_the_reference_study_opens_on_each_of_its_models():
    """Not everything was measured of every model there, as in most studies."""
    explorer = widgets.Explorer(
        laws.fit(laws.read(Path(__file__).parents[2] / "results" / "reference.csv"), compare=False, draws=100)
    )
    assert len(explorer.model.options) == 4
    for model in explorer.model.options:
        explorer.model.value = model
        for method in explorer.method.options:
            explorer.method.value = method[1]
            assert f"of {model}'s parameters" in html.unescape(explorer.words.value) and not explorer.missing
