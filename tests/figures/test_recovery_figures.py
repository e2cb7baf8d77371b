"""Figures of recovery: every method is told, and what training gains on the whole model stands beside what it wins back."""

import numpy as np
import pandas as pd
import pytest
from synthetic import TEXT, study_table

from claw import figures, laws
from claw.errors import InputError
from claw.laws import simulate
from claw.laws.simulate import Design


def moments():
    """The dense model and two methods at one ratio, trained on two budgets."""
    rows = []
    for method, ratio, start in (("dense", 0.0, 3.0), ("flap", 0.5, 4.0), ("random", 0.5, 6.0)):
        for budget in (1000, 4000):
            for tokens in (0, budget // 2, budget):
                row = {"method": method, "ratio": ratio, "ratio_params": 0.6 * ratio, "budget": budget, "tokens": tokens}
                rows.append(row | {"heldout": start * (1 - 0.1 * tokens / 4000)})
    return pd.DataFrame(rows)


def test_every_method_is_in_the_legend_whichever_panel_it_is_in():
    drawing = figures.recovery_progress(moments())
    (legend,) = drawing.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["dense", "flap", "random"]
    assert [panel.get_title() for panel in drawing.figure.axes] == ["0% removed (r = 0)", "30% removed (r = 0.5)"]
    with pytest.raises(InputError, match="no recovery has been run"):
        figures.recovery_progress(moments().assign(heldout=np.nan))


def test_what_the_text_gains_is_drawn_where_dense_models_were_trained():
    table = study_table()
    drawing = figures.recovery_gains(laws.fit(table, compare=False))
    whole = drawing.numbers[drawing.numbers["method"] == "dense"]
    assert len(whole) == 6 and (whole["gain"] > 0).all() and (whole["gain"] < TEXT).all()
    titles = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    assert titles[-1] == "the whole model, trained alike"
    untrained = table[(table["method"] != "dense") | (table["recovery_tokens"] == 0)]
    plain = figures.recovery_gains(laws.fit(untrained, compare=False))
    assert "dense" not in set(plain.numbers["method"]) and len(plain.figure.legends[0].get_texts()) == len(titles) - 1


def test_recipes_have_lines_of_their_own():
    table = study_table()
    trained = table[table["recovery_tokens"] > 0]
    both = pd.concat(
        [table, trained.assign(recovery="full", loss=0.9 * trained["loss"], experiment=trained["experiment"] + "f")],
        ignore_index=True,
    )
    one, two = (figures.recovery_gains(laws.fit(frame, compare=False)) for frame in (table, both))
    ours = two.numbers[two.numbers["recovery"] != "full"].reset_index(drop=True)
    pd.testing.assert_frame_equal(ours, one.numbers)
    titles = [[text.get_text() for text in drawing.figure.legends[0].get_texts()] for drawing in (one, two)]
    assert set(titles[1]) - set(titles[0]) == {"full", "lora"}


def test_many_ratios_of_several_methods_stand_against_what_was_removed():
    design = Design(models=2, methods=("a", "b"), ratios=(0.1, 0.2, 0.3, 0.5, 0.7), tokens=(0, 1e6, 2e6))
    table = simulate.simulated_table(design, {"loss": simulate.TRUTHS["loss"]})
    fewer = table[(table["model"] != min(table["model"])) | (table["recovery_tokens"] < 2e6)]
    for rows, panels in ((table, 4), (fewer, 3)):
        drawing = figures.recovery_gains(laws.fit(rows, draws=100, compare=False))
        shown = [panel for panel in drawing.figure.axes if panel.get_visible()]
        assert len(shown) == panels and all("M tokens" in panel.get_title() for panel in shown)
        assert all(len(panel.containers) == 2 for panel in shown)  # a line per method
        numbers = drawing.numbers
        assert np.isfinite(numbers["removed"]).all() and len(numbers) == 2 * 5 * panels
    one = table[table["method"] == "a"]  # a panel of a model, its ratios named
    assert "tokens" not in figures.recovery_gains(laws.fit(one, draws=100, compare=False)).figure.axes[0].get_title()
