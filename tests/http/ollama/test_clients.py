"""Ollama's unmodified clients against the server on a socket."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.catalogue import Catalogue
from server.engine_status import ModelStatus
from tests.fakes import GIB, with_embedder
from tests.support.http.client_programs import run_program
from tests.support.http.front import front
from tests.support.http.http_front import listening
from tests.support.http.obliging_engine import oblige

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_the_python_client_chats_calls_tools_embeds_and_lists(tmp_path: Path) -> None:
    async with front(tmp_path, catalogue=Catalogue(with_embedder().specs())) as f, listening(f) as address:
        oblige(f)
        f.engine.publish(models=[ModelStatus("talker", "resident", GIB, 0, "on", 0, 60.0)])
        got = await run_program("ollama_api.py", address, f.keys["admin"])

    said = "You said: Hi"
    structured = got["chats"].pop("structured")
    assert structured.keys() == {"name", "inhabitants"}
    assert got["chats"] == {
        "whole": said, "done": ["stop", 12, 5, True], "streamed": said, "streamed end": [True, 5], "text": said,
        "streamed text": said, "loaded": "load", "unloaded": "unload",
    }  # fmt: skip
    assert got["tools"]["call"][0] == "weather"
    assert got["tools"]["answer"].startswith("The tool says: Sunny in ")
    assert got["tools"]["streamed"] == ["weather"]
    assert got["models"] == {
        "list": ["embedder:latest", "talker:latest"], "capabilities": ["completion", "tools"], "context": 65_536,
        "running": ["talker:latest"], "embed": [4, 4], "embeddings": 4,
    }  # fmt: skip
    assert {name: error[0] for name, error in got["errors"].items()} == {
        "unknown model": 404, "unknown model, streamed": 404, "wrong option": 400, "wrong key": 401, "pull": 400,
    }  # fmt: skip
    assert "agentname pull" in got["errors"]["pull"][1]
    assert got["async"] == said


async def test_the_node_client_chats_calls_tools_embeds_and_lists(tmp_path: Path) -> None:
    async with front(tmp_path, catalogue=Catalogue(with_embedder().specs())) as f, listening(f) as address:
        oblige(f)
        got = await run_program("ollama_api.mjs", address, f.keys["pro"])

    said = "You said: Hi"
    assert got == {
        "whole": said, "streamed": said, "end": [True, "stop", 5], "text": said, "call": "weather",
        "answer": "The tool says: Sunny", "structured": ["city"], "embedded": 2,
        "models": ["embedder:latest", "talker:latest"], "running": 0, "shown": ["completion", "tools"],
        "error": [404, "There is no model none here; try: pull none."],
    }  # fmt: skip


async def test_litellm_chats_streams_and_calls_tools(tmp_path: Path) -> None:
    async with front(tmp_path) as f, listening(f) as address:
        oblige(f)
        got = await run_program("ollama_litellm.py", address, f.keys["pro"])

    assert got.pop("text").startswith("You said: ")
    assert got == {"whole": "You said: Hi", "tokens": 17, "streamed": "You said: Hi", "called": "weather"}
