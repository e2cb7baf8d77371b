"""The forms of laws: text, parameters, and what one unit of each parameter does.

A form says g(y) = offset + X θ, with g the identity or the logarithm, so that least squares fits it and every interval is a
quadratic form in X. Covariates come as a mapping of equal-length arrays:

    r      fraction removed, on whichever axis the law is fitted
    d      recovery tokens D in millions
    dense  L0 or A0, the same response of the dense model

Notable choice: "quadratic" depends on the scale (a line in log L is an exponential in L), so a form names its response.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from claw.errors import unknown

Covariates = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Form:
    """One law as text and as columns."""

    name: str
    formula: str
    parameters: tuple[str, ...]
    columns: Callable[[Covariates], tuple[np.ndarray, ...]]
    powers: tuple[int, ...] = ()
    """Powers of r, where the form is a polynomial in r alone: what a slider without Python needs."""

    def design(self, covariates: Covariates) -> np.ndarray:
        """X: (points, parameters)."""
        return np.column_stack(np.broadcast_arrays(*self.columns(covariates)))


def _polynomial(name: str, formula: str, degree: int) -> Form:
    powers = tuple(range(degree + 1))
    columns = lambda c: tuple(np.asarray(c["r"], float) ** power for power in powers)
    return Form(name, formula, ("a", "b", "c", "d")[: degree + 1], columns, powers)


CURVE_FORMS = {
    form.name: form
    for form in (
        _polynomial("linear", "y(r) = a + b r", 1),
        _polynomial("quadratic", "y(r) = a + b r + c r²", 2),
    )
}
"""Laws of one curve: one model, one method, one recovery budget."""


def find(name: str) -> Form:
    """The form of this name. InputError names near ones."""
    if name not in CURVE_FORMS:
        raise unknown("form", name, CURVE_FORMS)
    return CURVE_FORMS[name]
