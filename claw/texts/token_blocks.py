"""Token blocks: fixed-length pieces of a corpus for calibration, recovery and held-out evaluation.

Notable choices:
- The three purposes never share a document. Held-out text comes from a corpus of its own (refused otherwise); of a
  training corpus every 20th document is for calibration and the rest for recovery.
- A token without its document before it is context, not target: the first token of each document is not scored, so no
  label leaks across documents that happen to be packed together.
- Where a tokenizer puts a beginning-of-text token before text by default (Gemma), every block begins with it.
"""

import math
import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad

from claw import files
from claw.errors import InputError, unknown
from claw.models import sources
from claw.progress import tqdm
from claw.project import inside_project
from claw.texts import corpora

PURPOSES = ("calibration", "recovery", "heldout")
CALIBRATION_SHARE = 20  # one document in so many
SEPARATOR = "\n\n"
RUN = 32  # tokens that must follow one another for a piece of held-out text to count as copied
ACCEPTED = 0.01  # share of held-out runs in the training text: honest texts share quotations and boilerplate
_BASE = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Token ids cut into equal blocks, with what is needed to name losses properly.

    `ids` (N, T) int64; `scored` (N, T) bool, True where the token is a prediction target; `words` and `bytes` count the
    scored text (bytes of UTF-8, words by white space), for word perplexity and bits per byte.
    """

    ids: torch.Tensor
    scored: torch.Tensor
    words: float
    bytes: int
    corpus: str
    purpose: str
    seed: int = 0

    def __len__(self) -> int:
        return self.ids.shape[0]

    @property
    def length(self) -> int:
        return self.ids.shape[1]

    @property
    def tokens(self) -> int:
        """Number of prediction targets."""
        return int(self.scored.sum())

    def part(self, rows: slice) -> "Blocks":
        """Some of the blocks; how many words and bytes they stand for is not known."""
        return replace(self, ids=self.ids[rows], scored=self.scored[rows], words=math.nan, bytes=0)

    @property
    def sha256(self) -> str:
        """First 16 hex digits of a hash over ids and targets: what was measured on, or calibrated with."""
        return files.digest(self.ids.numpy().tobytes(), self.scored.numpy().tobytes())


def blocks(
    tokenizer: Any,
    corpus: str,
    *,
    length: int = 512,
    count: int = 64,
    purpose: str = "calibration",
    seed: int = 0,
    stride: int | None = None,
) -> Blocks:
    """`count` blocks of `length` tokens from a named corpus or a text file.

    `purpose` is "calibration", "recovery" or "heldout" and decides which documents are used. With seed 0 documents come
    in their own order, other seeds shuffle them (never for held-out text, which is the same for everyone). With `stride`
    held-out blocks overlap: each begins `stride` tokens after the one before, and only its last `stride` tokens are scored,
    so that every scored token has at least length - stride tokens of context.
    """
    if purpose not in PURPOSES:
        raise unknown("purpose", purpose, PURPOSES)
    if length < 2 or count < 1:
        raise InputError(f"blocks need length >= 2 and count >= 1, not length={length}, count={count}.")
    if stride is not None and (purpose != "heldout" or not 1 <= stride < length):
        raise InputError(
            f"stride={stride} does not fit purpose {purpose!r} and length={length}. Overlapping blocks are for held-out text "
            "only, with a stride from 1 to length - 1; leave it out for blocks side by side."
        )
    check_purpose(corpus, purpose)
    texts = documents_for(corpus, purpose, seed)
    return _pack(tokenizer, texts, length, count, stride, corpus=corpus, purpose=purpose, seed=seed)


def documents_for(corpus: str, purpose: str, seed: int = 0) -> list[str]:
    """The documents of a corpus that a purpose uses, in their order."""
    texts = _share(corpora.documents(corpus), purpose)
    if seed and purpose != "heldout":
        random.Random(seed).shuffle(texts)
    return texts


def check_purpose(corpus: str, purpose: str) -> None:
    """Refuse training on a held-out corpus and evaluating on a training one."""
    corpora.check_corpus(corpus)
    known = sources.corpora().get(corpus)
    if known and (known.role == "heldout") != (purpose == "heldout"):
        use = "for evaluation only" if known.role == "heldout" else "for calibration and recovery"
        others = [name for name, other in sources.corpora().items() if other.role != known.role]
        raise InputError(
            f"corpus {corpus!r} is {use} and cannot serve as {purpose} text, because what is trained on must not be tested on. "
            f"Use {', '.join(others)} or a file."
        )


def check_disjoint(training: str, heldout: str) -> None:
    """Refuse one text for training and for testing."""
    if training == heldout or inside_project(training).resolve() == inside_project(heldout).resolve():
        raise InputError(
            f"{training!r} is named both for calibration or recovery and as held-out text. A model must not be tested on what "
            "it was tuned on: name two different texts."
        )


def check_no_overlap(training: Blocks, heldout: Blocks) -> float:
    """Share of the held-out runs of tokens that are also in the training text; InputError when too large for honest texts."""
    run = min(RUN, training.length, heldout.length)
    share = float(np.isin(np.unique(_hashes(heldout, run)), _hashes(training, run)).mean())
    if share > ACCEPTED:
        raise InputError(
            f"{share:.0%} of the held-out text ({heldout.corpus!r}) is also in the training text ({training.corpus!r}): runs "
            f"of {RUN} tokens were compared, and {ACCEPTED:.0%} is accepted for quotations. A model must not be tested on what "
            "it was trained on: use another held-out text, or take these documents out of the training text."
        )
    return share


def _hashes(blocks: Blocks, run: int) -> np.ndarray:
    """uint64 hashes of all runs of `run` tokens inside blocks, as one array: a polynomial modulo 2^64."""
    ids = blocks.ids.numpy().astype(np.uint64)
    places = ids.shape[1] - run + 1
    hashed = np.zeros((ids.shape[0], places), np.uint64)
    for step in range(run):
        hashed *= _BASE
        hashed += ids[:, step : step + places] + np.uint64(1)
    return hashed.ravel()


def _share(documents: tuple[str, ...], purpose: str) -> list[str]:
    if purpose == "heldout":
        return list(documents)
    if len(documents) < CALIBRATION_SHARE:  # a small file: calibrate on its first document, recover on the others
        return list(documents[:1] if purpose == "calibration" else documents[1:])
    return [d for i, d in enumerate(documents) if (i % CALIBRATION_SHARE == 0) == (purpose == "calibration")]


def _pack(tokenizer, texts: list[str], length: int, count: int, stride: int | None, **about: Any) -> Blocks:
    """The first tokens of these texts as blocks; `about` says where they are from."""
    first = tokenizer("a")["input_ids"][:1]
    bos = first if first == [tokenizer.bos_token_id] else []  # whether this tokenizer puts it before ordinary text
    step = length - len(bos)  # tokens of text in a block
    apart = stride or step  # from the beginning of one block to that of the next
    room = step + apart * (count - 1)
    ids: list[int] = []
    targets: list[bool] = []
    sizes: list[int] = []  # bytes of each token's text
    words: list[float] = []  # words that begin in it
    with tqdm(total=room, desc=f"tokens of {about['corpus']}", unit=" tokens", disable=None, leave=False) as bar:
        for text in texts:
            new, new_sizes, new_words = _encode(tokenizer, text if text.endswith(SEPARATOR) else text + SEPARATOR)
            ids += new
            sizes += new_sizes
            words += new_words
            targets += [place > 0 for place in range(len(new))]
            bar.update(len(new))
            if len(ids) >= room:
                break
    if len(ids) < room:
        whole = (len(ids) - step) // apart + 1
        raise InputError(
            f"corpus {about['corpus']!r} has only {len(ids):,} tokens for {about['purpose']} with this tokenizer, but {count} "
            f"blocks of {length} need {room:,}. Ask for at most {max(whole, 0)} blocks of this length, or use a longer text."
        )
    cut = lambda values: torch.tensor(values[:room]).unfold(0, step, apart).clone()
    body, scored, size, word = cut(ids), cut(targets), cut(sizes), cut(words)
    if stride:
        scored[:, : step - stride] = False
    if not bos:
        scored[:, 0] = False  # nothing stands before it
    about |= {"words": float(word.double()[scored].sum()), "bytes": int(size[scored].sum())}
    before = (len(bos), 0)
    return Blocks(ids=pad(body, before, value=sum(bos)), scored=pad(scored, before, value=False), **about)


def _encode(tokenizer, text: str) -> tuple[list[int], list[int], list[float]]:
    """Ids of a text without special tokens, with the UTF-8 bytes and the word beginnings that each token covers."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ends = [end for _, end in encoded["offset_mapping"]]
    ids, sizes, words = encoded["input_ids"], [], []
    reached = 0
    for end, following in zip(ends, [*ends[1:], len(text) + 1], strict=True):
        # a character spread over several byte tokens counts with the one that completes it, so sums are never too large
        piece = text[reached:end] if following > end else ""
        sizes.append(len(piece.encode("utf-8")))
        before = text[reached - 1] if reached else " "
        words.append(float(sum(not c.isspace() and p.isspace() for p, c in zip(before + piece, piece, strict=False))))
        reached += len(piece)
    return ids, sizes, words
