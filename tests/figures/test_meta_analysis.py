"""Figures of published measurements: they draw the numbers they are given and say why where there is nothing to draw."""

import numpy as np
import pandas as pd
import pytest

from claw import figures
from claw.errors import InputError


def curves(papers: int, sizes: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {"paper": f"p{p}", "method": m, "model": f"x{s}", "family": "X", "text": "t", "size": s, "beta": rng.uniform(1, 3)}
        for p in range(papers)
        for m in ("flap", "slicegpt", "other")
        for s in range(sizes)
    ]
    return pd.DataFrame(rows)


def test_the_forest_has_a_row_per_method_of_several_papers(tmp_path):
    from claw.laws import published

    drawing = figures.slope_forest(published.forest(curves(4, 3)))
    assert len(drawing.figure.axes[0].get_yticks()) == 3
    assert len(drawing.save(tmp_path)) == 4
    with pytest.raises(InputError, match="two papers"):
        figures.slope_forest(published.forest(curves(1, 3)))


def test_sizes_need_two_of_a_family():
    assert len([panel for panel in figures.sizes_in_families(curves(2, 3)).figure.axes if panel.get_visible()]) == 1
    with pytest.raises(InputError, match="two sizes"):
        figures.sizes_in_families(curves(2, 1))


def test_points_outside_their_bands_are_ringed_and_counted():
    rows = {"family": "X", "measured": [1.1, 1.5, 2.0, 3.0], "predicted": [1.2, 1.4, 2.1, 1.1]}
    left = pd.DataFrame(rows | {"covered": [True, True, True, False]})
    left["error"] = (left["predicted"] / left["measured"] - 1).abs()
    panel = figures.left_out_papers(left).figure.axes[0]
    assert panel.get_title().startswith("75.0% of 4 points")
    assert len(panel.lines[1].get_xdata()) == 1
