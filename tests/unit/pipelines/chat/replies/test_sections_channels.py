"""Thinking and answer in the channels of gpt-oss."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.chat.replies.channels import ChannelFormat
from pipelines.chat.replies.detokenize import Piece
from pipelines.chat.replies.reply_format import ReplyFormat
from pipelines.chat.replies.sections import reply_format
from tests.support.section_samples import (
    HARMONY,
    HARMONY_TOKENS,
    Seen,
    pieces,
    read,
    replies,
    splits,
    tokenizer,
)

OPENING = "<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>"
TWO = "<|channel|>analysis<|message|>They greet me.<|end|><|start|>assistant<|channel|>final<|message|>Hello!<|return|>"
harmony = reply_format(tokenizer(HARMONY, special=HARMONY_TOKENS))
as_text = reply_format(tokenizer(HARMONY, plain=HARMONY_TOKENS))


def seen(reply: str, opening: str = OPENING, reply_format: ReplyFormat = harmony) -> tuple[str, str]:
    whole = pieces(reply, HARMONY_TOKENS if reply_format is harmony else ())
    shown = read(reply_format, opening, whole)
    return shown.thinking, shown.content


@pytest.mark.parametrize("reply_format", [harmony, as_text], ids=["special", "text"])
def test_analysis_is_thinking_and_final_is_content(reply_format: ReplyFormat) -> None:
    assert isinstance(reply_format, ChannelFormat)
    assert seen(TWO, reply_format=reply_format) == ("They greet me.", "Hello!")


def test_a_reply_that_ends_in_the_analysis_has_no_content() -> None:
    assert seen("<|channel|>analysis<|message|>They greet") == ("They greet", "")
    assert seen("<|channel|>analysis<|message|>One.<|end|><|start|>assistant<|channel|>fi") == ("One.", "")


def test_commentary_for_the_user_is_content_before_the_answer() -> None:
    reply = "<|channel|>commentary<|message|>I look it up.<|end|><|start|>assistant<|channel|>final<|message|>Done."
    assert seen(reply) == ("", "I look it up.\n\nDone.")


def test_messages_of_one_section_are_joined_by_a_blank_line() -> None:
    reply = TWO.replace("<|return|>", "<|end|>") + "<|start|>assistant" + TWO
    assert seen(reply) == ("They greet me.\n\nThey greet me.", "Hello!\n\nHello!")
    assert seen("One.<|end|>" + TWO, OPENING + FINAL) == ("They greet me.", "One.\n\nHello!")


@pytest.mark.parametrize(
    "header",
    [
        "<|channel|>commentary to=functions.f <|constrain|>json<|message|>",
        "<|channel|>commentary to=functions.f json<|message|>",
        " to=functions.f<|channel|>commentary <|constrain|>json<|message|>",
        "<|constrain|>json<|message|>",
    ],
)
def test_headers_with_recipients_and_types_are_not_shown(header: str) -> None:
    assert seen(header + '{"a": 1}<|call|>') == ("", '{"a": 1}')


def test_a_reply_without_channels_is_content() -> None:
    assert seen("Hello there!<|return|>") == ("", "Hello there!")
    assert seen("<|message|>Hello there!<|return|>") == ("", "Hello there!")
    assert seen("today it rains") == ("", "today it rains")
    assert seen("to", opening="") == ("", "to")
    assert seen("to") == ("", "to")


def test_words_that_no_header_has_are_text() -> None:
    assert seen("<|channel|>final The answer is 4.") == ("", "The answer is 4.")
    assert seen("<|channel|>analysis They greet me.<|end|>Hello!") == ("They greet me.", "Hello!")


def test_a_prompt_that_ends_inside_a_message_continues_it() -> None:
    assert seen(" primary<|return|>", OPENING + FINAL + "The three") == ("", " primary")
    assert seen(" me.<|end|>", OPENING + "<|channel|>analysis<|message|>They greet") == (" me.", "")
    assert seen("<|message|>They greet me.", OPENING + "<|channel|>analysis") == ("They greet me.", "")


def test_markers_as_plain_text_are_mentions_where_the_tokens_are_special() -> None:
    assert read(harmony, OPENING + FINAL, "Write <|end|> here.") == Seen("", "Write <|end|> here.")


def test_markers_and_other_special_tokens_are_passed_on_for_stop_strings() -> None:
    passed = read(harmony, OPENING, [*pieces(TWO, HARMONY_TOKENS), Piece("<x>", special=True)])
    assert passed.special == ("<|channel|>", "<|start|>", "<|channel|>", "<|message|>", "<|return|>", "<x>")


def test_the_section_of_the_next_token_is_thinking_between_the_name_and_the_end_of_analysis() -> None:
    reader = harmony.reader(OPENING)
    sections = [reader.section]
    for piece in pieces(TWO, HARMONY_TOKENS):
        reader.push(piece)
        sections.append(reader.section)
    assert sections == ["content"] * 2 + ["thinking"] * 3 + ["content"] * 8


def test_thinking_is_ended_by_the_header_of_the_answer() -> None:
    assert harmony.closing == "<|end|><|start|>assistant<|channel|>final<|message|>"
    assert seen("<|channel|>analysis<|message|>They" + harmony.closing + "Hello!") == ("They", "Hello!")
    assert seen("<|channel|>analysis" + harmony.closing + "Hello!") == ("", "Hello!")


def test_a_prompt_without_thinking_begins_the_answer() -> None:
    assert harmony.without_thinking(OPENING) == FINAL
    assert harmony.without_thinking(OPENING + FINAL + "The three") == ""
    assert harmony.without_thinking(OPENING + "<|channel|>analysis<|message|>They") == harmony.closing
    assert harmony.without_thinking("") == "<|start|>assistant" + FINAL


BEGINNINGS = ["", "<|start|>assistant", OPENING + FINAL, OPENING + "<|channel|>analysis<|message|>a", "<|channel|>"]


@given(st.data(), st.sampled_from([harmony, as_text]), st.sampled_from(BEGINNINGS))
def test_any_split_of_any_reply_gives_the_same_sections(
    data: st.DataObject, reply_format: ReplyFormat, opening: str
) -> None:
    special = (*HARMONY_TOKENS, "<x>") if reply_format is harmony else ("<x>",)
    whole = pieces(data.draw(replies([*HARMONY_TOKENS, "<x>", "analysis"])), special)
    assert read(reply_format, opening, data.draw(splits(whole))) == read(reply_format, opening, whole)


@given(replies(HARMONY_TOKENS), st.sampled_from(BEGINNINGS))
def test_the_markers_and_messages_of_any_reply_are_passed_on(reply: str, opening: str) -> None:
    reader = as_text.reader(opening)
    passed = [*reader.push(Piece(reply)), *reader.finish()]
    parts = pieces(reply, HARMONY_TOKENS)
    markers = [piece.text for piece in parts if piece.special]
    shown_markers = [re.sub(r"^ to=\S+(?=<\|message\|>$)", "", piece.text) for _, piece in passed if piece.special]
    assert shown_markers == markers  # the marker of a message to a tool is passed on together with the tool's name
    bodies = [after.text for before, after in pairwise(parts) if before.text == "<|message|>" and not after.special]
    shown = "".join(piece.text for _, piece in passed if not piece.special)
    assert re.search(".*".join(map(re.escape, bodies)), shown, re.DOTALL)  # in this order
