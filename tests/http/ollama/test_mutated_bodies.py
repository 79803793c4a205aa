"""2,000 mutations of bodies like those of Ollama's clients: never a 500, never a hang, every refusal in shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.chat_interface import ToolCall
from tests.fakes import FakeReply, with_embedder
from tests.support.http.front import front
from tests.support.http.mutated_requests import send_mutations

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

N_MUTATIONS = 1000  # for each of two groups of addresses
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
OPTIONS = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 3, "stop": ["END"], "num_predict": 9,
           "repeat_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.5, "num_ctx": 4096}  # fmt: skip
COMMON: dict[str, Any] = {
    "model": "talker", "stream": True, "format": SCHEMA, "options": OPTIONS, "think": "low", "keep_alive": "5m",
    "logprobs": True, "top_logprobs": 2, "truncate": True,
}  # fmt: skip
CHAT = COMMON | {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi", "images": []},
        {"role": "assistant", "content": "", "thinking": "Hm.", "tool_calls": [
            {"id": "c1", "function": {"index": 0, "name": "weather", "arguments": {"city": "Rome"}}}]},
        {"role": "tool", "tool_name": "weather", "tool_call_id": "c1", "content": "Sunny"},
    ],
    "tools": [{"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": SCHEMA}}],
}  # fmt: skip
GENERATE = COMMON | {"prompt": "Hi", "system": "Be brief.", "images": [], "raw": False, "suffix": "", "context": []}
RAW = {"model": "talker", "prompt": "Hi", "raw": True, "stream": False}
EMBED = {"model": "embedder", "input": ["ab", "c"], "dimensions": 2, "truncate": True, "keep_alive": 5, "options": {}}
OLDER = {"model": "embedder", "prompt": "ab"}


@pytest.mark.parametrize(
    ("paths", "bodies"),
    [
        (["/api/chat", "/api/generate"], [CHAT, CHAT | {"stream": False}, GENERATE, GENERATE | {"stream": False}, RAW]),
        (["/api/embed", "/api/embeddings", "/api/show"], [EMBED, OLDER, {"model": "talker"}]),
    ],
    ids=["texts", "others"],
)
async def test_mutated_bodies_are_answered_or_refused_in_shape(
    tmp_path: Path, paths: list[str], bodies: list[Any]
) -> None:
    call = ToolCall("call_1", "weather", '{"city": "Rome"}')
    async with front(tmp_path, catalogue=with_embedder()) as f:
        f.engine.reply = lambda request: FakeReply("Hm.", "So.", () if request.prompt.raw else (call,))
        statuses = await send_mutations(f, paths, bodies, N_MUTATIONS, fault_of)

    assert min(statuses[200], statuses[400]) > N_MUTATIONS / 10, statuses  # mutations that show something


def fault_of(reply: httpx.Response) -> str | None:
    """Returns what is wrong with a reply, of which a refusal is as good as any."""
    if reply.status_code == 200:
        last = json.loads(reply.text.splitlines()[-1])
        return (
            None if last.get("done") or last.keys() & {"embeddings", "embedding", "details"} else "an incomplete reply"
        )
    if reply.status_code not in (400, 404, 413):
        return "an unexpected status"
    if reply.json().keys() != {"error", "code"} or len(reply.content) > 1024:
        return "an error without our shape, or a long one"
    return None
