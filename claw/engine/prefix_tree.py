"""Prefix sharing: requests as a prefix tree of tokens, so that what several of them begin with is computed once.

A request is a sequence of token ids whose last ones are to be predicted. Sorted, requests with a common beginning are
neighbours, and their longest common prefixes make a prefix tree (a trie). The tree is cut into

- rows: small trees packed depth first. Token i may attend to token j exactly if j <= i < end[j], where end[j] is one past
  the last descendant of j, so one integer per token states the whole attention mask. A row without branches is an
  ordinary causal sequence; a token's position is its depth in the tree.
- stems: long prefixes shared by many rows (the examples of a few-shot task). Their keys and values are computed once and
  every row below attends to them. Stems nest.

Nothing here knows a model; all arrays are numpy.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

ROW_TOKENS = 256  # a branching row attends within itself densely, so it stays short ...
LONG_ROW_TOKENS = 1024  # ... unless one request alone is nearly as long
STEM_TOKENS = 16  # shorter prefixes are not worth a pass of their own
STEM_SAVING = 256  # tokens that a stem must save
SHARED_TOKENS = 2  # neighbours in one row share at least so many

Array = Any  # of numpy; of torch in the groups that the decoder has sent to a device


@dataclass(frozen=True, eq=False)
class Request:
    """Token ids (n,) of which those at indices `targets` (ascending, none of them 0) are predicted from all before them.

    The last id is a target, so it is never read: the model sees ids[:-1].
    """

    ids: np.ndarray
    targets: np.ndarray

    @staticmethod
    def ending(ids: Sequence[int], count: int) -> "Request":
        """The request to predict the last `count` ids."""
        return Request(np.asarray(ids, dtype=np.int32), np.arange(len(ids) - count, len(ids)))


@dataclass(frozen=True)
class Row:
    """Requests lo to hi of the sorted order in one tree of `size` tokens below their stem, which may be a chain."""

    lo: int
    hi: int
    size: int
    branches: bool


@dataclass(eq=False)
class Stem:
    """A shared prefix of `length` tokens, of which `ids` come after those of the stem above, and what hangs below it."""

    ids: np.ndarray
    length: int
    rows: list[Row] = field(default_factory=list)
    stems: list["Stem"] = field(default_factory=list)

    def walk(self) -> Iterator["Stem"]:
        """This stem and all below it."""
        yield self
        for stem in self.stems:
            yield from stem.walk()


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows of a batch that attend together, padded to length T: tokens `span` of the packed batch.

    `index` (B, T): which packed token stands where (padding repeats some token); None if nothing is padded. `back` (tokens,):
    where the packed tokens stand in the flattened B·T. `end` (B, T): one past the last descendant within the row; padding
    attends only to itself. `positions` (B, T): absolute. `causal`: no row branches, so the mask is the plain causal one.
    """

    span: slice
    index: Array | None = None
    back: Array | None = None
    end: Array
    positions: Array
    causal: bool


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of one stem, packed without padding, with what is to be read off them.

    `tokens`, `positions` (N,): ids and absolute positions. `places` (K,): indices of the tokens whose next token is scored,
    each once. For each predicted token (M,): in `place` the index of its place in `places`, in `target` its id, in `owner`
    the index of its request in `requests`.
    """

    tokens: np.ndarray
    positions: np.ndarray
    groups: tuple[Group, ...]
    places: np.ndarray
    place: np.ndarray
    target: np.ndarray
    owner: np.ndarray
    requests: np.ndarray


class PrefixTree:
    """All requests of one call as stems and rows.

    With `share=False` every request is a row of its own, as a stock model computes it.
    """

    def __init__(self, requests: Sequence[Request], *, share: bool = True):
        self.shared = share
        inputs = [request.ids[:-1].astype(">u4").tobytes() for request in requests]  # sort like the ids themselves
        self.order = np.array(sorted(range(len(requests)), key=inputs.__getitem__), dtype=np.int64)
        self._requests = [requests[i] for i in self.order]
        self._size = np.array([len(request.ids) - 1 for request in self._requests], dtype=np.int64)
        self._first = np.array([request.targets[0] for request in self._requests], dtype=np.int64)
        self._common = np.zeros(len(requests), dtype=np.int64)  # tokens shared with the request before
        if share:
            for i in range(1, len(requests)):
                self._common[i] = common_prefix(self._requests[i - 1].ids[:-1], self._requests[i].ids[:-1])
        self._fresh = np.concatenate([[0], np.cumsum(self._size - self._common)])
        self.root = Stem(np.empty(0, dtype=np.int32), 0)
        self._grow()
        for stem in self.root.walk():
            stem.rows.sort(key=_branches_last_longest_first)

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def tokens(self) -> int:
        """Tokens that the model reads, each shared one once, padding not counted."""
        return sum(len(stem.ids) + sum(row.size for row in stem.rows) for stem in self.root.walk())

    def _measure(self, lo: int, hi: int, base: int) -> tuple[int, int]:
        """Tokens beyond depth `base` of the tree of requests lo to hi, which share it, and of the longest of them."""
        size = int(self._size[lo] + self._fresh[hi] - self._fresh[lo + 1])
        return size - base, int(self._size[lo:hi].max()) - base

    def _fits(self, lo: int, hi: int, base: int) -> bool:
        """Whether these requests may be one row: a short tree, a chain, or a long sequence with little on its branches."""
        size, longest = self._measure(lo, hi, base)
        return size <= ROW_TOKENS or size == longest or (size <= LONG_ROW_TOKENS and 2 * size <= 3 * longest)

    def _grow(self) -> None:
        """Cut the tree into stems and rows, from the root downwards."""
        todo = [(0, len(self), self.root)] if len(self) else []
        while todo:
            lo, hi, stem = todo.pop()
            size, longest = self._measure(lo, hi, stem.length)
            shared = self._common[lo + 1 : hi]
            common = int(shared.min(initial=self._size[lo]))
            related = common - stem.length >= SHARED_TOKENS or size == longest  # else one row would save nothing
            if related and self._fits(lo, hi, stem.length):
                stem.rows.append(Row(lo, hi, size, branches=size > longest))
                continue
            parts = list(itertools.pairwise([lo, *(lo + 1 + np.flatnonzero(shared == common)).tolist(), hi]))
            deepest = min(common, int(self._first[lo:hi].min()) - 1)  # a place that predicts is never inside a stem
            saving = (deepest - stem.length) * (len(parts) - 1)
            if deepest - stem.length >= STEM_TOKENS and saving >= STEM_SAVING:
                below = Stem(self._requests[lo].ids[stem.length : deepest], deepest)
                stem.stems.append(below)
                stem = below
            if common - stem.length >= SHARED_TOKENS:
                parts = self._merge(parts, stem.length)
            todo += [(start, stop, stem) for start, stop in parts]

    def _merge(self, parts: list[tuple[int, int]], base: int) -> list[tuple[int, int]]:
        """Join neighbouring parts as long as they fit in one row."""
        merged = [parts[0]]
        for start, stop in parts[1:]:
            if self._fits(merged[-1][0], stop, base):
                merged[-1] = (merged[-1][0], stop)
            else:
                merged.append((start, stop))
        return merged

    def batch(self, stem: Stem, rows: Sequence[Row], step: int = 1) -> Batch:
        """These rows of a stem as arrays; rows whose sizes round up to the same multiple of `step` attend together."""
        rows = sorted(rows, key=_branches_last_longest_first)
        stops = np.cumsum([row.size for row in rows])
        tokens, positions, end = (np.empty(stops[-1], dtype=np.int64) for _ in range(3))
        predicting, targets = [], []
        for row, stop in zip(rows, stops, strict=True):
            own = slice(stop - row.size, stop)
            for places, request in self._lay_out(row, stem.length, tokens[own], positions[own], end[own]):
                predicting.append(places + own.start)
                targets.append(request.ids[request.targets].astype(np.int64))
        unique, place = np.unique(np.concatenate(predicting), return_inverse=True)
        scored = {"places": unique, "place": place, "target": np.concatenate(targets)}
        owner = np.repeat(np.arange(len(targets)), [len(ids) for ids in targets])
        requests = np.concatenate([self.order[row.lo : row.hi] for row in rows])
        groups = tuple(_groups(rows, end, positions, step))
        return Batch(tokens=tokens, positions=positions, groups=groups, **scored, owner=owner, requests=requests)

    def _lay_out(
        self, row: Row, base: int, tokens: np.ndarray, positions: np.ndarray, end: np.ndarray
    ) -> Iterator[tuple[np.ndarray, Request]]:
        """Write one tree depth first; yield each request with the places that predict its targets."""
        _, longest = self._measure(row.lo, row.hi, base)
        path = np.empty(longest, dtype=np.int64)  # places of the current request, by depth
        used = reached = 0
        for i in range(row.lo, row.hi):
            start = 0 if i == row.lo else int(self._common[i]) - base
            size = int(self._size[i]) - base
            end[path[start:reached]] = used  # branches that end here
            new = slice(used, used + size - start)
            path[start:size] = np.arange(new.start, new.stop)
            tokens[new] = self._requests[i].ids[base + start : base + size]
            positions[new] = np.arange(base + start, base + size)
            used, reached = new.stop, size
            yield path[self._requests[i].targets - 1 - base], self._requests[i]
        end[path[:reached]] = used


def padded(size: int, step: int) -> int:
    """`size` rounded up to a multiple of `step`."""
    return size + -size % step


def _branches_last_longest_first(row: Row) -> tuple[bool, int]:
    return row.branches, -row.size


def _groups(rows: Sequence[Row], end: np.ndarray, positions: np.ndarray, step: int) -> Iterator[Group]:
    start = 0
    for (branches, length), run in itertools.groupby(rows, key=lambda row: (row.branches, padded(row.size, step))):
        sizes = np.array([row.size for row in run])
        span = slice(start, start + int(sizes.sum()))
        place = np.arange(length)
        valid = place < sizes[:, None]
        index = (start + np.cumsum(sizes) - sizes)[:, None] + np.minimum(place, sizes[:, None] - 1)
        padding = {} if valid.all() else {"index": index, "back": np.flatnonzero(valid)}
        ends = np.where(valid, end[index], place + 1)
        yield Group(span=span, **padding, end=ends, positions=positions[index], causal=not branches)
        start = span.stop


def common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    """Length of the longest common prefix."""
    n = min(len(a), len(b))
    differ = a[:n] != b[:n]
    where = int(differ.argmax()) if n else 0
    return where if n and differ[where] else n
