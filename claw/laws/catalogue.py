"""Every form that is fitted, by group: of one curve, across models, competing, our own, post-training, speed.

Names of parameters are those of the papers. The competing forms were fixed before looking at data. Ours (`OWN`) were suggested
by first curves (LLaMA-2-7B and Llama-3.2-1B as published, SmolLM2-135M, Gemma-3-270M): on those their errors flatter.
"""

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
    return Form(name, formula, ("a", "b", "c", "d")[: degree + 1], columns=columns, powers=powers, needs=())


CURVE = (_polynomial("linear", "y(r) = a + b r", 1), _polynomial("quadratic", "y(r) = a + b r + c r²", 2))
"""Laws of one curve: one model, one method, one recovery budget."""

CROSS = (
    Form(
        "original", "y = y0^α (1+r)^β (1+1/(D+1))^γ, by logs, no intercept", ("α", "β", "γ"), "log",
        columns=lambda c: (np.log(c["dense"]), np.log1p(c["r"]), switch(c)), varying=("β", "γ", "α"),
    ),
    Form(
        "original+intercept", "y = e^κ y0^α (1+r)^β (1+1/(D+1))^γ, by logs", ("κ", "α", "β", "γ"), "log",
        columns=lambda c: (1.0, np.log(c["dense"]), np.log1p(c["r"]), switch(c)), varying=("β", "γ", "κ"),
    ),
    Form(
        "unit-α", "y = y0 (1+r)^β (1+1/(D+1))^γ, by logs: α = 1", ("β", "γ"), "log",
        columns=lambda c: (np.log1p(c["r"]), switch(c)), offset=lambda c: np.log(c["dense"]), varying=("β", "γ"),
    ),
    Form(
        "unit-α×size", "y = y0 (1+r)^(β + λ log10(N0/1e9)) (1+1/(D+1))^γ, by logs", ("β", "λ", "γ"), "log",
        columns=lambda c: (np.log1p(c["r"]), np.log1p(c["r"]) * np.log10(c["size"]), switch(c)),
        offset=lambda c: np.log(c["dense"]), varying=("β", "γ"), needs=("dense", "size"),
    ),
    Form(
        "anchored", "y = y0 (1+r)^β [(1+1/(D+1)) / 2]^γ, by logs: y0 at r = 0, D = 0", ("β", "γ"), "log",
        columns=lambda c: (np.log1p(c["r"]), switch(c) - np.log(2)), offset=lambda c: np.log(c["dense"]), varying=("β", "γ"),
    ),
)  # fmt: skip
"""The original paper's law across models (Sengupta, Chaudhary, Chakraborty 2025, eq. of L in L0, r and D) and its variants."""

RETENTION = (
    Form(
        "retention-linear", "(A-chance)/(A0-chance) = 1 - b r + g r w(D), w = 1 - log(1+1/(D+1))/log 2", ("b", "g"),
        "retention",
        columns=lambda c: (-c["r"], c["r"] * healed(c)), offset=lambda c: 1.0, varying=("b", "g"),
        needs=("dense", "chance"),
    ),
    Form(
        "retention-quadratic", "(A-chance)/(A0-chance) = 1 - b r - q r² + g r w(D)", ("b", "q", "g"), "retention",
        columns=lambda c: (-c["r"], -c["r"] ** 2, c["r"] * healed(c)), offset=lambda c: 1.0, varying=("b", "g"),
        needs=("dense", "chance"),
    ),
    Form(
        "retention-logit", "logit p = logit p0 - b r + g r w(D), p = (A-chance)/(1-chance)", ("b", "g"), "logit",
        columns=lambda c: (-c["r"], c["r"] * healed(c)), offset=lambda c: to_scale("logit", c["dense"], c), varying=("b", "g"),
        needs=("dense", "chance"),
    ),
)  # fmt: skip
"""Laws of accuracy above guessing."""

COMPETING = (
    Form("linear", "y/y0 = 1 + b r", ("b",), "relative", columns=lambda c: (c["r"],), offset=lambda c: 1.0),
    Form(
        "quadratic", "y/y0 = 1 + b r + c r²", ("b", "c"), "relative",
        columns=lambda c: (c["r"], c["r"] ** 2), offset=lambda c: 1.0,
    ),
    Form(
        "cubic", "y/y0 = 1 + b r + c r² + d r³", ("b", "c", "d"), "relative",
        columns=lambda c: (c["r"], c["r"] ** 2, c["r"] ** 3), offset=lambda c: 1.0,
    ),
    Form(
        "power", "y/y0 = (1+r)^b", ("b",), "relative",
        shape=lambda c, b: ((1 + c["r"]) ** b,), amplitudes=0, low=(-8,), high=(8,),
    ),
    Form(
        "exponential", "y/y0 = exp(b r)", ("b",), "relative",
        shape=lambda c, b: (np.exp(b * c["r"]),), amplitudes=0, low=(-6,), high=(6,),
    ),
    Form(
        "power-of-r", "y/y0 = 1 + a r^b", ("a", "b"), "relative",
        shape=lambda c, b: (c["r"] ** b,), offset=lambda c: 1.0, low=(0.1,), high=(12,),
    ),
    Form(
        "plateau", "y/y0 = 1 + p (1 - exp(-(r/s)^k)): rises, then saturates at 1 + p", ("p", "s", "k"), "relative",
        shape=lambda c, s, k: (-np.expm1(-((c["r"] / s) ** k)),), offset=lambda c: 1.0, low=(0.05, 0.3), high=(2, 6),
    ),
)  # fmt: skip
"""Competing forms of one response, y/y0 without recovery, fixed before looking at data."""

OWN = (
    Form(
        "log-kept", "y/y0 = 1 + a log(1/(1-r)): linear in the log of what is kept", ("a",), "relative",
        columns=lambda c: (-np.log1p(-c["r"]),), offset=lambda c: 1.0, varying=("a",), own=True,
    ),
    Form(
        "log-odds", "y/y0 = 1 + a log(1 + s r/(1-r)): perplexity is a power of removed over kept", ("a", "s"), "relative",
        shape=lambda c, s: (np.log1p(s * odds(c)),), offset=lambda c: 1.0, low=(0.05,), high=(50,), own=True,
    ),
    Form(
        "capacity", "y/y0 = 1 + a ((1-r)^-k - 1): a power law in what is kept", ("a", "k"), "relative",
        shape=lambda c, k: (np.expm1(-k * np.log1p(-c["r"])),), offset=lambda c: 1.0, low=(0.02,), high=(5,), own=True,
    ),
    Form(
        "log-kept-power", "y/y0 = 1 + a log(1/(1-r))^b: a power of the log of what is kept", ("a", "b"), "relative",
        shape=lambda c, b: ((-np.log1p(-c["r"])) ** b,), offset=lambda c: 1.0, low=(0.1,), high=(12,), own=True,
    ),
    Form(
        "half-way", "y/y0 = 1 + p r^k / (r^k + m^k): half of the rise at r = m", ("p", "m", "k"), "relative",
        shape=lambda c, m, k: (1 / (1 + (m / np.maximum(c["r"], 1e-9)) ** k),), offset=lambda c: 1.0,
        low=(0.05, 0.5), high=(2, 6), own=True,
    ),
)  # fmt: skip
"""Our candidates for a better law, judged out of sample only."""

POST_TRAINING = (
    Form(
        "P²", "L = L0 + r^-γ N0^-δ (N_C N0^-α + D_C D^-β + E), N0 in 1e9, D in 1e6, D > 0",
        ("N_C", "D_C", "E", "γ", "δ", "α", "β"),
        shape=lambda c, g, d, a, b: tuple(
            c["r"] ** -g * c["size"] ** -d * column for column in (c["size"] ** -a, c["d"] ** -b, np.ones_like(c["r"]))
        ),
        offset=lambda c: c["dense"], amplitudes=3, positive=True, low=(-4, -1, 0.02, 0.02), high=(0, 1, 2, 2),
        needs=("dense", "size", "healing"),
    ),
    Form(
        "P² of one size", "L = L0 + r^-γ (D_C D^-β + E), D in 1e6, D > 0", ("D_C", "E", "γ", "β"),
        shape=lambda c, g, b: tuple(c["r"] ** -g * column for column in (c["d"] ** -b, np.ones_like(c["r"]))),
        offset=lambda c: c["dense"], amplitudes=2, positive=True, low=(-4, 0.02), high=(-0.05, 2), needs=("dense", "healing"),
    ),
)  # fmt: skip
"""P²: scaling law of post-training after pruning (Chen et al. 2024); what is left of it where sizes cannot be told apart."""

SPEED = (
    Form(
        "speed-power", "log S = -(κ + λ log10(N0/1e9)) log(1-ρ): κ = 1 is the ideal", ("κ", "λ"), "log",
        columns=lambda c: (-np.log1p(-c["r"]), -np.log1p(-c["r"]) * np.log10(c["size"])), varying=("κ",), needs=("size",),
    ),
    Form(
        "speed-power-one-size", "log S = -κ log(1-ρ): the same for every size", ("κ",), "log",
        columns=lambda c: (-np.log1p(-c["r"]),), varying=("κ",), needs=(),
    ),
    Form(
        "amdahl", "1/S = 1 - f ρ: a share 1 - f does not get faster", ("f",), "inverse",
        columns=lambda c: (-c["r"],), offset=lambda c: 1.0, varying=("f",), needs=(),
    ),
    Form(
        "speed-overhead", "log S = ω - κ log(1-ρ): a cost or gain before anything is removed", ("ω", "κ"), "log",
        columns=lambda c: (1.0, -np.log1p(-c["r"])), varying=("κ",), needs=(),
    ),
)  # fmt: skip
"""Speed-up S over the dense model against the share ρ truly removed; N0 parameters of the dense model."""

GROUPS = {
    "curve": CURVE, "cross": CROSS, "retention": RETENTION, "competing": COMPETING, "own": OWN, "speed": SPEED,
    "post-training": POST_TRAINING,
}  # fmt: skip


def find_form(name: str, group: str = "curve") -> Form:
    """The form of this name in its group. InputError names near ones."""
    for form in GROUPS[group]:
        if form.name == name:
            return form
    raise unknown("form", name, [form.name for form in GROUPS[group]])
