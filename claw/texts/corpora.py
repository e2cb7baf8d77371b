"""Named texts and a user's own files as lists of documents.

The two Wikipedia corpora are read from their pinned archives: `wikipedia-train` (2006 dump, markup removed here) and
`wikipedia-heldout` (later pages). They share no page id and no title. A path names a local `.txt` file (documents are
runs of paragraphs) or `.jsonl` file (one object with a `text` per line); `hub:ORG/NAME:CONFIG:SPLIT` a hub data set.
"""

import functools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from claw.errors import InputError, unknown
from claw.files import made_once
from claw.models import sources
from claw.models.archives import fetch, open_member
from claw.progress import tqdm
from claw.project import cache, inside_project
from claw.texts.wikipedia import wikiextractor, wikipedia_xml

CHUNK = 4000  # characters: a plain text file is cut into documents of about this size, at blank lines


def check_corpus(corpus: str) -> None:
    """Raise InputError unless `corpus` names a known corpus, an existing text file or a hub data set."""
    if corpus in sources.corpora():
        return
    if corpus.startswith("hub:"):
        if len(corpus.split(":")) not in (4, 5):
            raise InputError(f"corpus {corpus!r}: a hub data set is written hub:ORG/NAME:CONFIG:SPLIT or …:SPLIT:FIELD.")
        return
    path = inside_project(corpus)
    if not path.is_file():
        raise unknown("corpus", corpus, sources.corpora(), f"Or give a .txt or .jsonl file (no file {path.absolute()}).")
    if path.suffix not in (".txt", ".jsonl"):
        raise InputError(f"corpus {corpus!r} must be a .txt or .jsonl file with a `text` per line, not {path.suffix!r}.")


@functools.lru_cache(maxsize=4)
def documents(corpus: str) -> tuple[str, ...]:
    """All documents of a corpus in their natural order."""
    check_corpus(corpus)
    if corpus.startswith("hub:"):
        return _from_hub(corpus)
    known = sources.corpora().get(corpus)
    path = known_file(known) if known else inside_project(corpus)
    try:
        with path.open(encoding="utf-8") as lines:
            texts = tuple(_json_lines(lines, corpus) if path.suffix == ".jsonl" else _paragraph_runs(lines.read()))
    except UnicodeDecodeError as error:
        raise InputError(f"corpus {corpus!r} is not UTF-8 text ({error}). Convert it to UTF-8 first.") from error
    if not any(document.strip() for document in texts):
        raise InputError(f"corpus {corpus!r} is empty. Give a text file with at least a few hundred words.")
    return texts


def known_file(source: sources.CorpusSource) -> Path:
    """File of a known corpus, an object with `title` and `text` on each line; fetched and read if it is not there yet."""
    read = {"wikipedia-xml": wikipedia_xml, "wikiextractor": wikiextractor}[source.reader]

    def make(scratch: Path) -> None:
        with open_member(fetch(source.archive), source.member) as stream, scratch.open("w", encoding="utf-8") as out:
            lines = (line.decode("utf-8", errors="ignore") for line in stream)
            for title, text in tqdm(read(lines), desc=f"reading {source.name}", unit=" documents", disable=None):
                out.write(json.dumps({"title": title, "text": text}, ensure_ascii=False) + "\n")

    return made_once(cache() / "corpora" / f"{source.name}-{source.archive.sha256[:12]}.jsonl", make)


def _from_hub(corpus: str) -> tuple[str, ...]:
    import datasets

    _, name, config, split, *field = corpus.split(":")
    try:
        rows = datasets.load_dataset(name, config or None, split=split)
        return tuple(rows[field[0] if field else "text"])
    except Exception as error:
        raise InputError(
            f"corpus {corpus!r} cannot be loaded from the hub: {error}. Check name, config, split and field and the network; "
            f"offline, use {', '.join(sources.corpora())} or a text file."
        ) from error


def _json_lines(lines: Iterable[str], corpus: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            yield str(json.loads(line)["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"corpus {corpus!r}, line {number}: expected a JSON object with a `text` ({error!r}).") from error


def _paragraph_runs(text: str) -> Iterator[str]:
    """Cut a text at blank lines into documents of about CHUNK characters, losing nothing."""
    start = 0
    for blank in re.finditer(r"\n\s*\n", text):
        if blank.end() - start >= CHUNK:
            yield text[start : blank.end()]
            start = blank.end()
    if start < len(text):
        yield text[start:]
