"""The live lesson on a tiny model: points, texts, widget and the exercises' checks."""

import re

import pytest

from claw import laws
from claw.errors import InputError
from claw.show import exercises
from claw.show.lesson import Lesson
from claw.show.tour import Tour
from claw.specs.notebooks import TourParameters

METHODS = ("random", "magnitude", "wanda-sp+ridge", "slicegpt", "shortgpt")


def asked(model, train_text, heldout_text, **changes):
    texts = {"calibration": train_text, "calibration_tokens": 256, "heldout": heldout_text, "heldout_tokens": 256}
    chosen = {"methods": METHODS, "prompt": "the", "words": 4, "context": 64, "dtype": "float32"}
    return TourParameters(**{"model": model} | texts | chosen | changes)


@pytest.fixture
def lesson(folder_model, train_text, heldout_text, own_cache):
    return Lesson(asked(folder_model, train_text, heldout_text))


def test_a_look_holds_loss_text_and_speed_and_comes_back_at_once(lesson):
    heard, texts = [], []
    point = lesson.look("magnitude", 0.5, heard.append, texts.append)
    assert heard == ["compressing", "writing", "timing"]
    assert texts[-1] == point.text and point.text.startswith("the") and len(texts) == 5  # the prompt, then four tokens
    assert point.report.ratio_own == 0.5 and point.decode.speedup > 0
    heard.clear()
    assert lesson.look("magnitude", 0.5, heard.append) is point and not heard


def test_nothing_removed_is_the_dense_model_whatever_the_method(lesson):
    assert lesson.loss("magnitude", 0.0) is lesson.whole
    assert lesson.look("random", 0.0).text == lesson.look("shortgpt", 0.0).text


def test_the_points_are_a_table_that_laws_are_fitted_to(lesson):
    for ratio in (0.25, 0.5, 0.75):
        lesson.loss("magnitude", ratio)
    table = lesson.table()
    assert len(table) == 4 and (table["loss0"] == lesson.whole.loss.mean).all()
    law = laws.fit(table, draws=100, compare=False).curve(lesson.asked.model, "magnitude")
    assert law.n == 3 and "10 % more loss" in law._repr_html_()


def test_the_widget_shows_another_text_number_and_picture_when_moved(lesson):
    tour = Tour(lesson)
    assert tour.method.value == "wanda-sp+ridge" and tour.ratio.value == 0.3
    seen = (tour.image.value, tour.numbers.value, tour.after.value)
    artists = tour.picture.map.images[0]
    for method, ratio in zip(METHODS, (0.5, 0.5, 0.5, 0.5, 0.65), strict=True):
        tour.method.value = method
        tour.ratio.value = ratio
        assert tour.ratio.label == f"{lesson.loss(method, ratio).report.ratio_params:.0%} (r = {ratio:.2f})"
        now = (tour.image.value, tour.numbers.value, tour.after.value)
        assert now[0] != seen[0] and now[2] != seen[2]
        assert f"of its parameters removed by {method} (r = {ratio:.2f})" in tour.after.value
        seen = now
    assert list(tour.picture.map.images) == [artists]
    assert not any("claw-stale" in part._dom_classes for part in (tour.after, tour.numbers, tour.image, tour.curve))
    tour.ratio.value = 0
    assert "+0.000" in tour.numbers.value


def test_what_belongs_to_another_point_is_grey_until_it_does_not(lesson, monkeypatch):
    tour, heard = Tour(lesson), []
    grey = lambda: ["claw-stale" in part._dom_classes for part in (tour.after, tour.numbers, tour.image)]
    look = lesson.look

    def watched(method, ratio, tell, write):
        heard.append(("begun", grey()))
        told = lambda doing: (tell(doing), heard.append((doing, grey())))
        return look(method, ratio, told, lambda text: (write(text), heard.append(("text", grey(), tour.bar.value))))

    monkeypatch.setattr(lesson, "look", watched)
    tour.ratio.value = 0.5
    assert heard[0] == ("begun", [True, True, True]) and ("timing", [False, True, True]) in heard
    texts = [step[1:] for step in heard if step[0] == "text"]
    assert all(state == [False, True, True] for state, _ in texts) and [bar for _, bar in texts] == sorted(
        bar for _, bar in texts
    )
    assert grey() == [False, False, False] and tour.bar.value == 0


def test_model_text_is_escaped(folder_model, train_text, heldout_text, own_cache):
    tour = Tour(Lesson(asked(folder_model, train_text, heldout_text, prompt="<b>x", methods=("magnitude",))))
    assert "&lt;b&gt;x" in tour.before.value and "<b>x" not in tour.before.value


def test_checks_judge_against_the_model_itself(lesson):
    dense = lesson.whole.report.dense
    share = 0.5 * 3 * dense.hidden * dense.width * dense.depth / dense.parameters
    assert exercises.check_answer(lesson, 1, share).right is True
    assert exercises.check_answer(lesson, 1, share + 0.1).right is False
    losses = {method: lesson.loss(method, 0.3).loss.mean for method in METHODS}
    assert exercises.check_answer(lesson, 2, min(losses, key=losses.get)).right is True
    worst = max(losses, key=losses.get)
    assert exercises.check_answer(lesson, 2, worst).right is (losses[worst] <= 1.01 * min(losses.values()))
    measured = lesson.loss("wanda-sp+ridge", 0.5).loss.mean
    assert exercises.check_answer(lesson, 3, measured * 1.05).right is True
    assert exercises.check_answer(lesson, 3, measured * 1.5).right is False
    assert exercises.check_answer(lesson, 4, 1000.0).right is False
    near, far = (lesson.loss("wanda-sp+ridge", ratio).loss.mean for ratio in (0.9, 0.95))
    assert exercises.check_answer(lesson, 5, 0.9).right is (near <= 1.1 * lesson.whole.loss.mean < far)


def test_the_slider_has_the_shares_that_a_method_can_reach(lesson):
    tour, whole = Tour(lesson), lesson.whole.report.dense
    words = lambda: [text for text, _ in tour.ratio.options]
    assert words()[0] == "nothing" and re.fullmatch(r"\d+% \(r = 0\.90\)", words()[-1])
    for method in METHODS:
        now = tour.places[tour.ratio.value]
        tour.method.value = method
        assert abs(tour.places[tour.ratio.value] - now) == min(abs(share - now) for share in tour.places.values())
        shares = list(tour.places.values())
        assert shares == sorted(set(shares)) and shares[0] == 0 and shares[-1] < 1
        for ratio, share in list(tour.places.items())[1::5]:
            assert lesson.loss(method, ratio).report.ratio_params == share
    assert len(lesson.places("shortgpt")) == whole.depth  # of three layers one or two may go
    assert f"With {tour.places[tour.ratio.value]:.0%} of its parameters removed by shortgpt" in tour.after.value


def test_checks_without_or_with_an_impossible_answer_say_what_to_do(lesson):
    for number, exercise in enumerate(exercises.EXERCISES, 1):
        open_one = exercises.check_answer(lesson, number)
        assert open_one.right is None and "Replace None with" in str(open_one) and "Your turn" in open_one._repr_html_()
        wrong = exercises.check_answer(lesson, number, "none of these" if exercise.kind == "method" else "much")
        assert wrong.right is False and "answer should be" in wrong.words
    assert "between 0 and 1" in exercises.check_answer(lesson, 5, 2.0).words
    with pytest.raises(InputError, match="1 to 5"):
        exercises.check_answer(lesson, 9, 1)


def test_questions_follow_the_notebooks_parameters(folder_model, train_text, heldout_text, own_cache):
    lesson = Lesson(asked(folder_model, train_text, heldout_text, methods=("random", "magnitude"), ratio=0.45, prompt="<i>the"))
    questions = [exercises.question(lesson, number) for number in range(1, 6)]
    assert all(f"<b>{number}.</b>" in shown for number, shown in enumerate(questions, 1))
    assert "lowest loss at r = 0.45?" in questions[1]
    assert "losses of magnitude at r = 0" in questions[2] and "How far can magnitude go" in questions[4]
    own = exercises.Exercise("What follows {prompt} at r = {ratio}?", 3, hint="Fewer than {words}.")
    assert "What follows &lt;i&gt;the at r = 0.45?" in exercises.question(lesson, own)
    assert exercises.check_answer(lesson, own, 3).words == "It is 3."
    assert exercises.check_answer(lesson, own, 4) == exercises.Feedback(False, "Fewer than 4.")
    named = exercises.Exercise("Which draws by lot?", "random", "method")
    assert (
        exercises.check_answer(lesson, named, "random").right and not exercises.check_answer(lesson, named, "magnitude").right
    )


def test_text_for_calibration_and_for_testing_must_differ(folder_model, train_text):
    with pytest.raises(InputError, match="two different texts"):
        Lesson(asked(folder_model, train_text, train_text))
