"""POST /v1/responses: which fields reach the model, and which are refused or only taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.chat_interface import ToolCall
from tests.fakes import FakeReply, messages_in
from tests.support.http.chats import chat_request
from tests.support.http.front import front
from tests.support.http.responses import URL, events, post, refused

pytestmark = pytest.mark.anyio

WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}


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


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"type": "json_schema"}, "text.format.schema is required"),
        ({"type": "json_schema", "schema": {}, "strict": 1}, "text.format.strict must be true or false"),
        ({"type": "json_schema", "json_schema": {}}, "text.format.json_schema.schema is required"),
    ],
)
async def test_a_form_of_the_text_that_is_wrong_is_named_where_it_stands(
    tmp_path: Path, form: Any, message: str
) -> None:
    async with front(tmp_path) as f:
        error = await refused(f, json.dumps({"input": "Hi", "text": {"format": form}}).encode())

    assert error["message"].startswith(message)


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
