"""What a run was begun with: texts and weights by hash, and claw's own code. Later runs of the study are compared with it.

Records of one run must belong together. Other texts or weights under the same name are refused; other code is said, and the
table's column `code` keeps the rows apart.
"""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from claw import files, provenance
from claw.errors import InputError
from claw.models import sources
from claw.specs import methods
from claw.specs.study import Study

NAME = "origin.json"
WHOLE = 1 << 24  # bytes: larger files are known by their size, beginning and end


def check_origin(study: Study, folder: Path) -> list[str]:
    """Sentences on what changed since the run in `folder` was begun; InputError if new records would not belong to it."""
    code = provenance.code_hash()
    before: dict[str, Any] = {"code": [], "data": {}}
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # where it is not known what the run was begun with
        begun = json.loads((folder / NAME).read_text())
        before = {"code": begun["code"], "data": begun["data"]}
    names = [*study.models, study.evaluation.heldout, *(series.corpus for series in study.recovery)]
    if any(map(methods.needs_statistics, study.methods)):
        names.append(study.calibration.corpus)
    now = {name: fingerprint(name) for name in dict.fromkeys(names)}
    changed = sorted(name for name, mark in now.items() if before["data"].get(name, mark) != mark)
    if changed:
        raise InputError(
            f"{' and '.join(changed)} changed since the records in {folder} were made, so new results would not belong with "
            "the old ones. Put the old data back, give the study another name, or delete that folder to measure all again."
        )
    known = before["code"]
    begun = {"code": [*(other for other in known if other != code), code], "data": before["data"] | now}
    files.write_text(folder / NAME, json.dumps(begun, indent=1))
    if not known or known[-1] == code:
        return []
    return [
        f"claw's code changed since this run was begun (was {known[-1]}, is {code}). Records that are there are kept; the "
        "column `code` of the table says which code made which. To measure all with one code, "
        f"delete {folder} or rename the study."
    ]


def fingerprint(name: str) -> str:
    """What a model or text is: the pinned hash of a known name, the hash of a file or of a folder's files, else the name."""
    if name in sources.corpora():
        return sources.corpora()[name].archive.sha256
    if name in sources.models():
        source = sources.models()[name]
        return source.gguf_sha256 or f"hub {source.hub}"
    path = Path(name).expanduser()
    if path.is_file():
        return _hash(path)
    if path.is_dir():
        hashes = {p.name: _hash(p) for p in sorted(path.iterdir()) if p.suffix in (".json", ".safetensors", ".model", ".txt")}
        return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()
    return f"hub {name}"


def _hash(path: Path) -> str:
    """Hash of a file; of a large one, of its size, its beginning and its end."""
    size = path.stat().st_size
    if size <= WHOLE:
        return files.sha256(path)
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(WHOLE // 2))
        file.seek(-WHOLE // 2, 2)
        digest.update(file.read())
    return digest.hexdigest()
