"""What a name means: the catalogue of models, corpora and task archives in `sources.yaml`.

A known model name stands for a pinned GGUF inside package archives, or for a hub id; a corpus name stands for a pinned
text. Anything else is not looked up here: paths and hub ids are understood by `claw.models.load` and `claw.texts.token_blocks`.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

import yaml

from claw.models.archives import Archive


@dataclass(frozen=True)
class GGUFPart:
    """A member of an archive that holds a GGUF file or a consecutive part of one."""

    archive: Archive
    member: str


@dataclass(frozen=True)
class ModelSource:
    """A known model: either `hub` is set, or `parts` with the size and digest of the joined GGUF file."""

    name: str
    family: str
    parameters: int
    hub: str | None = None
    parts: tuple[GGUFPart, ...] = ()
    gguf_sha256: str | None = None
    gguf_bytes: int = 0
    tied: bool = False
    base_model: str | None = None
    licence: str = ""
    note: str = ""


@dataclass(frozen=True)
class CorpusSource:
    """A known text. `role` is "train" (calibration, recovery) or "heldout" (evaluation only)."""

    name: str
    role: str
    description: str
    licence: str
    archive: Archive
    member: str
    reader: str


@functools.cache
def _catalogue() -> Mapping:
    return yaml.safe_load(resources.files("claw.models").joinpath("sources.yaml").read_text(encoding="utf-8"))


def _model(name: str, entry: Mapping) -> ModelSource:
    parts = tuple(
        GGUFPart(Archive(p["package"], str(p["version"]), p["file"], p["sha256"]), p["member"])
        for p in entry.get("archives", ())
    )
    gguf = entry.get("gguf", {})
    plain = {key: entry[key] for key in ("hub", "tied", "base_model", "licence", "note") if key in entry}
    plain.setdefault("base_model", entry.get("hub"))
    return ModelSource(
        name, entry["family"], entry["parameters"], parts=parts, gguf_sha256=gguf.get("sha256"),
        gguf_bytes=gguf.get("bytes", 0), **plain,
    )  # fmt: skip


@functools.cache
def models() -> Mapping[str, ModelSource]:
    """The known models by name."""
    return {name: _model(name, entry) for name, entry in _catalogue()["models"].items()}


@functools.cache
def corpora() -> Mapping[str, CorpusSource]:
    """The known corpora by name."""
    return {
        name: CorpusSource(name, **{**entry, "archive": Archive(**entry["archive"])})
        for name, entry in _catalogue()["corpora"].items()
    }


def task_archive() -> Archive:
    """The archive that holds the benchmark data for offline tasks."""
    return Archive(**_catalogue()["tasks"]["archive"])
