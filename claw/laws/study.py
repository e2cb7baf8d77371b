"""All laws of one table: fit them, ask them, write them down."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from claw.environment import code_hash
from claw.errors import InputError, unknown
from claw.laws import curves, forms, points, text
from claw.laws.curves import CurveLaw
from claw.laws.points import Points

SCHEMA = 1


@dataclass(frozen=True)
class Laws:
    """The laws of a table, with the points they came from. Made by `fit` or `from_json`."""

    points: Points
    curves: tuple[CurveLaw, ...]
    unfitted: pd.DataFrame
    level: float
    seed: int
    source: Mapping[str, str]

    def curve(
        self, model: str, method: str, response: str = "loss", tokens: float = 0, axis: str = "ratio", form: str | None = None
    ) -> CurveLaw:
        """The law of one curve. InputError names what there is."""
        have = [law for law in self.curves if law.response == response and law.axis == axis]
        form = form or curves.DEFAULT.get(response)
        for name, value in (("model", model), ("method", method)):
            if value not in {getattr(law.curve, name) for law in have}:
                raise unknown(name, value, {getattr(law.curve, name) for law in have})
        have = [law for law in have if (law.curve.model, law.curve.method) == (model, method)]
        if tokens not in {law.curve.tokens for law in have}:
            budgets = ", ".join(str(law.curve.tokens) for law in have if law.form == form)
            raise InputError(f"{model} · {method} has no curve with {tokens} recovery tokens. It has: {budgets}.")
        found = [law for law in have if law.curve.tokens == tokens and law.form == form]
        if not found:
            forms.find(form)
            raise InputError(f"The {form} law of {response} was not fitted on {model} · {method}; laws.unfitted says why.")
        return found[0]

    def predict(
        self, r: Any, model: str, method: str, tokens: float = 0, response: str = "loss", axis: str = "ratio"
    ) -> pd.DataFrame:
        """Frame over r: mean, confidence band, new-run band, new-model band (NaN where fewer than three models carry it)."""
        law = self.curve(model, method, response, tokens, axis)
        frame = law.predict(r)
        spread = self.between_models(law)
        frame["model_low"] = frame["model_high"] = math.nan
        if spread:
            design = forms.find(law.form).design({"r": frame["ratio"].to_numpy()})
            middle = design @ spread["coefficients"]
            half = spread["t"] * np.sqrt(np.einsum("ij,jk,ik->i", design, spread["covariance"], design))
            frame["model_low"], frame["model_high"] = middle - half, middle + half
        return frame

    def between_models(self, law: CurveLaw) -> dict[str, Any]:
        """Where the curve of a model not yet measured may lie, at this curve's dense value; empty below three models.

        Each model's coefficients over its dense value are one draw: mean ± t(models - 1) × their spread × √(1 + 1/models).
        """
        alike = [
            other.coefficients / other.dense
            for other in self.curves
            if (other.response, other.axis, other.form) == (law.response, law.axis, law.form)
            and other.curve._replace(model="") == law.curve._replace(model="")
            and math.isfinite(other.dense)
        ]
        if len(alike) < 3 or math.isnan(law.dense):
            return {}
        m, relative = len(alike), np.array(alike)
        covariance = np.atleast_2d(np.cov(relative, rowvar=False)) * (1 + 1 / m) * law.dense**2
        return {
            "coefficients": relative.mean(axis=0) * law.dense,
            "covariance": covariance,
            "t": float(stats.t.ppf(0.5 + self.level / 2, m - 1)),
            "models": m,
        }

    def measured(self, law: CurveLaw) -> pd.DataFrame:
        """The points of a curve: ratio, value, stderr, seed."""
        for curve, rows in curves.split(self.points, law.response, law.axis):
            if curve == law.curve:
                stderr = rows.get(f"{law.response}_stderr", pd.Series(np.nan, rows.index))
                return pd.DataFrame({
                    "ratio": rows[law.axis].astype(float), "value": rows[law.response], "stderr": stderr, "seed": rows["seed"],
                }).sort_values("ratio", ignore_index=True)  # fmt: skip
        raise InputError(f"No points for {law.curve.title}.")

    def slider_json(self) -> list[dict[str, Any]]:
        """One plain mapping per curve and response, enough to draw and slide it in a page without Python.

        mean(r) = Σ coefficients[i] r^powers[i]; with x the powers of r, the confidence band is mean ± t √(xᵀ covariance x), the
        new-run band mean ± t √(xᵀ covariance x + sigma2), and `new_model` holds coefficients, covariance and t of its own.
        `points` are [r, value, stderr]; beyond `range` draw dashed.
        """
        found = []
        for law in self.curves:
            if law.form != curves.DEFAULT[law.response]:
                continue
            spread = self.between_models(law)
            measured = self.measured(law)
            found.append({
                "id": "|".join(map(str, (*law.curve, law.response, law.axis))), "title": law.curve.title, **law.curve._asdict(),
                "response": law.response, "unit": curves.UNITS[law.response], "axis": law.axis, "form": law.form,
                "formula": forms.find(law.form).formula, "powers": list(forms.find(law.form).powers),
                "coefficients": law.coefficients.tolist(), "covariance": law.covariance.tolist(), "t": law.quantile,
                "sigma2": law.sigma2, "level": law.level, "range": [law.low, law.high], "dense": law.dense, "n": law.n,
                "new_model": {name: np.asarray(value).tolist() for name, value in spread.items()} or None,
                "points": measured[["ratio", "value", "stderr"]].to_numpy().tolist(),
            })  # fmt: skip
        return _plain(found)

    def summary(self) -> str:
        """The laws as a table for a terminal."""
        return text.summary(self)

    def _repr_html_(self) -> str:
        return text.html(self)

    def to_json(self, path: str | Path | None = None) -> str:
        """Everything, unrounded, as JSON; written to `path` if given. `from_json` gives equal laws."""
        plain = {
            "schema": SCHEMA, "source": dict(self.source), "level": self.level, "seed": self.seed,
            "points": {
                "rows": _columns(self.points.rows), "excluded": _columns(self.points.excluded),
                "notes": list(self.points.notes), "given": self.points.given,
            },
            "curves": [law.to_dict() for law in self.curves], "unfitted": _columns(self.unfitted),
        }  # fmt: skip
        written = json.dumps(_plain(plain), indent=None, separators=(",", ":"), allow_nan=False)
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(written + "\n", encoding="utf-8")
        return written


def _columns(frame: pd.DataFrame) -> dict[str, list]:
    return {name: frame[name].tolist() for name in frame.columns}


def _plain(value: Any) -> Any:
    """JSON has no NaN: it becomes null, and numpy's types Python's."""
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(values: list) -> list:
    """Null back to NaN in a column of numbers."""
    if any(isinstance(value, (int, float)) for value in values) and any(value is None for value in values):
        return [math.nan if value is None else value for value in values]
    return values


def from_json(source: str | Path) -> Laws:
    """The laws that `to_json` wrote, from its text or its file."""
    written = str(source)
    if not written.lstrip().startswith("{"):
        path = Path(source)
        if not path.is_file():
            raise InputError(f"There are no laws at {path}. Fit them: claw.laws.fit(table).to_json({str(path)!r}).")
        written = path.read_text(encoding="utf-8")
    try:
        plain = json.loads(written)
        frames = {
            name: pd.DataFrame({column: _numbers(values) for column, values in plain["points"][name].items()})
            for name in ("rows", "excluded")
        }
        found = Points(**frames, notes=tuple(plain["points"]["notes"]), given=plain["points"]["given"])
        fitted = tuple(CurveLaw.from_dict(_nan(law)) for law in plain["curves"])
        return Laws(found, fitted, pd.DataFrame(plain["unfitted"]), plain["level"], plain["seed"], plain["source"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"These are not laws written by this version of claw ({type(error).__name__}: {error}). Fit them again with "
            "claw.laws.fit(table).to_json(path)."
        ) from error


def _nan(law: dict[str, Any]) -> dict[str, Any]:
    scalars = {name: math.nan if value is None else value for name, value in law.items()}
    return scalars | {"quality": {name: math.nan if value is None else value for name, value in law["quality"].items()}}


def fit(table: pd.DataFrame, *, level: float = 0.95, seed: int = 0) -> Laws:
    """Every law that a table can carry.

    Needed columns: model, method, ratio, and loss or accuracy; `claw.records.COLUMNS` names all that are understood.
    `level` is that of all intervals. InputError: see `claw.laws.points.read`.
    """
    if not 0.5 <= level < 1:
        raise InputError(f"level = {level!r} is not accepted: the share of intervals that should hold the truth, such as 0.95.")
    found = points.read(table)
    fitted, unfitted = [], []
    for response in found.responses:
        for axis in found.axes:
            for curve, rows in curves.split(found, response, axis):
                for form in forms.CURVE_FORMS:
                    try:
                        fitted.append(curves.fit(rows, curve, response, form, axis, level))
                    except InputError as error:
                        unfitted.append(
                            {**curve._asdict(), "response": response, "axis": axis, "form": form, "why": str(error)}
                        )
    columns = [*curves.Curve._fields, "response", "axis", "form", "why"]
    source = {"data": found.digest, "code": code_hash()}
    return Laws(found, tuple(fitted), pd.DataFrame(unfitted, columns=columns), level, seed, source)


def fit_each(table: pd.DataFrame, by: str, **options: Any) -> dict[str, Laws]:
    """Laws of each group of a table that must not be pooled, by the value of a column, such as heldout."""
    if by not in table:
        raise unknown("column", by, map(str, table.columns))
    return {str(name): fit(rows, **options) for name, rows in table.groupby(by, sort=True)}
