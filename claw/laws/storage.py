"""laws.json: everything that was fitted, unrounded, so that sliders and figures need no refit."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from claw.errors import InputError
from claw.laws.curves import CurveLaw
from claw.laws.fitted import FittedLaws
from claw.laws.points import Points
from claw.laws.pooled import PooledLaw
from claw.laws.verdicts import Verdict

SCHEMA = 1


def to_json(laws: FittedLaws, path: str | Path | None = None) -> str:
    """The laws as JSON text, written to `path` if given."""
    plain = {
        "schema": SCHEMA, "source": dict(laws.source), "level": laws.level, "seed": laws.seed, "draws": laws.draws,
        "points": {
            "rows": _columns(laws.points.rows), "excluded": _columns(laws.points.excluded), "notes": list(laws.points.notes),
            "given": laws.points.given,
        },
        "curves": [law.to_dict() for law in laws.curves], "pooled": [law.to_dict() for law in laws.pooled],
        "comparisons": {name: _columns(table) for name, table in laws.comparisons.items()}, "tests": _columns(laws.tests),
        "verdicts": [verdict.to_dict() for verdict in laws.verdicts], "unfitted": _columns(laws.unfitted),
    }  # fmt: skip
    written = json.dumps(plain_json(plain), separators=(",", ":"), allow_nan=False)
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(written + "\n", encoding="utf-8")
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
        if plain["schema"] != SCHEMA:
            raise ValueError(f"schema {plain['schema']}, not {SCHEMA}")
        points = plain["points"]
        found = Points(_frame(points["rows"]), _frame(points["excluded"]), tuple(points["notes"]), points["given"])
        return {
            "points": found,
            "curves": tuple(CurveLaw.from_dict(_numbers(law, ("sigma2", "df", "dense"))) for law in plain["curves"]),
            "pooled": tuple(PooledLaw.from_dict(_numbers(law, ("sigma2",))) for law in plain["pooled"]),
            "comparisons": {name: _frame(table) for name, table in plain["comparisons"].items()},
            "tests": _frame(plain["tests"]),
            "verdicts": tuple(Verdict(**_numbers(one)) for one in plain["verdicts"]),
            "unfitted": _frame(plain["unfitted"]),
            **{name: plain[name] for name in ("level", "seed", "draws", "source")},
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"These are not laws written by this version of claw ({type(error).__name__}: {error}). Fit them again with "
            "claw.laws.fit(table).to_json(path)."
        ) from error


def plain_json(value: Any) -> Any:
    """Python values that JSON has: NaN becomes null, infinity the text "inf", numpy's types Python's."""
    if isinstance(value, dict):
        return {str(name): plain_json(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _columns(frame: pd.DataFrame) -> dict[str, list]:
    return {str(name): frame[name].tolist() for name in frame.columns}


def _frame(columns: dict[str, list]) -> pd.DataFrame:
    """Null back to NaN in columns of numbers."""
    return pd.DataFrame({name: _column(values) for name, values in columns.items()})


def _column(values: list) -> list:
    numbers = any(isinstance(value, float) for value in values) or not any(isinstance(value, (str, bool)) for value in values)
    if numbers and any(value is None or isinstance(value, str) for value in values):
        return [math.nan if value is None else float(value) for value in values]
    return values


def _numbers(plain: dict[str, Any], names: tuple[str, ...] = ()) -> dict[str, Any]:
    """Null back to NaN in the named fields and in `quality` and `evidence`."""
    found = plain | {name: _nan(plain[name]) for name in names}
    for name in ("quality", "evidence"):
        if name in found:
            found[name] = {key: _nan(value) for key, value in found[name].items()}
    return found


def _nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _nan(one) for name, one in value.items()}
    return math.nan if value is None else float(value) if value in ("inf", "-inf") else value
