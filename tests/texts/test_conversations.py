"""Conversations are read, refused where they say nothing, and become blocks whose targets are the answers."""

import json

import pytest
from conftest import byte_tokenizer, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

import claw
from claw.errors import InputError
from claw.texts import readers, token_blocks
from claw.texts.conversations import Conversation, encode_conversation

TEMPLATE = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content | trim }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
STRICT = "{% if messages[0].role == 'system' %}{{ raise_exception('no system message') }}{% endif %}" + TEMPLATE
FORGETFUL = "{{ messages | length }}" + TEMPLATE  # the beginning changes with what follows


def chat_tokenizer(template=TEMPLATE):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def turns(*said):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]


def chat_of(messages):
    return Conversation.of(messages, "here")


words = st.text("abc de\nf.", min_size=1, max_size=20).filter(str.strip)


@settings(max_examples=50, deadline=None)
@given(st.lists(words, min_size=2, max_size=8).filter(lambda texts: len(texts) % 2 == 0))
def test_answers_and_their_ends_are_predicted_and_nothing_else(texts):
    tokenizer = chat_tokenizer()
    whole, tokens, predicted = encode_conversation(tokenizer, chat_of(turns(*texts)))
    kept = [token for (token, _, _), wanted in zip(tokens, predicted, strict=True) if wanted]
    assert tokenizer.decode(kept) == "".join(f"{text.strip()}</s>" for text in texts[1::2])
    assert whole == tokenizer.apply_chat_template(turns(*texts), tokenize=False)
    assert tokenizer.decode([token for token, _, _ in tokens]) == whole


def test_a_question_that_has_the_words_of_its_answer_is_no_answer():
    tokenizer = chat_tokenizer()
    _, _, predicted = encode_conversation(tokenizer, chat_of(turns("assistant", "assistant")))
    assert predicted.index(True) > len("<s>user\nassistant</s>\n") - 4 and sum(predicted) == len("assistant") + 1


@pytest.fixture
def chats(tmp_path):
    def write(rows, name="chats.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def test_blocks_of_conversations_train_a_model(chats):
    rows = [{"messages": turns(f"what is {i} and {i}", f"it is {2 * i} of course")} for i in range(400)]
    tokenizer = chat_tokenizer()
    blocks = token_blocks.blocks(tokenizer, chats(rows), length=64, count=100, purpose="recovery")
    assert 0.3 < blocks.scored.float().mean() < 0.5 and blocks.words > 0
    said = tokenizer.decode(blocks.ids[0][blocks.scored[0]])
    assert "of course" in said and "what" not in said
    small, report = claw.recover(tiny_model("llama"), blocks, tokens=6400, learning_rate=1e-2, batch=4)
    assert report.moments and small is not None
    other = token_blocks.blocks(tokenizer, chats(rows[300:], "b.jsonl"), length=64, count=4, purpose="heldout")
    assert claw.cross_entropy(small, other).mean < claw.cross_entropy(tiny_model("llama"), other).mean


def test_a_block_of_questions_only_changes_nothing(chats):
    rows = [{"messages": turns("why " * 100, "so")}] * 20
    blocks = token_blocks.blocks(chat_tokenizer(), chats(rows), length=32, count=8, purpose="recovery")
    assert not blocks.scored[:4].any()
    _, report = claw.recover(tiny_model("llama"), blocks.part(slice(4)), tokens=128, recipe="full", batch=4)
    assert report.nan_step is None


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "no list with messages"),
        ("hello", "no list with messages"),
        ([{"content": "hi"}], "message 1 has no role"),
        ([{"role": "", "content": "hi"}], "message 1 has no role"),
        ([{"role": "user", "content": "hi"}], "no message with the role 'assistant'"),
        (turns("hi", " \n"), "message 2 is an empty answer"),
        ([{"role": "user"}], "message 1: its content is no text"),
        ([{"role": "user", "content": [{"type": "image"}]}], "message 1: its content is no text"),
        (["hi"], "message 1 is no object"),
    ],
)
def test_messages_that_say_nothing_are_refused_with_their_line(messages, words, chats):
    path = chats([{"messages": turns("a", "b")}, {"messages": messages}])
    with pytest.raises(InputError, match=f"line 2.*{words}"):
        token_blocks.blocks(chat_tokenizer(), path, length=64, count=4, purpose="heldout")


@pytest.mark.parametrize(
    ("tokenizer", "messages", "words"),
    [
        (byte_tokenizer(), turns("a", "b"), "no chat template"),
        (chat_tokenizer(STRICT), [{"role": "system", "content": "x"}, *turns("a", "b")], "no system message"),
        (chat_tokenizer(FORGETFUL), turns("a", "b", "c", "d"), "otherwise when more follows"),
        (chat_tokenizer(), turns("a</s>", "b"), "message 1 spells the control token '</s>'"),
    ],
)
def test_what_a_template_cannot_write_is_refused(tokenizer, messages, words, chats):
    with pytest.raises(InputError, match=f"line 1.*{words}"):
        token_blocks.blocks(tokenizer, chats([{"messages": messages}]), length=8, count=1, purpose="recovery")


def test_a_text_beside_messages_or_a_named_field_is_what_is_read(chats, tmp_path):
    row = {"messages": turns("a", "b"), "text": "whole"}
    (plain,) = readers.read_source(readers.find_source(chats([row])))
    (chat,) = readers.read_source(readers.find_source(f"{chats([row])}#messages"))
    assert plain == "whole" and chat == "a\n\nb" and chat.messages == (("user", "a"), ("assistant", "b"))


def test_conversations_in_a_parquet_file(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": ["1"], "messages": [turns("a", "b")]}), tmp_path / "chats.parquet")
    (chat,) = readers.read_source(readers.find_source(str(tmp_path / "chats.parquet")))
    assert chat.messages == (("user", "a"), ("assistant", "b"))


def test_a_copied_conversation_is_no_held_out_text(chats):
    rows = [{"messages": turns(f"what do you know about number {i}", f"that {i} comes after {i - 1}")} for i in range(50)]
    with pytest.raises(InputError, match="also stands in"):
        token_blocks.check_disjoint(chats(rows), chats(rows[10:20], "held.jsonl"))
