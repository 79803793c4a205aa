"""Errors below /v1/messages have Anthropic's shape, whoever raises them; those of other addresses keep theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.http.body import MIB
from server.http.error_body import error_body
from tests.support.http.chats import failed_streams
from tests.support.http.front import front

pytestmark = pytest.mark.anyio

MESSAGES = "/v1/messages"
BODY: dict[str, Any] = {"model": "talker", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}


async def test_every_error_of_the_door_has_its_shape_and_the_id_of_its_request(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        for _ in range(50):
            assert (await f.post(MESSAGES, BODY, "free")).status_code == 200
        replies = {
            "authentication_error": await f.client.post(MESSAGES, json=BODY),
            "rate_limit_error": await f.post(MESSAGES, BODY, "free"),
            "not_found_error": await f.post(MESSAGES, BODY | {"model": "claude-sonnet-4-5"}),
            "no such address": await f.post(f"{MESSAGES}/batches", BODY),
            "no such method": await f.get(MESSAGES),
            "request_too_large": await f.post(MESSAGES, b" " * (64 * MIB + 1)),
            "invalid_request_error": await f.post(MESSAGES, b"{"),
            "no such host": await f.post(MESSAGES, BODY, host="example.org"),
            "permission_error": await f.post(MESSAGES, BODY, origin="https://example.org"),
            "too many tokens": await f.post(f"{MESSAGES}/count_tokens", BODY | {"messages": [_long_message()]}),
        }
        f.engine.not_ready_reason = "the engine is starting"
        replies["overloaded_error"] = await f.post(MESSAGES, BODY)

    types = {"no such address": "not_found_error"} | dict.fromkeys(
        ["no such method", "no such host", "too many tokens"], "invalid_request_error"
    )
    codes = {"not_found_error": "model_not_found", "too many tokens": "context_length_exceeded"}
    for name, reply in replies.items():
        body = reply.json()
        details = body["error"].pop("details", {"error_code": None})
        assert details == {"error_code": codes.get(name)}, name
        assert body == {
            "type": "error",
            "error": {"type": types.get(name, name), "message": body["error"]["message"]},
            "request_id": reply.headers["request-id"],
        }
        assert reply.headers["request-id"] == reply.headers["x-request-id"]
    assert replies["no such method"].headers["allow"] == "POST"
    assert replies["too many tokens"].json()["error"]["message"].startswith("prompt is too long: ")
    assert int(replies["overloaded_error"].headers["retry-after"]) > 0


def _long_message() -> dict[str, str]:
    return {"role": "user", "content": "x" * 70_000}


async def test_other_addresses_keep_the_shape_of_their_errors(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        openai = await f.post("/v1/messagesx", BODY)
        ours = await f.post("/api/messages", BODY)

    assert openai.json()["error"].keys() == {"message", "type", "param", "code"}
    assert ours.json().keys() == {"error", "code"}
    assert "request-id" not in openai.headers


@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
async def test_a_key_is_taken_from_either_header(tmp_path: Path, header: str) -> None:
    async with front(tmp_path) as f:
        value = f.keys["pro"] if header == "x-api-key" else f"Bearer {f.keys['pro']}"
        reply = await f.client.post(MESSAGES, json=BODY, headers={header: value, "anthropic-version": "2023-06-01"})

    assert reply.status_code == 200


async def test_a_stream_that_fails_is_an_http_error_before_its_first_event_and_an_event_after(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        before, after = await failed_streams(f, BODY | {"stream": True}, MESSAGES)
    name, _, data = after.text.strip().split("\n\n")[-1].partition("\n")

    assert (before.status_code, before.json()["error"]["type"]) == (502, "overloaded_error")
    assert (after.status_code, name) == (200, "event: error")
    assert json.loads(data.removeprefix("data: ")) == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "The model failed to load."},
        "request_id": after.headers["request-id"],
    }


@pytest.mark.parametrize("character", ["x", '"', "é"])
def test_no_error_is_longer_than_1_kib(character: str) -> None:
    n_characters = 20 if character == '"' else 5000
    body = error_body(400, character * n_characters, MESSAGES, code="context_length_exceeded", request_id="0" * 16)

    assert len(body) <= 1024
