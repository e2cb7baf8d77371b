"""Log-likelihoods that were computed before, in claw's cache, so that an interrupted evaluation continues.

There is one file per model and task. The model is named by its weights and configuration, the task by all token ids of its
requests: other prompts, another few-shot sample, limit, version or tokenizer are other ids. A damaged file counts as missing.
"""

import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from claw.engine.prefix_tree import Request
from claw.files import digest, whole
from claw.models.load import weights_hash
from claw.project import cache

VERSION = 2  # of the engine's arithmetic and of the files
SECONDS = 30.0  # between two writings
ROW = np.dtype([("loglikelihood", "f8"), ("greedy", "i1")])  # greedy is -1 while a request is not scored


class KnownScores(AbstractContextManager):
    """Scores of requests, some known and some to come, `tasks` naming the task of each. Saves itself when left, however.

    Known is what the cache holds for `model`; without one nothing is known or kept.
    """

    def __init__(self, requests: Sequence[Request], tasks: Sequence[str], model: Any = None):
        self._rows = np.full(len(requests), np.array((np.nan, -1), dtype=ROW))
        self._files: list[tuple[Path, np.ndarray]] = []  # each task's file and its requests
        self._saved = time.monotonic()
        if model is None:
            return
        folder, names = cache() / "scores" / model_hash(model), np.array(tasks)
        for task in dict.fromkeys(tasks):
            where = np.flatnonzero(names == task)
            path = folder / f"{task.replace('/', '_')}-{requests_hash([requests[i] for i in where.tolist()])}.npy"
            self._files.append((path, where))
            with suppress(OSError, ValueError, EOFError):
                rows = np.load(path, allow_pickle=False)
                if rows.dtype == ROW and rows.shape == where.shape:
                    self._rows[where] = rows

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
                with whole(path) as scratch, scratch.open("wb") as out:
                    np.save(out, self._rows[where], allow_pickle=False)
        self._saved = time.monotonic()

    def __exit__(self, *error) -> None:
        self.save()


def model_hash(model: Any) -> str:
    """What decides a model's scores: weights, configuration, kind of device, and the engine's version."""
    names = ("_name_or_path", "transformers_version")  # which decide nothing
    config = {name: value for name, value in model.config.to_dict().items() if name not in names}
    plain = json.dumps(config, sort_keys=True, default=str)
    return digest("\n".join([weights_hash(model), plain, next(model.parameters()).device.type, str(VERSION)]))


def requests_hash(requests: Sequence[Request]) -> str:
    """Hash over the token ids and targets of requests in their order."""
    return digest(*(len(r.ids).to_bytes(8, "little") + r.ids.tobytes() + r.targets.tobytes() for r in requests))
