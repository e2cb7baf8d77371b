"""The share of all parameters that each row of a table truly removed: as recorded, else derived where the table or names allow.

What a user pays for is parameters, so advice leads with their true share, and a method's own ratio stands in brackets. A share
that is neither recorded nor derivable stays missing: it is said which column would tell it, and nothing is guessed.
"""

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from claw.laws import Points, conversion
from claw.laws.points import is_dense
from claw.laws.sizes import named_size
from claw.project import project_folder
from claw.specs.methods import METHODS, RIDGE, WHOLE

TRUE = "ratio_params"
ROUNDING = 0.005  # of all parameters: widths are whole numbers, so a share is met to within so much
SHAPES = Path("results") / "published" / "shapes.csv"
OWN_AXES = {"slicegpt": "hidden", "shortgpt": "layers"}
"""What the ratio of a method counts in every paper, where no column says it; other methods are used with several."""
AXIS_WORDS = {
    "ffn": "of the FFN",
    "heads": "of the heads",
    "hidden": "of the hidden width",
    "layers": "of the layers",
    "params": "of all parameters",
    "nonembedding": "of all but the embedding",
    "flops": "of the FLOPs",
    "memory": "of the memory",
    "milliseconds": "of the time",
}


def parts_of_shape(shape: Any) -> dict[str, float]:
    """Parameters of a model by part (ffn, linear, blocks, all), norms and biases aside, from a row of shapes.csv."""
    attention = 2 * shape.hidden * shape.head_size * (shape.heads + shape.groups)
    ffn = (3 if shape.gated == "yes" else 2) * shape.hidden * shape.ffn
    outer = shape.hidden * (shape.vocabulary * (1 if shape.tied == "yes" else 2) + shape.positions)
    blocks = shape.layers * (attention + ffn)
    return {"ffn": shape.layers * ffn, "linear": blocks, "blocks": blocks, "all": blocks + outer}


def sliced_size(shape: Any, level: float) -> float:
    """Parameters after SliceGPT at a slicing level (Ashkboos et al. 2024, section 3): the hidden width becomes (1 - level) d.

    Each block gains two rotations of its residual, d' × d', and a tied head is untied: it is turned otherwise.
    """
    width = round((1 - level) * shape.hidden)
    attention = 2 * width * shape.head_size * (shape.heads + shape.groups)
    ffn = (3 if shape.gated == "yes" else 2) * width * shape.ffn
    return shape.layers * (attention + ffn + 2 * width**2) + width * (2 * shape.vocabulary + shape.positions)


def known_shapes() -> dict[str, Any]:
    """Shapes of published models by their name in small letters; empty without the project's folder."""
    return _shapes(project_folder() / SHAPES)


@cache
def _shapes(path: Path) -> dict[str, Any]:
    return {shape.model.lower(): shape for shape in pd.read_csv(path).itertuples()} if path.is_file() else {}


def complete_shares(points: Points) -> tuple[Points, tuple[str, ...]]:
    """The points with parameters0 and ratio_params wherever they can be told, and a sentence for each way of telling them."""
    rows, notes = points.rows.copy(), list[str]()
    sizes = pd.to_numeric(rows.get("parameters0", pd.Series(np.nan, rows.index)), errors="coerce").astype(float)
    now = pd.to_numeric(rows.get("parameters", pd.Series(np.nan, rows.index)), errors="coerce").astype(float)
    dense = is_dense(rows)
    recorded = rows["model"].map(now[dense].groupby(rows.loc[dense, "model"]).first())
    named = rows["model"].map({name: _size(name) for name in set(rows["model"])}).astype(float)
    rows["parameters0"] = sizes.where(sizes > 0, recorded).fillna(sizes.groupby(rows["model"]).transform("first")).fillna(named)
    share = pd.to_numeric(rows.get(TRUE, pd.Series(np.nan, rows.index)), errors="coerce").astype(float)
    share = share.where(~dense, 0.0)
    told = 1 - now / rows["parameters0"]
    if (gone := share.isna() & told.notna()).any():
        share = share.where(~gone, told)
        notes.append("Shares of parameters follow from the columns parameters and parameters0.")
    derived = pd.Series([_derived(row) for row in rows[["model", "method", "ratio", "ratio_of"]].itertuples()], rows.index)
    if (gone := share.isna() & derived.notna()).any():
        share = share.where(~gone, derived)
        whose = " and ".join(sorted(set(rows.loc[gone, "method"])))
        notes.append(
            f"Shares of parameters of {whose} are derived from its ratio and the models' shapes; ratio_params would tell."
        )
    if share[~dense].notna().any():
        rows[TRUE] = share
    return Points(rows=rows, excluded=points.excluded, notes=points.notes, given=points.given), tuple(notes)


def _size(model: str) -> float:
    shape = known_shapes().get(str(model).lower())
    return parts_of_shape(shape)["all"] if shape else named_size(str(model))


def _derived(row: Any) -> float:
    """Share of parameters from the ratio and what it counts; NaN where names do not tell."""
    axis = row.ratio_of if row.ratio_of != "own" else OWN_AXES.get(str(row.method).lower(), "own")
    if axis == "params":
        return float(row.ratio)
    shape = known_shapes().get(str(row.model).lower())
    if shape is None:
        return math.nan
    parts = parts_of_shape(shape)
    if axis == "hidden" and str(row.method).lower().startswith("slicegpt"):
        return 1 - sliced_size(shape, row.ratio) / parts["all"]
    part = {"layers": "blocks", "nonembedding": "linear", "ffn": "ffn"}.get(axis)
    return float(row.ratio * parts[part] / parts["all"]) if part else math.nan


def cut_rows(rows: pd.DataFrame, model: str, method: str, ratio_of: str) -> pd.DataFrame:
    """The rows of a table in which a method cut a model by ratios that count the same."""
    alike = (rows["model"] == model) & (rows["method"] == method) & (rows["ratio_of"] == ratio_of)
    return rows[alike & (rows["ratio"] > 0)]


def share_of_ratio(points: Points, r: Any, model: str, method: str, ratio_of: str, axis: str = TRUE) -> np.ndarray:
    """Share removed at nominal ratios of a curve that recorded it; NaN where it did not: another's share is no answer."""
    r, rows = np.atleast_1d(np.asarray(r, float)), cut_rows(points.rows, model, method, ratio_of)
    if axis not in rows or not rows[axis].notna().any():
        return np.full(len(r), math.nan)
    known = rows.groupby("ratio")[axis].mean().dropna()
    if len(known) < 2:
        return conversion.share(points, r, model, method, axis)
    return np.interp(r, np.append(0.0, known.index), np.append(0.0, known.to_numpy()))


def ratio_of_share(points: Points, share: float, model: str, method: str, ratio_of: str) -> float:
    """The nominal ratio of a curve that removes this share, by lines between the measured ones; NaN beyond them."""
    rows = cut_rows(points.rows, model, method, ratio_of)
    known = rows.groupby("ratio")[TRUE].mean().dropna() if TRUE in rows else pd.Series(dtype=float)
    r, s = np.append(0.0, known.index.to_numpy(float)), np.append(0.0, known.to_numpy(float))
    for place in range(len(r) - 2, -1, -1):  # from the end: a method may add parameters first
        if min(s[place], s[place + 1]) - 1e-9 <= share <= max(s[place], s[place + 1]) + 1e-9:
            step = s[place + 1] - s[place]
            return float(r[place] + (share - s[place]) / step * (r[place + 1] - r[place]) if step else r[place + 1])
    return math.nan


def percent(share: float) -> str:
    """10 %, and 0.4 % where a whole number would say too little."""
    if not math.isfinite(share):
        return "an unknown share"
    text = f"{100 * share:.1f}" if 0 < abs(share) < 0.0195 else f"{100 * share:.0f}"
    return f"{'0' if float(text) == 0 else text} %"


def percents(low: float, high: float) -> str:
    """3 to 9 %."""
    return percent(low) if percent(low) == percent(high) else f"{percent(low).removesuffix(' %')} to {percent(high)}"


def own_ratio(ratio: float, method: str, ratio_of: str) -> str:
    """ratio 0.17 of the FFN; what a method's ratio counts stays open where nothing tells."""
    return f"ratio {ratio:.2f} {_axis(method, ratio_of)}".strip()


def _axis(method: str, ratio_of: str) -> str:
    """What a ratio counts, in words."""
    name = str(method).lower().removesuffix(RIDGE)
    if ratio_of == "own":
        known = METHODS.get(name)
        ratio_of = OWN_AXES.get(name) or (known.axes[0] if known else "")
    return AXIS_WORDS.get("params" if ratio_of == WHOLE else ratio_of, "")


def removal(share: float, ratio: float, method: str, ratio_of: str, whose: str = "its") -> str:
    """10 % of its parameters (ratio 0.17 of the FFN): the true share leads, the method's own ratio in brackets."""
    if not math.isfinite(share):
        return f"{own_ratio(ratio, method, ratio_of)} of {method} (the table does not say which share of {whose} parameters)"
    return f"{percent(share)} of {whose} parameters{own_bracket(ratio, method, ratio_of)}"


def own_bracket(ratio: float, method: str, ratio_of: str) -> str:
    """The method's own ratio in brackets; empty where it is the share itself, or not known."""
    text = own_ratio(ratio, method, ratio_of)
    return "" if text.endswith("of all parameters") or not math.isfinite(ratio) else f" ({text})"
