"""Errors under /v1 carry OpenAI's codes, by which clients decide what to do; those of /api have two fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from models.catalogue import Catalogue
from models.model_names import PLAIN
from models.spec import Limits, ModelSpec
from server.errors import BadRequest, Conflict, ContextTooLong, NotFound, ServerError, TooMany, UnknownModel
from server.http.body import MIB
from server.http.error_body import error_body, openai_error_of
from tests.support.http.front import front

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
HI: Any = {"messages": [{"role": "user", "content": "Hi"}]}
UNKNOWN_NAMES = ["gpt-4o", "Qwen/Qwen2.5-7B-Instruct", "GPT-4O", "llama3:8b", "talker:q4", "a b", "<script>", "../x"]


def code_of(reply: Any) -> tuple[int, str | None, str | None]:
    error = reply.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return reply.status_code, error["code"], error["param"]


async def test_each_error_of_the_door_has_its_code(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        replies = [
            await f.client.post(CHAT, json=HI),
            await f.get("/v1/nothing"),
            await f.get("/v1/videos/video_1"),
            await f.post(CHAT, b" " * (64 * MIB + 1)),
            await f.post("/v1/images/generations", b" " * (64 * 1024 + 1)),
            await f.post(CHAT, b"{"),
        ]

    assert [code_of(reply) for reply in replies] == [
        (401, "invalid_api_key", None),
        (404, "not_found", None),
        (404, "not_found", None),
        (413, "request_too_large", None),
        (413, "request_too_large", None),
        (400, None, None),
    ]
    assert "64 MiB" in replies[3].text
    assert "64 KiB" in replies[4].text


@pytest.mark.parametrize("path", [CHAT, "/v1/images/generations"])
@pytest.mark.parametrize("name", UNKNOWN_NAMES)
async def test_an_unknown_model_has_a_code_and_is_repeated_only_as_a_plain_name(
    tmp_path: Path, path: str, name: str
) -> None:
    async with front(tmp_path) as f:
        reply = await f.post(path, {**(HI if path == CHAT else {"prompt": "x"}), "model": name})
        shown = await f.get(f"/v1/models/{quote(name, safe='')}")

    assert code_of(reply) == (404, "model_not_found", "model")
    assert code_of(shown) == (404, "model_not_found", "model")
    assert (name in reply.text) == (PLAIN.fullmatch(name) is not None)
    assert name not in shown.text


async def test_a_used_up_plan_has_the_code_that_makes_clients_wait(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        for _ in range(10):
            await f.submit("free")
        reply = await f.post("/v1/images/generations", {"prompt": "x"}, "free")

    assert code_of(reply)[:2] == (429, "rate_limit_exceeded")
    assert int(reply.headers["retry-after"]) > 0


def test_the_codes_of_the_errors_themselves() -> None:
    errors: list[ServerError] = [
        ContextTooLong("Too long."),
        BadRequest("Wrong."),
        BadRequest("Wrong.", param="messages.0.role", code="invalid_value"),
        UnknownModel("None."),
        NotFound("None."),
        Conflict("Pinned."),
        TooMany("Later."),
    ]

    assert [(e["code"], e["param"]) for e in (openai_error_of(error)["error"] for error in errors)] == [
        ("context_length_exceeded", "messages"),
        (None, None),
        ("invalid_value", "messages.0.role"),
        ("model_not_found", "model"),
        ("not_found", None),
        (None, None),
        ("rate_limit_exceeded", None),
    ]


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
@pytest.mark.parametrize("character", ["x", '"', "é", ""])
def test_no_error_is_longer_than_1_kib(path: str, character: str) -> None:
    """Quotes and control characters take more room in JSON; ours never fill a message."""
    n_characters = 5000 if character in "xé" else 20
    body = error_body(400, character * n_characters, path, code="context_length_exceeded", param="messages.99.content")

    assert len(body) <= 1024
    assert json.loads(body)["error"]


def test_errors_of_our_own_api_have_two_fields() -> None:
    body = error_body(404, "None.", "/api/chat", code="model_not_found", param="model")

    assert body == b'{"error":"None.","code":404}'


# GET /v1/models

COMMIT = "0123456789" * 4
QWEN = ModelSpec(
    name="qwen",
    type="chat",
    path=Path(f"/cache/models--Qwen--Qwen3-0.6B/snapshots/{COMMIT}"),
    source=f"Qwen/Qwen3-0.6B@{COMMIT}",
    limits=Limits(context_tokens=40_960),
)
PAINTER = ModelSpec(name="painter", type="image", path=Path("/models/painter"), source="painter")


async def test_models_are_described_by_what_is_known_of_them(tmp_path: Path) -> None:
    async with front(tmp_path, catalogue=Catalogue([QWEN, PAINTER])) as f:
        models = (await f.get("/v1/models")).json()

    assert models == {
        "object": "list",
        "data": [
            {"id": "painter", "object": "model", "created": 0, "owned_by": "agentname"},
            {"id": "qwen", "object": "model", "created": 0, "owned_by": "Qwen", "context_length": 40_960,
             "max_model_len": 40_960},
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", ["qwen", "QWEN", "qwen:latest", "Qwen/Qwen3-0.6B", "qwen/qwen3-0.6b", "Qwen%2FQwen3-0.6B"]
)
async def test_one_model_is_found_by_the_names_that_requests_use(tmp_path: Path, name: str) -> None:
    async with front(tmp_path, catalogue=Catalogue([QWEN, PAINTER])) as f:
        reply = await f.get(f"/v1/models/{name}")

    assert (reply.status_code, reply.json()["id"]) == (200, "qwen")


async def test_a_job_for_a_model_under_another_name_is_that_models(tmp_path: Path) -> None:
    async with front(tmp_path, catalogue=Catalogue([QWEN, PAINTER])) as f:
        job_id = await f.submit(model="Painter:latest", width=64, height=64, steps=2)
        status = await f.status(job_id)
        wrong_type = await f.post("/v1/images/generations", {"prompt": "x", "model": "Qwen/Qwen3-0.6B"})

    assert status["model"] == "painter"
    assert code_of(wrong_type) == (400, None, "model")
    assert "model qwen is for chat" in wrong_type.text
