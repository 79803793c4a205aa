"""2,000 mutations of bodies like those that Claude Code sends: never a 500, never a hang, every refusal in shape."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.spec import Limits
from pipelines.chat_interface import ToolCall
from tests.fakes import FakeCatalogue, FakeReply, spec
from tests.support.http.front import front
from tests.support.http.mutated_requests import send_mutations

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

RECORDED = Path(__file__).parent / "recorded" / "claude-code.json"
N_MUTATIONS = 2000
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
# A body with all fields that are done, beside those that are like Claude Code's.
EVERYTHING: dict[str, Any] = {
    "model": "talker", "max_tokens": 9, "system": "Be brief.", "stop_sequences": ["END"], "temperature": 0.5,
    "top_p": 0.9, "top_k": 5, "seed": 3, "thinking": {"type": "enabled", "budget_tokens": 50, "display": "omitted"},
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, PICTURE, {
            "type": "document", "title": "Tale", "source": {"type": "text", "data": "Once"}}, {
            "type": "search_result", "title": "Page", "source": "x", "content": [{"type": "text", "text": "Found"}]}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "", "signature": "agentname." + base64.b64encode(b"Hm").decode()},
            {"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "is_error": True, "content": [PICTURE]},
            {"type": "tool_result", "tool_use_id": "t2", "content": [
                {"type": "tool_reference", "tool_name": "later"}]}]},
        {"role": "system", "clear_at": "never", "content": [
            {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "later"}}]},
    ],
    "tools": [{"name": "weather", "input_schema": SCHEMA, "input_examples": [{"city": "Oslo"}]},
              {"name": "later", "input_schema": SCHEMA, "defer_loading": True, "type": "custom"}],
    "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
    "metadata": {"user_id": "1"}, "service_tier": "auto", "mcp_servers": [], "context_management": {"edits": []},
}  # fmt: skip


async def test_mutated_bodies_are_answered_or_refused_in_shape(tmp_path: Path) -> None:
    bodies = [*json.loads(RECORDED.read_text()).values(), EVERYTHING, EVERYTHING, {**EVERYTHING, "stream": True}]
    call = ToolCall("call_1", "weather", '{"city": "Rome"}')
    seeing = FakeCatalogue(spec("talker", "chat", takes_images=True, limits=Limits(context_tokens=65_536)))
    async with front(tmp_path, catalogue=seeing) as f:
        f.engine.reply = lambda _: FakeReply(
            "Hm.", "So.", (call,) if f.prompt_reader.options[-1].tool_use.tools else ()
        )
        statuses = await send_mutations(f, ["/v1/messages", "/v1/messages/count_tokens"], bodies, N_MUTATIONS, fault_of)

    assert min(statuses[200], statuses[400]) > N_MUTATIONS / 5, statuses  # mutations that show something


def fault_of(reply: httpx.Response) -> str | None:
    """Returns what is wrong with a reply, of which a refusal is as good as any."""
    if reply.status_code == 200:
        streamed = reply.headers["content-type"].startswith("text/event-stream")
        whole = (
            '"type": "message_stop"' in reply.text if streamed else reply.json().keys() & {"content", "input_tokens"}
        )
        return None if whole else "an incomplete reply"
    if reply.status_code not in (400, 404, 413):
        return "an unexpected status"
    body = reply.json()
    kinds = ("invalid_request_error", "not_found_error", "request_too_large")
    if body.keys() != {"type", "error", "request_id"} or body["error"]["type"] not in kinds:
        return "an error without Anthropic's shape"
    if not body["error"]["message"] or len(reply.content) > 1024:
        return "an error without a message, or a long one"
    return None
