"""Messages of a chat completion as clients write them: what is read of them, and what is refused where."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipelines.chat_interface import Message, ToolCall
from server.api.openai.message_schema import MAX_MESSAGES, read_messages
from server.errors import BadRequest

HI = {"role": "user", "content": "Hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}


def read(*messages: Any) -> Message:
    """Returns the last of the messages."""
    return read_messages(list(messages))[-1]


@pytest.mark.parametrize(
    "further",
    [
        {"tool_calls": None, "function_call": None, "provider_specific_fields": {"refusal": None}},  # LiteLLM
        {"refusal": None, "annotations": None, "audio": None, "function_call": None, "tool_calls": None},  # openai
        {"annotations": [], "parsed": None, "tool_calls": []},
        {"id": "msg_1", "name": None, "cache_control": {"type": "ephemeral"}, "metadata": {"a": [1]}, "zzz": 1},
    ],
)
def test_unknown_and_empty_fields_change_nothing(further: Any) -> None:
    assert read(HI, {"role": "assistant", "content": "Hello", **further}) == Message("assistant", "Hello")


@pytest.mark.parametrize(
    ("role", "read_as"),
    [
        ("system", "system"), ("developer", "system"), ("user", "user"), ("assistant", "assistant"), ("tool", "tool"),
        ("function", "tool"),
    ],
)  # fmt: skip
def test_every_role_is_read(role: str, read_as: str) -> None:
    assert read({"role": role, "content": "x"}) == Message(read_as, "x")  # type: ignore[arg-type]  # one of the roles


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Hi", "Hi"),
        ("", ""),
        (None, ""),
        ([], ""),
        ([{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}], "Hi"),
        ([{"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b", "annotations": []}], "a\nb"),
        ([{"text": "a"}, "b", {"type": "text", "text": None}], "a\nb\n"),
        ([{"type": "refusal", "refusal": "No."}], "No."),
    ],
)
def test_content_is_text_or_its_parts_line_by_line(content: Any, text: str) -> None:
    assert read({"role": "user", "content": content}).content == text


def test_an_assistant_needs_no_content_and_may_have_refused() -> None:
    assert read(HI, {"role": "assistant"}).content == ""
    assert read(HI, {"role": "assistant", "content": None, "refusal": "No."}).content == "No."


@pytest.mark.parametrize(
    "fields",
    [
        {"content": "Hello", "reasoning_content": "They greet."},
        {"content": "Hello", "reasoning": "They greet."},
        {"content": "Hello", "thinking": "They greet."},
        {"content": "Hello", "reasoning_content": "", "reasoning": "They greet."},
        {"content": "Hello", "reasoning_details": [{"type": "reasoning.text", "text": "They greet."}]},
        {"content": "Hello", "reasoning_details": [{"type": "reasoning.summary", "summary": "They greet."}]},
        {"content": "Hello", "thinking_blocks": [{"type": "thinking", "thinking": "They greet.", "signature": "x"}]},
        {"content": [{"type": "thinking", "thinking": "They greet."}, {"type": "text", "text": "Hello"}]},
        {"content": [{"type": "reasoning", "reasoning": "They greet."}, {"type": "text", "text": "Hello"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "They greet."}]}, "Hello"]},
        {"content": ["Hello", {"type": "redacted_thinking", "data": "x"}], "reasoning_content": "They greet."},
    ],
)
def test_what_an_assistant_thought_is_found_where_its_library_keeps_it(fields: Any) -> None:
    assert read(HI, {"role": "assistant", **fields}) == Message("assistant", "Hello", thinking="They greet.")


def test_thinking_that_is_encrypted_or_of_another_kind_is_passed_over() -> None:
    fields = {"reasoning": {"id": "rs_1"}, "reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}, 1]}

    assert read(HI, {"role": "assistant", "content": "Hello", **fields}) == Message("assistant", "Hello")


def test_a_result_is_named_after_the_call_that_it_answers() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}

    messages = read_messages([HI, call, {"role": "tool", "tool_call_id": "c1", "content": "42"}])

    assert messages[1].tool_calls == (ToolCall("c1", "weather", '{"city": "Oslo"}'),)
    assert messages[2] == Message("tool", "42", name="weather", tool_call_id="c1")


@pytest.mark.parametrize(
    ("fields", "call"),
    [
        ({"function_call": {"name": "f", "arguments": "{}"}}, ToolCall("", "f", "{}")),
        ({"tool_calls": [{"function": {"name": "f", "arguments": {"ö": 1}}}]}, ToolCall("", "f", '{"ö": 1}')),
        ({"tool_calls": [{"id": "c", "function": {"name": "f"}}]}, ToolCall("c", "f", "{}")),
        (
            {"tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "f", "input": "x = 1"}}]},
            ToolCall("c", "f", '{"input": "x = 1"}'),
        ),
    ],
)
def test_calls_are_read_in_all_their_forms(fields: Any, call: ToolCall) -> None:
    assert read(HI, {"role": "assistant", **fields}).tool_calls == (call,)


NESTED = json.loads("[" * 500 + "]" * 500)


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([], f"messages must be a list of 1 to {MAX_MESSAGES} messages"),
        ("Hi", "messages must be a list"),
        ({"0": HI}, "messages must be a list"),
        ([HI] * (MAX_MESSAGES + 1), "messages must be a list"),
        (["Hi"], "messages[0] must be an object with a role"),
        ([HI, NESTED], "messages[1] must be an object with a role"),
        ([{"content": "Hi"}], "messages[0].role must be one of system, developer"),
        ([{"role": "Zeus", "content": "Hi"}], "messages[0].role must be one of"),
        ([{"role": ["user"], "content": "Hi"}], "messages[0].role must be one of"),
        ([HI, HI, {"role": "user"}], "messages[2].content is required"),
        ([{"role": "user", "content": 7}], "messages[0].content must be text or a list of parts"),
        ([{"role": "user", "content": {"text": "Hi"}}], "messages[0].content must be"),
        ([{"role": "user", "content": NESTED}], "messages[0].content[0] must be a part like"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text must be text"),
        ([{"role": "user", "content": [{"type": "text", "text": 7}]}], "messages[0].content[0].text must be text"),
        ([{"role": "user", "content": [{"type": 7}]}], "messages[0].content[0].type must be one of text"),
        ([{"role": "system", "content": [{"type": "image_url"}]}], "a part of the type image_url is not supported"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "a part of the type input_audio is not supported"),
        ([{"role": "user", "content": [{"type": "<b>"}]}], "messages[0].content[0]: a part is not supported"),
        ([{"role": "user", "content": [{"type": "thinking", "thinking": "x"}]}], "type thinking is not supported"),
        ([{"role": "user", "content": "a\0b"}], "without NUL characters and halves of surrogate pairs"),
        ([{"role": "user", "content": ["a\udc00"]}], "without NUL characters and halves of surrogate pairs"),
        ([{"role": "assistant", "reasoning": "\ud800"}], "messages[0].reasoning must be text without NUL"),
        ([{"role": "user", "content": "Hi", "name": 7}], "messages[0].name must be text"),
        ([{"role": "tool", "content": "Hi", "tool_call_id": 7}], "messages[0].tool_call_id must be text"),
        ([{"role": "assistant", "tool_calls": {}}], "messages[0].tool_calls must be a list of calls"),
        ([{"role": "assistant", "tool_calls": ["x"]}], "messages[0].tool_calls[0] must be an object"),
        ([{"role": "assistant", "tool_calls": [{}]}], "messages[0].tool_calls[0].function must be an object"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": NESTED}}]}],
            "messages[0].tool_calls[0].function.arguments must be nested at most 32 levels deep",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(messages: Any, error: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read_messages(messages)

    assert error in refused.value.message
    assert refused.value.param == "messages"
