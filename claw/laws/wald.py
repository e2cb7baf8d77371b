"""Does a term belong in the law? Tests of one term each, with Holm's correction over all of them.

A term of a law of several methods is tested in the mixed model in which methods, models and curves are random
(`claw.laws.crossed`), that of one method by its bias-reduced standard error (CR2, Satterthwaite degrees of freedom). What
recovery changes is tested within experiments (`claw.laws.recovered`). No question depends on the unit of loss.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from claw.errors import InputError
from claw.laws import catalogue, clusters, recovered, speed_law
from claw.laws.points import Points
from claw.laws.pooled import crossed_fit
from claw.laws.sample import ALL, gather, kept_terms, solve

COLUMNS = "name response law term null estimate stderr df p p_holm models meaning".split()


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
        Question("dense loss", ("cross", "original+intercept"), "α", 1, "loss grows in proportion to the dense loss"),
        Question("size", ("cross", "unit-α×size"), "λ", 0, "how loss rises with r depends on model size"),
    ),
    "accuracy": (
        Question("accuracy size", ("cross", "unit-α×size"), "λ", 0, "how accuracy falls with r depends on model size"),
    ),
}
"""What is asked of every table, fixed beforehand."""

SPEED = Question("speed size", ("speed", "speed-power"), "λ", 0, "larger models gain more speed")


def ask(points: Points, question: Question, response: str, axis: str = "ratio") -> dict | None:
    """One test as a plain row, or None where the table cannot answer it."""
    group, name = question.law
    form = catalogue.find_form(name, group)
    try:
        sample = gather(points, form, response, axis, ALL)
        kept, _ = kept_terms(sample)
        index = [form.coefficient_names[i] for i in kept].index(question.term)
        if sample.unit != "model" or len(set(sample.groups)) < 2 or sample.n <= len(kept):
            return None
        solution = solve(sample)
    except (InputError, ValueError):
        return None
    sums, c = solution.clusters, np.eye(len(kept))[index]
    common = crossed_fit(solution) if sample.rows["method"].nunique() > 1 else None
    estimate, variance = float(solution.theta[index]), float(clusters.bias_reduced(sums)[index, index])
    df = min(float(clusters.satterthwaite(sums, c)[0]), len(sums.names) - (2 if question.term == "λ" else 1))
    if common:
        estimate, variance, df = (
            float(common.coefficients[index]),
            common.covariance[index, index],
            float(common.df(c[None])[0]),
        )
    error = math.sqrt(max(0.0, variance))  # a perfect fit rounds to below zero
    row = {"name": question.name, "response": response, "law": name, "term": question.term, "null": question.null}
    row |= {"estimate": estimate, "stderr": error, "df": df, "p": _p_value(estimate - question.null, error, df)}
    return row | {"models": len(sums.names), "meaning": question.meaning}


def _p_value(gap: float, error: float, df: float) -> float:
    return float(2 * stats.t.sf(abs(gap) / error, df)) if error > 0 and df > 0 else math.nan


def ask_pairs(points: Points, response: str) -> dict | None:
    """Whether recovery changes a response, by pairs; None without pairs, or with one."""
    mean, table = recovered.paired(points, response)
    if mean.curves < 2:
        return None
    name = "recovery" if response == "loss" else f"{response} recovery"
    row = {"name": name, "response": response, "law": "pairs", "term": "log(y_D / y)", "null": 0}
    row |= {"estimate": mean.value, "stderr": mean.error, "df": mean.df, "p": recovered.p_exchanged(points, response)[0]}
    return row | {"models": table["model"].nunique(), "meaning": f"recovery tokens change the {response}"}


def ask_all(points: Points, axis: str = "ratio") -> pd.DataFrame:
    """All tests of a table, with Holm's correction over them."""
    rows = [ask(points, question, response, axis) for response in points.responses for question in QUESTIONS[response]]
    rows += [ask_pairs(points, response) for response in points.responses]
    rows += [ask(points, SPEED, response, speed_law.speed_axis(points, response)) for response in speed_law.responses(points)]
    frame = pd.DataFrame([row for row in rows if row], columns=COLUMNS)
    if (usable := frame["p"].notna()).any():
        frame.loc[usable, "p_holm"] = multipletests(frame.loc[usable, "p"].astype(float), method="holm")[1]
    return frame
