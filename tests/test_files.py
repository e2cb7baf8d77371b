"""Files are whole or not there, whatever happens while they are written; what is made once is made once."""

import os
import shutil
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

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


# what is kept is verified


def made(path, exact=False, content="content"):
    """Make a folder of two files once; how often it was made."""
    count = []

    def make(scratch):
        count.append(scratch)
        (scratch / "deep").mkdir(parents=True)
        (scratch / "a").write_text(content)
        (scratch / "deep" / "b").write_text(content)

    files.made_once(path, make, exact=exact)
    return len(count)


DAMAGE = {
    "other bytes": lambda path: (path / "a").write_text("CONTENT"),
    "longer": lambda path: (path / "deep" / "b").write_text("content and more"),
    "empty": lambda path: (path / "a").write_text(""),
    "a file gone": lambda path: (path / "deep" / "b").unlink(),
    "a folder for a file": lambda path: ((path / "a").unlink(), (path / "a").mkdir()),
    "all gone": shutil.rmtree,
    "a file for the folder": lambda path: (shutil.rmtree(path), path.write_text("x")),
    "the seal gone": lambda path: path.with_name("kept.seal").unlink(),
    "the seal cut": lambda path: path.with_name("kept.seal").write_text("{"),
    "the seal empty": lambda path: path.with_name("kept.seal").write_text("{}"),
    "the seal of another form": lambda path: path.with_name("kept.seal").write_text('{"a": 5}'),
    "other bytes of the same size and time": lambda path: _in_place(path / "a"),
}


def _in_place(path):
    before = path.stat()
    path.write_text("CONTENT")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


@pytest.mark.filterwarnings("ignore:.*not as claw made it")
@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_not_as_it_was_made_is_made_again(tmp_path, damage):
    path = tmp_path / "cache" / "kept"
    assert made(path) == 1 and made(path) == 0
    DAMAGE[damage](path)
    assert made(path) == 1 and made(path) == 0
    assert (path / "a").read_text() == (path / "deep" / "b").read_text() == "content"
    assert sorted(p.name for p in path.parent.iterdir()) == ["kept", "kept.lock", "kept.seal"]


def test_added_files_count_only_where_the_folder_is_to_be_exact(tmp_path):
    assert made(tmp_path / "kept") == 1
    (tmp_path / "kept" / "more").touch()
    assert made(tmp_path / "kept") == 0
    with pytest.warns(UserWarning, match="not as claw made it"):
        assert made(tmp_path / "kept", exact=True) == 1


def test_a_copy_is_recognised_by_its_bytes_and_then_by_its_time(tmp_path, monkeypatch):
    made(tmp_path / "first" / "kept")
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    assert made(tmp_path / "second" / "kept") == 0
    monkeypatch.setattr(files, "sha256", lambda path: pytest.fail("read again"))
    assert made(tmp_path / "second" / "kept") == 0


def test_what_a_killed_process_left_is_swept_and_no_more(tmp_path):
    code = """
import os, sys
from pathlib import Path
from claw import files
files.made_once(Path(sys.argv[1]), lambda scratch: (scratch.write_bytes(b"x" * 1000), os._exit(9)))
"""
    path = tmp_path / "kept"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    other = files.whole(tmp_path / "other")
    scratch = other.__enter__()  # somebody else is writing something else
    assert len(list(tmp_path.glob(".writing-*"))) == 2  # one left, as the second run swept the first's, and the other's
    made(path)
    assert [left for left in tmp_path.glob(".writing-*") if scratch.parent != left] == []
    scratch.write_text("whole")
    other.__exit__(None, None, None)
    assert (tmp_path / "other").read_text() == "whole"


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_files_are_for_whom_the_umask_says(tmp_path, mask):
    before = os.umask(mask)
    try:

        def make(scratch):
            scratch.mkdir(mode=0o700)
            (scratch / "a").touch(mode=0o600)

        path = files.made_once(tmp_path / "kept", make)
        files.write_text(tmp_path / "text", "x")
    finally:
        os.umask(before)
    modes = {p.name: p.stat().st_mode & 0o777 for p in (path, path / "a", tmp_path / "kept.seal", tmp_path / "text")}
    assert modes == {"kept": 0o777 & ~mask, "a": 0o666 & ~mask, "kept.seal": 0o666 & ~mask, "text": 0o666 & ~mask}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left")])
def test_a_full_disk_is_one_paragraph(tmp_path, error):
    def make(scratch):
        raise error

    with pytest.raises(InputError, match=r"kept cannot be kept in the cache .*No space left.*CLAW_CACHE"):
        files.made_once(tmp_path / "kept", make)
    assert not list(tmp_path.glob(".writing-*"))


def test_a_cache_that_one_may_only_read_is_read(tmp_path, monkeypatch):
    made(tmp_path / "kept")
    shutil.copytree(tmp_path, tmp_path / "copy")

    def refuse(*values, **options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(files, "whole", refuse)
    monkeypatch.setattr(files, "FileLock", refuse)
    assert made(tmp_path / "kept") == made(tmp_path / "copy" / "kept") == 0
    with pytest.raises(InputError, match="Read-only file system"):
        made(tmp_path / "copy" / "more")
