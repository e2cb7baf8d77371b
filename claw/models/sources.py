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


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A known model: either `hub` is set, or `parts`, which joined make a GGUF file of this size and digest."""

    name: str
    family: str
    parameters: int
    hub: str = ""
    parts: tuple[Archive, ...] = ()
    gguf_sha256: str = ""
    gguf_bytes: int = 0
    tied: bool = False
    base_model: str | None = None
    licence: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
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


@functools.cache
def models() -> Mapping[str, ModelSource]:
    """The known models by name."""
    known = {}
    for name, entry in _catalogue()["models"].items():
        parts = tuple(Archive(**part) for part in entry.get("parts", ()))
        known[name] = ModelSource(name=name, **{"base_model": entry.get("hub")} | entry | {"parts": parts})
    return known


@functools.cache
def corpora() -> Mapping[str, CorpusSource]:
    """The known corpora by name."""
    entries = _catalogue()["corpora"].items()
    return {name: CorpusSource(name=name, **entry | {"archive": Archive(**entry["archive"])}) for name, entry in entries}


def task_archive() -> Archive:
    """The archive that holds the benchmark data for offline tasks."""
    return Archive(**_catalogue()["tasks"]["archive"])
