"""Files as people have them give the same documents, however they are packed, encoded and cut."""

import bz2
import gzip
import json
import lzma
import os
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import sentences
from hypothesis import given, settings
from hypothesis import strategies as st

from claw.errors import InputError
from claw.texts import corpora, readers, token_blocks

TEXTS = [
    "the cat sat.\n\nOn the mat.",
    "line\u2028separator",
    "next\x85line",
    "naïve 東京 😀",
    "",
    'with \\ " and\ttab',
    "\ufeffmark",
]
rows = st.lists(st.text(st.characters(codec="utf-8"), max_size=40), min_size=1, max_size=12)


def read(path) -> list[str]:
    return list(corpora.stream(str(path)))


def whole_text(text: str) -> list[str]:
    """What `paragraph_runs` means, on all of a text at once."""
    documents, start = [], 0
    for blank in re.finditer(r"\n\s*\n", text):
        if blank.end() - start >= readers.CHUNK:
            documents.append(text[start : blank.end()])
            start = blank.end()
    return documents + [text[start:]] * (start < len(text))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "bc ", "\n", "\n\n", " ", "\t", "\u2028", "\x85", "x" * 5]), max_size=60), st.integers(1, 9)
)
def test_pieces_give_the_documents_of_the_whole(parts, size):
    text = "".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "CHUNK", 8)
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        assert list(readers.paragraph_runs(pieces)) == whole_text(text)


@settings(max_examples=60, deadline=None)
@given(
    rows, st.sampled_from(["jsonl", "ndjson", "JSONL", "json", "jsonl.gz", "Jsonl.BZ2", "json.xz", "parquet"]), st.booleans()
)
def test_rows_come_back_as_they_were_written(tmp_path_factory, texts, suffix, escaped):
    path = tmp_path_factory.mktemp("rows") / f"rows.{suffix}"
    write_rows(path, texts, escaped)
    if any(text.strip() for text in texts):
        assert read(path) == texts
    else:
        with pytest.raises(InputError, match="is empty"):
            read(path)


def write_rows(path, texts, escaped=False):
    kind = path.name.lower()
    if kind.endswith("parquet"):
        pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), path)
        return
    objects = [{"id": number, "text": text} for number, text in enumerate(texts)]
    dumped = [json.dumps(row, ensure_ascii=escaped) for row in objects]
    content = (
        json.dumps(objects, ensure_ascii=escaped) if kind[4:9] == ".json" and kind[9:10] in (".", "") else "\n".join(dumped)
    )
    packed = {".gz": gzip.compress, "bz2": bz2.compress, ".xz": lzma.compress}.get(kind[-3:], lambda data: data)
    path.write_bytes(packed(content.encode()))


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n", "\n \t\n", "\r\n\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lines_may_end_in_any_way(tmp_path, end, mark):
    line_end = "\r\n" if "\r" in end else "\n"
    lines = line_end.join(json.dumps({"text": text}, ensure_ascii=False) for text in TEXTS)
    (tmp_path / "rows.jsonl").write_bytes((mark + lines + end).encode())
    assert read(tmp_path / "rows.jsonl") == TEXTS


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([".txt", ".TXT", ".md", ".txt.gz", ".text", ".rst.xz"]),
)
def test_plain_text_is_the_same_in_every_encoding(tmp_path_factory, encoding, line_end, suffix):
    text = sentences(5, 400) + "\n\ncafé 東京\u2028x\n"
    path = tmp_path_factory.mktemp("plain") / f"text{suffix}"
    data = text.replace("\n", line_end).encode(encoding)
    path.write_bytes({".gz": gzip.compress, ".xz": lzma.compress}.get(suffix[-3:], lambda data: data)(data))
    assert "".join(read(path)) == text and read(path) == whole_text(text)


def test_a_packed_file_is_known_by_its_content(tmp_path):
    (tmp_path / "text.txt").write_bytes(gzip.compress(b"packed all the same", mtime=0))
    assert read(tmp_path / "text.txt") == ["packed all the same"]


@pytest.mark.parametrize(
    "row, expected",
    [
        ({"text": "t", "content": "c", "body": "b"}, "t"),
        ({"id": "x", "content": "c", "url": "u"}, "c"),
        ({"id": 3, "essay": "e"}, "e"),
        ("a string", "a string"),
    ],
)
def test_the_text_is_found_where_it_is_clear(tmp_path, row, expected):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row))
    assert read(tmp_path / "rows.jsonl") == [expected] * 2


def test_a_field_is_named_after_the_path(tmp_path):
    for name in ("rows.jsonl", "odd#name.jsonl"):
        (tmp_path / name).write_text('{"title": "a", "summary": "b"}')
        assert read(f"{tmp_path / name}#summary") == ["b"]
        with pytest.raises(InputError, match=r"title, summary.*#FIELD"):
            read(tmp_path / name)
    pq.write_table(pa.table({"title": ["a"], "summary": ["b"]}), tmp_path / "rows.parquet")
    assert read(f"{tmp_path / 'rows.parquet'}#summary") == ["b"]
    with pytest.raises(InputError, match=r"title, summary"):
        read(tmp_path / "rows.parquet")


def test_a_folder_is_all_its_texts_by_name(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    for name, text in (
        ("b/one.txt", "third"),
        ("a.md", "first"),
        ("b/.hidden.txt", "no"),
        (".git/x.txt", "no"),
        ("c.png", "no"),
    ):
        (tmp_path / name).write_text(text)
    (tmp_path / "b" / "no.jsonl").write_text('{"text": "second"}')
    (tmp_path / "loop").symlink_to(tmp_path)
    assert read(tmp_path) == ["first", "second", "third"]


def test_only_as_much_is_read_as_is_asked_for(tmp_path, tokenizer):
    lines = [json.dumps({"text": sentences(seed, 20)}) for seed in range(50)]
    (tmp_path / "rows.jsonl").write_text("\n".join([*lines, "not JSON"]))
    assert len(token_blocks.blocks(tokenizer, str(tmp_path / "rows.jsonl"), length=32, count=4, purpose="heldout")) == 4
    with pytest.raises(InputError, match="line 51"):
        read(tmp_path / "rows.jsonl")


def test_one_long_line_needs_little_memory_and_time(tmp_path, tokenizer, monkeypatch):
    """A whole corpus on one line: two blocks take one window of it."""
    path, encoded = tmp_path / "line.txt", []
    path.write_text(sentences(1, 40_000).replace("\n\n", " "))
    given = type(tokenizer).__call__
    monkeypatch.setattr(
        type(tokenizer), "__call__", lambda self, text, **rest: encoded.append(len(text)) or given(self, text, **rest)
    )
    for purpose in token_blocks.PURPOSES:
        encoded.clear()
        assert len(token_blocks.blocks(tokenizer, str(path), length=32, count=2, purpose=purpose)) == 2
        assert sum(encoded) < 200_000


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_a_changed_file_is_read_again(tmp_path, tokenizer, seed, suffix):
    path = tmp_path / f"text{suffix}"
    ids = []
    for word, old in (("cat", False), ("dog", False), ("cow", True), ("pig", True)):
        text = f"the {word} sat on the mat. " * 50
        path.write_text(json.dumps({"text": text}) if suffix == ".jsonl" else text)
        if old:  # so that its times are old enough to be relied on
            os.utime(path, (1, 1))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(corpora, "SETTLED", -1.0)
                ids.append(token_blocks.blocks(tokenizer, str(path), length=32, count=2, seed=seed).ids)
        else:
            ids.append(token_blocks.blocks(tokenizer, str(path), length=32, count=2, seed=seed).ids)
    assert [word in tokenizer.decode(one[0]) for word, one in zip(("cat", "dog", "cow", "pig"), ids, strict=True)] == [True] * 4


def test_a_text_that_does_not_change_is_read_once(train_text, monkeypatch):
    monkeypatch.setattr(corpora, "SETTLED", -1.0)
    assert corpora.documents(train_text) is corpora.documents(train_text)
