"""Do larger models lose less? Asked within one family and one method, because families differ in sign and methods in slope.

λ is the change of β in y = y0 (1+r)^(β + λ log10(N0/1e9)) per tenfold size, over the models of one family compressed by one
method, with bias-reduced (CR2) standard errors clustered by model. Families are never pooled into one slope: where several
were measured, whether they agree is the answer.
"""

import math
import re

import numpy as np
import pandas as pd
from scipy import stats

from claw.errors import InputError
from claw.laws import catalogue, clusters
from claw.laws.points import DEFAULTS, Points
from claw.laws.sample import select, solve

FEWEST_SIZES = 3
COLUMNS = "response family method models smallest largest estimate stderr df p".split()
_SIZE = re.compile(r"[-_ ]?(\d+(?:\.\d+)?)\s*([mb])(?![a-z])", re.IGNORECASE)


def named_size(model: str) -> float:
    """Parameters that a name tells (OPT-6.7B, smollm2-135m); NaN if it tells none."""
    match = _SIZE.search(model)
    return float(match[1]) * {"m": 1e6, "b": 1e9}[match[2].lower()] if match else math.nan


def named_family(model: str) -> str:
    """What is left of a name without its size: the family, where no column says it."""
    return _SIZE.sub("", model).strip("-_ ") or model


def size_effects(points: Points, response: str) -> pd.DataFrame:
    """One row per family and method with three sizes or more: λ, its standard error, degrees of freedom and p-value."""
    rows, form = [], catalogue.find_form("unit-α×size", "cross")
    named = _with_names(points)
    for method in sorted(set(named.of(response, recovered=False)["method"])):
        try:
            sample = select(named, response, method=method, recovered=False).sample(form)
        except InputError:
            continue
        families = sample.rows["family"].to_numpy(str)
        for family in sorted(set(families)):
            here = sample.take(families == family)
            sizes = here.covariates["size"]
            if len(set(sizes)) < FEWEST_SIZES:
                continue
            try:
                sums = solve(here).clusters
                models = len(sums.names)
                df = min(float(clusters.satterthwaite(sums, np.eye(2)[1])[0]), models - 2)
            except InputError:
                continue
            estimate, error = float(sums.coefficients[1]), math.sqrt(max(0.0, clusters.bias_reduced(sums)[1, 1]))
            p = float(2 * stats.t.sf(abs(estimate) / error, df)) if error > 0 and df > 0 else math.nan
            place = (response, family, method, models, 1e9 * sizes.min(), 1e9 * sizes.max())
            rows.append((*place, estimate, error, df, p))
    return pd.DataFrame(rows, columns=COLUMNS)


def _with_names(points: Points) -> Points:
    """The points with sizes and families from the names of models, where the table has none."""
    rows = points.rows
    size = pd.to_numeric(rows.get("parameters0", pd.Series(np.nan, rows.index)), errors="coerce")
    family = rows["family"].where(rows["family"] != DEFAULTS["family"], rows["model"].map(named_family))
    rows = rows.assign(parameters0=size.where(size > 0, rows["model"].map(named_size)), family=family)
    return Points(rows=rows, excluded=points.excluded, notes=points.notes, given=points.given)
