"""A model that is not in the table: how far others' published measurements foretell that one can go, as a part of a page.

The page carries the numbers of `claw.laws.new_models` and does its arithmetic, so it answers without Python or network.
"""

from typing import Any

from claw.advice.unseen_models import predict_unseen
from claw.errors import InputError
from claw.laws.new_models import NewModels, read_new_models
from claw.show.page_parts import embedded, framed, part
from claw.specs.methods import is_control, is_method
from claw.words import Html

USUAL = 7e9
WHAT = "A model that is not in the table"


def unseen_data(law: NewModels, parameters: float = USUAL) -> dict[str, Any]:
    """What the page carries: the law's numbers, and its methods, those that go furthest first and controls last."""
    order = [*predict_unseen(parameters, law=law)["method"], *filter(is_control, law.methods)]
    methods = [{"name": name, "here": is_method(name), "control": is_control(name)} for name in order]
    return law.to_dict() | {"order": methods, "families": list(law.families), "usual": parameters / 1e9}


def unseen_page(parameters: float = USUAL) -> str:
    """HTML of the question for a model of so many parameters at first; empty where nothing published is at hand."""
    try:
        law = read_new_models()
    except InputError:
        return ""
    return part("unseen.html", data=embedded(unseen_data(law, parameters)))


def unseen_fold() -> str:
    """The page behind a line that opens it."""
    page = unseen_page()
    return f'<details class="unseen"><summary>{WHAT}, of 7 B parameters, say</summary>\n{page}</details>' if page else ""


def unseen_frame(parameters: float | None = None) -> Html:
    """The page as a notebook shows it."""
    page = unseen_page(parameters or USUAL)
    return Html(framed(page, WHAT) if page else "<p>No published measurements are at hand.</p>")
