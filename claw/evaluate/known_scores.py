"""Log-likelihoods that were computed before, in claw's cache, so that an interrupted evaluation continues.

There is one file per model and task. The model is named by its weights and configuration, the task by all token ids of its
requests: other prompts, another few-shot sample, limit, version or tokenizer are other ids. A file is written beside itself
and renamed; a damaged one counts as missing.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from claw.engine.prefix_tree import Request
from claw.models.load import weights_hash
from claw.project import cache

VERSION = 1  # of the engine's arithmetic and of the files
SECONDS = 30.0  # between two writings
ROW = np.dtype([("loglikelihood", "f8"), ("greedy", "i1")])  # greedy is -1 while a request is not scored


class KnownScores:
    """Scores of a list of requests, some known and some to come. As a context manager it saves itself when left, however."""

    def __init__(self, count: int):
        self._rows = np.full(count, np.array((np.nan, -1), dtype=ROW))
        self._files: list[tuple[Path, np.ndarray]] = []  # each task's file and its requests
        self._saved = time.monotonic()

    @classmethod
    def open(cls, model: nn.Module, requests: Sequence[Request], tasks: Sequence[str]) -> "KnownScores":
        """What the cache holds for these requests, `tasks` naming the task of each."""
        known = cls(len(requests))
        folder = cache() / "scores" / model_hash(model)
        names = np.array(tasks)
        for task in dict.fromkeys(tasks):
            where = np.flatnonzero(names == task)
            path = folder / f"{task.replace('/', '_')}-{requests_hash([requests[i] for i in where])}.npy"
            known._files.append((path, where))
            rows = _read(path, len(where))
            if rows is not None:
                known._rows[where] = rows
        return known

    @property
    def loglikelihood(self) -> np.ndarray:
        return self._rows["loglikelihood"]

    @property
    def greedy(self) -> np.ndarray:
        return self._rows["greedy"] > 0

    def missing(self) -> np.ndarray:
        """Indices of the requests without a score."""
        return np.flatnonzero(self._rows["greedy"] < 0)

    def add(self, numbers: np.ndarray, loglikelihoods: np.ndarray, greedy: np.ndarray) -> None:
        """Take over scores, and save from time to time."""
        self._rows["loglikelihood"][numbers], self._rows["greedy"][numbers] = loglikelihoods, greedy
        if time.monotonic() - self._saved > SECONDS:
            self.save()

    def save(self) -> None:
        """Write all tasks of which something is known."""
        for path, where in self._files:
            if (self._rows["greedy"][where] >= 0).any():
                _write(path, self._rows[where])
        self._saved = time.monotonic()

    def __enter__(self) -> "KnownScores":
        return self

    def __exit__(self, *error) -> None:
        self.save()


def model_hash(model: nn.Module) -> str:
    """What decides a model's scores: weights, configuration, kind of device, and the engine's version."""
    config = {
        name: value for name, value in model.config.to_dict().items() if name not in ("_name_or_path", "transformers_version")
    }
    parts = [
        weights_hash(model),
        json.dumps(config, sort_keys=True, default=str),
        next(model.parameters()).device.type,
        str(VERSION),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def requests_hash(requests: Sequence[Request]) -> str:
    """Hash over the token ids and targets of requests in their order."""
    digest = hashlib.sha256()
    for request in requests:
        digest.update(len(request.ids).to_bytes(8, "little"))
        digest.update(request.ids.tobytes())
        digest.update(request.targets.tobytes())
    return digest.hexdigest()[:16]


def _read(path: Path, count: int) -> np.ndarray | None:
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return rows if rows.dtype == ROW and rows.shape == (count,) else None


def _write(path: Path, rows: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as out:
            np.save(out, rows, allow_pickle=False)
        os.replace(scratch, path)
    finally:
        Path(scratch).unlink(missing_ok=True)
