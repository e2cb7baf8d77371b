"""The figure at the top of README: what it says is what the readings say, and it can be read at half of its width."""

from pathlib import Path

import pytest

from claw import figures, laws
from claw.errors import InputError
from claw.figures.first_look import furthest
from claw.laws.reading import read_curves

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "results" / "reference.csv"
SHOWN = ("claw", "wanda-sp+ridge", "shortgpt")


@pytest.fixture(scope="module")
def points():
    return laws.read_points(laws.read(TABLE))


def readings(points):
    every = read_curves(points, "loss", "ratio_params")
    return {one.curve.method: one for one in every if one.curve.model == "smollm2-135m" and not one.curve.tokens}


def test_it_shows_the_points_the_curves_and_the_answer_of_the_best(points):
    drawing = figures.first_figure(points)
    curves = readings(points)
    _, limit = furthest([curves[name] for name in SHOWN], 1.1)
    assert all(not limit.ratio < curves[name].critical_ratio(1.1).ratio for name in SHOWN)
    (panel,) = drawing.figure.axes
    texts = [text.get_text() for text in panel.texts]
    assert f"+10% loss: {limit.ratio:.0%} may go ({100 * limit.low:.0f} to {100 * limit.high:.0f})" in texts
    for name in SHOWN:
        shown = drawing.numbers.query(f"kind == 'measured' and method == '{name}'")
        measured = curves[name].points.query("ratio > 0")
        assert shown["mean"].to_numpy() == pytest.approx(measured["value"].to_numpy())
    names = drawing.figure.legends[0].get_texts()
    assert min(text.get_fontsize() for text in [*panel.texts, *names]) >= 11
    assert {"random", *SHOWN} == {text.get_text() for text in names} == set(drawing.numbers["method"])


def test_words_stand_where_no_curve_runs(points):
    drawing = figures.first_figure(points)
    (panel,) = drawing.figure.axes
    drawing.figure.canvas.draw()
    curves = drawing.numbers.query("kind == 'curve'")
    drawn = panel.transData.transform(curves[["ratio", "mean"]].to_numpy())
    for words in panel.texts:
        box = words.get_window_extent()
        assert not any(box.contains(x, y) for x, y in drawn), words.get_text()
        assert panel.get_window_extent().contains(box.x0, box.y0)


def test_methods_that_were_not_measured_are_left_out(points):
    drawing = figures.first_figure(points, methods=("nothing", "flap"))
    assert {"random", "flap"} == set(drawing.numbers["method"])


def test_readme_says_the_same_as_the_figure(points):
    curves = readings(points)
    best, limit = furthest([curves[name] for name in SHOWN], 1.1)
    said = f"about {100 * limit.ratio:.0f} % of SmolLM2-135M ({100 * limit.low:.0f} to {100 * limit.high:.0f}) can go"
    control = curves["random"].critical_ratio(1.1)
    readme = (ROOT / "README.md").read_text()
    assert said in readme and f"`{best.curve.method}`" in readme[: readme.index("## ")]
    assert f"of random neurons, about {100 * control.ratio:.0f} %" in readme


def test_a_table_without_these_curves_is_refused(points):
    with pytest.raises(InputError, match="cut by nothing or this without recovery was not measured"):
        figures.first_figure(points, methods=("nothing", "this"))
    with pytest.raises(InputError, match="cut by nobody without"):
        figures.first_figure(points, control="nobody")
    with pytest.raises(InputError, match="loss of gpt"):
        figures.first_figure(points, model="gpt")
