"""Unmodified programs that use OpenAI's API through their own libraries, against the server on a socket."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes import messages_in
from tests.support.http.client_programs import run_program
from tests.support.http.front import front
from tests.support.http.http_front import finish_jobs, listening

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

REPLY = "Hé 👋 there"


async def test_apps_chat_make_pictures_and_map_errors(tmp_path: Path) -> None:
    async with front(tmp_path) as f, listening(f) as address:
        f.engine.reply = lambda request: f"{REPLY} {len(messages_in(request.prompt))}"
        finish_jobs(f)
        got = await run_program("apps.py", address, f.keys["pro"])

    assert got["langchain"] == {
        "whole": f"{REPLY} 2", "tokens": 17, "finish": "stop", "streamed": f"{REPLY} 1", "streamed tokens": 5,
        "chains": [f"{REPLY} 1"] * 2,
    }  # fmt: skip
    litellm = got["litellm"]
    assert (litellm["whole"], litellm["tokens"]) == (f"{REPLY} 1", 17)
    assert (litellm["streamed"], litellm["streamed tokens"]) == (f"{REPLY} 1", 5)
    assert litellm["images"] == ["PNG", "PNG"]
    assert litellm["image url"].startswith("http://127.0.0.1:")
    assert litellm["wrong key"].startswith("AuthenticationError: ")
    assert litellm["wrong field"].startswith("BadRequestError: ")
    assert "max_tokens must be" in litellm["wrong field"]
    assert got["llm"] == {
        "streamed": f"{REPLY} 2",
        "continued": f"{REPLY} 4",  # llm stores the conversation and sends all messages
        "whole": f"{REPLY} 1",
    }
