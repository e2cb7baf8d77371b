"""Conversations as documents: messages checked, written out by a tokenizer's chat template, with the answers as targets.

A conversation is a text (its messages below each other), so all that reads, compares and shuffles texts takes it as one. Where
it becomes tokens, the tokenizer's own template writes the control tokens, and only what the assistant says, with the token that
ends it, is predicted: a chat model learns to answer, not to ask.
"""

import re
from typing import Any

import jinja2

from claw.errors import InputError
from claw.texts.tokenise import Token

ASSISTANT = "assistant"
EXPECTED = 'Expected "messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}].'


class Conversation(str):
    """Messages as one text. `messages` has the role and content of each; `place` says where it is from."""

    messages: tuple[tuple[str, str], ...]
    place: str

    @staticmethod
    def of(messages: Any, place: str) -> "Conversation":
        """A conversation from JSON. InputError with the place for messages without a role or text, and for empty answers."""
        if not isinstance(messages, list) or not messages:
            raise InputError(f"{place}: messages is no list with messages in it. {EXPECTED}")
        said = tuple(_message(one, f"{place}, message {number}") for number, one in enumerate(messages, 1))
        if not any(role == ASSISTANT for role, _ in said):
            raise InputError(f"{place} has no message with the role {ASSISTANT!r}, so nothing could be learnt. {EXPECTED}")
        text = Conversation("\n\n".join(content for _, content in said))
        text.messages, text.place = said, place
        return text


def _message(given: Any, where: str) -> tuple[str, str]:
    if not isinstance(given, dict):
        raise InputError(f"{where} is no object with a role and a content. {EXPECTED}")
    role, content = given.get("role"), given.get("content")
    if not isinstance(role, str) or not role.strip():
        raise InputError(f"{where} has no role. {EXPECTED}")
    if not isinstance(content, str):
        raise InputError(f"{where}: its content is no text. {EXPECTED} Images, tools and parts are not read.")
    if role == ASSISTANT and not content.strip():
        raise InputError(f"{where} is an empty answer. Leave that conversation out, or give the answer.")
    return role, content


def check_template(tokenizer: Any, place: str) -> None:
    """InputError for a tokenizer that has no chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"{place} is a conversation, but this model's tokenizer has no chat template that says how to write one. Use the "
            "model's chat version, save a template with the tokenizer, or give plain text."
        )


def encode_conversation(tokenizer: Any, chat: Conversation) -> tuple[str, list[Token], list[bool]]:
    """The conversation as written by the template, its tokens, and which of them are predicted."""
    check_template(tokenizer, chat.place)
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    special = added | set(tokenizer.all_special_tokens)
    control = re.compile(r"\s*(" + "|".join(map(re.escape, sorted(special, key=len, reverse=True))) + ")") if special else None
    for number, (_, content) in enumerate(chat.messages, 1):
        if spelled := next((token for token in special if token.strip() and token in content), None):
            raise InputError(
                f"{chat.place}, message {number} spells the control token {spelled!r}, which would end or begin a turn. Leave "
                "that conversation out."
            )
    whole, spans = _written(tokenizer, chat.messages, chat.place), []
    for number, (role, content) in enumerate(chat.messages):
        if role != ASSISTANT:
            continue
        before = _written(tokenizer, chat.messages[:number], chat.place, asks=True) if number else ""
        start = len(before) if whole.startswith(before) else -1
        places = [(at, -len(text), text) for text in (content, content.strip()) if (at := whole.find(text, max(start, 0))) >= 0]
        place, _, content = min(places, default=(-1, 0, content))  # as it is or trimmed, whichever follows first
        if start < 0 or place < 0:
            raise InputError(
                f"{chat.place}: the chat template writes message {number + 1} otherwise when more follows, so which tokens are "
                "the answer cannot be told. Give conversations with one answer each."
            )
        end = place + len(content)
        ends = control.match(whole, end) if control else None  # that the turn is over is part of the answer
        spans.append((start, ends.end() if ends else end))
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    tokens = [(token, *where) for token, where in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)]
    return whole, tokens, [any(first < end and start <= first for start, end in spans) for _, first, _ in tokens]


def _written(tokenizer: Any, messages: tuple[tuple[str, str], ...], place: str, *, asks: bool = False) -> str:
    given = [{"role": role, "content": content} for role, content in messages]
    try:
        return tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=asks)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise InputError(
            f"{place} cannot be written by the chat template of this tokenizer: {' '.join(str(error).split())[:300]}. Many "
            "want user and assistant in turns, and not all know a system message."
        ) from error
