"""Files are whole or not there, whatever happens while they are written; what is made once is made once."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claw import files
from claw.errors import InputError


def test_a_file_and_a_folder_appear_whole(tmp_path):
    with files.whole(tmp_path / "deep" / "file.txt") as scratch:
        scratch.write_text("all of it")
        assert not (tmp_path / "deep" / "file.txt").exists()
    with files.whole(tmp_path / "folder") as scratch:
        scratch.mkdir()
        (scratch / "a").write_text("a")
        assert not (tmp_path / "folder").exists()
    assert (tmp_path / "deep" / "file.txt").read_text() == "all of it" and (tmp_path / "folder" / "a").read_text() == "a"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "deep", "file.txt", "folder"]


@pytest.mark.parametrize("before", [None, "the old text"])
def test_after_an_error_the_target_is_as_it_was_and_nothing_is_left(tmp_path, before):
    path = tmp_path / "file.txt"
    if before is not None:
        path.write_text(before)
    with pytest.raises(KeyboardInterrupt), files.whole(path) as scratch:
        scratch.write_text("half of")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ([] if before is None else ["file.txt"])
    assert before is None or path.read_text() == before


def test_a_reader_never_sees_half_a_file(tmp_path):
    path, seen, done = tmp_path / "file.txt", set(), threading.Event()
    files.write_text(path, "a" * 100_000)

    def look():
        while not done.is_set():
            text = path.read_text()
            seen.add((text[0], len(text), len(set(text))))

    reader = threading.Thread(target=look)
    reader.start()
    for letter in "bcdefghij":
        files.write_text(path, letter * 100_000)
    done.set()
    reader.join()
    assert seen and all((length, letters) == (100_000, 1) for _, length, letters in seen)


def test_writing_where_one_cannot_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"table\.csv could not be written"):
        files.write_text(tmp_path / "file" / "table.csv", "a")


def test_what_is_made_once_is_made_once_by_whoever_comes_first(tmp_path):
    path, made = tmp_path / "cache" / "folder", []

    def make(scratch):
        made.append(scratch)
        scratch.mkdir()
        time.sleep(0.05)
        (scratch / "content").write_text("whole")

    results = []
    askers = [threading.Thread(target=lambda: results.append(files.made_once(path, make))) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert len(made) == 1 and results == [path] * 4 and (path / "content").read_text() == "whole"


def test_what_could_not_be_made_is_tried_again(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(ZeroDivisionError):
        files.made_once(path, lambda scratch: scratch.write_text("half") / 0)
    assert not path.exists()
    assert files.made_once(path, lambda scratch: scratch.write_text("whole")).read_text() == "whole"


@given(st.lists(st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.binary()), max_size=5))
def test_the_digest_of_parts_is_that_of_their_concatenation(parts):
    joined = b"".join(part.encode() if isinstance(part, str) else part for part in parts)
    assert files.digest(*parts) == files.digest(joined)
    assert len(files.digest(*parts)) == 16


def test_the_digest_of_a_file_begins_like_that_of_its_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"claw")
    assert files.sha256(tmp_path / "file").startswith(files.digest(b"claw"))
    assert files.digest("claw") == "06deac5b8d4a128e"  # names on disk depend on it
