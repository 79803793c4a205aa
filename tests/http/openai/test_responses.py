"""POST /v1/responses: the response, whole and as events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.chat_interface import CallDelta, TokenLogprobs, TokenText, ToolCall
from server.job import Job
from server.protocol import JobReplied, JobText
from tests.fakes import FakeReply
from tests.support.http.chats import messages_of
from tests.support.http.front import Front, front
from tests.support.http.responses import URL, events, post, reply_with

pytestmark = pytest.mark.anyio

WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
CALL = ToolCall("call_1", "weather", '{"city": "Rome"}')


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
