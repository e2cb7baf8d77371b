"""How much of a held-out text also stands in a training text, by content: copies, other encodings, packed files, excerpts.

Texts are compared by their letters: white space, capitals and the forms of characters (Unicode NFKC) do not count, nor does
how a text is cut into documents. Every run of `RUN` such letters, about a dozen words, has a hash, and so has every document
that is shorter than that. Of the different runs of the held-out text at most `LOOKED_FOR` are looked for, those whose hash is
divisible by a power of two, which are the same ones in both texts. The share of them in the training text is the overlap: a
line that stands in every document counts once. Some seconds for 100 MB.
"""

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

RUN = 64  # letters; a power of two
SHORT = 24  # letters from which a whole document says more than "thank you"
LOOKED_FOR = 1 << 18  # hashes of the held-out text
ACCEPTED = 0.01
"""Share of held-out runs that may stand in the training text: honest texts share quotations, lists and boilerplate (two halves
of one Wikipedia 0.2 %), and even where all of that is known by heart the loss is wrong by less than a hundredth of itself."""
CONTAINED = 0.5  # share of a document's own runs, or of the training text's, from which it counts as taken from the other text
TOGETHER = 1 << 18  # letters whose runs are hashed at once
TABLE = 1 << 24  # places of the table that is asked first
_BASE = 0x9E3779B97F4A7C15
Hashes = np.ndarray


@dataclass(frozen=True)
class Overlap:
    """What two texts share: the share of the runs of each, how many held-out documents are copied, and one of them."""

    share: float  # of the held-out runs, different ones
    training: float  # of the training runs
    documents: int  # held-out documents most of whose runs stand in the training text
    example: str  # how the document that shares most begins

    @property
    def accepted(self) -> bool:
        return self.share <= ACCEPTED and self.training < CONTAINED

    def sentence(self) -> str:
        """How much overlaps, with an example."""
        copies = f", {self.documents:,} of its documents for the most part" if self.documents else ""
        return f"{self.share:.1%} of it{copies}, {self.training:.1%} of the other; for example what begins {self.example!r}"


def overlap_of(heldout: Iterable[str], training: Iterable[str]) -> Overlap:
    """The overlap of two texts, given as their documents."""
    texts = list(heldout)
    plain = [letters(text) for text in texts]
    ends = np.cumsum([len(text) for text in plain])
    total = int(ends[-1]) if len(ends) else 0
    run, step = min(RUN, 1 << (max(total, 1).bit_length() - 1)), 1
    while total // step > LOOKED_FOR:
        step *= 2
    runs, places = (np.concatenate(parts) for parts in zip(*_runs(plain, run, step), strict=True))
    whole = np.array([_whole(text) if SHORT <= len(text) < run else 0 for text in plain], np.uint64)
    wanted = np.unique(np.concatenate([runs, whole]))
    if not len(runs):
        return Overlap(0.0, 0.0, 0, "")
    present, training_share = _present(wanted, (letters(text) for text in training), run, step)
    owner = np.searchsorted(ends, places, side="right")
    seen = present[np.searchsorted(wanted, runs)] | present[np.searchsorted(wanted, whole)][owner]
    shared, own = np.bincount(owner, weights=seen, minlength=len(texts)), np.bincount(owner, minlength=len(texts))
    _, first = np.unique(runs, return_index=True)
    example = " ".join(texts[int(np.argmax(shared))].split())[:80] if seen.any() else ""
    return Overlap(float(seen[first].mean()), training_share, int((shared > CONTAINED * own).sum()), example)


def letters(text: str) -> bytes:
    """What is compared of a text."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return "".join(text.casefold().split()).encode("utf-8", errors="replace")


def _whole(text: bytes) -> int:
    """Hash of a document; never 0, which stands for none."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") | 1


def _runs(documents: Iterable[bytes], run: int, step: int) -> Iterator[tuple[Hashes, np.ndarray]]:
    """Hashes of all runs of a text that are divisible by `step`, and where each begins."""
    held, begin = bytearray(), 0
    for text in documents:
        held += text
        while len(held) >= TOGETHER + run:
            yield _divisible(held[: TOGETHER + run - 1], run, step, begin)
            begin += TOGETHER
            del held[:TOGETHER]
    yield _divisible(held, run, step, begin)


def _divisible(text: bytearray, run: int, step: int, begin: int) -> tuple[Hashes, np.ndarray]:
    if len(text) < run:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    hashed = rolling(np.frombuffer(bytes(text), np.uint8), run)
    places = np.flatnonzero(hashed & np.uint64(step - 1) == 0)
    return hashed[places], places + begin


def rolling(values: np.ndarray, run: int) -> Hashes:
    """uint64 hashes of all runs of `run` values, a power of two: a polynomial modulo 2^64, by doubling."""
    hashed = (values.astype(np.uint64) + np.uint64(1)) * np.uint64(_BASE)
    hashed ^= hashed >> np.uint64(29)
    width, factor = 1, _BASE
    while width < run:
        hashed = hashed[:-width] * np.uint64(factor) + hashed[width:]
        width, factor = 2 * width, factor * factor % (1 << 64)
    return hashed ^ (hashed >> np.uint64(32))


def _present(wanted: Hashes, documents: Iterable[bytes], run: int, step: int) -> tuple[np.ndarray, float]:
    """For each of the wanted hashes, which ascend, whether it is that of a run or a short document of a text (0 never is).

    Also the share of the text's runs that are wanted.
    """
    shift = np.uint64(64 - (TABLE.bit_length() - 1))
    table = np.zeros(TABLE, bool)
    table[wanted >> shift] = True
    present = np.zeros(len(wanted), bool)
    short: list[int] = []

    def look_up(hashed: Hashes) -> int:
        near = hashed[table[hashed >> shift]]
        where = np.minimum(np.searchsorted(wanted, near), len(wanted) - 1)
        present[where[wanted[where] == near]] = True
        return int((wanted[where] == near).sum())

    def noted() -> Iterator[bytes]:
        for text in documents:
            if SHORT <= len(text) < run:
                short.append(_whole(text))
            yield text

    counts = [(look_up(hashed), len(hashed)) for hashed, _ in _runs(noted(), run, step)]
    look_up(np.array(short, np.uint64))
    hits, runs = map(sum, zip(*counts, strict=True))
    return present & (wanted != 0), hits / max(runs, 1)
