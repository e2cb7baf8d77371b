"""The figure of what was foretold: its numbers are those compared, rings are the points outside their bands."""

import numpy as np
import pandas as pd
import pytest

from claw.errors import InputError
from claw.figures import foretold_points

RATIOS = [0.1, 0.3, 0.5]


def compared(**changes):
    """Two methods, two laws; of `flap`, law "method", the middle point is outside its band."""
    rows = []
    for method, slope in (("flap", 1.0), ("random", 3.0)):
        for law in ("method", "curves"):
            for ratio in RATIOS:
                said = (1 + ratio) ** slope
                measured = said * (1.5 if (method, ratio) == ("flap", 0.3) else 1.02)
                row = {"model": "model-3", "method": method, "ratio": ratio, "ratio_params": 0.6 * ratio, "law": law}
                row |= {"recovery_tokens": 0, "foretold": said, "low": said / 1.2, "high": said * 1.2, "level": 0.95}
                rows.append(row | {"measured": measured, "covered": float(measured < said * 1.2), "works": True})
    return pd.DataFrame(rows).assign(**changes)


def lines(panel):
    return [(line.get_marker(), np.asarray(line.get_xdata(), float)) for line in panel.lines]


def test_measured_points_are_drawn_and_those_outside_their_band_ringed():
    both = compared()
    drawing = foretold_points(both)
    panels = [panel for panel in drawing.figure.axes if panel.get_visible()]
    assert [panel.get_title() for panel in panels] == ["flap", "random"]
    for panel, outside in zip(panels, ([0.18], []), strict=True):
        markers = lines(panel)
        assert np.allclose(markers[-1][1], outside)  # the rings
        assert set(np.round(markers[-2][1], 6)) == {0.06, 0.18, 0.3}  # what was measured
    assert "83% of 6 points inside their 95% bands" in drawing.figure.get_suptitle()
    assert len(drawing.numbers) == len(both) and np.allclose(drawing.numbers["measured"], both["measured"])


def test_a_method_of_one_point_shows_what_was_foretold_of_it():
    both = compared()
    panels = foretold_points(both[(both["method"] != "flap") | (both["ratio"] == 0.5)]).figure.axes
    markers = [marker for marker, x in lines(panels[0]) if len(x)]
    assert markers.count("_") == 2 and len(panels[0].collections) == 2  # two laws; a band and its line


def test_a_law_without_bands_and_recovered_rows():
    drawing = foretold_points(compared(low=np.nan, high=np.nan, covered=np.nan), law="curves")
    assert "no bands" in drawing.figure.get_suptitle()
    with pytest.raises(InputError, match="without recovery"):
        foretold_points(compared(recovery_tokens=50_000))
    with pytest.raises(InputError, match="curves, method"):
        foretold_points(compared(), law="crossed")
