"""Token blocks: fixed-length pieces of a corpus for calibration, recovery and held-out evaluation.

Notable choices:
- Held-out text is never trained on: it comes from a corpus of its own, and texts are compared by content, not by name.
- Of a training corpus every 20th document is for calibration and the others for recovery. Where one's own share is too short
  the other's is used as well: both are training text.
- A token without its document before it is context, not target: the first token of each document is not scored, so no
  label leaks across documents that happen to be packed together.
- Of a mix each text gives its share of the blocks, and they are spread evenly, so that the first of them are mixed alike.
- Of a conversation only the answers are targets (`claw.texts.conversations`).
- Where a tokenizer puts a beginning-of-text token before text by default (Gemma), every block begins with it.
"""

import json
import math
import operator
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad

from claw import files
from claw.errors import InputError, unknown
from claw.models import sources
from claw.models.undisturbed import leaves_as_before
from claw.progress import tqdm
from claw.project import cache
from claw.specs.mixture import mix_shares, mix_text
from claw.texts import corpora
from claw.texts.conversations import Conversation, encode_conversation
from claw.texts.overlap import ACCEPTED, Overlap, overlap_of, rolling
from claw.texts.tokenise import Token, encode_text

PURPOSES = ("calibration", "recovery", "heldout")
CALIBRATION_SHARE = 20  # one document in so many
SEPARATOR = "\n\n"
RUN = 32  # tokens that must follow one another for a piece of held-out text to count as copied; a power of two
VERSION = 1  # of how texts are compared; part of the name under which the result is kept


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


@leaves_as_before
def blocks(
    tokenizer: Any,
    corpus: str | Mapping[str, float],
    *,
    length: int = 512,
    count: int = 64,
    purpose: str = "calibration",
    seed: int = 0,
    stride: int | None = None,
) -> Blocks:
    """`count` blocks of `length` tokens from a named corpus, a text file or a folder of them (`claw.texts.readers`).

    A mix names several with their shares of the blocks, {"wikipedia-train": 0.7, "my.jsonl": 0.3} (`claw.specs.mixture`).

    `purpose` is "calibration", "recovery" or "heldout" and decides which documents are used. With seed 0 documents come
    in their own order, other seeds shuffle them (never for held-out text, which is the same for everyone). With `stride`
    held-out blocks overlap: each begins `stride` tokens after the one before, and only its last `stride` tokens are scored,
    so that every scored token has at least length - stride tokens of context. Raises InputError for text that cannot be read,
    and where there is too little of it.
    """
    if purpose not in PURPOSES:
        raise unknown("purpose", purpose, PURPOSES)
    length, count, seed = _whole("length", length), _whole("count", count), _whole("seed", seed)
    if length < 2 or count < 1:
        raise InputError(f"blocks need length >= 2 and count >= 1, not length={length}, count={count}.")
    stride = None if stride is None else _whole("stride", stride)
    if stride is not None and (purpose != "heldout" or not 1 <= stride < length):
        raise InputError(
            f"stride={stride} does not fit purpose {purpose!r} and length={length}. Overlapping blocks are for held-out text "
            "only, with a stride from 1 to length - 1; leave it out for blocks side by side."
        )
    named: str = mix_text(corpus)
    check_purpose(named, purpose)
    counts = mixed_counts(named, count)
    if len(counts) > 1:
        return _mixed(tokenizer, named, counts, length=length, purpose=purpose, seed=seed)
    texts = documents_for(str(named), purpose, seed)
    return _pack(tokenizer, texts, length, count, stride, corpus=str(named), purpose=purpose, seed=seed)


def mixed_counts(corpus: str, count: int) -> dict[str, int]:
    """How many of `count` blocks each text of a corpus gives, nearest to its share. InputError where one would give none."""
    shares = mix_shares(corpus)
    counts = {name: int(share * count + 1e-9) for name, share in shares.items()}
    for name in sorted(shares, key=lambda name: counts[name] - shares[name] * count)[: count - sum(counts.values())]:
        counts[name] += 1
    if none := next((name for name, own in counts.items() if not own), None):
        raise InputError(
            f"{count:,} blocks are too few for the mix {corpus!r}: {none!r} would give none of them. Ask for at least "
            f"{math.ceil(1 / min(shares.values()))} blocks, with more tokens or shorter blocks, or leave that text out."
        )
    return counts


def _mixed(tokenizer: Any, corpus: str, counts: Mapping[str, int], **choices: Any) -> Blocks:
    """Blocks of several texts, each part's in its own order, spread so that every beginning has them in about their shares."""
    try:
        parts = [blocks(tokenizer, name, count=own, **choices) for name, own in counts.items()]
    except InputError as error:
        raise InputError(f"In the mix {corpus!r}: {error} A smaller share of that text in the mix needs less of it.") from error
    places = torch.cat([(torch.arange(len(part)) + 0.5) / len(part) for part in parts])
    order = places.argsort(stable=True)
    whole = {name: torch.cat([getattr(part, name) for part in parts])[order] for name in ("ids", "scored")}
    words, size = sum(part.words for part in parts), sum(part.bytes for part in parts)
    return Blocks(**whole, words=words, bytes=size, corpus=corpus, purpose=choices["purpose"], seed=choices["seed"])


def _whole(name: str, value: Any) -> int:
    """A whole number given as such, as 32.0 or as "32"; InputError for anything else."""
    if isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
        return int(value)
    if not isinstance(value, bool | np.bool_):
        if isinstance(value, float | np.floating) and float(value).is_integer():
            return int(value)
        if hasattr(value, "__index__"):
            return operator.index(value)
    raise InputError(f"{name} = {value!r} is not accepted: it is a whole number, such as {name}=32.")


def documents_for(corpus: str, purpose: str, seed: int = 0) -> Iterator[str]:
    """The documents of a corpus in the order in which they are used for a purpose, read as they are asked for.

    For calibration every 20th comes first and then the others, for recovery the other way round; held-out text comes as it is.
    """
    if purpose == "heldout":
        yield from corpora.stream(corpus)
        return
    own = lambda place: (place % CALIBRATION_SHARE == 0) == (purpose == "calibration")
    if not seed:
        for first in (True, False):
            yield from (text for place, text in enumerate(corpora.stream(corpus)) if own(place) == first)
        return
    texts, shuffle = corpora.documents(corpus), random.Random(seed).shuffle
    for first in (True, False):
        part = [text for place, text in enumerate(texts) if own(place) == first]
        shuffle(part)
        yield from part


def check_purpose(corpus: str, purpose: str) -> None:
    """Refuse training on a held-out corpus, evaluating on a training one, and a mix as held-out text."""
    shares = mix_shares(corpus)
    if len(shares) > 1 and purpose == "heldout":
        raise InputError(f"the mix {corpus!r} cannot serve as held-out text, whose loss would be of no text. Name one text.")
    if len(shares) > 1:
        for name in shares:
            check_purpose(name, purpose)
        return
    corpora.check_corpus(corpus)
    known = sources.corpora().get(str(corpus))
    if known and (known.role == "heldout") != (purpose == "heldout"):
        use = "for evaluation only" if known.role == "heldout" else "for calibration and recovery"
        others = [name for name, other in sources.corpora().items() if other.role != known.role]
        raise InputError(
            f"corpus {corpus!r} is {use} and cannot serve as {purpose} text, because what is trained on must not be tested on. "
            f"Use {', '.join(others)} or a file."
        )


def check_disjoint(training: str, heldout: str) -> None:
    """Refuse one text for training and for testing: the same name or file, or texts of which much is the same.

    Texts that would have to be downloaded first are left to `check_no_overlap`, which sees the tokens.
    """
    if len(parts := mix_shares(training)) > 1:
        for part in parts:
            check_disjoint(part, heldout)
        return
    same = training == heldout
    names = [str(training), str(heldout)]
    if not same and all(map(corpora.is_here, names)) and not all(name in sources.corpora() for name in names):
        both = [corpora.source_of(name) for name in names]
        same = bool(set.intersection(*({path.resolve() for path in source.files} for source in both)))
        overlap = None if same else _overlap(*both)
        if overlap and not overlap.accepted:
            raise InputError(
                f"Held-out text {heldout!r} also stands in {training!r}, which is named for calibration or recovery: "
                f"{overlap.sentence()}. Texts were compared by their letters, and {ACCEPTED:.0%} is accepted for quotations "
                "and boilerplate. A model must not be tested on what it was tuned on: use another held-out text, or take these "
                "documents out of one of the two."
            )
    if same:
        raise InputError(
            f"{training!r} is named both for calibration or recovery and as held-out text ({heldout!r} is the same). A model "
            "must not be tested on what it was tuned on: name two different texts."
        )


def _overlap(training: corpora.readers.Source, heldout: corpora.readers.Source) -> Overlap:
    """The overlap of two texts, kept as long as none of their files changes."""
    stamps = (training.stamp, training.field, heldout.stamp, heldout.field)
    compare = lambda: overlap_of(*(corpora.readers.read_source(source) for source in (heldout, training)))
    if not all(map(corpora.settled, stamps[::2])):
        return compare()
    path = cache() / "overlaps" / f"{files.digest(repr((VERSION, stamps)))}.json"
    with suppress(OSError, ValueError, TypeError):  # not there, or damaged
        return Overlap(**json.loads(path.read_text()))
    overlap = compare()
    with suppress(OSError, InputError):  # a cache that cannot be written to
        files.write_text(path, json.dumps(asdict(overlap)))
    return overlap


def check_no_overlap(training: Blocks, heldout: Blocks) -> float:
    """Share of the held-out runs of tokens that are also in the training text; InputError when too large for honest texts."""
    texts = [_running(blocks) for blocks in (training, heldout)]
    run = min(RUN, 1 << (min(ids.size for ids in texts).bit_length() - 1))
    hashes = [rolling(ids.ravel(), run) for ids in texts]
    wanted, first = np.unique(hashes[1], return_index=True)
    copied = np.isin(wanted, hashes[0])
    share = float(copied.mean())
    if share > ACCEPTED:
        block, place = divmod(int(first[copied].min()), texts[1].shape[1])
        raise InputError(
            f"{share:.0%} of the held-out text ({heldout.corpus!r}) is also in the training text ({training.corpus!r}): runs "
            f"of {run} tokens were compared, the first that is in both begins at token {place} of held-out block {block}, and "
            f"{ACCEPTED:.0%} is accepted for quotations. A model must not be tested on what it was trained on: use another "
            "held-out text, or take these documents out of the training text."
        )
    return share


def _running(blocks: Blocks) -> np.ndarray:
    """The ids of blocks side by side as one text in rows: without the token that begins each of them, if there is one."""
    ids = blocks.ids.numpy()
    return ids[:, 1:] if len(ids) > 1 and (ids[:, 0] == ids[0, 0]).all() else ids


def _pack(tokenizer, texts: Iterable[str], length: int, count: int, stride: int | None, **about: Any) -> Blocks:
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
        read = 0
        for text in texts:
            read += 1
            if isinstance(text, Conversation):
                whole, tokens, predicted = encode_conversation(tokenizer, text)
            else:
                whole = text if text.endswith(SEPARATOR) else text + SEPARATOR
                tokens, predicted = encode_text(tokenizer, whole, room - len(ids)), None
            new_sizes, new_words = _measures(whole, tokens)
            new = [token for token, _, _ in tokens]
            ids += new
            sizes += new_sizes
            words += new_words
            targets += predicted or [place > 0 for place in range(len(new))]
            bar.update(len(new))
            if len(ids) >= room:
                break
    if len(ids) < room:
        most = max((len(ids) - step) // apart + 1, 0)
        raise InputError(
            f"corpus {about['corpus']!r} has only {len(ids):,} tokens for {about['purpose']} with this tokenizer in all of its "
            f"{read:,} documents, but {count} blocks of {length} need {room:,}. Ask for at most {most} blocks of this "
            "length, or use a longer text. (Calibration takes every 20th document first and then the others, recovery the "
            "other way round; held-out text is always a text of its own.)"
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


def _measures(text: str, tokens: list[Token]) -> tuple[list[int], list[float]]:
    """The UTF-8 bytes and the word beginnings that each token of a text covers."""
    ends = [end for _, _, end in tokens]
    sizes, words = [], []
    reached = 0
    for end, following in pairwise([*ends, len(text) + 1]):
        # a character spread over several byte tokens counts with the one that completes it, so sums are never too large
        piece = text[reached:end] if following > end else ""
        sizes.append(len(piece.encode("utf-8")))
        before = text[reached - 1] if reached else " "
        words.append(float(sum(not c.isspace() and p.isspace() for p, c in zip(before + piece, piece, strict=False))))
        reached += len(piece)
    return sizes, words
