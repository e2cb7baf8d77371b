"""Does a term belong in the law? Clustered Wald tests of one term each, with Holm's correction over all of them.

There are two p-values: statsmodels' `wald_test` on the clustered fit, and the bias-reduced one (CR2, Satterthwaite) that
verdicts use, because the first rejects a true hypothesis in one of four tables of three models.
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
from claw.laws.points import Points
from claw.laws.sample import ALL, gather, kept_terms, solve

COLUMNS = "name response law term null estimate stderr df p p_holm p_clustered p_clustered_holm models meaning".split()


@dataclass(frozen=True)
class Question:
    """One hypothesis: a coefficient of a law has this value."""

    name: str
    law: tuple[str, str]  # group and name of the form
    term: str
    null: float
    meaning: str


QUESTIONS = {
    "loss": (
        Question("curvature", ("competing", "quadratic"), "c", 0, "the r² term of loss"),
        Question("cubic", ("competing", "cubic"), "d", 0, "the r³ term of loss"),
        Question("dense loss", ("cross", "original"), "α", 1, "loss grows in proportion to the dense loss"),
        Question("intercept", ("cross", "original+intercept"), "κ", 0, "a constant factor beside L0^α"),
        Question("recovery", ("cross", "unit-α"), "γ", 0, "recovery tokens change the loss"),
        Question("size", ("cross", "unit-α×size"), "λ", 0, "how loss rises with r depends on model size"),
    ),
    "accuracy": (
        Question("accuracy curvature", ("retention", "retention-quadratic"), "q", 0, "the r² term of accuracy above chance"),
        Question("accuracy recovery", ("retention", "retention-linear"), "g", 0, "recovery tokens change the accuracy"),
        Question("accuracy size", ("cross", "unit-α×size"), "λ", 0, "how accuracy falls with r depends on model size"),
    ),
}
"""What is asked of every table, fixed beforehand."""

SPEED = Question("speed size", ("speed", "speed-power"), "λ", 0, "larger models gain more speed")


def ask(points: Points, question: Question, response: str, axis: str = "ratio") -> dict | None:
    """One test as a plain row, or None where the table cannot answer it."""
    group, name = question.law
    form, recovered = catalogue.find_form(name, group), group not in catalogue.UNRECOVERED
    try:
        sample = gather(points, form, response, axis, ALL, recovered=recovered)
        kept, _ = kept_terms(sample)
        index = [form.coefficient_names[i] for i in kept].index(question.term)
        if sample.unit != "model" or len(set(sample.groups)) < 2 or sample.n <= len(kept):
            return None
        solution = solve(sample)
    except (InputError, ValueError):
        return None
    sums, c = solution.clusters, np.eye(len(kept))[index]
    error = math.sqrt(max(0.0, clusters.bias_reduced(sums)[index, index]))  # a perfect fit rounds to below zero
    df = float(clusters.satterthwaite(sums, c)[0])
    groups = {"groups": np.unique(sample.groups, return_inverse=True)[1]}
    regression = sm.WLS(solution.linearised, solution.design, weights=sample.weights)
    wald = regression.fit(cov_type="cluster", cov_kwds=groups, use_t=True).wald_test((c[None], [question.null]), scalar=True)
    gap = solution.theta[index] - question.null
    p = float(2 * stats.t.sf(abs(gap) / error, df)) if error > 0 else math.nan
    row = {"name": question.name, "response": response, "law": name, "term": question.term, "null": question.null}
    row |= {"estimate": float(solution.theta[index]), "stderr": error, "df": df, "p": p, "p_clustered": float(wald.pvalue)}
    return row | {"models": len(sums.names), "meaning": question.meaning}


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
