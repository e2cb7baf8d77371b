"""What the published measurements foretell of a model that nobody measured, in so few numbers that a page can carry them.

The hierarchical law (`claw.laws.hierarchical`) is linear in its effects. All that it knows of a new model is therefore the mean
and the covariance, given all points, of the effects that a new model shares with measured ones: the four fixed ones, each
method with its slope, and each family. With a_i = 1, x, size, trained, method, x·method or family,

    z = Σ a_i mean_i,   var z = Σ a_i a_j covariance_ij + spreads of what is new (paper, text, model, curve) + one run

is exactly what `HierarchicalLaw.predict` gives for a new paper, text and model, without the half minute of its fit. The numbers
lie in `results/published_law.json`; `results/published/tidy.py` makes it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from claw import files
from claw.errors import InputError, unknown
from claw.laws.critical import checked
from claw.laws.hierarchical import BILLION, DIFFUSE, MOST, NEW, HierarchicalLaw, coverage
from claw.project import project_folder

STORED = Path("results") / "published_law.json"
FIXED = ("1", "x", "size", "trained")
FEWEST_CURVES = 3  # of a method without training, below which its own slope is hardly known
DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class NewModels:
    """Mean and covariance of the effects `names` given all points, and what is measured of each method."""

    names: tuple[str, ...]  # FIXED, then method:NAME and slope:NAME of each method, then family:NAME
    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]  # each row up to its diagonal
    new: float  # variance of a new paper, text, model and curve, and of one run
    new_family: float
    new_training: float  # added after training
    centre: float  # of x
    quantile: float  # half width of the band in standard deviations
    level: float
    methods: Mapping[str, Mapping[str, float]]  # curves, papers, smallest, largest (parameters), end (largest share)
    models: tuple[str, ...]
    papers: tuple[str, ...]
    points: Mapping[str, Sequence[Sequence[float]]]  # by method: [share, L/L0, billions, model, paper, trained]
    left_out: Mapping[str, float]  # papers left out in turn: points, covered, error (median, of L)
    data: str  # digest of the table

    @property
    def families(self) -> tuple[str, ...]:
        """Families of which something was measured."""
        return tuple(name.removeprefix("family:") for name in self.names if name.startswith("family:"))

    def predict(self, r: Any, method: str, parameters: float, *, trained: bool = False, family: str = NEW) -> pd.DataFrame:
        """Frame over r, the share of parameters removed: mean of L/L0, and the band in which one new measurement lies.

        `parameters` of the uncompressed model, above 0. Another family than `families` is a new one. InputError: a method that
        too few measured, r outside (0, 1).
        """
        if method not in self.methods:
            raise unknown("published method", method, self.methods)
        r = checked(r)
        if (r <= 0).any() or not (math.isfinite(parameters) and parameters > 0):
            raise InputError("A prediction needs shares removed above 0 and a number of parameters above 0, such as 7e9.")
        x = np.log(-np.log1p(-r)) - self.centre
        a = np.zeros((len(r), len(self.names)))
        columns = {"1": 1.0, "x": x, "size": math.log10(parameters / BILLION), "trained": float(trained)}
        columns |= {f"method:{method}": 1.0, f"slope:{method}": x, f"family:{family}": 1.0}
        for name, values in columns.items():
            if name in self.names:
                a[:, self.names.index(name)] = values
        z = a @ np.array(self.mean)
        half = np.array([[*row, *[0.0] * (len(a.T) - len(row))] for row in self.covariance])
        known = np.einsum("ij,jk,ik->i", a, half + np.tril(half, -1).T, a)
        variance = known + self.new + self.new_family * (family not in self.families) + self.new_training * trained
        wide = self.quantile * np.sqrt(variance)
        middle, low, high = (np.exp(np.exp(np.minimum(edge, MOST))) for edge in (z, z - wide, z + wide))
        end = self.methods[method]["end"]
        return pd.DataFrame({"ratio": r, "mean": middle, "low": low, "high": high, "extrapolated": r > end})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, to `DIGITS` digits."""
        return _short(asdict(self))


def _short(value: Any) -> Any:
    """Numbers with few digits, within lists and dictionaries."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {name: _short(one) for name, one in value.items()}
    return [_short(one) for one in value] if isinstance(value, (list, tuple)) else value


def read_new_models(path: Path | None = None) -> NewModels:
    """The stored numbers, of the project one is in or else of claw's own. InputError if there are none."""
    places = [path] if path else [root / STORED for root in (project_folder(), Path(__file__).parents[2])]
    for place in places:
        if place.is_file():
            content = json.loads(place.read_text(encoding="utf-8"))
            tuples = {name: tuple(content[name]) for name in ("names", "mean", "models", "papers")}
            return NewModels(**content | tuples | {"covariance": tuple(map(tuple, content["covariance"]))})
    raise InputError(f"There is no {places[0]}. It comes with the project; make it with `python results/published/tidy.py`.")


def new_models(law: HierarchicalLaw, table: bytes = b"") -> NewModels:
    """What a hierarchical law (of shape "kept") knows of new models; `table` is the file that it was fitted to."""
    rows = law.points.rows
    curves = rows[rows["trained"] == 0].groupby("method")["curve"].nunique()
    methods = [str(name) for name in sorted(rows["method"].unique())]
    shown = [name for name in methods if curves.get(name, 0) >= FEWEST_CURVES]
    families = [str(name) for name in sorted(rows["family"].unique())]
    x = rows["x"].to_numpy() - law.points.centre
    fixed = np.stack([np.ones(len(rows)), x, rows["size"].to_numpy(), rows["trained"].to_numpy()])
    of_method = (np.array(shown)[:, None] == rows["method"].to_numpy()).astype(float)
    of_family = (np.array(families)[:, None] == rows["family"].to_numpy()).astype(float)
    spreads = [(DIFFUSE**0.5, 4), (law.spread["method"], len(shown)), (law.spread["slope"], len(shown))]
    prior = np.concatenate([np.full(count, one**2) for one, count in [*spreads, (law.spread["family"], len(families))]])
    shared = prior[:, None] * np.concatenate([fixed, of_method, of_method * x, of_family])  # covariance of effects and points
    weights = shared @ law.precision
    covariance = np.diag(prior) - weights @ shared.T
    covariance = (covariance + covariance.T) / 2
    names = [*FIXED, *(f"{kind}:{name}" for kind in ("method", "slope") for name in shown), *(f"family:{f}" for f in families)]
    judged = coverage(law.left_out()).iloc[-1]
    models, papers = (tuple(sorted(map(str, rows[name].unique()))) for name in ("model", "paper"))
    unseen = sum(law.spread[name] ** 2 for name in ("paper", "text", "model", "curve", "run"))
    return NewModels(
        names=tuple(names),
        mean=tuple(weights @ rows["z"].to_numpy()),
        covariance=tuple(tuple(row[: place + 1]) for place, row in enumerate(covariance)),
        new=unseen,
        new_family=law.spread["family"] ** 2,
        new_training=law.spread["training"] ** 2,
        centre=law.points.centre,
        quantile=law.quantile,
        level=law.level,
        methods={name: _measured(rows[rows["method"] == name]) for name in shown},
        models=models,
        papers=papers,
        points={name: _points(rows[rows["method"] == name], models, papers) for name in shown},
        left_out={"points": int(judged["points"]), "covered": judged["covered"], "error": judged["median error"]},
        data=files.digest(table),
    )


def _measured(own: pd.DataFrame) -> dict[str, float]:
    """What was measured of one method."""
    counts = {
        "curves": int(own["curve"].nunique()),
        "papers": int(own["paper"].nunique()),
        "trained": int(own["trained"].sum()),
    }
    sizes = {"smallest": float(own["parameters0"].min()), "largest": float(own["parameters0"].max())}
    return counts | sizes | {"end": float(own["ratio_params"].max())}


def _points(own: pd.DataFrame, models: Sequence[str], papers: Sequence[str]) -> list[list[float]]:
    """The published points of one method, for a plot."""
    excess, billions = (own["loss"] / own["loss0"]).round(4), (own["parameters0"] / BILLION).round(3)
    place = own["ratio_params"].round(4), excess, billions, own["model"].map(models.index), own["paper"].map(papers.index)
    columns = [*place, own["trained"].astype(int)]
    return [list(row) for row in zip(*(column.tolist() for column in columns), strict=True)]
