"""Exercises for a class on the live lesson, and their checks: each answer is judged against what the model itself gives.

A check says whether the answer is right and why, and without an answer what to do. It measures what it needs and has not yet.
"""

import html
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from claw.errors import InputError
from claw.evaluate.timing import ideal_ratio
from claw.show.lesson import TIMED, Lesson

ALLOWED = 1.1  # times the dense loss
NEAR = 0.05
PREDICTED = 0.10
HALF = 0.5
HEAD = {True: "Right", False: "Not yet", None: "Your turn"}
COLOUR = {True: "#029e73", False: "#d55e00", None: "#949494"}


@dataclass(frozen=True)
class Feedback:
    """What a check found: `right` is None where there is no answer yet."""

    right: bool | None
    words: str

    def __str__(self) -> str:
        return f"{HEAD[self.right]}. {self.words}"

    def _repr_html_(self) -> str:
        return f'<p style="border-left: 4px solid {COLOUR[self.right]}; padding: .3em .8em">{html.escape(str(self))}</p>'


def check_answer(lesson: Lesson, number: int, answer: object = None) -> Feedback:
    """Feedback on the answer to exercise `number`; None asks what to do."""
    if number not in EXERCISES:
        raise InputError(f"There is no exercise {number}. The exercises are 1 to {len(EXERCISES)}.")
    question, judge, kind = EXERCISES[number]
    if answer is None:
        return Feedback(None, question)
    numeric = isinstance(answer, (int, float)) and not isinstance(answer, bool)
    if (kind is float and not numeric) or (kind is str and answer not in lesson.asked.methods):
        wanted = "a number, such as 0.25" if kind is float else f"one of {', '.join(lesson.asked.methods)}"
        return Feedback(False, f"The answer should be {wanted}; {answer!r} is not.")
    if number in (3, 5) and not (0 <= answer < 1 if number == 5 else answer > 0):
        return Feedback(False, "A ratio lies between 0 and 1." if number == 5 else "A loss is above 0 nats per token.")
    return judge(lesson, answer)


def _share(lesson: Lesson, answer: float) -> Feedback:
    dense = lesson.whole.report.dense
    neurons = 3 * dense.hidden * dense.width * dense.depth
    truth = HALF * neurons / dense.parameters
    why = (
        f"Each of {dense.depth} layers has {dense.width:,} neurons of 3 × {dense.hidden} weights, together {neurons:,} of "
        f"{dense.parameters:,} parameters; half of them is {truth:.1%} of the model."
    )
    if abs(answer - truth) <= 0.01:
        return Feedback(True, why)
    return Feedback(False, "Count the weights of gate, up and down in one layer, times the layers, over all parameters.")


def _best(lesson: Lesson, answer: str) -> Feedback:
    ratio = lesson.asked.ratio
    losses = {method: lesson.loss(method, ratio).loss.mean for method in lesson.asked.methods}
    best = min(losses, key=losses.get)
    ranked = ", ".join(f"{name} {value:.2f}" for name, value in sorted(losses.items(), key=lambda one: one[1]))
    if losses[answer] <= losses[best] * 1.01:
        return Feedback(
            True, f"At r = {ratio:g} the losses are {ranked}. Differences below a hundredth are noise of the sample."
        )
    return Feedback(
        False, f"{answer} loses {losses[answer] - losses[best]:.2f} nats more than the best. Try the others in the menu."
    )


def _predict(lesson: Lesson, answer: float) -> Feedback:
    method = favourite(lesson)
    measured = lesson.loss(method, HALF).loss.mean
    ratios = (0.0, 0.1, 0.3)
    guess = np.polyval(np.polyfit(ratios, [lesson.loss(method, r).loss.mean for r in ratios], 2), HALF)
    words = (
        f"Measured: {measured:.3f}; you said {answer:.3f} ({abs(answer / measured - 1):.0%} off). The parabola through r = 0, 0.1 "
        f"and 0.3 says {guess:.3f} ({abs(guess / measured - 1):.0%} off)."
    )
    return Feedback(bool(abs(answer / measured - 1) <= PREDICTED), words)


def _ideal(lesson: Lesson, answer: float) -> Feedback:
    dense = lesson.whole.report.dense
    small = dense.with_(width=round(dense.width * HALF))
    element = lesson.dense.dtype.itemsize
    truth = ideal_ratio("decode", dense, small, batch=1, speed=TIMED, element=element)
    if abs(answer / truth - 1) <= NEAR:
        return Feedback(
            True, f"Writing a token reads every weight once, so {truth:.2f} times is all that bytes allow. The table above says "
            "how much of it this machine gave."
        )  # fmt: skip
    return Feedback(False, "Writing one token reads every remaining weight once. Divide the parameters before by those after.")


def _farthest(lesson: Lesson, answer: float) -> Feedback:
    method, limit = favourite(lesson), ALLOWED * lesson.whole.loss.mean
    at, beyond = (lesson.loss(method, min(r, 0.95)).loss.mean for r in (answer, answer + NEAR))
    if at > limit:
        return Feedback(False, f"At r = {answer:.2f} the loss is {at:.3f}, above {limit:.3f}. Remove less.")
    if beyond <= limit:
        return Feedback(
            False, f"r = {answer:.2f} is fine ({at:.3f}), but so is {answer + NEAR:.2f} ({beyond:.3f}). Go farther."
        )
    return Feedback(
        True, f"At r = {answer:.2f} the loss is {at:.3f}, at {answer + NEAR:.2f} it is {beyond:.3f}; allowed is {limit:.3f}."
    )


def favourite(lesson: Lesson) -> str:
    """The method that the exercises on one curve use."""
    return "wanda-sp+ridge" if "wanda-sp+ridge" in lesson.asked.methods else lesson.asked.methods[-1]


EXERCISES: dict[int, tuple[str, Callable[[Lesson, object], Feedback], type]] = {
    1: ("Half of all FFN neurons go. What fraction of all parameters is that?", _share, float),
    2: ("Which method of the menu keeps the lowest loss at the ratio of the lesson?", _best, str),
    3: ("Predict the loss of the compensated method at r = 0.5 from r = 0, 0.1 and 0.3, before you look.", _predict, float),
    4: ("With half of the FFN neurons gone, how many times as fast could the model write at best?", _ideal, float),
    5: ("How far can one go with 10 % more loss? Find r to within 0.05.", _farthest, float),
}
"""Question, judge and kind of answer."""
