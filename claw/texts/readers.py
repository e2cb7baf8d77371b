"""Text files as people have them, read as documents one by one and only as far as they are asked for.

| file | documents |
|---|---|
| .txt .text .md .markdown .rst | runs of paragraphs of about `CHUNK` characters, cut at blank lines |
| .jsonl .ndjson | one JSON object, or one string, per line; blank lines are passed over |
| .json | a list of such objects or strings, or lines of them |
| .parquet | one per row |
| a folder | those of all such files in it, in the order of their names |

Any of them may be packed as .gz, .bz2 or .xz, capitals in suffixes do not matter, a byte order mark says how text is encoded
and is no text itself; without one it is UTF-8. The text is in the field `text`, else in the only one of `FIELDS`, else in the
only field that holds a string; `path#field` names another. What is no text (null, a number, a list) is an error with its line.
"""

import bz2
import codecs
import gzip
import io
import json
import lzma
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from claw.errors import InputError
from claw.project import inside_project
from claw.texts.conversations import Conversation
from claw.words import SURROGATE

CHUNK = 4000  # characters of a document in plain text, about
READ = 1 << 20  # characters of plain text at a time
PLAIN = (".txt", ".text", ".md", ".markdown", ".rst")
LINES = (".jsonl", ".ndjson")
PACKED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
MAGIC = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ": lzma.open} | {b"BZh%d1AY&" % level: bz2.open for level in range(1, 10)}
MARKS = {  # the longer ones first: that of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
SUFFIXES = (*PLAIN, *LINES, ".json", ".parquet")
ACCEPTED = (
    "Accepted are .txt, .md and other plain text, .jsonl and .json with a `text` or `messages` in each object, .parquet, each "
    "also as .gz, .bz2 or .xz, and a folder of such files; `path#field` names another field than `text`."
)
FIELDS = ("content", "contents", "body", "document", "article", "passage", "raw_content")
CHAT = "messages"  # the field of conversations
BLANK = re.compile(r"\n\s*\n")
KINDS = {type(None): "null", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}


@dataclass(frozen=True)
class Source:
    """Files of one corpus, and the field that was named for their text."""

    name: str
    files: tuple[Path, ...]
    field: str = ""

    @property
    def stamp(self) -> tuple:
        """What changes when a file is written again: its place, size, times and inode."""
        stats = [(path, path.stat()) for path in self.files]
        return tuple((str(p), s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_dev, s.st_ino) for p, s in stats)


def find_source(name: str) -> Source | None:
    """The files that `name` stands for; None where there is nothing of that name. InputError for files that are no text."""
    path, field = _place(name), ""
    if path is None and "#" in name:
        before, _, field = name.rpartition("#")
        path = _place(before)
    if path is None:
        return None
    if path.is_dir():
        files = [Path(folder) / file for folder, _, names in os.walk(path) for file in names]
        inside = [(file, file.relative_to(path).parts) for file in files]
        usual = sorted(file for file, parts in inside if not any(part.startswith(".") for part in parts) and kind_of(file))
        if not usual:
            raise InputError(f"corpus {name!r} is a folder without text files. {ACCEPTED}")
    elif path.is_file() and kind_of(path):
        usual = [path]
    else:
        raise InputError(f"corpus {name!r} is not a text file that claw reads. {ACCEPTED}")
    if field and any(kind_of(file) in PLAIN for file in usual):
        raise InputError(f"corpus {name!r} names the field {field!r}, but plain text has no fields: leave out #{field}.")
    return Source(name, tuple(usual), field)


def _place(name: str) -> Path | None:
    """The path of something that is there."""
    try:
        path = inside_project(name)
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long, with a zero byte, or the home of nobody
        return None


def kind_of(path: Path) -> str:
    """The suffix that says how a file is read, in small letters and without that of its packing; empty for other files."""
    name = path.name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def read_source(source: Source) -> Iterator[str]:
    """The documents of a source."""
    for path in source.files:
        name = source.name if len(source.files) == 1 else str(path)
        kind = kind_of(path)
        with _explained(name):
            if kind == ".parquet":
                yield from _parquet(path, name, source.field)
            elif kind in PLAIN:
                with _opened(path) as text:
                    yield from paragraph_runs(iter(partial(text.read, READ), ""))
            else:
                with _opened(path) as text:
                    yield from _texts(_json_rows(text, name) if kind == ".json" else _lines(text, name), name, source.field)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Say what is wrong with a file that cannot be read or decoded."""
    try:
        yield
    except UnicodeError as error:
        raise InputError(f"corpus {name!r} is not UTF-8 text ({error}). Convert it to UTF-8 first.") from error
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise InputError(f"corpus {name!r} is damaged and cannot be unpacked ({error}). Fetch or pack it again.") from error
    except OSError as error:
        raise InputError(f"corpus {name!r} cannot be read: {error}.") from error


@contextmanager
def _opened(path: Path) -> Iterator[io.TextIOWrapper]:
    """A file as text: unpacked, decoded as its byte order mark says, with every kind of line end as a newline."""
    with path.open("rb") as file:
        start = file.read(8)
    opener: Any = next((packing for magic, packing in MAGIC.items() if start.startswith(magic)), open)
    with opener(path, "rb") as stream:
        start = stream.read(4)
        stream.seek(0)
        encoding = next((name for mark, name in MARKS.items() if start.startswith(mark)), "utf-8")
        with io.TextIOWrapper(stream, encoding=encoding) as text:
            yield text


def paragraph_runs(pieces: Iterable[str]) -> Iterator[str]:
    """Cut a text that comes in pieces at blank lines into documents of about CHUNK characters, losing nothing."""
    held, looked = "", 0
    for piece in pieces:
        held += piece
        settled, start = len(held.rstrip()), 0  # blank lines at the end may go on in the next piece
        for blank in BLANK.finditer(held, looked, settled):
            if blank.end() - start >= CHUNK:
                yield held[start : blank.end()]
                start = blank.end()
        held, looked = held[start:], max(settled - start, 0)
    for blank in BLANK.finditer(held, looked):  # at the very end
        if blank.end() >= CHUNK:
            yield held[: blank.end()]
            held = held[blank.end() :]
    if held:
        yield held


def _lines(text: Iterable[str], name: str) -> Iterator[tuple[str, Any]]:
    """Where each row stands, and what it is, of a file with one JSON value per line."""
    for number, line in enumerate(text, 1):
        if line := line.strip("\ufeff \t\r\n"):
            where = f"corpus {name!r}, line {number}"
            yield where, _json(line, where)


def _json_rows(text: io.TextIOWrapper, name: str) -> Iterator[tuple[str, Any]]:
    """The same of one JSON value: a list of rows, a single row, or after all one per line."""
    whole = text.read()
    try:
        rows = _json(whole, f"corpus {name!r}")
    except InputError:
        yield from _lines(io.StringIO(whole), name)
        return
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], 1):
        yield f"corpus {name!r}, item {number}", row


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise InputError(f"{where}: the JSON is nested too deeply. Expected an object with a `text`.") from error
    except ValueError as error:
        raise InputError(f"{where}: expected a JSON object with a `text` ({error}).") from error


def _texts(rows: Iterable[tuple[str, Any]], name: str, field: str) -> Iterator[str]:
    """The text of each row, refusing with its place what is none."""
    for where, row in rows:
        if isinstance(row, str) and not field:
            yield checked_text(row, where)
        elif isinstance(row, dict) and is_chat(row, field):
            yield checked_text(Conversation.of(row[field or CHAT], where), where)
        elif isinstance(row, dict):
            field = field or choose_field({key: isinstance(value, str) for key, value in row.items()}, name, where)
            if field not in row:
                raise InputError(f"{where} has no field {field!r}; it has {_listed(row)}. Name the field as {name}#FIELD.")
            yield checked_text(row[field], f"{where}, field {field!r}")
        else:
            raise InputError(f"{where} is {KINDS.get(type(row), 'text')}; expected an object with a `text`.")


def is_chat(fields: Iterable[str], field: str) -> bool:
    """Whether messages are to be read: they were named, or they are there and no text is."""
    return field == CHAT if field else CHAT in fields and "text" not in fields


def choose_field(is_text: Mapping[str, bool], name: str, where: str = "") -> str:
    """The field that holds the text, among fields of which it is known whether they hold a string; InputError if unclear."""
    if "text" in is_text:
        return "text"
    strings = [key for key, string in is_text.items() if string]
    for likely in ([key for key in strings if key in FIELDS], strings):
        if len(likely) == 1:
            return likely[0]
    raise InputError(
        f"{where or f'corpus {name!r}'}: there is no `text`, and it is not clear which of the fields {_listed(is_text)} holds "
        f"the text. Name it: {name}#FIELD."
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:20]) or "(none)"


def checked_text(text: Any, where: str) -> str:
    """A document that is text; InputError for anything else."""
    if not isinstance(text, str):
        kind = KINDS.get(type(text), type(text).__name__)
        raise InputError(f"{where}: expected text, but it is {kind}. Correct it, or leave that document out.")
    if not text.isascii() and (lone := SURROGATE.search(text)):
        raise InputError(
            f"{where}: character {lone.start()} is half of a surrogate pair (\\u{ord(lone[0]):04x}), which is no character. "
            "Write the text again as UTF-8, or leave that document out."
        )
    return text


def _parquet(path: Path, name: str, field: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def is_text(kind: Any) -> bool:
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)

    try:
        with pq.ParquetFile(path) as file:
            kinds = {column.name: is_text(column.type) for column in file.schema_arrow}
            chat = is_chat(kinds, field)
            chosen = CHAT if chat else field or choose_field(kinds, name)
            if chosen not in kinds:
                raise InputError(f"corpus {name!r} has no field {chosen!r}; it has {_listed(kinds)}.")
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=[chosen]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    where = f"corpus {name!r}, row {number}, field {chosen!r}"
                    yield checked_text(Conversation.of(value, where) if chat else value, where)
    except pa.ArrowException as error:
        raise InputError(f"corpus {name!r} is not a Parquet file that can be read ({error}). Write it again.") from error
