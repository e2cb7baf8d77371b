"""Corpora become documents and documents become blocks; the three purposes never share text."""

import math

import pytest
import torch
from conftest import byte_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from claw.errors import InputError
from claw.texts import corpora, token_blocks, wikipedia


def test_prose_removes_markup():
    markup = "'''Ann''' is a [[city|town]].{{stub|{{x}}}}\n* a list\n{| table\n|-\n|}\n"
    markup += "== Past ==\nIt &amp;amp; more.[[Image:x.jpg|a [[b]]]]<ref>no</ref>"
    assert wikipedia.prose(markup) == "Ann is a town.\n\nPast\n\nIt & more."


def test_wikipedia_xml_yields_articles_only():
    body = "word " * 60
    pages = f"""<page>
<title>A</title>
<text xml:space="preserve">{body}
end</text>
</page>
<title>Talk:A</title>
<text>{body}</text>
<title>B</title>
<text>#REDIRECT [[A]] {body}</text>
<title>C</title>
<text>short</text>
""".splitlines(keepends=True)
    assert [title for title, _ in wikipedia.wikipedia_xml(iter(pages))] == ["A"]


def test_wikiextractor_documents():
    first = ['<doc id="1" url="u" title="T">\n', "T\n", "x &lt; y " * 40, "\n", "</doc>\n"]
    lines = [*first, '<doc id="2" url="u" title="S">\n', "S", "</doc>\n"]
    documents = list(wikipedia.wikiextractor(iter(lines)))
    assert [title for title, _ in documents] == ["T"] and "x < y" in documents[0][1]


def test_blocks_of_a_file(tokenizer, train_text):
    blocks = token_blocks.blocks(tokenizer, train_text, length=32, count=16)
    assert blocks.ids.shape == (16, 32) and not blocks.scored[:, 0].any()
    assert blocks.tokens == int(blocks.scored.sum()) > 0


@pytest.mark.parametrize("seed", [0, 1])
def test_calibration_and_recovery_begin_with_documents_of_their_own(train_text, seed):
    texts = corpora.documents(train_text)
    calibration, recovery = (list(token_blocks.documents_for(train_text, p, seed)) for p in ("calibration", "recovery"))
    assert sorted(calibration) == sorted(recovery) == sorted(texts)
    assert not set(calibration[: -(-len(texts) // 20)]) & set(recovery[: len(texts) * 19 // 20])


@pytest.mark.parametrize(
    "purpose, corpus", [("heldout", "wikipedia-train"), ("calibration", "wikipedia-heldout"), ("recovery", "wikipedia-heldout")]
)
def test_roles_are_kept_apart(tokenizer, purpose, corpus):
    with pytest.raises(InputError, match="trained on must not be tested on"):
        token_blocks.blocks(tokenizer, corpus, purpose=purpose)


def test_seeds_shuffle_training_text_and_never_held_out_text(tokenizer, train_text, heldout_text):
    hashes = [token_blocks.blocks(tokenizer, train_text, length=32, count=8, seed=s).sha256 for s in (0, 1, 1)]
    assert hashes[0] != hashes[1] == hashes[2]
    held = [token_blocks.blocks(tokenizer, heldout_text, length=32, count=8, purpose="heldout", seed=s).sha256 for s in (0, 1)]
    assert held[0] == held[1]


@settings(max_examples=25, deadline=None)
@given(st.text(alphabet="ab é€\n\t ", min_size=60, max_size=300), st.integers(4, 16))
def test_words_and_bytes_are_those_of_the_scored_text(tmp_path_factory, text, length):
    """The counts of bits per byte and word perplexity are exact, whatever the characters."""
    path = tmp_path_factory.mktemp("t") / "t.txt"
    path.write_text(text, encoding="utf-8", newline="")
    if not text.strip():
        return
    tokenizer = byte_tokenizer()
    blocks = token_blocks.blocks(tokenizer, str(path), length=length, count=2, purpose="heldout")
    whole = "".join(document if document.endswith("\n\n") else document + "\n\n" for document in corpora.documents(str(path)))
    raw = whole.encode()[: 2 * length]  # one token is one byte
    scored = int(blocks.scored.sum())
    assert blocks.ids.shape == (2, length) and scored <= 2 * (length - 1)
    first_of_second_block = 1  # its bytes are context: at most one character, of at most three bytes here
    assert scored - 3 * (1 + first_of_second_block) <= blocks.bytes <= scored + 3
    assert blocks.words <= len(raw.decode(errors="ignore").split())


def test_bits_per_byte_of_a_byte_tokenizer(tokenizer, heldout_text):
    """One token is one byte here, so bytes equal targets."""
    blocks = token_blocks.blocks(tokenizer, heldout_text, length=64, count=8, purpose="heldout")
    assert blocks.bytes == blocks.tokens


def test_a_beginning_of_text_token_starts_every_block(train_text):
    tokenizer = byte_tokenizer()
    from tokenizers.processors import TemplateProcessing

    tokenizer._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    blocks = token_blocks.blocks(tokenizer, train_text, length=32, count=4)
    assert (blocks.ids[:, 0] == 1).all() and not blocks.scored[:, 0].any()
    assert torch.equal(blocks.ids[0, 1:6], torch.tensor(tokenizer(corpora.documents(train_text)[0])["input_ids"][1:6]))


@pytest.mark.parametrize(
    "name, words",
    [("wikipedia-trian", "did you mean 'wikipedia-train'"), ("no/such.txt", "no file"), ("hub:x", "hub:ORG/NAME:CONFIG:SPLIT")],
)
def test_unknown_corpora_are_explained(name, words):
    with pytest.raises(InputError, match=words):
        corpora.check_corpus(name)


def test_perplexities_have_their_own_names():
    from claw.evaluate.held_out import CrossEntropy

    result = CrossEntropy(mean=2.0, stderr=0.1, tokens=100, words=50, bytes=400, corpus="c", context=8, data="d")
    assert result.token_perplexity == pytest.approx(math.e**2)
    assert result.word_perplexity == pytest.approx(math.e**4)
    assert result.bits_per_byte == pytest.approx(0.5 / math.log(2))
