"""How much of a held-out text also stands in a training text, by content: copies, other encodings, packed files, excerpts.

Texts are compared by their letters: white space, capitals and the forms of characters (Unicode NFKC) do not count. Every run
of `RUN` such letters, about a dozen words, has a hash. Of the different runs of the held-out text at most `RUNS` are looked
for, those whose hash is divisible by a power of two, which are the same ones in both texts. The share of them in the training
text is the overlap: a line that stands in every document counts once. Some seconds for 100 MB.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

RUN = 64  # letters; a power of two
RUNS = 1 << 18  # of the held-out text that are looked for
ACCEPTED = 0.01
"""Share of held-out runs that may stand in the training text: two honest texts share quotations, names and boilerplate (the
packaged Wikipedia texts 0.1 %), and with one in a hundred known by heart a loss is wrong by less than a hundredth of itself."""
CONTAINED = 0.5  # share of one document's own runs from which it counts as copied
LONG = 2000  # letters of a document of which not a single copy is accepted
TOGETHER = 1 << 21  # letters whose runs are hashed at once
TABLE = 1 << 24  # places of the table that is asked first
_BASE = 0x9E3779B97F4A7C15
Numbers = np.ndarray


@dataclass(frozen=True)
class Overlap:
    """What two texts share: the share of the held-out runs, how many documents are copied, and one of them."""

    share: float
    documents: int  # held-out documents most of whose runs stand in the training text
    copied: int  # of these, the ones of at least LONG letters
    example: str  # how the document that shares most begins

    @property
    def accepted(self) -> bool:
        return self.share <= ACCEPTED and not self.copied

    def sentence(self) -> str:
        """How much overlaps, with an example."""
        copies = f", {self.documents:,} of its documents for the most part" if self.documents else ""
        return f"{self.share:.1%} of it{copies}; for example the document that begins {self.example!r}"


def overlap_of(heldout: Iterable[str], training: Iterable[str]) -> Overlap:
    """The overlap of two texts, given as their documents."""
    texts = list(heldout)
    plain = [letters(text) for text in texts]
    run = min(RUN, _power_of_two(max(map(len, plain), default=1)))
    total = sum(map(len, plain))
    step = 1
    while total // step > RUNS:
        step *= 2
    hashes, owners = [], []
    for number, hashed in _runs(plain, run):
        chosen = hashed[hashed % np.uint64(step) == 0]
        hashes.append(chosen)
        owners.append(np.full(len(chosen), number))
    every, owner = np.concatenate([np.zeros(0, np.uint64), *hashes]), np.concatenate([np.zeros(0, np.int64), *owners])
    wanted = np.unique(every)
    if not len(wanted):
        return Overlap(0.0, 0, 0, "")
    there = np.isin(every, _present(wanted, (letters(text) for text in training), run, step))
    each = np.maximum(np.bincount(owner, minlength=len(texts)), 1)
    shares = np.bincount(owner, weights=there, minlength=len(texts)) / each
    copies = np.flatnonzero(shares >= CONTAINED)
    long = sum(len(plain[number]) >= LONG for number in copies)
    most = int(np.argmax(np.bincount(owner, weights=there, minlength=len(texts))))
    share = len(np.unique(every[there])) / len(wanted)
    return Overlap(share, len(copies), long, " ".join(texts[most].split())[:80] if there.any() else "")


def letters(text: str) -> bytes:
    """What is compared of a text."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return "".join(text.casefold().split()).encode("utf-8", errors="replace")


def _power_of_two(number: int) -> int:
    """The largest power of two that is not above a number; at least 1."""
    return 1 << (max(number, 1).bit_length() - 1)


def _runs(documents: Iterable[bytes], run: int) -> Iterator[tuple[int, Numbers]]:
    """Number of each document and the hashes of its runs; of one shorter than a run there are none."""
    for number, text in enumerate(documents):
        for start in range(0, max(len(text) - run + 1, 0), TOGETHER):
            yield number, rolling(np.frombuffer(text[start : start + TOGETHER + run - 1], np.uint8), run)


def rolling(values: Numbers, run: int) -> Numbers:
    """uint64 hashes of all runs of `run` values, a power of two: a polynomial modulo 2^64, by doubling."""
    hashed = (values.astype(np.uint64) + np.uint64(1)) * np.uint64(_BASE | 1)
    hashed ^= hashed >> np.uint64(29)
    width, factor = 1, _BASE
    while width < run:
        hashed = hashed[:-width] * np.uint64(factor) + hashed[width:]
        width, factor = 2 * width, factor * factor % (1 << 64)
    return hashed ^ (hashed >> np.uint64(32))


def _present(wanted: Numbers, documents: Iterable[bytes], run: int, step: int) -> Numbers:
    """Which of the wanted hashes, in order, stand in the documents."""
    shift = np.uint64(64 - (TABLE.bit_length() - 1))
    table = np.zeros(TABLE, bool)
    table[wanted >> shift] = True
    present = np.zeros(len(wanted), bool)
    for _, hashed in _runs(_joined(documents), run):
        near = hashed[table[hashed >> shift]] if step == 1 else hashed[hashed % np.uint64(step) == 0]
        present |= np.isin(wanted, near)
    return wanted[present]


def _joined(documents: Iterable[bytes]) -> Iterator[bytes]:
    """Documents one after the other in pieces of about TOGETHER letters; a joint's runs are no copy of anything."""
    held: list[bytes] = []
    for text in documents:
        held.append(text)
        if sum(map(len, held)) >= TOGETHER or len(held) > 10_000:
            yield b"\0".join(held)
            held = []
    if held:
        yield b"\0".join(held)
