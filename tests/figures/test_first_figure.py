"""The figure at the top of README: what it says is what the readings say, and it can be read at half of its width."""

from pathlib import Path

import pytest

from claw import figures, laws
from claw.errors import InputError
from claw.laws.reading import read_curves

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "results" / "reference.csv"


@pytest.fixture(scope="module")
def points():
    return laws.read_points(laws.read(TABLE))


def test_it_shows_the_points_the_curve_and_the_answer(points):
    drawing = figures.first_figure(points)
    (one,) = (
        reading
        for reading in read_curves(points, "loss", "ratio_params")
        if (reading.curve.model, reading.curve.method, reading.curve.tokens) == ("smollm2-135m", "wanda-sp+ridge", 0)
    )
    limit = one.critical_ratio(1.1)
    texts = [text.get_text() for text in drawing.figure.axes[0].texts]
    assert f"10% more loss: {limit.ratio:.0%} may go ({100 * limit.low:.0f} to {100 * limit.high:.0f})" in texts
    shown = drawing.numbers.query("kind == 'measured' and method == 'wanda-sp+ridge'")
    measured = one.points[one.points["ratio"] > 0]
    assert shown["mean"].to_numpy() == pytest.approx(measured["value"].to_numpy())
    assert min(text.get_fontsize() for text in drawing.figure.axes[0].texts) >= 11
    assert {"random", "wanda-sp+ridge"} == set(drawing.numbers["method"])


def test_readme_says_the_same_as_the_figure(points):
    curves = {
        reading.curve.method: reading.critical_ratio(1.1)
        for reading in read_curves(points, "loss", "ratio_params")
        if reading.curve.model == "smollm2-135m" and not reading.curve.tokens
    }
    ours, control = curves["wanda-sp+ridge"], curves["random"]
    interval = f"({100 * ours.low:.0f} to {100 * ours.high:.0f})"
    said = f"about {100 * ours.ratio:.0f} % of SmolLM2-135M {interval} can go for 10 % more loss"
    readme = (ROOT / "README.md").read_text()
    assert said in readme and f"of neurons chosen at random, about {100 * control.ratio:.0f} %" in readme


def test_a_table_without_these_curves_is_refused(points):
    with pytest.raises(InputError, match="cut by nothing without recovery was not measured"):
        figures.first_figure(points, method="nothing")
    with pytest.raises(InputError, match="loss of gpt"):
        figures.first_figure(points, model="gpt")
