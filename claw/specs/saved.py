"""`claw.json`: what claw writes about a checkpoint beside its weights, read and checked in one place."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from claw.errors import InputError
from claw.specs.experiment import Experiment
from claw.specs.spec import build_spec

ABOUT = "claw.json"
SCHEMA = 2  # before 2 it had neither schema nor files, and whole paths


def read_about(folder: str | Path) -> Mapping[str, Any]:
    """What claw wrote about a checkpoint; empty for a checkpoint that claw did not make. InputError for what it cannot read."""
    path = Path(folder) / ABOUT
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}). Compress the model again.") from error
    if not isinstance(about, dict) or not isinstance(schema := about.get("schema", 1), int):
        raise InputError(f"{path} is not what claw writes about a checkpoint. Compress the model again.")
    if schema > SCHEMA:
        raise InputError(f"{path} was written by a newer claw (schema {schema}, here {SCHEMA}). Update claw.")
    return about


def saved_experiment(folder: Path) -> Experiment | None:
    """The experiment of the checkpoint in `folder`; None where claw wrote none. InputError where it makes no sense.

    `claw.json` has the last part of each path, as a checkpoint may go to others; the records of the run that it lies in have
    the whole.
    """
    about = read_about(folder)
    if (spec := about.get("experiment")) is None:
        return None
    for stage in ("compress", "recover"):
        path = folder.absolute().parent.parent / "records" / f"{about.get('id')}.{stage}.json"
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            known = build_spec(Experiment, json.loads(path.read_text(encoding="utf-8"))["spec"])
            if known.id == about["id"]:
                return known
    try:
        return build_spec(Experiment, spec, where=str(folder / ABOUT))
    except InputError as error:
        newer = "It was perhaps written by another version of claw: update claw, or compress the model again."
        raise InputError(f"{error} {newer}") from error
