"""What a run was begun with: texts and weights by hash, and claw's own code. Later runs of the study are compared with it.

Records of one run must belong together. Other texts or weights under the same name are refused; other code is said, and the
table's column `code` keeps the rows apart.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pydantic

from claw import files, provenance
from claw.errors import InputError
from claw.models import sources
from claw.project import inside_project
from claw.specs import methods, on_disk
from claw.specs.mixture import mix_shares
from claw.specs.on_disk import Origin
from claw.specs.study import Study

NAME = "origin.json"
ENDS = 1 << 24  # bytes: of larger files a claw before this one read the size, the beginning and the end
HUB = "hub "  # how the mark of what is fetched from the hub begins; its revision follows where it is known


def check_origin(study: Study, folder: Path) -> list[str]:
    """Compare as `compare_origin` does, and keep what the run in `folder` was begun with; its sentences."""
    sentences, now = compare_origin(study, folder)
    files.write_text(folder / NAME, json.dumps(now.model_dump(), indent=1))
    return sentences


def compare_origin(study: Study, folder: Path) -> tuple[list[str], Origin]:
    """Sentences on what changed since the run in `folder` was begun, and what to keep; writes nothing.

    InputError if new records would not belong to the old ones.
    """
    code, sentences = provenance.code_hash(), []
    before = Origin(code=[], data={}, whole=True)
    try:
        before = _read(folder / NAME) or before
    except on_disk.Unusable as problem:
        if problem.precious:
            raise InputError(f"{folder / NAME} cannot be used: {problem}.") from problem
        sentences.append(f"{folder / NAME} is damaged ({problem}), so texts and models are not compared with those of before.")
    texts = [series.corpus for series in study.recovery]
    if any(map(methods.needs_statistics, study.methods)):
        texts.append(study.calibration.corpus)
    names = [*study.models, study.evaluation.heldout, *(name for text in texts for name in mix_shares(text))]
    now = {name: fingerprint(name) for name in dict.fromkeys(names)}
    changed = [name for name, mark in now.items() if not _is_same(name, before, mark)]
    if changed:
        raise InputError(
            f"{' and '.join(sorted(changed))} changed since the records in {folder} were made, so new results would not belong "
            "with the old ones. Put the old data back, give the study another name, or delete that folder to measure all again."
        )
    # of two marks of the same thing the longer one knows its revision
    data = before.data | {name: max(mark, before.data.get(name, ""), key=len) for name, mark in now.items()}
    if before.code and before.code[-1] != code:
        sentences.append(
            f"claw's code changed since this run was begun (was {before.code[-1]}, is {code}). Records that are there are "
            "kept; the column `code` of the table says which code made which. To measure all with one code, "
            f"delete {folder} or rename the study."
        )
    return sentences, Origin(code=[*(other for other in before.code if other != code), code], data=data, whole=True)


def _read(path: Path) -> Origin | None:
    content = on_disk.read_object(path)
    try:
        return None if content is None else Origin.model_validate(content)
    except pydantic.ValidationError as error:
        raise on_disk.Unusable("it does not hold what a run is begun with") from error


def _is_same(name: str, before: Origin, mark: str) -> bool:
    """Whether a text or model is still what it was, as far as both marks tell."""
    old = before.data.get(name, mark)
    if old.startswith(HUB) and mark.startswith(HUB) and not ("@" in old and "@" in mark):
        return old.partition("@")[0] == mark.partition("@")[0]
    return old == mark or (not before.whole and old == fingerprint(name, by=_ends))


def fingerprint(name: str, by: Callable[[Path], str] = provenance.content_hash) -> str:
    """What a model or text is: the pinned hash of a known name, a hash of a file or of a folder's files, or the hub's revision.

    `by` hashes a file.
    """
    if name in sources.corpora():
        return sources.corpora()[name].archive.sha256
    if name in sources.models():
        source = sources.models()[name]
        return source.gguf_sha256 or _on_hub(source.hub, "models")
    path = inside_project(name)
    try:
        if path.is_file():
            return by(path)
        if path.is_dir():
            there = (p for p in sorted(path.iterdir()) if p.suffix in (".json", ".safetensors", ".model", ".txt"))
            return hashlib.sha256(json.dumps({p.name: by(p) for p in there}).encode()).hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Correct the permissions, or name another one.") from error
    kind, repository = ("datasets", name.split(":")[1]) if name.startswith("hub:") else ("models", name)
    return _on_hub(repository, kind, name)


def _on_hub(repository: str, kind: str, name: str = "") -> str:
    """The mark of something on the hub, with its revision as far as it was fetched."""
    from huggingface_hub.constants import HF_HUB_CACHE

    known = Path(HF_HUB_CACHE) / f"{kind}--{repository.replace('/', '--')}" / "refs" / "main"
    revision = known.read_text(encoding="utf-8", errors="replace").strip() if known.is_file() else ""
    return f"{HUB}{name or repository}{'@' if revision else ''}{revision}"


def _ends(path: Path) -> str:
    """Hash of a file as earlier claws took it: of a large one, of its size, its beginning and its end."""
    size = path.stat().st_size
    if size <= ENDS:
        return files.sha256(path)
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(ENDS // 2))
        file.seek(-ENDS // 2, 2)
        digest.update(file.read())
    return digest.hexdigest()
