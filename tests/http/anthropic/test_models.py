"""Counts of tokens, and the list of models, as Anthropic's clients ask for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.spec import Limits
from tests.fakes import FakeCatalogue, spec
from tests.support.http.front import front

pytestmark = pytest.mark.anyio

COUNT = "/v1/messages/count_tokens"
HI: dict[str, Any] = {"model": "talker", "messages": [{"role": "user", "content": "Hi"}]}
VERSION = {"anthropic-version": "2023-06-01"}
SPECS = [spec(name, "chat", limits=Limits(context_tokens=8192)) for name in ("a", "b", "c", "d")]


async def test_the_tokens_of_the_whole_prompt_are_counted_and_nothing_is_charged(tmp_path: Path) -> None:
    tool = {"name": "f", "input_schema": {"type": "object"}}
    async with front(tmp_path) as f:
        reply = await f.post(
            COUNT, HI | {"system": "Be brief.", "tools": [tool], "max_tokens": 5, "stream": True}, "free"
        )
        used = await f.used("chats")

    assert reply.json() == {"input_tokens": len('[["system", "Be brief."], ["user", "Hi"]]')}
    assert [tool.name for tool in f.prompt_reader.options[0].tool_use.tools] == ["f"]
    assert (used, f.engine.jobs) == (0, {})


async def test_a_count_is_refused_as_the_message_would_be(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        unknown = await f.post(COUNT, HI | {"model": "none"})
        wrong = await f.post(COUNT, {"model": "talker"})
        f.engine.not_ready_reason = "the engine is starting"
        early = await f.post(COUNT, HI)

    assert [reply.status_code for reply in (unknown, wrong, early)] == [404, 400, 502]


async def test_models_are_listed_in_the_format_of_the_client_that_asks(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        anthropic = (await f.get("/v1/models", **VERSION)).json()
        one = (await f.get("/v1/models/talker", **VERSION)).json()
        openai = (await f.get("/v1/models")).json()

    assert anthropic == {"data": [one], "has_more": False, "first_id": "talker", "last_id": "talker"}
    assert one == {
        "type": "model", "id": "talker", "display_name": "talker", "created_at": "1970-01-01T00:00:00Z",
        "lifecycle": "active", "max_input_tokens": 65_536, "max_tokens": 65_536,
    }  # fmt: skip
    assert len(openai["data"]) == 4


@pytest.mark.parametrize(
    ("query", "names", "has_more"),
    [
        ("limit=2", ["a", "b"], True),
        ("limit=2&after_id=b", ["c", "d"], False),
        ("limit=2&before_id=d", ["b", "c"], True),
        ("before_id=c", ["a", "b"], False),
        ("after_id=d", [], False),
    ],
)
async def test_models_are_listed_page_by_page(tmp_path: Path, query: str, names: list[str], has_more: bool) -> None:
    async with front(tmp_path, catalogue=FakeCatalogue(*SPECS)) as f:
        page = (await f.get(f"/v1/models?{query}", **VERSION)).json()

    assert ([model["id"] for model in page["data"]], page["has_more"]) == (names, has_more)


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=99999", "limit=²", "after_id=none", "before_id="])
async def test_a_page_that_cannot_be_is_refused(tmp_path: Path, query: str) -> None:
    async with front(tmp_path) as f:
        assert (await f.get(f"/v1/models?{query}", **VERSION)).status_code == 400
