"""Does a term belong in the law? Clustered Wald tests of one term each, corrected together after Holm.

Two p-values stand side by side: statsmodels' `wald_test` on the clustered fit, and the bias-reduced one (CR2, Satterthwaite)
that verdicts use, because the first rejects a true hypothesis in one of four tables of three models.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.multitest import multipletests

from claw.errors import InputError
from claw.laws import catalogue, clusters, speed_law
from claw.laws.clusters import Clusters
from claw.laws.points import Points
from claw.laws.sample import ALL, gather, kept_terms, solve_form

COLUMNS = (
    "name", "response", "law", "term", "null", "estimate", "stderr", "df", "p", "p_holm", "p_clustered", "p_clustered_holm",
    "models", "meaning",
)  # fmt: skip


@dataclass(frozen=True)
class Question:
    """One hypothesis: a parameter of a law has this value."""

    name: str
    group: str
    form: str
    term: str
    null: float
    meaning: str
    recovered: bool = True


QUESTIONS = {
    "loss": (
        Question("curvature", "competing", "quadratic", "c", 0, "the r² term of loss", False),
        Question("cubic", "competing", "cubic", "d", 0, "the r³ term of loss", False),
        Question("dense loss", "cross", "original", "α", 1, "loss grows in proportion to the dense loss"),
        Question("intercept", "cross", "original+intercept", "κ", 0, "a constant factor beside L0^α"),
        Question("recovery", "cross", "unit-α", "γ", 0, "recovery tokens change the loss"),
        Question("size", "cross", "unit-α×size", "λ", 0, "how loss rises with r depends on model size"),
    ),
    "accuracy": (
        Question("accuracy curvature", "retention", "retention-quadratic", "q", 0, "the r² term of accuracy above chance"),
        Question("accuracy recovery", "retention", "retention-linear", "g", 0, "recovery tokens change the accuracy"),
        Question("accuracy size", "cross", "unit-α×size", "λ", 0, "how accuracy falls with r depends on model size"),
    ),
}
"""What is asked of every table, fixed beforehand."""

SPEED = Question("speed size", "speed", "speed-power", "λ", 0, "larger models gain more speed")


def ask(points: Points, question: Question, response: str, axis: str = "ratio") -> dict | None:
    """One test as a plain row, or None where the table cannot answer it."""
    form = catalogue.find_form(question.form, question.group)
    try:
        found = gather(points, form, response, axis, ALL, recovered=question.recovered)
        kept, _ = kept_terms(form, found)
        index = [form.coefficient_names[i] for i in kept].index(question.term)
        if found.unit != "model" or len(set(found.groups)) < 2 or found.n <= len(kept):
            return None
        theta, eta, design = solve_form(form, found, kept)
    except (InputError, ValueError):
        return None
    target = found.target - eta + design @ theta
    sums = Clusters.of(design, target, found.groups, found.weights)
    error = math.sqrt(max(0.0, clusters.bias_reduced(sums)[index, index]))  # a perfect fit rounds to below zero
    df = float(clusters.satterthwaite(sums, np.eye(len(kept)))[index])
    codes = np.unique(found.groups, return_inverse=True)[1]
    reference = sm.WLS(target, design, weights=found.weights).fit(cov_type="cluster", cov_kwds={"groups": codes}, use_t=True)
    row = np.zeros((1, len(kept)))
    row[0, index] = 1
    wald = reference.wald_test((row, np.array([question.null])), scalar=True)
    gap = theta[index] - question.null
    return {
        "name": question.name, "response": response, "law": question.form, "term": question.term, "null": question.null,
        "estimate": float(theta[index]), "stderr": error, "df": df,
        "p": float(2 * stats.t.sf(abs(gap) / error, df)) if error > 0 else math.nan,
        "p_clustered": float(wald.pvalue), "models": len(sums.names), "meaning": question.meaning,
    }  # fmt: skip


def ask_all(points: Points, axis: str = "ratio") -> pd.DataFrame:
    """All tests of a table, with Holm's correction over them."""
    rows = [ask(points, question, response, axis) for response in points.responses for question in QUESTIONS[response]]
    rows += [ask(points, SPEED, response, speed_law.speed_axis(points, response)) for response in speed_law.responses(points)]
    frame = pd.DataFrame([row for row in rows if row], columns=COLUMNS)
    for name in ("p", "p_clustered"):
        usable = frame[name].notna()
        if usable.any():
            frame.loc[usable, f"{name}_holm"] = multipletests(frame.loc[usable, name].astype(float), method="holm")[1]
    return frame
