"""Anthropic's unmodified clients, and libraries over them, against the server on a socket."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.http.client_programs import run_program
from tests.support.http.front import front
from tests.support.http.http_front import listening
from tests.support.http.obliging_engine import oblige

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

N_TOKENS = len('[["user", "Hi"]]')  # the fake prompt reader makes a token of each character


async def test_the_python_client_does_messages_tools_counts_and_errors(tmp_path: Path) -> None:
    async with front(tmp_path) as f, listening(f) as address:
        oblige(f)
        got = await run_program("anthropic_api.py", address, f.keys["pro"])

    assert got["messages"] == {
        "whole": "You said: Hi", "stop reason": "end_turn", "tokens": 17, "streamed": "You said: Hi",
        "final": "You said: Hi", "parsed": got["messages"]["parsed"], "counted": N_TOKENS, "models": ["talker"],
        "model": "talker",
    }  # fmt: skip
    assert got["messages"]["parsed"].keys() == {"name", "inhabitants"}
    call = got["tools"]["call"]
    assert (call[0], call[2]) == ("tool_use", "weather")
    assert call[1].startswith("toolu_")
    assert got["tools"]["answer"] == "The tool says: Sunny"
    assert got["tools"]["streamed"] == ["weather", call[3], True]
    assert got["tools"]["loop"].startswith("The tool says: 21 degrees in ")
    assert {name: error[:3] for name, error in got["errors"].items()} == {
        "unknown model": ["NotFoundError", "not_found_error", True],
        "wrong field": ["BadRequestError", "invalid_request_error", True],
        "too long": ["BadRequestError", "invalid_request_error", True],
        "wrong key": ["AuthenticationError", "authentication_error", True],
    }
    assert "pull claude-sonnet-4-5" in got["errors"]["unknown model"][3]
    assert got["async"] == "You said: Hi"


async def test_the_node_client_does_messages_tools_counts_and_errors(tmp_path: Path) -> None:
    async with front(tmp_path) as f, listening(f) as address:
        oblige(f)
        got = await run_program("anthropic_api.mjs", address, f.keys["pro"])

    assert got["events"] == [
        "message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta",
        "message_stop",
    ]  # fmt: skip
    assert got["loop"].startswith("The tool says: Sunny in ")
    assert got["streamed loop"].startswith('{"city": ')
    assert got["error"] == [True, 404, "not_found_error", True]
    assert {name: got[name] for name in ("whole", "tokens", "streamed", "final", "counted", "models")} == {
        "whole": "You said: Hi", "tokens": 17, "streamed": "You said: Hi", "final": "You said: Hi",
        "counted": N_TOKENS, "models": ["talker"],
    }  # fmt: skip


async def test_litellm_chats_streams_and_calls_tools(tmp_path: Path) -> None:
    async with front(tmp_path) as f, listening(f) as address:
        oblige(f)
        got = await run_program("anthropic_litellm.py", address, f.keys["pro"])

    assert got == {
        "whole": "You said: Hi", "tokens": 17, "streamed": "You said: Hi", "called": "weather", "finish": "tool_calls",
    }  # fmt: skip
