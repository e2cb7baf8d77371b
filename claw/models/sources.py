"""What a name means: the catalogue of models, corpora and task archives in `sources.yaml`.

A known model name stands for a pinned GGUF inside package archives, or for a hub id; a corpus name stands for a pinned
text. Anything else is not looked up here: paths and hub ids are understood by `claw.models.load` and `claw.texts.token_blocks`.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import yaml

from claw.models.archives import Archive
from claw.project import cache


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


def folder_of_known(source: ModelSource) -> Path:
    """Where the checkpoint of a known model of pinned archives is kept once it was fetched."""
    return cache() / "models" / f"{source.name}-{source.gguf_sha256[:12]}"


def bytes_here(source: ModelSource) -> int:
    """Bytes of a known model on this machine, 0 where it was not fetched: in claw's cache, or in that of the hub."""
    if not source.hub:
        return sum(file.stat().st_size for file in folder_of_known(source).glob("*") if file.is_file())
    from huggingface_hub import constants

    repository = Path(constants.HF_HUB_CACHE) / f"models--{source.hub.replace('/', '--')}"
    whole = any(repository.glob("snapshots/*/*.safetensors"))
    return sum(file.stat().st_size for file in repository.glob("blobs/*") if file.is_file()) if whole else 0


def task_archive() -> Archive:
    """The archive that holds the benchmark data for offline tasks."""
    return Archive(**_catalogue()["tasks"]["archive"])
