"""POST /v1/messages: the message that comes back, whole and in events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.chat_interface import ToolCall
from tests.fakes import FakeReply
from tests.support.http.front import Front, front

pytestmark = pytest.mark.anyio

TOOL = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
BODY: dict[str, Any] = {
    "model": "talker", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], "tools": [TOOL],
}  # fmt: skip
ROME = ToolCall("call_1", "weather", '{"city": "Rome"}')
OSLO = ToolCall("call_2", "weather", '{"city": "Oslo"}')
USAGE = {"input_tokens": 12, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}


async def ask(f: Front, reply: FakeReply, **fields: Any) -> Any:
    f.engine.reply = lambda _: reply
    answer = await f.post("/v1/messages", BODY | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def ask_streamed(f: Front, reply: FakeReply, **fields: Any) -> list[tuple[str, Any]]:
    f.engine.reply = lambda _: reply
    return events(await f.post("/v1/messages", BODY | {"stream": True} | fields))


def events(reply: httpx.Response) -> list[tuple[str, Any]]:
    """Returns name and data of each event."""
    assert reply.status_code == 200, reply.text
    read = []
    for block in reply.text.strip().split("\n\n"):
        name, _, data = block.partition("\n")
        read.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    assert all(name == data["type"] for name, data in read)
    return read


async def test_a_whole_message_has_thinking_text_calls_and_usage(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        reply = await ask(f, FakeReply("Let me look.", "Rome, I think.", (ROME, OSLO)))

    assert reply.pop("id").startswith("msg_")
    assert reply == {
        "type": "message",
        "role": "assistant",
        "model": "talker",
        "content": [
            {"type": "thinking", "thinking": "Rome, I think.", "signature": "agentname."},
            {"type": "text", "text": "Let me look."},
            {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}},
            {"type": "tool_use", "id": "toolu_2", "name": "weather", "input": {"city": "Oslo"}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {**USAGE, "output_tokens": 8, "output_tokens_details": {"thinking_tokens": 3}},
    }


@pytest.mark.parametrize(
    ("reply", "stop_reason", "stop_sequence"),
    [
        (FakeReply("Hi"), "end_turn", None),
        (FakeReply("Hi", finish_reason="length"), "max_tokens", None),
        (FakeReply("Hi", stop_text="END"), "stop_sequence", "END"),
        (FakeReply("", calls=(ROME,), finish_reason="length"), "max_tokens", None),
    ],
)
async def test_the_reason_of_the_end_is_told(
    tmp_path: Path, reply: FakeReply, stop_reason: str, stop_sequence: str | None
) -> None:
    async with front(tmp_path) as f:
        whole = await ask(f, reply, stop_sequences=["END"])
        streamed = await ask_streamed(f, reply, stop_sequences=["END"])

    assert (whole["stop_reason"], whole["stop_sequence"]) == (stop_reason, stop_sequence)
    assert streamed[-2][1]["delta"] == {"stop_reason": stop_reason, "stop_sequence": stop_sequence}


@pytest.mark.parametrize(
    "arguments", ['{"city": "Ro', "[1]", '{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}', "[" * 9999]
)
async def test_arguments_that_are_no_object_are_shown_beside_an_empty_input(tmp_path: Path, arguments: str) -> None:
    async with front(tmp_path) as f:
        reply = await ask(f, FakeReply("", calls=(ToolCall("call_1", "weather", arguments),), finish_reason="length"))

    assert reply["content"] == [
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}, "partial_json": arguments}
    ]


async def test_a_reply_without_text_has_no_content(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        whole = await ask(f, FakeReply(""))
        streamed = await ask_streamed(f, FakeReply(""))

    assert whole["content"] == []
    assert [name for name, _ in streamed] == ["message_start", "ping", "message_delta", "message_stop"]


async def test_a_stream_begins_continues_and_ends_one_block_after_the_other(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        (_, start), *middle, (_, delta), _ = await ask_streamed(f, FakeReply("Look.", "Rome.", (ROME, OSLO)))

    assert start["message"]["content"] == []
    assert start["message"]["usage"]["input_tokens"] == len('[["user", "Hi"]]'), "what the prompt has"
    assert [(name, data.get("index"), data.get("content_block") or data.get("delta")) for name, data in middle] == [
        ("ping", None, None),
        ("content_block_start", 0, {"type": "thinking", "thinking": "", "signature": ""}),
        ("content_block_delta", 0, {"type": "thinking_delta", "thinking": "Rome."}),
        ("content_block_delta", 0, {"type": "signature_delta", "signature": "agentname."}),
        ("content_block_stop", 0, None),
        ("content_block_start", 1, {"type": "text", "text": ""}),
        ("content_block_delta", 1, {"type": "text_delta", "text": "Look."}),
        ("content_block_stop", 1, None),
        ("content_block_start", 2, {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}),
        ("content_block_delta", 2, {"type": "input_json_delta", "partial_json": '{"city":'}),
        ("content_block_delta", 2, {"type": "input_json_delta", "partial_json": ' "Rome"}'}),
        ("content_block_stop", 2, None),
        ("content_block_start", 3, {"type": "tool_use", "id": "toolu_2", "name": "weather", "input": {}}),
        ("content_block_delta", 3, {"type": "input_json_delta", "partial_json": '{"city":'}),
        ("content_block_delta", 3, {"type": "input_json_delta", "partial_json": ' "Oslo"}'}),
        ("content_block_stop", 3, None),
    ]
    assert delta["usage"] == {**USAGE, "output_tokens": 8, "output_tokens_details": {"thinking_tokens": 3}}


async def test_thinking_that_is_left_out_of_a_stream_is_in_its_signature(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        read = await ask_streamed(f, FakeReply("Yes.", "Rome."), thinking={"type": "adaptive", "display": "omitted"})
        whole = await ask(f, FakeReply("Yes.", "Rome."), thinking={"type": "adaptive", "display": "omitted"})

    deltas = [data["delta"] for name, data in read if name == "content_block_delta"]
    assert deltas == [
        {"type": "signature_delta", "signature": "agentname.Um9tZS4="},
        {"type": "text_delta", "text": "Yes."},
    ]
    assert whole["content"][0] == {"type": "thinking", "thinking": "", "signature": "agentname.Um9tZS4="}
