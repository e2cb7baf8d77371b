"""Named texts and a user's own files as documents.

The two Wikipedia corpora are read from their pinned archives: `wikipedia-train` (2006 dump, markup removed here) and
`wikipedia-heldout` (later pages). They share no page id and no title. A path names a local file or a folder of them
(`claw.texts.readers` says which); `hub:ORG/NAME:CONFIG:SPLIT` a hub data set.
"""

import functools
import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from claw.errors import InputError, unknown
from claw.files import made_once
from claw.models import sources
from claw.models.archives import fetch, open_member
from claw.progress import tqdm
from claw.project import cache
from claw.texts import readers
from claw.texts.wikipedia import wikiextractor, wikipedia_xml

SETTLED = 2.0  # seconds since its last change after which a file's times tell of the next one


def check_corpus(corpus: str) -> None:
    """Raise InputError unless `corpus` names a known corpus, existing text or a hub data set. Nothing is read or fetched."""
    if not isinstance(corpus, str | os.PathLike) or not str(corpus):
        raise InputError(f"a corpus is named by text such as 'wikipedia-train' or 'my.txt', not {corpus!r}.")
    corpus = str(corpus)
    if corpus in sources.corpora():
        return
    if corpus.startswith("hub:"):
        if len(corpus.split(":")) not in (4, 5):
            raise InputError(f"corpus {corpus!r}: a hub data set is written hub:ORG/NAME:CONFIG:SPLIT or …:SPLIT:FIELD.")
    elif readers.find_source(corpus) is None:
        raise unknown("corpus", corpus, sources.corpora(), f"Or give a file (no file {Path(corpus).absolute()}).")


def stream(corpus: str) -> Iterator[str]:
    """The documents of a corpus in their natural order, read as they are asked for."""
    check_corpus(corpus)
    corpus = str(corpus)
    texts = _from_hub(corpus) if corpus.startswith("hub:") else readers.read_source(source_of(corpus))
    empty = True
    for text in texts:
        empty = empty and not text.strip()
        yield text
    if empty:
        raise InputError(f"corpus {corpus!r} is empty. Give a text file with at least a few hundred words.")


def documents(corpus: str) -> tuple[str, ...]:
    """All documents of a corpus in their natural order; remembered until one of its files changes."""
    check_corpus(corpus)
    corpus = str(corpus)
    if corpus.startswith("hub:"):
        return _all(corpus, ())
    stamp = source_of(corpus).stamp
    return (_all if settled(stamp) else _all.__wrapped__)(corpus, stamp)


@functools.lru_cache(maxsize=4)
def _all(corpus: str, stamp: tuple) -> tuple[str, ...]:
    return tuple(stream(corpus))


def settled(stamp: tuple) -> bool:
    """Whether files are so old that another change would change their stamp: clocks of file systems are coarse."""
    newest = max((max(changed, renamed) for _, _, changed, renamed, *_ in stamp), default=0)
    return time.time_ns() - newest > SETTLED * 1e9


def source_of(corpus: str) -> readers.Source:
    """The files of a corpus that is not on the hub; a known one is fetched and read if it is not there yet."""
    known = sources.corpora().get(corpus)
    source = readers.Source(corpus, (known_file(known),)) if known else readers.find_source(corpus)
    if source is None:
        raise InputError(f"corpus {corpus!r} is gone.")
    return source


def is_here(corpus: str) -> bool:
    """Whether the text of a corpus can be read without a network."""
    known = sources.corpora().get(corpus)
    return known_path(known).exists() if known else not corpus.startswith("hub:") and readers.find_source(corpus) is not None


def known_path(source: sources.CorpusSource) -> Path:
    """Where the text of a known corpus is kept."""
    return cache() / "corpora" / f"{source.name}-{source.archive.sha256[:12]}.jsonl"


def known_file(source: sources.CorpusSource) -> Path:
    """File of a known corpus, an object with `title` and `text` on each line; fetched and read if it is not there yet."""
    read = {"wikipedia-xml": wikipedia_xml, "wikiextractor": wikiextractor}[source.reader]

    def make(scratch: Path) -> None:
        with open_member(fetch(source.archive), source.member) as stream, scratch.open("w", encoding="utf-8") as out:
            lines = (line.decode("utf-8", errors="ignore") for line in stream)
            for title, text in tqdm(read(lines), desc=f"reading {source.name}", unit=" documents", disable=None):
                out.write(json.dumps({"title": title, "text": text}, ensure_ascii=False) + "\n")

    return made_once(known_path(source), make)


def _from_hub(corpus: str) -> Iterator[str]:
    import datasets

    _, name, config, split, *field = corpus.split(":")
    try:
        rows = datasets.load_dataset(name, config or None, split=split)
        columns = {key: getattr(kind, "dtype", "") in ("string", "large_string") for key, kind in rows.features.items()}
        chosen = field[0] if field else readers.choose_field(columns, corpus)
        texts = rows[chosen]
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"corpus {corpus!r} cannot be loaded from the hub: {error}. Check name, config, split and field and the network; "
            f"offline, use {', '.join(sources.corpora())} or a text file."
        ) from error
    for number, text in zip(itertools.count(1), texts, strict=False):
        yield readers.checked_text(text, f"corpus {corpus!r}, row {number}, field {chosen!r}")
