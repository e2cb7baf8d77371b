"""Laws as plain data: laws.json holds everything that was fitted, unrounded, so that sliders and figures need no refit.

Dataclasses become mappings of their fields and are read back by the types of these fields. Readings are made again from the
points. A page without Python slides over what they give on a grid (`slider_data`).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from itertools import product
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd

from claw.errors import InputError
from claw.files import write_own
from claw.laws import catalogue, curves
from claw.laws.curves import CurveKey
from claw.laws.fitted import FittedLaws

SCHEMA = 3
_types = cache(get_type_hints)
STEP, LAST = 0.01, 95
"""Steps of the slider's ratio, and how many of them a page shows."""
COLUMNS = {"mean": "mean", "low": "confidence_low", "high": "confidence_high", "run_low": "run_low", "run_high": "run_high"}
"""Columns of a slider's grid, and what they are in a reading."""


def to_json(laws: FittedLaws, path: str | Path | None = None) -> str:
    """Everything, unrounded, as JSON; written to `path` if given. `claw.laws.from_json` gives equal laws."""
    written = json.dumps(plain_json({"schema": SCHEMA} | _fields(laws)), separators=(",", ":"), allow_nan=False)
    if path is not None:
        write_own(Path(path), written + "\n")
    return written


def read_fields(source: str | Path) -> dict[str, Any]:
    """The fields of the laws that `to_json` wrote, from its text or its file. InputError for anything else."""
    written = str(source)
    if not written.lstrip().startswith("{"):
        path = Path(source)
        if not path.is_file():
            raise InputError(f"There are no laws at {path}. Fit them: claw.laws.fit(table).to_json({str(path)!r}).")
        written = path.read_text(encoding="utf-8")
    try:
        plain = json.loads(written)
        if (schema := plain.pop("schema")) != SCHEMA:
            raise ValueError(f"schema {schema}, not {SCHEMA}")
        return {name: _read(kind, plain[name]) for name, kind in _types(FittedLaws).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"These are not laws written by this version of claw ({type(error).__name__}: {error}). Fit them again with "
            "claw.laws.fit(table).to_json(path)."
        ) from error


def plain_json(value: Any) -> Any:
    """Python values that JSON has: NaN becomes null, infinity the text "inf", numpy's types Python's, frames their columns."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None if math.isnan(value) else str(float(value))
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, pd.DataFrame):
        value = {name: value[name].tolist() for name in value.columns}
    if isinstance(value, CurveKey) or is_dataclass(value):
        value = _fields(value)
    if isinstance(value, Mapping):
        return {str(name): plain_json(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(each) for each in value]
    return plain_json(value.tolist()) if isinstance(value, (np.generic, np.ndarray)) else value


def _fields(value: Any) -> dict[str, Any]:
    return value._asdict() if isinstance(value, CurveKey) else {each.name: getattr(value, each.name) for each in fields(value)}


def _read(kind: Any, plain: Any) -> Any:
    """The value of type `kind` that `plain_json` wrote as `plain`."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is CurveKey or hasattr(kind, "__dataclass_fields__"):
        types = _types(kind)
        return kind(**{name: _read(types[name], each) for name, each in plain.items()})
    if kind is pd.DataFrame:
        return pd.DataFrame({name: _column(values) for name, values in plain.items()})
    if kind is np.ndarray:
        array = np.array(plain) if plain else np.zeros((0, 0))  # only a matrix over random slopes may be empty
        return array if array.dtype.kind in "if" else array.astype(float)  # null and "inf" among numbers
    if origin is UnionType:
        return None if plain is None else _read(inner[0], plain)
    if origin is tuple:
        return tuple(_read(inner[0], each) for each in plain)
    if origin is Mapping:
        return {name: _read(inner[1], each) for name, each in plain.items()}
    return _number(plain) if kind in (float, Any) else plain


def _number(value: Any) -> Any:
    """Null back to NaN and "inf" to infinity, in mappings too."""
    if isinstance(value, dict):
        return {name: _number(each) for name, each in value.items()}
    return math.nan if value is None else float(value) if value in ("inf", "-inf") else value


def _column(values: list) -> list:
    """Null back to NaN in a column of numbers."""
    numbers = any(isinstance(value, float) for value in values) or not any(isinstance(value, (str, bool)) for value in values)
    if numbers and any(value is None or isinstance(value, str) for value in values):
        return [math.nan if value is None else float(value) for value in values]
    return values


def slider_data(laws: FittedLaws) -> list[dict[str, Any]]:
    """One mapping per curve, response and axis: all that a page needs to draw and slide what was measured.

    `grid` holds columns of equal length over r from 0 in steps of 0.01 to the end of `range`: mean, low and high of the
    confidence band, run_low and run_high of a new run; null where a curve does not answer. `points` are [r, value, stderr] of
    each measured ratio, its seeds averaged. `beyond` holds [r, mean] of the course of the curve's law past the range, to be
    drawn dashed; empty without a law, whose name and formula are `law`. `unit`, `title` and `noise` (where the bands' noise
    comes from) are for people.
    """
    sliders = []
    for response, axis in product(laws.points.responses, laws.points.axes):
        for one in laws.readings(response, axis):
            key, step = one.curve, np.arange(math.floor(one.high / STEP + 1e-9) + 1) * STEP
            band = one.predict(step)
            slider: dict[str, Any] = {"id": "|".join(map(str, (*key, response, axis))), "title": key.title, **key._asdict()}
            slider |= {"response": response, "axis": axis, "unit": curves.UNITS[response], "level": one.level}
            slider |= {"dense": one.dense, "noise": one.noise, "range": [max(one.low, 0.0), one.high], "step": STEP}
            slider["grid"] = {name: [_short(value) for value in band[column]] for name, column in COLUMNS.items()}
            slider["points"] = one.points[["ratio", "value", "stderr"]].to_numpy()
            slider |= {"beyond": [], "law": ""}
            if law := next((law for law in laws.curves_of(response, axis) if law.curve == key), None):
                past = np.arange(len(step), LAST + 1) * STEP
                on = laws.predict(past, *key[:2], key.tokens, response, axis=axis, **key.apart)["mean"] if len(past) else ()
                slider["beyond"] = [[_short(r), _short(mean)] for r, mean in zip(past, on, strict=True)]
                slider["law"] = f"{law.form}: {catalogue.find_form(law.form).formula}"
            sliders.append(slider)
    return plain_json(sliders)


def _short(value: float) -> float:
    """Five digits: a page draws no more."""
    return float(f"{value:.5g}")
