"""The figure of best splits: its numbers are those of the law, and what was not measured looks otherwise."""

import numpy as np

from claw.figures.splits import text_splits
from claw.laws.text_split import CalibrationLaw, RecoveryLaw, TextSplit

SPLIT = TextSplit(
    calibration=CalibrationLaw(floor=4.1, size=0.5, exponent=0.6),
    recovery=RecoveryLaw(onset=1.2e4, power=0.09),
    dense=3.06,
    calibration_price=4e8,
    recovery_price=3e8,
    fewest=8192,
    most=131072,
)


def test_lines_are_the_law_and_thin_where_nothing_was_measured():
    drawing = text_splits({"40%": SPLIT}, (3e12, 3e15), longest=1e6)
    rows = drawing.numbers
    for row in rows.iloc[::20].itertuples():
        assert np.allclose(SPLIT.best(row.flops), (row.calibration, row.recovery))
        assert np.isclose(SPLIT.lowest(row.flops), row.loss)
    assert (rows["loss"] <= rows["loss_calibration_alone"] + 1e-12).all()
    assert rows["measured"].any() and not rows["measured"].all()
    measured, beyond, _ = drawing.figure.axes[1].lines
    assert measured.get_linewidth() > beyond.get_linewidth() and beyond.get_linestyle() != measured.get_linestyle()
    assert measured.get_xdata()[-1] == beyond.get_xdata()[0]


def test_where_all_was_measured_nothing_is_dashed():
    drawing = text_splits({"40%": SPLIT}, (3e12, 3e13), longest=1e9)
    assert drawing.numbers["measured"].all()
    assert not any(len(line.get_xdata()) and line.get_linewidth() < 1 for line in drawing.figure.axes[1].lines[:2])
