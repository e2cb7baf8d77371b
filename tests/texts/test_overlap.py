"""Held-out text is recognised by what it says in a training text, and honest texts pass."""

import gzip
import json
import os
import random
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import sentences
from hypothesis import given, settings
from hypothesis import strategies as st

from claw.errors import InputError
from claw.texts import corpora, overlap, token_blocks

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def prose(seed: int, words: int) -> str:
    """Text of random words, of which two texts share next to nothing."""
    draw = random.Random(seed)
    made = ["".join(draw.choices(LETTERS, k=draw.randint(2, 9))) for _ in range(words)]
    lines = [" ".join(made[start : start + 60]) + "." for start in range(0, words, 60)]
    return "\n\n".join(lines)


def disguised(how: str, source, folder, text: str):
    """The same text as another file."""
    path = folder / {"gzip": "b.txt.gz", "rows": "b.jsonl", "sentences": "b.ndjson", "parquet": "b.parquet"}.get(how, "b.txt")
    paragraphs = text.split("\n\n")
    shuffled = random.Random(1).sample(paragraphs, len(paragraphs))
    if how == "hard link":
        os.link(source, path)
    elif how == "symlink":
        path.symlink_to(source)
    elif how == "folder":
        path = folder / "folder"
        path.mkdir()
        shutil.copy(source, path / "x.txt")
    elif how == "gzip":
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    elif how == "parquet":
        pq.write_table(pa.table({"text": shuffled}), path)
    elif how in ("rows", "sentences"):
        pieces = shuffled if how == "rows" else [text[start : start + 50] for start in range(0, len(text), 50)]
        path.write_text("\n".join(json.dumps({"text": piece}) for piece in pieces))
    else:
        changed = {
            "copy": text, "mark": "\ufeff" + text, "crlf": text.replace("\n", "\r\n"), "capitals": text.upper(),
            "rewrapped": text.replace(" ", "\n"), "shuffled": "\n\n".join(shuffled), "inside": prose(8, 20_000) + text,
            "with more": text + prose(9, 30_000), "wide": text.replace(" ", "\u3000"),
            "full width": "".join(chr(ord(c) + 0xFEE0) if c.isalpha() else c for c in text),
        }  # fmt: skip
        path.write_text(changed[how], newline="")
    return path


HOWS = (
    "copy", "hard link", "symlink", "folder", "gzip", "parquet", "rows", "sentences", "mark", "crlf", "capitals", "rewrapped",
    "shuffled", "inside", "with more", "wide", "full width",
)  # fmt: skip


@pytest.mark.parametrize("how", HOWS)
def test_a_copy_is_refused_however_it_is_written(tmp_path, own_cache, how):
    text = prose(1, 6000)
    source = tmp_path / "a.txt"
    source.write_text(text)
    other = disguised(how, source, tmp_path, text)
    for training, heldout in ((source, other), (other, source)):
        with pytest.raises(InputError, match="must not be tested on"):
            token_blocks.check_disjoint(str(training), str(heldout))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.03, 1), st.booleans())
def test_the_share_is_that_of_what_was_copied(seed, share, joined):
    paragraphs = prose(seed, 12_000).split("\n\n")
    count = max(1, round(share * len(paragraphs)))
    training = [*prose(seed + 1, 5000).split("\n\n"), *random.Random(seed).sample(paragraphs, count)]
    expected = count / len(paragraphs)
    if joined:
        paragraphs, training = (["\n".join(texts)] for texts in (paragraphs, training))
    result = overlap.overlap_of(paragraphs, training)
    assert not result.accepted and result.share == pytest.approx(expected, abs=0.25 * share + 0.01)
    assert result.example and f"{result.share:.1%}" in result.sentence()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_honest_texts_pass(seed):
    """A licence over every document, a quotation, common words: no reason to refuse."""
    licence = "This text may be shared and changed by anyone who names its authors, under the licence of the site. " * 3
    quotation = prose(5, 60)
    heldout = [licence + text for text in prose(seed, 20_000).split("\n\n")] + [quotation]
    training = [licence + text for text in prose(seed + 1, 20_000).split("\n\n")] + [quotation]
    result = overlap.overlap_of(heldout, training)
    assert result.accepted and result.share > 0


def test_short_documents_are_compared_as_wholes():
    lines = ["".join(random.Random(seed).choices(LETTERS, k=40)) for seed in range(200)]
    result = overlap.overlap_of(lines, [*random.Random(0).sample(lines, 100), prose(1, 500)])
    assert result.share == pytest.approx(0.5, abs=0.01) and result.documents == 100
    assert overlap.overlap_of(
        ["Yes.", "No.", "Thank you."] * 50 + [prose(2, 500)], ["Yes.", "No.", "Thank you.", prose(3, 500)]
    ).accepted


def test_a_training_text_taken_from_a_large_held_out_text_is_refused():
    heldout = prose(1, 60_000).split("\n\n")
    result = overlap.overlap_of(heldout, heldout[::200])
    assert result.share < overlap.ACCEPTED and result.training > 0.8 and not result.accepted


def test_a_cache_that_cannot_be_used_is_refused_and_a_damaged_one_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "SETTLED", -1.0)
    names = [str(tmp_path / name) for name in ("a.txt", "b.txt")]
    for seed, name in enumerate(names):
        (tmp_path / name).write_text(prose(seed, 2000))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLAW_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="CLAW_CACHE"):
        token_blocks.check_disjoint(*names)
    monkeypatch.setenv("CLAW_CACHE", str(tmp_path / "cache"))
    token_blocks.check_disjoint(*names)
    (kept,) = (tmp_path / "cache" / "overlaps").glob("*.json")
    kept.write_text("{")
    token_blocks.check_disjoint(*names)
    assert json.loads(kept.read_text())["share"] == 0


def test_much_text_is_sampled_alike(monkeypatch):
    text, other = prose(1, 40_000), prose(2, 40_000)
    monkeypatch.setattr(overlap, "LOOKED_FOR", 1000)
    assert overlap.overlap_of([text], [other + text]).share == 1.0
    assert overlap.overlap_of([text], [other]).share == 0.0


def test_the_packaged_texts_are_not_compared_and_share_nothing(monkeypatch):
    monkeypatch.setattr(token_blocks, "overlap_of", None)
    token_blocks.check_disjoint("wikipedia-train", "wikipedia-heldout")


def test_a_result_is_kept_until_a_file_changes(tmp_path, own_cache, monkeypatch):
    calls, compare = [], token_blocks.overlap_of
    monkeypatch.setattr(token_blocks, "overlap_of", lambda *texts: calls.append(1) or compare(*texts))
    monkeypatch.setattr(corpora, "SETTLED", -1.0)
    names = [str(tmp_path / name) for name in ("a.txt", "b.txt")]
    for seed, name in enumerate(names):
        (tmp_path / name).write_text(prose(seed, 2000))
    for _ in range(2):
        token_blocks.check_disjoint(*names)
    assert len(calls) == 1
    (tmp_path / "b.txt").write_text(prose(0, 2000))
    with pytest.raises(InputError, match=r"100\.0% of it"):
        token_blocks.check_disjoint(*names)
    assert len(calls) == 2


@pytest.mark.parametrize("length", [8, 32, 64])
def test_tokens_are_compared_too(tokenizer, tmp_path, length):
    text, other = prose(1, 4000), prose(2, 4000)
    for name, content in (("a.txt", other + "\n\n" + text), ("b.txt", text), ("c.txt", prose(3, 4000))):
        (tmp_path / name).write_text(content)
    count = 30_000 // length
    training = token_blocks.blocks(tokenizer, str(tmp_path / "a.txt"), length=length, count=count, purpose="recovery")
    held = {
        n: token_blocks.blocks(tokenizer, str(tmp_path / n), length=length, count=600 // length, purpose="heldout")
        for n in ("b.txt", "c.txt")
    }
    with pytest.raises(InputError, match=r"100% of the held-out text.*begins at token \d+ of held-out block 0"):
        token_blocks.check_no_overlap(training, held["b.txt"])
    assert token_blocks.check_no_overlap(training, held["c.txt"]) <= overlap.ACCEPTED


def test_own_text_gives_all_that_it_has(tokenizer, tmp_path):
    """Forty documents of 200 words: each purpose may have all of them, its own first."""
    path = tmp_path / "own.jsonl"
    texts = [sentences(seed, 22) for seed in range(40)]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    total = sum(len(text) + 2 for text in texts)
    for seed in (0, 1):
        for purpose in ("calibration", "recovery"):
            assert len(token_blocks.blocks(tokenizer, str(path), length=64, count=total // 64, purpose=purpose, seed=seed))
            order = list(token_blocks.documents_for(str(path), purpose, seed))
            own = {t for place, t in enumerate(texts) if (place % 20 == 0) == (purpose == "calibration")}
            assert sorted(order) == sorted(texts) and set(order[: len(own)]) == own
