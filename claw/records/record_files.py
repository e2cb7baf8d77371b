"""One JSON file per experiment and stage, written atomically, with a checksum.

`records/<experiment>.<stage>.json` holds the spec, the result, the environment and a checksum. A file is complete or not
there: it is written beside itself and renamed. A record that is damaged counts as missing and
is named; one that only another claw can read is named, and never written over.

Stages: `compress` (the report), `recover`, `loss`, `tasks`, `speed`. The last three carry in their name the digest of how
they were measured, so that measuring differently adds a record and never replaces one.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from claw.files import digest, write_text
from claw.specs import on_disk
from claw.words import plural

STAGES = ("compress", "recover", "loss", "tasks", "speed")


def path_of(folder: Path, experiment: str, stage: str, measured: str = "") -> Path:
    """File of one record."""
    return Path(folder) / "records" / name_of(experiment, stage, measured)


def name_of(experiment: str, stage: str, measured: str = "") -> str:
    """Name of a record's file."""
    return f"{experiment}.{stage}{'-' if measured else ''}{measured}.json"


def checksum(content: Mapping[str, Any]) -> str:
    """Hash of a record without its own checksum."""
    return digest(json.dumps({name: value for name, value in content.items() if name != "checksum"}, sort_keys=True))


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write one record atomically: it is there whole or not at all."""
    record = json.loads(json.dumps({"schema": on_disk.SCHEMA, **content}, default=str))
    write_text(path, json.dumps(record | {"checksum": checksum(record)}, indent=1))


def open_record(path: Path) -> dict[str, Any] | None:
    """A record as it was written, or None where there is none. Raises `on_disk.Unusable` with the reason for anything else."""
    content = on_disk.read_object(Path(path))
    if content is None:
        return None
    try:
        schema = content.get("schema")
        if isinstance(schema, int) and schema > on_disk.SCHEMA:
            about = f"it has schema {schema}, and this claw reads up to {on_disk.SCHEMA}"
            raise on_disk.Unusable(f"{about}. {on_disk.UPGRADE}", precious=True)
        if content.get("checksum") != checksum(content):
            raise on_disk.Unusable("its checksum does not fit")
        on_disk.check_record(content, Path(path).name)
    except RecursionError as error:
        raise on_disk.Unusable("it is nested too deeply for anything that claw wrote") from error
    return content


def read_record(path: Path) -> dict[str, Any] | None:
    """A record, or None if it is missing or cannot be used; what cannot be used is named in a warning."""
    try:
        return open_record(path)
    except on_disk.Unusable as problem:
        warnings.warn(left_out(path, problem), stacklevel=2)
    return None


def left_out(path: Path, problem: on_disk.Unusable) -> str:
    """A sentence on a record that cannot be used."""
    if problem.precious:
        return f"record {path} is left out: {problem}."
    return f"record {path} is damaged ({problem}); it counts as missing and will be measured again."


def read_stages(folder: Path, experiment: str, stages: Mapping[str, str]) -> list[dict[str, Any]]:
    """The records of an experiment that are there, of these stages, each with the digest of how it was measured."""
    records = (read_record(path_of(folder, experiment, stage, measured)) for stage, measured in stages.items())
    return [record for record in records if record is not None]


def has(folder: Path, experiment: str, stage: str, measured: str = "") -> bool:
    """Whether a usable record is there; a failed one is not usable."""
    content = read_record(path_of(folder, experiment, stage, measured))
    return content is not None and content["status"] != "failed"


def every(folder: Path) -> Iterator[dict[str, Any]]:
    """All readable records of a run, in the order of their names."""
    paths = sorted((Path(folder) / "records").glob("*.json"))
    unusable = 0
    for path in paths:
        content = read_record(path)
        if content is not None:
            yield content
        unusable += content is None
    if unusable:
        warnings.warn(f"{unusable} of {plural(len(paths), 'record')} in {folder} could not be used.", stacklevel=2)
