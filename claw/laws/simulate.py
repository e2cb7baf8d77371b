"""Tables with a known law: models differ in their slopes, runs have noise. For tests, coverage and teaching.

y is drawn on the scale of a form, g(y) = η(θ + b_model + b_method + b_curve) + ε, with normal b for the coefficients that
`between`, `methods` and `curves` name, and ε normal with standard deviation `noise`: the model that the fits assume, so what
they report can be checked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from claw.laws import catalogue, forms
from claw.laws.sample import covariates_of

SIZES = (0.5e9, 1.0e9, 1.5e9, 3.0e9, 3.0e9, 7.0e9, 8.0e9, 14.0e9)
FAMILIES = ("qwen2", "llama", "qwen2", "qwen2", "llama", "qwen2", "llama", "qwen2")
CHANCE = 0.3


@dataclass(frozen=True)
class Design:
    """What was run. The defaults are the original study's: eight models, two methods, nine ratios, four budgets.

    `unequal` is how studies really are: a quarter of the curves missing (of no method more than all but two), four to all of
    the ratios of a curve, one seed or several, recovery at every other ratio only.
    """

    models: int = 8
    methods: Sequence[str] = ("prunenet", "slicegpt")
    ratios: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    tokens: Sequence[float] = (0, 1e6, 5e6, 25e6)
    seeds: int = 1
    unequal: bool = False


@dataclass(frozen=True)
class Truth:
    """What is true: a form, its coefficients, how much they differ between models, methods and curves, noise of a run."""

    group: str
    form: str
    theta: Mapping[str, float]
    between: Mapping[str, float] = field(default_factory=dict)
    noise: float = 0.03
    methods: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, float] = field(default_factory=dict)


def rows(design: Design, rng: np.random.Generator) -> pd.DataFrame:
    """The rows of a design without responses: model, method, ratio, D, and the dense loss and accuracy of each model."""
    index = np.arange(design.models) % len(SIZES)
    size = np.array(SIZES)[index]
    dense = 3.2 * (size / 0.5e9) ** -0.12 * np.exp(rng.normal(0, 0.03, design.models))
    accuracy = 0.45 + 0.06 * np.log2(size / 0.5e9) / 2 + rng.normal(0, 0.01, design.models)
    cells = pd.MultiIndex.from_product(
        [range(design.models), design.methods, design.tokens, range(design.seeds), design.ratios],
        names=["number", "method", "recovery_tokens", "seed", "ratio"],
    ).to_frame(index=False)
    number = cells["number"].to_numpy()
    columns = {"model": [f"model-{i}" for i in number], "family": np.array(FAMILIES)[index[number]]}
    columns |= {"parameters0": size[number], "loss0": dense[number], "accuracy0": accuracy[number], "chance": CHANCE}
    columns |= {"ratio_params": 0.62 * cells["ratio"], "recovery": np.where(cells["recovery_tokens"] > 0, "lora", "none")}
    frame = cells.drop(columns="number").assign(**columns, status="done")
    return frame[_ran(frame, rng)].reset_index(drop=True) if design.unequal else frame


def _ran(frame: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """Which rows an unequal study has."""
    kept = np.zeros(len(frame), bool)
    for method, rows_of in frame.groupby("method", sort=True):
        models = rng.permutation(rows_of["model"].unique())
        for i, model in enumerate(models):
            if i > 1 and rng.random() < 0.25:
                continue
            here = ((frame["method"] == method) & (frame["model"] == model)).to_numpy()
            ratios = np.sort(frame.loc[here, "ratio"].unique())
            chosen = np.sort(rng.choice(ratios, rng.integers(min(4, len(ratios)), len(ratios) + 1), replace=False))
            wanted = frame["ratio"].isin(chosen) & (frame["seed"] < rng.integers(1, frame["seed"].max() + 2))
            kept |= here & wanted & ((frame["recovery_tokens"] == 0) | frame["ratio"].isin(chosen[::2]))
    return kept


def departures(frame: pd.DataFrame, truth: Truth, rng: np.random.Generator) -> dict[tuple[str, ...], np.ndarray]:
    """How the coefficients of each ("method", name), ("curve", method, model) and ("model", name) depart from the truth."""
    names = catalogue.find_form(truth.form, truth.group).coefficient_names
    keys = {"method": ["method"], "curve": ["method", "model"], "model": ["model"]}
    drawn = {}
    for (level, columns), spread in zip(keys.items(), (truth.methods, truth.curves, truth.between), strict=True):
        width = np.array([spread.get(name, 0.0) for name in names])
        for key in sorted(set(frame[columns].itertuples(index=False, name=None))) if spread or level == "model" else ():
            drawn[level, *key] = width * rng.standard_normal(len(names))
    return drawn


def draw(
    frame: pd.DataFrame,
    truth: Truth,
    response: str,
    rng: np.random.Generator,
    axis: str = "ratio",
    departed: Mapping[tuple[str, ...], np.ndarray] | None = None,
) -> np.ndarray:
    """One response for every row: each model, method and curve its own coefficients (`departures`), each row its own noise."""
    form = catalogue.find_form(truth.form, truth.group)
    covariates = covariates_of(frame.assign(recovery_tokens=frame["recovery_tokens"].astype(float)), response, axis)
    theta = np.array([truth.theta[name] for name in form.coefficient_names])
    departed = departures(frame, truth, rng) if departed is None else departed
    eta = np.empty(len(frame))
    for (model, method), index in frame.groupby(["model", "method"], sort=True).indices.items():
        keys = ("model", model), ("method", method), ("curve", method, model)
        own = {name: values[index] for name, values in covariates.items()}
        eta[index] = form.eta(own, theta + sum(departed.get(key, np.zeros(len(theta))) for key in keys))
    return forms.from_scale(form.scale, eta + truth.noise * rng.standard_normal(len(frame)), covariates)


def simulated_table(design: Design, truths: Mapping[str, Truth], seed: int = 0) -> pd.DataFrame:
    """A tidy table as `claw.laws.fit` takes it, dense rows included, with one drawn response per entry of `truths`."""
    rng = np.random.default_rng(seed)
    frame = rows(design, rng)
    for response, truth in truths.items():
        frame[response] = draw(frame, truth, response, rng)
    uncompressed = {"method": "dense", "ratio": 0.0, "ratio_params": 0.0, "recovery": "none", "recovery_tokens": 0, "seed": 0}
    dense = frame.drop_duplicates("model").assign(**uncompressed)
    for response in truths:
        dense[response] = dense.get(f"{response}0", np.nan)
    if "accuracy" in truths:
        frame["accuracy_stderr"] = dense["accuracy_stderr"] = 0.01
    return pd.concat([dense, frame], ignore_index=True)


TRUTHS = {
    "loss": Truth("cross", "anchored", {"β": 1.2, "γ": 0.25}, {"β": 0.15, "γ": 0.04}),
    "accuracy": Truth("retention", "retention-linear", {"b": 0.9, "g": 0.3}, {"b": 0.08, "g": 0.05}, 0.02),
}
"""A plain world: loss follows the anchored law, accuracy above chance a line."""
