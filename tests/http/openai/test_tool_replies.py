"""POST /v1/chat/completions: calls of tools in the reply, whole and in chunks, also in OpenAI's older form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.chat_interface import TokenLogprobs, TokenText, ToolCall, ToolUse
from tests.fakes import FakeReply
from tests.support.http.chats import chunks, reply_with
from tests.support.http.front import Front, front

pytestmark = pytest.mark.anyio

HI = [{"role": "user", "content": "How is the weather in Rome and Oslo?"}]
FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
BODY = {"messages": HI, "tools": [{"type": "function", "function": FUNCTION}]}
OLDER = {"messages": HI, "functions": [FUNCTION]}
ROME = ToolCall("call_1", "weather", '{"city": "Rome"}')
OSLO = ToolCall("call_2", "weather", '{"city": "Oslo"}')


def deltas(streamed: list[Any]) -> list[Any]:
    return [choice["delta"] for chunk in streamed for choice in chunk["choices"]]


async def ask(f: Front, reply: FakeReply, body: dict[str, Any]) -> Any:
    f.engine.reply = lambda _: reply
    return (await f.post("/v1/chat/completions", body)).json()


async def ask_streamed(f: Front, reply: FakeReply, body: dict[str, Any]) -> list[Any]:
    f.engine.reply = lambda _: reply
    return chunks(await f.post("/v1/chat/completions", body | {"stream": True}))


async def test_calls_of_a_reply_are_its_tool_calls(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        reply = await ask(f, FakeReply("", calls=(ROME, OSLO)), BODY)

    (choice,) = reply["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}},
            {"id": "call_2", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
        ],
    }
    assert choice["finish_reason"] == "tool_calls"
    assert reply["usage"]["completion_tokens"] == 5


async def test_text_and_thinking_stand_beside_the_calls(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        said = FakeReply("Let me look.", "Rome is in Italy.", (ROME,))
        whole = await ask(f, said, BODY)
        streamed = deltas(await ask_streamed(f, said, BODY))

    message = whole["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("Let me look.", "Rome is in Italy.")
    assert len(message["tool_calls"]) == 1
    assert streamed[:3] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "Rome is in Italy.", "reasoning": "Rome is in Italy."},
        {"content": "Let me look."},
    ]
    assert "tool_calls" in streamed[3]


async def test_calls_are_streamed_by_name_and_then_piece_by_piece(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        options = {"stream_options": {"include_usage": True}}
        *streamed, usage = await ask_streamed(f, FakeReply("", calls=(ROME, OSLO)), BODY | options)

    first, *parts, end = deltas(streamed)
    assert first == {"role": "assistant", "content": None}
    assert end == {}
    calls = [part["tool_calls"][0] for part in parts]
    assert [call["index"] for call in calls] == [0, 0, 0, 1, 1, 1]
    assert calls[0] == {
        "index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""},
    }  # fmt: skip
    assert calls[1] == {"index": 0, "function": {"arguments": '{"city":'}}
    for index, made in enumerate((ROME, OSLO)):
        arguments = [call["function"]["arguments"] for call in calls if call["index"] == index]
        assert "".join(arguments) == made.arguments
    assert [chunk["choices"][0]["finish_reason"] for chunk in streamed] == [None] * 7 + ["tool_calls"]
    assert usage["usage"]["completion_tokens"] == 5


async def test_the_older_form_gets_its_call_in_the_older_form(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        whole = await ask(f, FakeReply("", calls=(ROME,)), OLDER)
        streamed = await ask_streamed(f, FakeReply("", calls=(ROME,)), OLDER)
        uses = {(options.tool_use.tools[0].name, options.tool_use.parallel) for options in f.prompt_reader.options}

    (choice,) = whole["choices"]
    assert choice["message"]["function_call"] == {"name": "weather", "arguments": '{"city": "Rome"}'}
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == streamed[-1]["choices"][0]["finish_reason"] == "function_call"
    parts = [delta["function_call"] for delta in deltas(streamed)[1:-1]]
    assert [part.get("name") for part in parts] == ["weather", None, None]
    assert "".join(part["arguments"] for part in parts) == ROME.arguments
    assert uses == {("weather", False)}


async def test_each_choice_has_its_own_calls(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        said = [FakeReply("", calls=(ROME,)), FakeReply("No idea.")] * 2
        f.engine.reply = lambda _: said.pop(0)
        whole = (await f.post("/v1/chat/completions", BODY | {"n": 2})).json()
        streamed = chunks(await f.post("/v1/chat/completions", BODY | {"n": 2, "stream": True}))

    assert [choice["finish_reason"] for choice in whole["choices"]] == ["tool_calls", "stop"]
    assert [choice["message"]["content"] for choice in whole["choices"]] == [None, "No idea."]
    ends = {chunk["choices"][0]["index"]: chunk["choices"][0]["finish_reason"] for chunk in streamed}
    assert ends == {0: "tool_calls", 1: "stop"}
    assert all(chunk["choices"][0]["index"] == 0 for chunk in streamed if "tool_calls" in chunk["choices"][0]["delta"])


async def test_log_probabilities_stand_beside_text_and_calls(tmp_path: Path) -> None:
    token = TokenLogprobs(TokenText("Hm", b"Hm", -0.5), ())

    def say(f: Front, job: Any) -> None:
        f.engine.start_job(job.id)
        f.engine.say(job.id, "Hm", "content", (token,))
        f.engine.finish_chat(job.id, "", calls=(ROME,))

    async with front(tmp_path) as f:
        whole = (await reply_with(f, BODY | {"logprobs": True}, say)).json()

    (choice,) = whole["choices"]
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == ["Hm"]
    assert choice["message"]["tool_calls"][0]["id"] == "call_1"


async def test_a_call_and_its_result_come_back_as_the_model_wrote_them(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        whole = await ask(f, FakeReply("", calls=(ROME,)), BODY)
        message = whole["choices"][0]["message"]
        result = {
            "role": "tool",
            "tool_call_id": message["tool_calls"][0]["id"],
            "content": json.dumps({"degrees": 20}),
        }
        await ask(f, FakeReply("20 degrees."), BODY | {"messages": [*HI, message, result]})
        _, assistant, tool = f.prompt_reader.messages[-1]

    assert assistant.tool_calls == (ROME,)
    assert (assistant.content, tool.name, tool.tool_call_id) == ("", "weather", "call_1")


async def test_what_was_asked_of_tools_reaches_the_prompt(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        await ask(f, FakeReply("", calls=(ROME,)), BODY | {"tool_choice": "required", "parallel_tool_calls": False})
        (options,) = f.prompt_reader.options

    use = options.tool_use
    assert isinstance(use, ToolUse)
    assert [tool.parameters for tool in use.tools] == [FUNCTION["parameters"]]
    assert (use.choice, use.name, use.parallel) == ("required", None, False)
