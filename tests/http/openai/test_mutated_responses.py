"""1,000 mutations of bodies as real clients send them to /v1/responses: never a 500, never a hang, refused in shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.chat_interface import ChatRequest, ToolCall
from tests.fakes import FakeReply
from tests.support.http.front import front
from tests.support.http.mutated_requests import send_mutations
from tests.support.http.mutations import fault_of_refusal

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

N_MUTATIONS = 1000
SCHEMA = {
    "type": "object",
    "properties": {"cmd": {"type": "string"}},
    "required": ["cmd"],
    "additionalProperties": False,
}
RUN = {"type": "function", "name": "run", "description": "Runs a command.", "strict": False, "parameters": SCHEMA}

# As Codex sends them, with texts of our own.
CODEX = {
    "model": "talker", "stream": True, "store": False, "tool_choice": "auto", "parallel_tool_calls": True,
    "reasoning": {"summary": "auto"}, "include": ["reasoning.encrypted_content"], "prompt_cache_key": "k",
    "client_metadata": {"turn": "1"}, "tools": [
        RUN,
        {"type": "namespace", "name": "crew", "description": "Helpers.", "tools": [{**RUN, "name": "ask"}]},
        {"type": "custom", "name": "apply_patch", "description": "Edits files.",
         "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}},
        {"type": "web_search", "external_web_access": False},
    ],
    "input": [
        {"type": "message", "id": "msg_1", "role": "developer", "content": [{"type": "input_text", "text": "Help."}]},
        {"type": "message", "id": "msg_2", "role": "user", "content": [{"type": "input_text", "text": "Say hi"}]},
        {"type": "reasoning", "summary": [], "content": None, "encrypted_content": None},
        {"type": "function_call", "status": "completed", "id": "fc_1", "name": "run", "arguments": '{"cmd": "ls"}',
         "call_id": "call_1"},
        {"type": "function_call_output", "id": "fco_1", "call_id": "call_1", "output": "a.txt"},
        {"type": "custom_tool_call", "name": "apply_patch", "input": "*** x", "call_id": "call_2"},
        {"type": "custom_tool_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "ok"}]},
        {"type": "function_call", "name": "ask", "namespace": "crew", "arguments": "{}", "call_id": "call_3"},
    ],
}  # fmt: skip
# As a library sends what it got before.
LIBRARY = {
    "model": "talker", "instructions": "Be brief.", "stream": False, "metadata": {"a": "b"}, "input": [
        {"role": "user", "content": "Hi"},
        {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
        {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "phase": None, "content": [
            {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}]},
        {"role": "user", "content": [{"type": "input_text", "text": "And?"}, {"type": "input_text", "text": "So?"}]},
    ],
    "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}, "verbosity": "medium"},
    "tools": [RUN],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "run"}]},
    "max_output_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_logprobs": 2, "truncation": "auto", "seed": 3,
    "include": ["message.output_text.logprobs"], "reasoning": {"effort": "low", "summary": "auto"}, "store": True,
    "service_tier": "auto", "user": "anna", "stream_options": {"include_obfuscation": False}, "stop": ["END"],
    "chat_template_kwargs": {"enable_thinking": True},
}  # fmt: skip
REQUIRED = {"input": "Hi", "tools": [RUN], "tool_choice": {"type": "function", "name": "run"}, "stream": True}
BODIES: list[Any] = [CODEX, LIBRARY, REQUIRED, {"input": "Hi"}]


def reply(request: ChatRequest) -> FakeReply:
    return FakeReply("Hé", "Hm.", (ToolCall("call_9", "apply_patch", '{"input": "x"}'),))


async def test_mutated_bodies_are_answered_or_refused_in_shape(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = reply
        earlier = (await f.post("/v1/responses", {"input": "Hi"})).json()
        reference = {"type": "item_reference", "id": earlier["output"][0]["id"]}
        going_on = {"input": [reference, {"role": "user", "content": "?"}], "previous_response_id": earlier["id"]}
        statuses = await send_mutations(f, ["/v1/responses"], [*BODIES, going_on], N_MUTATIONS, fault_of)

    assert min(statuses[200], statuses[400]) > N_MUTATIONS / 8, statuses  # mutations that show something


def fault_of(answer: httpx.Response) -> str | None:
    """Returns what is wrong with an answer, of which a refusal is as good as any."""
    if answer.status_code == 200:
        streamed = answer.headers["content-type"].startswith("text/event-stream")
        last = json.loads(answer.text.strip().split("\n\n")[-1].split("data: ")[1]) if streamed else {}
        response = last.get("response", {}) if streamed else answer.json()
        return None if response.get("status") == "completed" and response["output"] else "an incomplete response"
    return fault_of_refusal(answer)
