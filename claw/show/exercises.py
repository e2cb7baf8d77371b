"""Exercises for a class on the live lesson: each is one value, a question and how to judge its answer by the model itself.

A check says whether the answer is right and why; it measures what it needs and has not yet. A teacher adds an exercise in the
notebook, or in a module that it imports, and gives it to `question` and `check_answer` in place of a number:

    layers = Exercise("How many layers does {model} have?", lesson.whole.report.dense.depth, hint="Look under Load the model.")
    exercises.question(lesson, layers)
    exercises.check_answer(lesson, layers, None)
"""

import html
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from claw.errors import InputError
from claw.evaluate.timing import ideal_ratio
from claw.show.lesson import TIMED, Lesson
from claw.words import Html

ALLOWED = 1.1  # times the dense loss
NEAR = 0.05
PREDICTED = 0.10
HALF = 0.5
VERDICTS = {True: ("Right", "#029e73"), False: ("Not yet", "#d55e00"), None: ("Your turn", "#949494")}


@dataclass(frozen=True)
class Feedback:
    """What a check says: `right` is None where there is no answer yet."""

    right: bool | None
    words: str

    def __str__(self) -> str:
        return f"{VERDICTS[self.right][0]}. {self.words}"

    def _repr_html_(self) -> str:
        return f'<p style="border-left: 4px solid {VERDICTS[self.right][1]}; padding: .3em .8em">{html.escape(str(self))}</p>'


@dataclass(frozen=True)
class Exercise:
    """A question, what is right, the kind of the answer, and a hint for those who are wrong.

    Question and hint may name the notebook's parameters, such as {ratio} or {prompt}, and {method}, the lesson's favourite.
    `truth` is the right answer, to within 1 %, or a function of lesson and answer that says whether it is right, and why.
    """

    question: str
    truth: float | str | Callable[[Lesson, Any], tuple[bool, str]]
    kind: Literal["number", "ratio", "loss", "method"] = "number"
    hint: str = ""


def question(lesson: Lesson, exercise: int | Exercise) -> Html:
    """What a notebook shows of an exercise: the number of one of `EXERCISES`, or one of your own."""
    number = f"<b>{exercise}.</b> " if isinstance(exercise, int) else ""
    return Html(f"<p>{number}{html.escape(_filled(_exercise(exercise).question, lesson))}</p>")


def check_answer(lesson: Lesson, exercise: int | Exercise, answer: Any = None) -> Feedback:
    """Feedback on the answer to an exercise; None says what kind of answer is wanted."""
    asked, names = _exercise(exercise), lesson.asked.methods
    numeric = isinstance(answer, (int, float)) and not isinstance(answer, bool)
    wanted = f"one of {', '.join(names)}" if asked.kind == "method" else "a number, such as 0.25"
    if answer is None:
        return Feedback(None, f"Replace None with {wanted}, and run the cell.")
    if not (answer in names if asked.kind == "method" else numeric):
        return Feedback(False, f"The answer should be {wanted}; {answer!r} is not.")
    if asked.kind == "ratio" and not 0 <= answer < 1:
        return Feedback(False, "A ratio lies between 0 and 1.")
    if asked.kind == "loss" and answer <= 0:
        return Feedback(False, "A loss is above 0 nats per token.")
    if callable(asked.truth):
        right, words = asked.truth(lesson, answer)
    else:
        right = answer == asked.truth or (numeric and bool(np.isclose(answer, float(asked.truth), rtol=0.01)))
        words = f"It is {asked.truth}." if right else "Try again."
    return Feedback(right, _filled(asked.hint, lesson) if asked.hint and not right else words)


def _exercise(exercise: int | Exercise) -> Exercise:
    if isinstance(exercise, Exercise):
        return exercise
    if exercise not in range(1, len(EXERCISES) + 1):
        raise InputError(f"There is no exercise {exercise}. The exercises are 1 to {len(EXERCISES)}.")
    return EXERCISES[exercise - 1]


def _filled(template: str, lesson: Lesson) -> str:
    return template.format(**lesson.asked.model_dump(), method=lesson.favourite)


def _share(lesson: Lesson, answer: float) -> tuple[bool, str]:
    dense = lesson.whole.report.dense
    neurons = 3 * dense.hidden * dense.width * dense.depth
    truth = HALF * neurons / dense.parameters
    return abs(answer - truth) <= 0.01, (
        f"Each of {dense.depth} layers has {dense.width:,} neurons of 3 × {dense.hidden} weights, together {neurons:,} of "
        f"{dense.parameters:,} parameters; half of them is {truth:.1%} of the model."
    )


def _best(lesson: Lesson, answer: str) -> tuple[bool, str]:
    ratio = lesson.asked.ratio
    losses = {method: lesson.loss(method, ratio).loss.mean for method in lesson.asked.methods}
    best = min(losses.values())
    if losses[answer] > best * 1.01:
        return False, f"{answer} loses {losses[answer] - best:.2f} nats more than the best. Try the others in the menu."
    ranked = ", ".join(f"{method} {losses[method]:.2f}" for method in sorted(losses, key=losses.__getitem__))
    return True, f"At r = {ratio:g} the losses are {ranked}. Differences below a hundredth are noise of the sample."


def _predict(lesson: Lesson, answer: float) -> tuple[bool, str]:
    *points, measured = (lesson.loss(lesson.favourite, r).loss.mean for r in (0.0, 0.1, 0.3, HALF))
    parabola = np.polyval(np.polyfit((0.0, 0.1, 0.3), points, 2), HALF)
    off = abs(answer / measured - 1)
    return bool(off <= PREDICTED), (
        f"Measured: {measured:.3f}; you said {answer:.3f} ({off:.0%} off). The parabola through r = 0, 0.1 and 0.3 says "
        f"{parabola:.3f} ({abs(parabola / measured - 1):.0%} off)."
    )


def _ideal(lesson: Lesson, answer: float) -> tuple[bool, str]:
    dense = lesson.whole.report.dense
    small = dense.with_(width=round(dense.width * HALF))
    truth = ideal_ratio("decode", dense, small, batch=1, speed=TIMED, element=lesson.dense.dtype.itemsize)
    return abs(answer / truth - 1) <= NEAR, (
        f"Writing a token reads every weight once, so {truth:.2f} times is all that bytes allow. The table above says how much "
        "of it this machine gave."
    )


def _farthest(lesson: Lesson, answer: float) -> tuple[bool, str]:
    limit = ALLOWED * lesson.whole.loss.mean
    at, beyond = (lesson.loss(lesson.favourite, min(r, 0.95)).loss.mean for r in (answer, answer + NEAR))
    if at > limit:
        return False, f"At r = {answer:.2f} the loss is {at:.3f}, above {limit:.3f}. Remove less."
    if beyond <= limit:
        return False, f"r = {answer:.2f} is fine ({at:.3f}), but so is {answer + NEAR:.2f} ({beyond:.3f}). Go farther."
    return True, f"At r = {answer:.2f} the loss is {at:.3f}, at {answer + NEAR:.2f} it is {beyond:.3f}; allowed is {limit:.3f}."


EXERCISES = (
    Exercise(
        "Half of all feed-forward neurons go. What fraction of all parameters is that? The table under Load the model has the "
        "numbers: a neuron is one row of gate, one of up and one column of down.",
        _share,
        hint="Count the weights of gate, up and down in one layer, times the layers, over all parameters.",
    ),
    Exercise(
        "Which method of the menu keeps the lowest loss at r = {ratio:g}? Is it worth looking at activations, and is it worth "
        "refitting? The check measures every method, which takes half a minute.",
        _best,
        "method",
    ),
    Exercise(
        "Predict before you look: from the losses of {method} at r = 0, 0.1 and 0.3, what is its loss at r = 0.5? Within ten "
        "per cent is good.",
        _predict,
        "loss",
    ),
    Exercise(
        "To write one token, the processor reads every weight once. With half of the feed-forward neurons gone, how many times "
        "as fast can the model write at best? Compare with what was measured above: where does the rest of the time go?",
        _ideal,
        hint="Writing one token reads every remaining weight once. Divide the parameters before by those after.",
    ),
    Exercise("You may accept 10 % more loss, no more. How far can {method} go? Find r to within 0.05.", _farthest, "ratio"),
)
"""The exercises of the tour; the first is number 1."""
