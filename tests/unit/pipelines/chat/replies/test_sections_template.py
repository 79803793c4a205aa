"""Thinking and answer as a tokenizer's `response_template` declares them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils.chat_parsing import parse_response

from pipelines.chat.replies.detokenize import Piece
from pipelines.chat.replies.reply_format import PlainFormat
from pipelines.chat.replies.response_template import TemplateFormat
from pipelines.chat.replies.sections import reply_format
from pipelines.chat.replies.thinking_tags import TagFormat
from tests.support.section_samples import (
    PLAIN,
    QWEN3,
    Seen,
    pieces,
    read,
    replies,
    shown_while_streaming,
    splits,
    tokenizer,
)

TURN = "<|im_end|>\n<|im_start|>assistant\n"
ENDS = ["<|im_end|>"]

THINK: dict[str, Any] = {  # as transformers' server assumes it for Qwen 3
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "reasoning_content": {"open": "<think>", "close": "</think>"},
        "tool_calls": {
            "open_pattern": r"\s*<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"\s*<\|im_end\|>"},
    },
}
MARKED: dict[str, Any] = {  # nothing is text outside of regions
    "start_anchor": "[reply]",
    "fields": {
        "thinking": {"open": "[reason]", "close": "[/reason]", "repeats": True, "join": "; "},
        "content": {"open": "[say]", "close": ["[/say]", "[stop]"], "content_args": {"strip": False}},
    },
}
qwen3 = reply_format(tokenizer(QWEN3, special=ENDS, plain=["<think>", "</think>"], response_template=THINK))
marked = reply_format(tokenizer(PLAIN, response_template=MARKED))


def test_fields_of_the_template_become_sections() -> None:
    reply = pieces("<think>\nThey greet me.\n</think>\n\nHello there!<|im_end|>", ENDS)
    assert isinstance(qwen3, TemplateFormat)
    assert read(qwen3, TURN, reply) == Seen("They greet me.", "Hello there!", ("</think>", "<|im_end|>"))
    assert read(marked, "[reply]", "[reason]a[/reason] [say] b [/say]").content == " b "


def test_regions_that_the_prompt_has_opened_go_on() -> None:
    assert read(qwen3, TURN + "<think>\n", "One.\n</think>\n\nHi").thinking == "One."
    assert read(qwen3, TURN + "<think>\n\n</think>\n\n", "Hi") == Seen("", "Hi")
    assert read(qwen3, TURN + "The three", " primary") == Seen("", " primary")
    assert read(marked, "[reply][sa", "y]Hi").content == "Hi"


def test_regions_of_one_field_are_joined() -> None:
    reply = "[reason]a[/reason][reason] [/reason][reason]b[/reason][say]c[/say][say]d[/say]"
    shown = read(marked, "[reply]", reply)
    assert (shown.thinking, shown.content) == ("a; b", "c\n\nd")


def test_a_reply_that_is_not_of_the_declared_form_is_content() -> None:
    assert read(marked, "[reply]", pieces("Hello [x]\n<x>", ["<x>"])) == Seen("", "Hello [x]\n", ("<x>",))
    assert read(marked, "[reply][reason]a[/reason]", "Hello") == Seen("", "Hello")


def test_a_call_of_a_tool_that_is_no_json_is_content_for_now() -> None:
    assert (
        read(qwen3, TURN, "I look.\n<tool_call>{no json</tool_call>\nDone.").content == "I look.\n\n{no json\n\nDone."
    )


def test_text_is_shown_as_it_comes_but_for_white_space_at_its_ends() -> None:
    texts = ["<thi", "nk>\n", "One", "\n", "two\n", "</think>", "\n", "H", "i ", "<|im_end|>"]
    said = [("", ""), ("", ""), ("One", ""), ("", ""), ("\ntwo", ""), ("", ""), ("", ""), ("", "H"), ("", "i")]
    assert shown_while_streaming(qwen3, TURN, texts) == [*said, ("", ""), ("", "")]


def test_unknown_special_tokens_are_passed_on() -> None:
    reply = pieces("<x><think>a<x>b</think><x>Hi<x> <|im_end|>", ["<x>", *ENDS])
    assert read(qwen3, TURN, reply) == Seen("ab", "Hi", ("<x>", "</think>", "<x>", "<x>", " <|im_end|>"))


def test_thinking_is_ended_as_the_chat_template_writes_it_or_else_by_the_declared_tag() -> None:
    assert (qwen3.closing, qwen3.without_thinking(TURN + "<think>\n")) == ("\n</think>\n\n", "\n</think>\n\n")
    assert (marked.closing, marked.without_thinking("[reply]")) == (
        "\n[/reason]\n\n",
        "[reason]\n\n[/reason]\n\n",
    )


@pytest.mark.parametrize("thinking", [{}, {"thinking": {"open": "\n", "close": "\n\n"}}])
def test_thinking_that_no_tag_surrounds_cannot_be_ended(thinking: dict[str, Any]) -> None:
    declared = {"start_anchor": "a", "fields": {"content": {}, **thinking}}
    found = reply_format(tokenizer(PLAIN, response_template=declared))
    assert isinstance(found, TemplateFormat)
    assert (found.closing, found.without_thinking("")) == (None, None)


@pytest.mark.parametrize(
    "broken",
    [
        "think",
        {},
        {"version": 7, **THINK},
        {"fields": {"content": {}}},
        {"start_anchor": "a", "fields": {"content": {"open_pattern": "("}}},
        {"start_anchor": "a", "fields": {"content": {"open_pattern": 3}}},
        {"start_anchor": "a", "fields": {"content": {"content": "yaml"}}},
        {"start_anchor": "a", "fields": {"content": {"content_args": [1]}}},
        {"start_anchor": "a", "fields": {"tool_calls": {"open": "<tool_call>"}}},
    ],
)
def test_a_broken_template_is_ignored(broken: object) -> None:
    assert isinstance(reply_format(tokenizer(QWEN3, response_template=broken)), TagFormat)
    assert isinstance(reply_format(tokenizer(PLAIN, response_template=broken)), PlainFormat)


def test_a_template_whose_regions_open_and_close_without_text_ends_and_loses_nothing() -> None:
    endless = {
        "start_anchor": "<|im_start|>",
        "fields": {"thinking": {"open_pattern": "(?=x)", "close_pattern": "(?=x)"}, "content": {}},
    }
    found = reply_format(tokenizer(PLAIN, response_template=endless))
    assert isinstance(found, TemplateFormat)
    assert read(found, "<|im_start|>", pieces("a x <e>b", ["<e>"])) == Seen("", "a x b", ("<e>",))
    assert read(found, "<|im_start|>x", "a x b").content == "a x b"


def test_a_template_whose_content_closes_without_text_loses_nothing() -> None:
    stalling = {"start_anchor": "<|im_start|>", "fields": {"content": {"close_pattern": r"(?=\n)"}}}
    found = reply_format(tokenizer(PLAIN, response_template=stalling))
    assert read(found, "<|im_start|>", "a\nb\nc").content.split() == ["a", "b", "c"]


MARKUP = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_end|>", "<x>", "[say]", "[/say]", "[reason]"]


@given(st.data(), st.sampled_from([(qwen3, TURN), (qwen3, TURN + "<think>\n"), (marked, "[reply]")]))
def test_any_split_of_any_reply_gives_the_same_sections(data: st.DataObject, case: tuple[Any, str]) -> None:
    found, opening = case
    whole = pieces(data.draw(replies(MARKUP)), data.draw(st.sets(st.sampled_from(MARKUP))))
    texts, same = read(found, opening, data.draw(splits(whole))), read(found, opening, whole)
    assert (texts.thinking, texts.content) == (same.thinking, same.content)


@given(replies(MARKUP))
def test_all_text_of_any_reply_but_white_space_is_passed_on(reply: str) -> None:
    reader = qwen3.reader(TURN)
    passed = [*reader.push(Piece(reply)), *reader.finish()]
    assert "".join("".join(piece.text for _, piece in passed).split()) == "".join(reply.split())


@given(st.lists(st.sampled_from(["a", " b", "\n", "<thi"]), max_size=9).map("".join), st.booleans(), st.booleans())
def test_a_reply_is_read_as_the_library_reads_it(text: str, thinks: bool, ends: bool) -> None:
    reply = ("<think>\n" + text + "</think>") * thinks + text + "<|im_end|>" * ends
    message = parse_response(reply, THINK, prefix=TURN)
    shown = read(qwen3, TURN, reply)
    assert shown.thinking == message.get("reasoning_content", "")
    assert shown.content == message.get("content", "")
