"""What is no text is refused with its place, and never becomes words."""

import gzip
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import sentences
from hypothesis import given, settings
from hypothesis import strategies as st

from claw.errors import InputError
from claw.texts import corpora, token_blocks

GOOD = json.dumps({"text": "the cat sat on the mat. " * 20})


def no_text():
    """JSON values that are not text."""
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(),
        lambda inner: st.lists(inner | st.text(), max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=5,
    )


@settings(max_examples=100, deadline=None)
@given(no_text(), st.integers(0, 5), st.sampled_from(["as the text", "as the row"]))
def test_a_value_that_is_no_text_is_refused_with_its_line(tmp_path_factory, value, before, how):
    path = tmp_path_factory.mktemp("bad") / "rows.jsonl"
    row = {"text": value} if how == "as the text" else value
    if isinstance(row, dict) and isinstance(row.get("text", 0), str):
        return
    path.write_text("\n".join([GOOD] * (before + 1) + [json.dumps(row), GOOD]))
    with pytest.raises(InputError, match=f"line {before + 2}"):
        corpora.documents(str(path))


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b'{"text": ""}\n{"text": " "}', "is empty"),
        (b'{"text": "a"}\nnonsense', "line 2"),
        (b'{"text": "a"}\n{"text": "b"', "line 2"),
        (b'{"text": "a"}{"text": "b"}', "line 1"),
        (b'{"text": "a"}\n\n{"title": "b"}', r"line 3.*no field 'text'.*title"),
        (b'{"text": "\\ud800 lone"}', r"line 1.*surrogate"),
        (b'{"text": "lone \\udfff"}', r"line 1.*surrogate"),
        (b"[" * 100_000, "line 1.*nested"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "line 1.*nested"),
        (b'{"text": ' + b"9" * 5000 + b"}", "line 1"),
        (b'{"text": "caf\xe9"}', "not UTF-8"),
        (b"{}", r"line 1.*no `text`"),
        (b'{"a": "x", "b": "y"}', r"line 1.*a, b.*#FIELD"),
    ],
)
def test_lines_that_are_no_rows(tmp_path, content, words):
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=words):
        corpora.documents(str(tmp_path / "rows.jsonl"))


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("latin.txt", b"caf\xe9", "not UTF-8"),
        ("half.txt", "text".encode("utf-16")[:-1], "not UTF-8"),
        ("cut.txt.gz", gzip.compress(b"text " * 1000, mtime=0)[:-20], "damaged"),
        ("bent.jsonl.gz", gzip.compress(b"text " * 1000, mtime=0)[:20] + b"\0" * 30, "damaged"),
        ("rows.csv", b"a,b", r"\.txt.*\.jsonl.*\.parquet"),
        ("model.bin", b"\0", "not a text file"),
        ("rows.parquet", b"PAR1 not really", "Parquet"),
        ("rows.json", b'[{"text": "a"}, {"text": null}]', "item 2.*null"),
        ("rows.json", b"{", "line 1"),
    ],
)
def test_files_that_are_no_text(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        corpora.documents(str(tmp_path / name))


@pytest.mark.parametrize("values, words", [(["a", None], "row 2.*null"), ([1, 2], "field 'text'.*a number")])
def test_parquet_rows_that_are_no_text(tmp_path, values, words):
    pq.write_table(pa.table({"text": values}), tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=words):
        corpora.documents(str(tmp_path / "rows.parquet"))


@pytest.mark.parametrize(
    "name", ["x" * 5000, "a\0b", "no/such.txt", "~nobody-here/x.txt", "", "hub:x", "text.txt#field", 3, None, b"x"]
)
def test_names_of_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("text")
    for check in (corpora.check_corpus, corpora.documents, lambda name: next(corpora.stream(name))):
        with pytest.raises(InputError):
            check(name)


def test_a_folder_without_texts_is_refused(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"")
    with pytest.raises(InputError, match="without text files"):
        corpora.check_corpus(str(tmp_path))


@pytest.mark.parametrize("value", [True, False, None, "x", "", "2.5", 2.5, math.nan, math.inf, [2], np.bool_(True)])
@pytest.mark.parametrize("name", ["length", "count", "seed"])
def test_what_is_no_whole_number_is_refused(tokenizer, train_text, name, value):
    with pytest.raises(InputError, match=f"{name} = .*whole number"):
        token_blocks.blocks(tokenizer, train_text, **{"length": 32, "count": 2, name: value})


@pytest.mark.parametrize("kind", [float, str, np.int64, np.float32, lambda number: f" {number} "])
def test_whole_numbers_in_other_clothes_are_taken(tokenizer, train_text, kind):
    expected = token_blocks.blocks(tokenizer, train_text, length=32, count=2, seed=3)
    asked = token_blocks.blocks(tokenizer, train_text, length=kind(32), count=kind(2), seed=kind(3))
    assert asked.sha256 == expected.sha256 and asked.seed == 3


@pytest.mark.parametrize(
    "choices", [{"length": 1}, {"length": -4}, {"count": 0}, {"stride": 0, "purpose": "heldout"}, {"stride": 8}]
)
def test_sizes_out_of_range_are_refused(tokenizer, train_text, choices):
    with pytest.raises(InputError):
        token_blocks.blocks(tokenizer, train_text, **{"length": 32, "count": 2, **choices})


def test_too_short_a_text_says_the_rule(tokenizer, tmp_path):
    (tmp_path / "short.txt").write_text(sentences(0, 5))
    for purpose in token_blocks.PURPOSES:
        with pytest.raises(InputError, match=r"all of its 1 documents.*at most \d+ blocks.*every 20th document first"):
            token_blocks.blocks(tokenizer, str(tmp_path / "short.txt"), length=64, count=1000, purpose=purpose)
