"""Every form that is fitted, by group: curve, cross (across models), retention, competing, own, post-training, speed.

Coefficients are named as in the papers. The competing forms were fixed before looking at data. Ours (`OWN`) were suggested by
the first curves (LLaMA-2-7B and Llama-3.2-1B as published, SmolLM2-135M, Gemma-3-270M): on those their errors flatter.
"""

from functools import partial

import numpy as np

from claw.errors import unknown
from claw.laws.forms import Covariates, Form, to_scale


def switch(c: Covariates) -> np.ndarray:
    """log(1 + 1/(D+1)): 0.69 without recovery, falling to 0."""
    return np.log1p(1 / (np.asarray(c["d"], float) + 1))


def healed(c: Covariates) -> np.ndarray:
    """Share of what recovery can do that D does: 0 at D = 0, towards 1; 1 - log(1 + 1/(D+1)) / log 2."""
    return 1 - switch(c) / np.log(2)


def odds(c: Covariates) -> np.ndarray:
    """r / (1 - r): removed over kept."""
    return c["r"] / (1 - c["r"])


def _polynomial(name: str, formula: str, degree: int) -> Form:
    powers = tuple(range(degree + 1))
    columns = lambda c: tuple(c["r"] ** power for power in powers)
    return Form(name, formula, tuple("abcd")[: degree + 1], columns=columns, powers=powers, needs=(), group="curve")


CLAIMED = (_polynomial("linear", "y(r) = a + b r", 1), _polynomial("quadratic", "y(r) = a + b r + c r²", 2))
"""What the original paper claims of one curve: loss quadratic in r, accuracy linear; least squares on y itself."""

_through_dense = partial(Form, scale="log", group="curve", offset=lambda c: np.log(c["dense"]))
_rising = partial(_through_dense, amplitudes=0)

ANCHORED = (
    _through_dense("power", "y/y0 = (1+r)^b, by logs", ("b",), columns=lambda c: (np.log1p(c["r"]),)),
    _rising("capacity", "y/y0 = 1 + a ((1-r)^-k - 1) / (2^k - 1), by logs: a is the rise at r = 0.5", ("a", "k"),
            shape=lambda c, a, k: (np.log1p(a * np.expm1(-k * np.log1p(-c["r"])) / np.expm1(k * np.log(2))),),
            low=(-1, 0.02), high=(np.inf, 30)),
    _rising("log-odds", "y/y0 = 1 + a log(1 + s r/(1-r)), by logs", ("a", "s"),
            shape=lambda c, a, s: (np.log1p(a * np.log1p(s * odds(c))),), low=(-1, 0.01), high=(np.inf, 1000)),
    _rising("log-kept-power", "y/y0 = 1 + a log(1/(1-r))^b, by logs", ("a", "b"),
            shape=lambda c, a, b: (np.log1p(a * (-np.log1p(-c["r"])) ** b),), low=(-1, 0.1), high=(np.inf, 12)),
    _through_dense("log-cubic", "log(y/y0) = b r + c r² + d r³", ("b", "c", "d"),
                   columns=lambda c: (c["r"], c["r"] ** 2, c["r"] ** 3)),
)  # fmt: skip
"""Laws of one curve of loss that go through the dense model, errors in proportion to the loss: least squares of log y/y0."""

CURVE = (*CLAIMED, *ANCHORED)
"""Laws of one curve: one model, one method, one recovery budget."""

_cross = partial(Form, scale="log", group="cross", varying=("β", "γ"))
_from_dense = partial(_cross, offset=lambda c: np.log(c["dense"]))
_retention = partial(Form, group="retention", offset=lambda c: 1.0, varying=("b", "g"), needs=("dense", "chance"))
_competing = partial(Form, scale="relative", group="competing")
_relative = partial(_competing, offset=lambda c: 1.0)
_own = partial(_relative, group="own")
_post_training = partial(Form, group="post-training", offset=lambda c: c["dense"], positive=True)
_speed = partial(Form, group="speed", varying=("κ",), needs=())

CROSS = (
    _cross("original", "y = y0^α (1+r)^β (1+1/(D+1))^γ, by logs, no intercept", ("α", "β", "γ"), varying=("β", "γ", "α"),
           columns=lambda c: (np.log(c["dense"]), np.log1p(c["r"]), switch(c))),
    _cross("original+intercept", "y = e^κ y0^α (1+r)^β (1+1/(D+1))^γ, by logs", ("κ", "α", "β", "γ"),
           columns=lambda c: (1.0, np.log(c["dense"]), np.log1p(c["r"]), switch(c)), varying=("β", "γ", "κ")),
    _from_dense("unit-α", "y = y0 (1+r)^β (1+1/(D+1))^γ, by logs: α = 1", ("β", "γ"),
                columns=lambda c: (np.log1p(c["r"]), switch(c))),
    _from_dense("unit-α×size", "y = y0 (1+r)^(β + λ log10(N0/1e9)) (1+1/(D+1))^γ, by logs", ("β", "λ", "γ"),
                columns=lambda c: (np.log1p(c["r"]), np.log1p(c["r"]) * np.log10(c["size"]), switch(c)),
                needs=("dense", "size")),
    _from_dense("anchored", "y = y0 (1+r)^β [(1+1/(D+1)) / 2]^γ, by logs: y0 at r = 0, D = 0", ("β", "γ"),
                columns=lambda c: (np.log1p(c["r"]), switch(c) - np.log(2))),
)  # fmt: skip
"""The original paper's law across models (Sengupta, Chaudhary, Chakraborty 2025, eq. of L in L0, r and D) and its variants."""

RETENTION = (
    _retention("retention-linear", "(A-chance)/(A0-chance) = 1 - b r + g r w(D), w = 1 - log(1+1/(D+1))/log 2", ("b", "g"),
               "retention", columns=lambda c: (-c["r"], c["r"] * healed(c))),
    _retention("retention-quadratic", "(A-chance)/(A0-chance) = 1 - b r - q r² + g r w(D)", ("b", "q", "g"), "retention",
               columns=lambda c: (-c["r"], -c["r"] ** 2, c["r"] * healed(c))),
    _retention("retention-logit", "logit p = logit p0 - b r + g r w(D), p = (A-chance)/(1-chance)", ("b", "g"), "logit",
               columns=lambda c: (-c["r"], c["r"] * healed(c)), offset=lambda c: to_scale("logit", c["dense"], c)),
)  # fmt: skip
"""Laws of accuracy above guessing."""

COMPETING = (
    _relative("linear", "y/y0 = 1 + b r", ("b",), columns=lambda c: (c["r"],)),
    _relative("quadratic", "y/y0 = 1 + b r + c r²", ("b", "c"), columns=lambda c: (c["r"], c["r"] ** 2)),
    _relative("cubic", "y/y0 = 1 + b r + c r² + d r³", ("b", "c", "d"), columns=lambda c: (c["r"], c["r"] ** 2, c["r"] ** 3)),
    _competing("power", "y/y0 = (1+r)^b", ("b",),
               shape=lambda c, b: ((1 + c["r"]) ** b,), amplitudes=0, low=(-8,), high=(8,)),
    _competing("exponential", "y/y0 = exp(b r)", ("b",),
               shape=lambda c, b: (np.exp(b * c["r"]),), amplitudes=0, low=(-6,), high=(6,)),
    _relative("power-of-r", "y/y0 = 1 + a r^b", ("a", "b"), shape=lambda c, b: (c["r"] ** b,), low=(0.1,), high=(12,)),
    _relative("plateau", "y/y0 = 1 + p (1 - exp(-(r/s)^k)): rises, then saturates at 1 + p", ("p", "s", "k"),
              shape=lambda c, s, k: (-np.expm1(-((c["r"] / s) ** k)),), low=(0.05, 0.3), high=(2, 6)),
)  # fmt: skip
"""Competing forms of one response, y/y0 without recovery, fixed before looking at data."""

OWN = (
    _own("log-kept", "y/y0 = 1 + a log(1/(1-r)): linear in the log of what is kept", ("a",),
         columns=lambda c: (-np.log1p(-c["r"]),), varying=("a",)),
    _own("log-odds", "y/y0 = 1 + a log(1 + s r/(1-r)): perplexity is a power of removed over kept", ("a", "s"),
         shape=lambda c, s: (np.log1p(s * odds(c)),), low=(0.05,), high=(50,)),
    _own("capacity", "y/y0 = 1 + a ((1-r)^-k - 1) / (2^k - 1): a power law in what is kept, a the rise at r = 0.5", ("a", "k"),
         shape=lambda c, k: (np.expm1(-k * np.log1p(-c["r"])) / np.expm1(k * np.log(2)),), low=(0.02,), high=(30,)),
    _own("log-kept-power", "y/y0 = 1 + a log(1/(1-r))^b: a power of the log of what is kept", ("a", "b"),
         shape=lambda c, b: ((-np.log1p(-c["r"])) ** b,), low=(0.1,), high=(12,)),
    _own("half-way", "y/y0 = 1 + p r^k / (r^k + m^k): half of the rise at r = m", ("p", "m", "k"),
         shape=lambda c, m, k: (1 / (1 + (m / np.maximum(c["r"], 1e-9)) ** k),), low=(0.05, 0.5), high=(2, 6)),
)  # fmt: skip
"""Our candidates for a better law, judged out of sample only."""

POST_TRAINING = (
    _post_training(
        "P²", "L = L0 + r^-γ N0^-δ (N_C N0^-α + D_C D^-β + E), N0 in 1e9, D in 1e6, D > 0",
        ("N_C", "D_C", "E", "γ", "δ", "α", "β"),
        shape=lambda c, g, d, a, b: tuple(
            c["r"] ** -g * c["size"] ** -d * column for column in (c["size"] ** -a, c["d"] ** -b, np.ones_like(c["r"]))),
        amplitudes=3, low=(-4, -1, 0.02, 0.02), high=(0, 1, 2, 2), needs=("dense", "size", "healing")),
    _post_training(
        "P² of one size", "L = L0 + r^-γ (D_C D^-β + E), D in 1e6, D > 0", ("D_C", "E", "γ", "β"),
        shape=lambda c, g, b: tuple(c["r"] ** -g * column for column in (c["d"] ** -b, np.ones_like(c["r"]))),
        amplitudes=2, low=(-4, 0.02), high=(-0.05, 2), needs=("dense", "healing")),
)  # fmt: skip
"""P²: scaling law of post-training after pruning (Chen et al. 2024); what is left of it where sizes cannot be told apart."""

SPEED = (
    _speed("speed-power", "log S = -(κ + λ log10(N0/1e9)) log(1-ρ): κ = 1 is the ideal", ("κ", "λ"), "log", needs=("size",),
           columns=lambda c: (-np.log1p(-c["r"]), -np.log1p(-c["r"]) * np.log10(c["size"]))),
    _speed("speed-power-one-size", "log S = -κ log(1-ρ): the same for every size", ("κ",), "log",
           columns=lambda c: (-np.log1p(-c["r"]),)),
    _speed("amdahl", "1/S = 1 - f ρ: a share 1 - f does not get faster", ("f",), "inverse",
           columns=lambda c: (-c["r"],), offset=lambda c: 1.0, varying=("f",)),
    _speed("speed-overhead", "log S = ω - κ log(1-ρ): a cost or gain before anything is removed", ("ω", "κ"), "log",
           columns=lambda c: (1.0, -np.log1p(-c["r"]))),
)  # fmt: skip
"""Speed-up S over the dense model against the share ρ truly removed; N0 parameters of the dense model."""

UNIT_BOUND = ("original",)
"""Laws that depend on the unit of loss: L0^α has no intercept to take it up. Shown as the paper has them, never judged."""
GROUPS = {forms[0].group: forms for forms in (CURVE, CROSS, RETENTION, COMPETING, OWN, POST_TRAINING, SPEED)}
UNRECOVERED = ("competing", "own")
"""Groups without a recovery term: fitted to unrecovered models."""


def find_form(name: str, group: str = "curve") -> Form:
    """The form of this name in its group. InputError names near ones."""
    for form in GROUPS[group]:
        if form.name == name:
            return form
    raise unknown("form", name, [form.name for form in GROUPS[group]])
