"""What laws say of a model before it is measured, point by point, written down; and how far off they were, when it is.

A law that was fitted to a table is foretelling only what it has not seen: rows of the model itself are left out, all of them.
`foretell` writes for every planned point L/L0, compressed over dense loss, with the band in which one measurement of a model
not seen should fall, as each of these laws says:

- `curves`: the mean over the other models of what was measured of the same method, at this ratio and budget (log L/L0), and
  how they differ: ± t(models - 1) × spread × √(1 + 1/models). No formula; nothing where fewer than two models have it.
- `method`: the anchored law of this method alone (`claw.laws.fitted`), its band lent by the crossed law where its models are
  few.
- `crossed`: the law of all methods together, with this method's own coefficients as far as the others let it differ.
- `published`: the hierarchical law of the published measurements, which knows the number of parameters and nothing of ours.

The first three stand on the nominal ratio and, named `… of true share`, on the share of all parameters truly removed. A
stamp in each row says by which code, from which points and when it was foretold, so the file can be committed before anything
is measured.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from claw.errors import InputError, unknown
from claw.laws import ALL, OwnTable, catalogue, conversion, fit, published
from claw.laws.fitted import POOLED
from claw.laws.fitting import Laws
from claw.laws.hierarchical import NEW, HierarchicalLaw
from claw.laws.pooled_law import PooledLaw
from claw.laws.sample import EVERY, WORKING, covariates_at
from claw.laws.tidy import is_dense, refuse_untidy
from claw.laws.working import DESTROYED, flagged
from claw.models import planned, sources
from claw.provenance import code_hash
from claw.prune.compress import target_shape
from claw.specs.study import Study

TRUE = "ratio_params"
NAMES = {"ratio": "", TRUE: " of true share"}
COLUMNS = (
    *("experiment", "model", "method", "ratio", TRUE, "seed", "recovery", "recovery_tokens"),
    *("law", "foretold", "low", "high", "level", "extrapolated"),
    *("points", "laws", "code", "left_out", "made"),
)
"""A point; what a law says of its L/L0; which points, hash of `claw.laws` and of claw said so, and when. `left_out`: measured
rows of this model that the table held and the laws did not see; 0 where it was foretold before it was measured."""
FEWEST = 2  # models for a mean of curves, and degrees of freedom for a band: three models, and a quantile of 4.3
WRONG = 0.01  # of the parameters: by how much a share may be foretold wrongly in the median before it is said
ALIKE = 0.1  # by how much two budgets of recovery may differ and count as one: blocks and batches round them


def foretell(
    table: pd.DataFrame | OwnTable, study: Study, model: str, *, level: float = 0.95, law: HierarchicalLaw | None = None
) -> pd.DataFrame:
    """One row per planned compressed or recovered point of a model and law, COLUMNS. `law`: the published one by default.

    InputError: the study has no such model, or the table nothing of other models to learn from.
    """
    if model not in study.models:
        raise unknown("model", model, study.models, "The study that plans it names its models.")
    frame = table.table if isinstance(table, OwnTable) else table
    own = frame["model"] == model if "model" in frame else pd.Series(False, frame.index)
    rest = frame[~own]
    if not len(rest) or is_dense(rest).all():
        raise InputError(f"The table has no compressed model but {model}, so there is nothing to foretell it from.")
    refuse_untidy(rest)
    laws = fit(rest.reset_index(drop=True), level=level, compare=False)
    points = planned_points(study, model, laws)
    rows = pd.concat([_says(laws, law, part) for _, part in points.groupby("curve", sort=False)])
    stamp = {"points": laws.points.digest, "laws": code_hash("laws"), "code": code_hash(), "left_out": int(own.sum())}
    stamp |= {"level": level, "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M")}
    return rows.assign(**stamp)[list(COLUMNS)].reset_index(drop=True)


def planned_points(study: Study, model: str, laws: Laws) -> pd.DataFrame:
    """A row per planned point of a model: COLUMNS that place it, `parameters` of the dense model, and `curve`."""
    config = planned.planned_config(model)
    shape = planned.planned_anatomy(config).shape if config is not None else None
    if shape is None:
        warnings.warn(
            f"The shape of {model} is not known here, so the shares that its cuts remove are guessed from other models, and "
            f"laws of the true share are asked at these. `claw fetch {model}` first.",
            stacklevel=3,
        )
    known = sources.models().get(model)
    size = shape.parameters if shape else known.parameters if known else math.nan
    rows = []
    for experiment in study.experiments:
        one, recovery = experiment.compression, experiment.recovery
        if one.model == model and one.ratio > 0:
            row: dict[str, Any] = {"experiment": experiment.id, "model": model, "method": one.method, "ratio": one.ratio}
            row |= {TRUE: _share(laws, shape, one.method, one.ratio, one.ratio_of), "seed": one.seed, "parameters": size}
            row |= {"recovery": recovery.recipe if recovery else "none", "recovery_tokens": recovery.tokens if recovery else 0}
            rows.append(row | {"curve": f"{one.method} {one.seed} {row['recovery']} {row['recovery_tokens']}"})
    return pd.DataFrame(rows)


def _share(laws: Laws, shape: Any, method: str, ratio: float, ratio_of: str) -> float:
    """Share of all parameters that a planned cut removes: of the model's shape, else as on the models of the table."""
    if shape is not None:
        small = target_shape(shape, method, ratio, ratio_of)
        return ratio if small is None else 1 - small.parameters / shape.parameters
    with suppress(InputError):
        return float(conversion.share(laws.points, [ratio], None, method, TRUE)[0])
    return math.nan


def _says(laws: Laws, law: HierarchicalLaw | None, points: pd.DataFrame) -> pd.DataFrame:
    """What every law says of the points of one curve, which differ in their ratios only."""
    method, tokens = points["method"].iloc[0], float(points["recovery_tokens"].iloc[0])
    ways = {}
    for axis in (axis for axis in NAMES if axis in laws.points.axes):
        for name, way in (("curves", _by_curves), ("method", _by_method), ("crossed", _by_crossed)):
            ways[name + NAMES[axis]] = (axis, partial(way, laws, axis=axis))
    ways["published"] = (TRUE, partial(_by_published, law, points["model"].iloc[0], float(points["parameters"].iloc[0])))
    parts = []
    for name, (axis, way) in ways.items():
        here = points[points[axis].between(0, 1, inclusive="neither")]
        with suppress(InputError):  # a law that could not be fitted says nothing
            if len(here) and (said := way(here[axis].to_numpy(float), method, tokens)) is not None:
                parts.append(here.assign(law=name, **said))
    return pd.concat(parts) if parts else points.iloc[:0].assign(law="", foretold=0.0, low=0.0, high=0.0, extrapolated=False)


def _by_curves(laws: Laws, r: np.ndarray, method: str, tokens: float, *, axis: str) -> dict[str, Any] | None:
    """The mean of log L/L0 over models at each ratio, as measured, and how a run on another model scatters around it."""
    alike = [one for one in laws.readings("loss", axis) if one.curve.method == method and math.isfinite(one.dense)]
    alike = [one for one in alike if abs(one.curve.tokens - tokens) <= ALIKE * tokens]
    if len(alike) < FEWEST:
        return None
    rises = np.log([one.mean(r) / one.dense for one in alike])
    count = np.isfinite(rises).sum(axis=0)
    enough = count >= FEWEST
    mean, half = np.full(len(r), math.nan), np.full(len(r), math.nan)
    mean[enough] = np.nanmean(rises[:, enough], axis=0)
    run = float(np.mean([one.run**2 for one in alike]))
    spread = np.nanvar(rises[:, enough], axis=0, ddof=1) * (1 + 1 / count[enough]) + run
    half[enough] = _quantile(count[enough] - 1, laws.level) * np.sqrt(spread)
    return {"foretold": np.exp(mean), "low": np.exp(mean - half), "high": np.exp(mean + half), "extrapolated": ~enough}


def _quantile(df: Any, level: float) -> np.ndarray:
    """Student quantile of a band; NaN below `FEWEST` degrees of freedom.

    Elsewhere no band rests on fewer than three. Here one of two is given, because it will be held against measurements.
    """
    df = np.asarray(df, float)
    return stats.t.ppf(0.5 + level / 2, np.where(df >= FEWEST - 1e-6, df, math.nan))


def _crossed_half(laws: Laws, r: np.ndarray, method: str, tokens: float, axis: str) -> tuple[PooledLaw, np.ndarray, np.ndarray]:
    """The crossed law that has this method (of every row for a control), its middle and half of its band, both of log L/L0."""
    for scope in (WORKING, EVERY):
        law = next((one for one in laws.across("loss", axis, ALL, scope) if one.form == POOLED["loss"]), None)
        if law is not None and law.crossed is not None and method in law.crossed.methods:
            covariates = covariates_at(r, 1.0, tokens, math.nan, math.nan)
            design = catalogue.find_form(law.form, law.group).design(covariates)[:, list(law.kept)]
            variance, df = law.crossed.variance(design, method, ("model", "curve", "residual"))
            middle = design @ law.crossed.own[law.crossed.methods.index(method)]
            return law, middle, _quantile(df, laws.level) * np.sqrt(variance)
    raise InputError(f"No law of several methods has {method}.")


def _by_method(laws: Laws, r: np.ndarray, method: str, tokens: float, *, axis: str) -> dict[str, Any] | None:
    """The anchored law of the method with the band of a model not seen, lent by the crossed law where its models are few."""
    if method not in {law.method for law in laws.across("loss", axis) if law.form == POOLED["loss"]}:
        return None
    band = laws.predict(r, None, method, tokens, "loss", axis=axis, law=POOLED["loss"], dense=1.0)
    names = {"foretold": "mean", "low": "model_low", "high": "model_high", "extrapolated": "extrapolated"}
    said = {name: band[column].to_numpy() for name, column in names.items()}
    if np.isnan(said["low"]).any():
        with suppress(InputError):
            _, _, half = _crossed_half(laws, r, method, tokens, axis)
            said |= {"low": said["foretold"] * np.exp(-half), "high": said["foretold"] * np.exp(half)}
    return said


def _by_crossed(laws: Laws, r: np.ndarray, method: str, tokens: float, *, axis: str) -> dict[str, Any]:
    """The law of all methods, at the coefficients that it predicts for this one, with the band of a model not seen."""
    law, middle, half = _crossed_half(laws, r, method, tokens, axis)
    beyond = (r > law.high) | (tokens > max(law.tokens, default=0) * (1 + ALIKE))
    said = {"foretold": middle, "low": middle - half, "high": middle + half}
    return {name: np.exp(values) for name, values in said.items()} | {"extrapolated": beyond}


def _by_published(
    law: HierarchicalLaw | None, model: str, parameters: float, r: np.ndarray, method: str, tokens: float
) -> dict[str, Any] | None:
    """The law of the published measurements, by the number of parameters and the family's name."""
    if not parameters > 0:
        return None
    family = next((name for start, name in published.FAMILIES.items() if model.startswith(start)), NEW)
    band = published.predict_new(parameters, method, r, tokens, family=family, law=law)
    names = {"foretold": "mean", "low": "low", "high": "high", "extrapolated": "extrapolated"}
    return {name: band[column].to_numpy() for name, column in names.items()}


def compared(foretold: pd.DataFrame, table: pd.DataFrame | OwnTable) -> pd.DataFrame:
    """What was foretold, with columns `measured` (L/L0), `covered` (NaN without a band) and `works`, as far as it was measured.

    `ratio_params` is the share truly removed, where the table has it, and `share_foretold` the one that laws were asked at.
    InputError: a file that `foretell` did not write, or a table without any of its points.
    """
    if lacking := [name for name in COLUMNS if name not in foretold]:
        raise InputError(f"This is no file of `claw foretell`: it has no column {', '.join(lacking)}. Name the file it wrote.")
    frame = table.table if isinstance(table, OwnTable) else table
    names = set(foretold["model"])
    needed = [name for name in ("experiment", "model", "loss", "loss0") if name not in frame]
    rows = frame.iloc[:0] if needed else frame[frame["model"].isin(names) & (frame["loss0"] > 0)]
    rows = rows[rows["experiment"].isin(foretold["experiment"])] if len(rows) else rows
    if rows.empty:
        why = f"it has no column {', '.join(needed)}" if needed else "it has none of these experiments, or no dense loss of it"
        raise InputError(f"The table measures nothing of what was foretold of {', '.join(sorted(names))}: {why}.")
    works = flagged(rows) != DESTROYED
    known = pd.DataFrame({"measured": rows["loss"] / rows["loss0"], "works": works}).set_axis(rows["experiment"])
    known["share"] = rows[TRUE].to_numpy(float) if TRUE in rows else math.nan
    known = known[np.isfinite(known["measured"])]
    both = foretold[foretold["experiment"].isin(known.index)].join(known, on="experiment")
    both["share_foretold"] = both[TRUE]
    both[TRUE] = both.pop("share").fillna(both[TRUE])
    inside = both["measured"].between(both["low"], both["high"]).astype(float)
    return both.assign(covered=inside.where(both["low"].notna() & both["high"].notna())).reset_index(drop=True)


def score(both: pd.DataFrame) -> pd.DataFrame:
    """A row per part of the points and law: points, error, bias, covered, bands and width, of what `compared` returns.

    error: median |foretold / measured - 1|; bias: median foretold / measured - 1; covered: share of the `bands` that hold the
    measurement, which should be the level; width: median of high / low. The part "works" leaves out destroyed models; a part
    of the same points as one before is not said again.
    """
    recovered, rows = both["recovery_tokens"] > 0, []
    parts = {"every point": both["measured"] > 0, "works": both["works"], "works, not recovered": both["works"] & ~recovered}
    parts |= {"works, recovered": both["works"] & recovered}
    told = list[pd.Series]()
    for part, mask in parts.items():
        if any(mask.equals(other) for other in told):  # nothing was recovered, or nothing destroyed
            continue
        told.append(mask)
        for law, own in both[mask & both["foretold"].notna()].groupby("law", sort=False):
            off = own["foretold"] / own["measured"] - 1
            row = {"of": part, "law": law, "points": len(own), "error": off.abs().median(), "bias": off.median()}
            row |= {"covered": own["covered"].mean(), "bands": int(own["covered"].notna().sum())}
            rows.append(row | {"width": (own["high"] / own["low"]).median()})
    return pd.DataFrame(rows, columns=["of", "law", "points", "error", "bias", "covered", "bands", "width"])


def score_text(both: pd.DataFrame) -> Iterator[str]:
    """The score in words, a line per law and part."""
    level, made = float(both["level"].iloc[0]), both["made"].iloc[0]
    seen = int(both["left_out"].max())
    when = (
        f"after {seen} rows of it were measured, which the laws did not see" if seen else "before anything of it was measured"
    )
    model = ", ".join(dict.fromkeys(both["model"]))
    yield f"{model}: {both['experiment'].nunique()} points, foretold {made} UTC {when}; {level:.0%} bands"
    yield f"{'of':22} {'law':24} points  error   bias  covered  width"
    for row in score(both).itertuples():
        covered = f"{row.covered:.0%} of {row.bands}" if row.bands else "no band"
        width = f"{row.width:.2f}" if row.bands else "–"
        yield f"{row.of:22} {row.law:24} {row.points:6} {row.error:6.1%} {row.bias:+6.1%}  {covered:>11}  {width}"
    points = both.drop_duplicates("experiment")
    wrong = (points["share_foretold"] - points[TRUE]).abs()
    if wrong.median() > WRONG:
        worst = points.loc[wrong.idxmax()]
        yield (
            f"The shares were foretold wrongly, by {wrong.median():.0%} of the parameters in the median and by up to "
            f"{wrong.max():.0%} ({worst['method']}: {worst['share_foretold']:.0%} for {worst[TRUE]:.0%}), because the model's "
            "shape was not known then; laws of the true share rest on them."
        )
