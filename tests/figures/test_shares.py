"""Figures lead with the share of all parameters, over the range of the data; controls stand back."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb

from claw import figures, laws
from claw.figures import style

METHODS = ("random", "magnitude", "wanda-sp+ridge", "flap", "slicegpt")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    r = np.array([0.0, 0.1, 0.2, 0.3])
    rows = [
        pd.DataFrame({"model": "m", "family": "Llama", "method": method, "ratio": r, "ratio_params": 0.5 * r, "seed": 0})
        .assign(loss=3 + steep * r + 0.01 * np.sin(9 * r), loss0=3.0, loss_stderr=0.01, accuracy=0.6 - 0.3 * r, chance=0.25)
        .assign(piqa_acc=0.6 - 0.3 * r, piqa_acc_stderr=0.02, piqa_chance=0.5, piqa_n=100)
        for steep, method in enumerate(METHODS, 1)
    ]
    frame = pd.concat(rows, ignore_index=True)
    frame.loc[frame["ratio"] == 0, "method"] = "dense"
    return frame.drop_duplicates(["method", "ratio"], ignore_index=True)


@pytest.fixture(scope="module")
def fitted(table) -> laws.Laws:
    return laws.fit(table, draws=100, compare=False)


@pytest.mark.parametrize("draw", [figures.loss_curve, figures.evaluation, figures.accuracy_by_task])
def test_figures_of_measurements_lead_with_the_share(draw, table):
    panel = draw(table).figure.axes[0]
    low, high = panel.get_xlim()
    assert panel.get_xlabel() == "share of all parameters removed" and low > -0.02 and high < 0.2


def test_curves_lead_with_the_share_over_the_range_of_the_data(fitted):
    drawing = figures.law_curves(fitted)
    (panel,) = drawing.figure.axes
    assert drawing.name == "loss_by_ratio_params" and panel.get_xlabel() == "share of all parameters removed"
    assert panel.get_xlim()[1] < 0.2
    first, second = figures.law_curves(fitted, style="paper").figure.axes
    assert (first.get_xlabel(), second.get_xlabel()) == ("share of all parameters removed", "the method's own ratio r")


def test_without_shares_the_own_ratio_stands_there(table):
    bare = table.drop(columns="ratio_params")
    assert figures.evaluation(bare).figure.axes[0].get_xlabel() == "the method's own ratio r"
    assert figures.law_curves(laws.fit(bare, draws=100, compare=False)).name == "loss_by_ratio"


def test_the_dense_line_is_drawn_where_the_loss_is_known(table):
    panel = figures.loss_curve(table).figure.axes[0]
    assert any(list(line.get_ydata()) == [3.0, 3.0] for line in panel.get_lines())


def test_controls_are_grey_and_without_bands(fitted):
    for name in ("random", "magnitude", "magnitude+ridge"):
        red, green, blue = to_rgb(style.colour(name))
        assert red == green == blue
    (panel,) = figures.law_curves(fitted).figure.axes
    assert len([band for band in panel.collections if isinstance(band, PolyCollection)]) == 3  # one for each that is no control
