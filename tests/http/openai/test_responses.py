"""POST /v1/responses: the response whole and as events, its items, what the model is asked, and errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.chat_interface import CallDelta, TokenLogprobs, TokenText, ToolCall
from server.job import Job
from server.protocol import JobReplied, JobText
from tests.fakes import FakeReply, messages_in
from tests.support.http.chats import chat_request, messages_of, next_chat
from tests.support.http.front import Front, front

pytestmark = pytest.mark.anyio

URL = "/v1/responses"
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
CALL = ToolCall("call_1", "weather", '{"city": "Rome"}')


def events(reply: httpx.Response) -> list[Any]:
    """Returns the events of a stream, whose names and numbers must be right."""
    assert reply.status_code == 200, reply.text
    found = []
    for number, block in enumerate(reply.text.strip().split("\n\n")):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
        assert found[-1]["sequence_number"] == number
    return found


async def post(f: Front, body: Any, key: str = "enterprise") -> Any:
    reply = await f.post(URL, {"input": "Hi"} | body, key)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def refused(f: Front, body: Any, status: int = 400) -> Any:
    reply = await f.post(URL, body)
    assert reply.status_code == status, reply.text
    return reply.json()["error"]


async def reply_with(f: Front, body: Any, act: Callable[[Front, Job], None], key: str = "enterprise") -> httpx.Response:
    """Sends a request whose reply `act` makes."""
    f.engine.reply = None
    replying = asyncio.create_task(f.post(URL, {"input": "Hi"} | body, key))
    act(f, await next_chat(f))
    return await replying


async def test_a_response_has_thoughts_text_and_calls_as_items_in_this_order(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = lambda _: FakeReply("Let me see.", "Rome?", (CALL, ToolCall("call_2", "weather", "{}")))
        response = await post(f, {"tools": [WEATHER], "instructions": "Be brief.", "metadata": {"a": "b"}})
        asked = messages_of(f.engine.jobs.popitem()[1])

    suffix = response["id"].removeprefix("resp_")
    assert asked == [("system", "Be brief."), ("user", "Hi")]
    assert (response["object"], response["status"], response["model"]) == ("response", "completed", "talker")
    assert (response["error"], response["incomplete_details"], response["metadata"]) == (None, None, {"a": "b"})
    assert (response["tools"], response["tool_choice"], response["instructions"]) == ([WEATHER], "auto", "Be brief.")
    assert response["output"] == [
        {
            "id": f"rs_{suffix}_0", "type": "reasoning", "status": "completed", "summary": [],
            "content": [{"type": "reasoning_text", "text": "Rome?"}],
        },
        {
            "id": f"msg_{suffix}_1", "type": "message", "status": "completed", "role": "assistant",
            "content": [{"type": "output_text", "text": "Let me see.", "annotations": [], "logprobs": []}],
        },
        {
            "id": f"fc_{suffix}_2", "type": "function_call", "status": "completed", "call_id": "call_1",
            "name": "weather", "arguments": '{"city": "Rome"}',
        },
        {
            "id": f"fc_{suffix}_3", "type": "function_call", "status": "completed", "call_id": "call_2",
            "name": "weather", "arguments": "{}",
        },
    ]  # fmt: skip
    assert response["usage"] == {
        "input_tokens": 12,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 8,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 20,
    }


async def test_a_stream_tells_of_each_item_as_it_grows_and_ends_with_the_whole_response(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = lambda _: FakeReply("Let me see.", "Rome?", (CALL,))
        streamed = events(await f.post(URL, {"input": "Hi", "stream": True, "tools": [WEATHER]}))

    assert [content["type"].removeprefix("response.") for content in streamed] == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done", "content_part.done",
        "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done",
        "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    created, *_, completed = streamed
    assert (created["response"]["status"], created["response"]["output"]) == ("in_progress", [])
    response = completed["response"]
    assert response["id"] == created["response"]["id"]
    assert [c["item"] for c in streamed if c["type"] == "response.output_item.done"] == response["output"]
    added = [c["item"] for c in streamed if c["type"] == "response.output_item.added"]
    assert [(item["id"], item["status"]) for item in added] == [(i["id"], "in_progress") for i in response["output"]]
    parts = [c["delta"] for c in streamed if c["type"] == "response.function_call_arguments.delta"]
    assert "".join(parts) == CALL.arguments
    assert {c["output_index"]: c["item_id"] for c in streamed if "item_id" in c} == dict(
        enumerate(item["id"] for item in response["output"])
    )


async def test_whole_and_streamed_responses_are_the_same(tmp_path: Path) -> None:
    def say(f: Front, job: Job) -> None:
        """Thinks, speaks, calls, and speaks again."""
        f.engine.start_job(job.id)
        f.engine.say(job.id, "A", "thinking")
        f.engine.say(job.id, "B")
        f.engine.say(job.id, "C")
        f.engine.call(job.id, 0, CALL)
        f.engine.say(job.id, "D")
        f.engine.deliver(JobReplied(job.id, "BCD", 12, 5, "stop", "A", 1, (), (CALL,)))

    def shape(response: Any) -> Any:
        return [{name: value for name, value in item.items() if name != "id"} for item in response["output"]]

    async with front(tmp_path) as f:
        whole = (await reply_with(f, {}, say)).json()
        streamed = events(await reply_with(f, {"stream": True}, say))[-1]["response"]

    assert shape(whole) == shape(streamed)
    assert [item["type"] for item in whole["output"]] == ["reasoning", "message", "function_call", "message"]
    assert whole["usage"] == streamed["usage"]


async def test_a_summary_of_the_thoughts_is_there_for_clients_that_ask_for_it(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = lambda _: FakeReply("Hello", "Hm.")
        whole = await post(f, {"reasoning": {"effort": "low", "summary": "auto"}})
        streamed = events(await f.post(URL, {"input": "Hi", "stream": True, "reasoning": {"summary": "detailed"}}))
        hidden = await post(f, {"include_reasoning": False})
        efforts = [options.effort for options in f.prompt_reader.options]

    assert whole["output"][0]["summary"] == [{"type": "summary_text", "text": "Hm."}]
    assert whole["reasoning"] == {"effort": "low", "summary": "auto"}
    assert efforts == ["low", None, None]
    names = [content["type"] for content in streamed if "summary" in content["type"]]
    assert names == [
        "response.reasoning_summary_part.added", "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done", "response.reasoning_summary_part.done",
    ]  # fmt: skip
    assert [item["type"] for item in hidden["output"]] == ["message"]
    assert hidden["usage"]["output_tokens_details"] == {"reasoning_tokens": 3}


async def test_a_reply_that_was_cut_off_is_incomplete(tmp_path: Path) -> None:
    def cut(f: Front, job: Job) -> None:
        f.engine.start_job(job.id)
        f.engine.deliver(JobText(job.id, "", 0.0, call=CallDelta(0, "call_1", "weather")))
        f.engine.deliver(JobText(job.id, "", 0.0, call=CallDelta(0, arguments='{"ci')))
        f.engine.deliver(JobReplied(job.id, "", 12, 5, "length"))

    async with front(tmp_path) as f:
        whole = (await reply_with(f, {"max_output_tokens": 5}, cut)).json()
        streamed = events(await reply_with(f, {"max_output_tokens": 5, "stream": True}, cut))

    assert (whole["status"], whole["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (whole["max_output_tokens"], whole["completed_at"]) == (5, None)
    assert [(item["arguments"], item["status"]) for item in whole["output"]] == [('{"ci', "incomplete")]
    assert streamed[-1]["type"] == "response.incomplete"


async def test_a_reply_without_any_text_has_an_empty_message(tmp_path: Path) -> None:
    def say_nothing(f: Front, job: Job) -> None:
        f.engine.start_job(job.id)
        f.engine.deliver(JobReplied(job.id, "", 12, 1, "stop"))

    async with front(tmp_path) as f:
        whole = (await reply_with(f, {}, say_nothing)).json()
        streamed = events(await reply_with(f, {"stream": True}, say_nothing))

    assert [part["text"] for item in whole["output"] for part in item["content"]] == [""]
    assert [content["type"] for content in streamed][:2] == ["response.created", "response.in_progress"]
    assert streamed[-1]["response"]["output"][0]["content"] == whole["output"][0]["content"]


async def test_log_probabilities_are_in_the_deltas_and_in_the_text(tmp_path: Path) -> None:
    token = TokenLogprobs(TokenText("He", b"He", -0.5), (TokenText("Ho", b"Ho", -1.5),))

    def say(f: Front, job: Job) -> None:
        f.engine.start_job(job.id)
        f.engine.say(job.id, "He", "content", (token,))
        f.engine.deliver(JobReplied(job.id, "He", 12, 1, "stop"))

    body = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    async with front(tmp_path) as f:
        whole = (await reply_with(f, body, say)).json()
        streamed = events(await reply_with(f, body | {"stream": True}, say))

    expected = [
        {
            "token": "He", "logprob": -0.5, "bytes": [72, 101],
            "top_logprobs": [{"token": "Ho", "logprob": -1.5, "bytes": [72, 111]}],
        }
    ]  # fmt: skip
    assert whole["output"][0]["content"][0]["logprobs"] == expected
    assert [c["logprobs"] for c in streamed if c["type"] == "response.output_text.delta"] == [expected]
    assert whole["top_logprobs"] == 1


@pytest.mark.parametrize("begun", [False, True])
async def test_a_stream_that_fails_is_an_http_error_until_its_first_event(tmp_path: Path, begun: bool) -> None:
    def fail(f: Front, job: Job) -> None:
        if begun:
            f.engine.say(job.id, "He")
        f.engine.fail(job.id, "engine_stopped", "The engine stopped.")

    async with front(tmp_path) as f:
        reply = await reply_with(f, {"stream": True}, fail, "free")
        await f.settle()

        assert await f.used("chats") == 0
    assert reply.status_code == (200 if begun else 502)
    if begun:
        last = events(reply)[-1]
        assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
        assert last["response"]["error"] == {"code": "server_error", "message": "The engine stopped."}
    else:
        assert reply.json()["error"]["message"] == "The engine stopped."


async def test_one_message_is_charged_and_the_headers_say_so(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        whole = await f.post(URL, {"input": "Hi"}, "free")
        streamed = await f.post(URL, {"input": "Hi", "stream": True}, "free")
        bad = await f.post(URL, {"input": 5}, "free")

    assert [reply.headers["x-ratelimit-remaining"] for reply in (whole, streamed, bad)] == ["49", "48", "48"]
    assert whole.headers["x-ratelimit-limit"] == "50"


async def test_settings_reach_the_engine(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        await post(f, {"max_output_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": "END", "top_k": 5})
        request = chat_request(f.engine.jobs.popitem()[1])

    assert (request.max_tokens, request.temperature, request.top_p) == (7, 0.5, 0.9)
    assert (request.seed, request.stop, request.top_k, request.n_logprobs) == (3, ("END",), 5, None)


async def test_warnings_are_in_the_response(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        f.prompt_reader.warnings = ("max_tokens was 9: the context leaves 5.",)
        response = await post(f, {"tools": [{"type": "web_search", "external_web_access": False}]})

    assert response["warnings"] == [
        "tools: web_search was left out, as this server does not search the web.",
        "max_tokens was 9: the context leaves 5.",
    ]


async def test_a_custom_tool_is_called_with_free_text(tmp_path: Path) -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: /x/"}
    tool = {"type": "custom", "name": "apply_patch", "description": "Edits files.", "format": grammar}
    call = ToolCall("call_1", "apply_patch", '{"input": "*** Begin\\n+é"}')
    async with front(tmp_path) as f:
        f.engine.reply = lambda _: FakeReply("", calls=(call,))
        whole = await post(f, {"tools": [tool], "tool_choice": {"type": "custom", "name": "apply_patch"}})
        (use,) = (options.tool_use for options in f.prompt_reader.options)
        streamed = events(await f.post(URL, {"input": "Hi", "tools": [tool], "stream": True}))
        f.engine.reply = lambda _: "Done."
        output = {"type": "custom_tool_call_output", "call_id": "call_1", "output": "ok"}
        await post(f, {"input": [output], "previous_response_id": whole["id"], "tools": [tool]})
        asked = f.prompt_reader.messages[-1]

    (item,) = whole["output"]
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "apply_patch", "*** Begin\n+é")
    assert (use.choice, use.name) == ("required", "apply_patch")
    assert "start: /x/" in use.tools[0].description
    assert use.tools[0].parameters["required"] == ["input"]
    assert [content.get("delta") for content in streamed if "custom_tool_call_input.delta" in content["type"]] == [
        "*** Begin\n+é"
    ]
    assert [json.loads(made.arguments) for made in asked[1].tool_calls] == [{"input": "*** Begin\n+é"}]
    assert (asked[2].content, asked[2].name) == ("ok", "apply_patch")
    assert any("grammar" in warning for warning in whole["warnings"])


async def test_tools_of_a_namespace_are_called_with_it(tmp_path: Path) -> None:
    tool = {"type": "namespace", "name": "crew", "description": "Agents.", "tools": [WEATHER]}
    async with front(tmp_path) as f:
        f.engine.reply = lambda _: FakeReply("", calls=(ToolCall("call_1", "crew__weather", "{}"),))
        response = await post(f, {"tools": [tool]})
        f.engine.reply = lambda _: "Sun."
        output = {"type": "function_call_output", "call_id": "call_1", "output": "sun"}
        await post(f, {"input": [{"role": "user", "content": "Hi"}, *response["output"], output], "store": False})
        asked = f.prompt_reader.messages[-1]

    (item,) = response["output"]
    assert (item["name"], item["namespace"]) == ("weather", "crew")
    assert [call.name for call in asked[1].tool_calls] == ["crew__weather"]
    assert asked[2].name == "crew__weather"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": "Hi", "background": True}, "background"),
        ({"input": "Hi", "conversation": "conv_1"}, "conversation"),
        ({"input": "Hi", "prompt": {"id": "p"}}, "prompt"),
        ({"input": "Hi", "n": 2}, "n"),
        ({"input": "Hi", "messages": [{"role": "user", "content": "Hi"}]}, "messages"),
        ({"input": "Hi", "text": {"verbosity": "low"}}, "text.verbosity"),
        ({"input": "Hi", "text": {"format": {"type": "xml"}}}, "text.format"),
        ({"input": "Hi", "include": ["everything"]}, "include"),
        ({"input": "Hi", "metadata": {"a": "\ud800"}}, "metadata"),
        ({"input": "Hi", "tools": [{"type": "file_search", "vector_store_ids": ["x"]}]}, "tools"),
        ({"input": "Hi", "tools": [{"type": "web_search"}]}, "tools"),
        ({"input": "Hi", "tools": [{"type": "mcp", "server_label": "x"}]}, "tools"),
        ({"input": "Hi", "tools": [WEATHER], "tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"input": "Hi", "tools": [WEATHER], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice"),
        ({"input": "Hi", "previous_response_id": "resp_0"}, "previous_response_id"),
        ({"input": "Hi", "truncation": "some"}, "truncation"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_name(tmp_path: Path, body: Any, param: str) -> None:
    async with front(tmp_path) as f:
        error = await refused(f, json.dumps(body).encode())

    assert error["param"] == param


async def test_fields_that_only_annotate_are_taken(tmp_path: Path) -> None:
    fields = {
        "user": "anna", "prompt_cache_key": "k", "safety_identifier": "s", "service_tier": "auto", "max_tool_calls": 3,
        "include": ["reasoning.encrypted_content"], "stream_options": {"include_obfuscation": False},
        "background": False, "truncation": "disabled", "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "client_metadata": {"a": "b"}, "prompt_cache_retention": "24h", "conversation": None,
    }  # fmt: skip
    async with front(tmp_path) as f:
        response = await post(f, fields)

    assert "warnings" not in response
    assert (response["user"], response["prompt_cache_key"], response["max_tool_calls"]) == ("anna", "k", 3)
    assert response["text"] == {"format": {"type": "text"}, "verbosity": "medium"}


async def test_a_context_that_is_too_long_loses_its_oldest_turns_only_on_demand(tmp_path: Path) -> None:
    old = [{"role": "user", "content": "x" * 40_000}, {"role": "assistant", "content": "y" * 30_000}]
    items = [{"role": "developer", "content": "Be brief."}, *old, {"role": "user", "content": "Now?"}]
    async with front(tmp_path) as f:
        error = await refused(f, {"input": items})
        response = await post(f, {"input": items, "truncation": "auto"})
        asked = messages_in(chat_request(f.engine.jobs.popitem()[1]).prompt)

    assert (error["code"], error["param"]) == ("context_length_exceeded", "input")
    assert asked == [("system", "Be brief."), ("user", "Now?")]
    assert response["truncation"] == "auto"
    assert "its oldest 2 messages were left out" in response["warnings"][0]
