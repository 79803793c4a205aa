"""Stored responses: going on with them, reading, listing and deleting them, per key and for a limited time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.chat_interface import Message, ToolCall
from server.errors import Unavailable
from server.service import responses
from server.store.database import Database
from tests.fakes import FakeReply
from tests.support.http.front import Front, front

pytestmark = pytest.mark.anyio

URL = "/v1/responses"
CALL = ToolCall("call_1", "weather", '{"city": "Rome"}')
NOT_FOUND = (400, "previous_response_not_found", "previous_response_id")


async def create(f: Front, input: Any, key: str = "enterprise", **fields: Any) -> Any:
    reply = await f.post(URL, {"input": input, **fields}, key)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def refusal(f: Front, input: Any, key: str = "enterprise", **fields: Any) -> tuple[int, str, str]:
    reply = await f.post(URL, {"input": input, **fields}, key)
    error = reply.json()["error"]
    return reply.status_code, error["code"], error["param"]


async def test_a_response_goes_on_with_all_before_it_but_for_their_instructions(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = lambda _: FakeReply("Let me see.", "Rome?", (CALL,))
        first = await create(f, "How is it in Rome?", instructions="Be brief.")
        f.engine.reply = lambda _: "Sun."
        output = {"type": "function_call_output", "call_id": "call_1", "output": "sun"}
        second = await create(f, [output], previous_response_id=first["id"])
        await create(f, "And now?", previous_response_id=second["id"], instructions="Be long.", stream=False)
        asked = f.prompt_reader.messages[-1]

    assert asked == (
        Message("system", "Be long."),
        Message("user", "How is it in Rome?"),
        Message("assistant", "Let me see.", thinking="Rome?", tool_calls=(CALL,)),
        Message("tool", "sun", name="weather", tool_call_id="call_1"),
        Message("assistant", "Sun."),
        Message("user", "And now?"),
    )
    assert second["previous_response_id"] == first["id"]


async def test_a_streamed_response_is_stored_as_one_that_is_sent_whole(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        streamed = await f.post(URL, {"input": "One", "stream": True})
        first = streamed.text.split('"id": "')[1].split('"')[0]
        await create(f, "Two", previous_response_id=first)
        asked = f.prompt_reader.messages[-1]
        found = (await f.get(f"{URL}/{first}")).json()

    assert [message.content for message in asked] == ["One", "You said: One", "Two"]
    assert (found["id"], found["status"]) == (first, "completed")


async def test_unknown_foreign_unstored_and_deleted_responses_are_not_found(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        mine = (await create(f, "One"))["id"]
        second = (await create(f, "Two", previous_response_id=mine))["id"]
        unstored = (await create(f, "Three", store=False))["id"]
        unknown = f"resp_{'0' * 22}"

        assert await refusal(f, "x", previous_response_id=unknown) == NOT_FOUND
        assert await refusal(f, "x", previous_response_id=unstored) == NOT_FOUND
        assert await refusal(f, "x", "other", previous_response_id=mine) == NOT_FOUND
        for path in (f"{URL}/{unknown}", f"{URL}/{unstored}", f"{URL}/x", f"{URL}/{unknown}/input_items"):
            assert (await f.get(path)).status_code == 404
        assert (await f.get(f"{URL}/{mine}", "other")).status_code == 404
        assert (await f.delete(f"{URL}/{mine}", "other")).status_code == 404

        deleted = await f.delete(f"{URL}/{mine}")
        assert deleted.json() == {"id": mine, "object": "response", "deleted": True}
        assert (await f.get(f"{URL}/{mine}")).status_code == 404
        assert await refusal(f, "x", previous_response_id=second) == NOT_FOUND
        assert (await f.get(f"{URL}/{second}")).status_code == 200


async def test_items_are_found_by_reference(tmp_path: Path) -> None:
    """As the Vercel AI SDK sends what it got before."""
    async with front(tmp_path) as f:
        f.engine.reply = lambda _: FakeReply("Hello.", "Hm.")
        first = await create(f, "Hi")
        references = [{"type": "item_reference", "id": item["id"]} for item in first["output"]]
        listed = (await f.get(f"{URL}/{first['id']}/input_items")).json()
        asked_id = listed["data"][0]["id"]
        await create(f, [{"id": asked_id}, *references, {"role": "user", "content": "Two"}])
        asked = f.prompt_reader.messages[-1]
        item_id = first["output"][0]["id"]
        foreign = await refusal(f, references, "other")
        wrong = [await refusal(f, [{"type": "item_reference", "id": id}]) for id in ("x", f"{item_id}7")]

    assert asked == (
        Message("user", "Hi"), Message("assistant", "Hello.", thinking="Hm."), Message("user", "Two"),
    )  # fmt: skip
    assert [foreign, *wrong] == [(404, "not_found", "input")] * 3


async def test_input_items_are_listed_in_pages_with_those_before_them(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        first = await create(f, "One")
        second = await create(f, [{"role": "user", "content": "Two"}], previous_response_id=first["id"])
        path = f"{URL}/{second['id']}/input_items"
        whole = (await f.get(f"{path}?order=asc")).json()
        page = (await f.get(f"{path}?limit=2")).json()
        rest = (await f.get(f"{path}?limit=2&after={page['last_id']}")).json()
        bad = [(await f.get(path + query)).status_code for query in ("?limit=0", "?order=up", "?after=x", "?a=1")]
        long = await f.get(f"{path}?limit=0001{'9' * 5000}")  # more digits than Python reads

    assert [item["content"][0]["text"] for item in whole["data"]] == ["One", "You said: One", "Two"]
    assert whole["data"][1]["id"] == first["output"][0]["id"]
    assert (page["has_more"], rest["has_more"], whole["has_more"]) == (True, False, False)
    assert [*page["data"], *rest["data"]] == whole["data"][::-1]
    assert bad == [400] * 4
    assert long.status_code == 400


async def test_a_response_cannot_be_canceled_or_streamed_again(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        first = (await create(f, "One"))["id"]
        statuses = [
            (await f.post(f"{URL}/{first}/cancel")).status_code,
            (await f.post(f"{URL}/resp_{'0' * 22}/cancel")).status_code,
            (await f.get(f"{URL}/{first}?stream=true")).status_code,
            (await f.get(f"{URL}/{first}?include[]=reasoning.encrypted_content&stream=false")).status_code,
        ]

    assert statuses == [400, 404, 400, 200]


async def test_responses_are_kept_for_thirty_days(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        first = (await create(f, "One"))["id"]
        f.clock.forward(days=29)
        await f.service.recovery.tidy()
        kept = (await f.get(f"{URL}/{first}")).status_code
        second = (await create(f, "Two", previous_response_id=first))["id"]
        f.clock.forward(days=2)
        await f.service.recovery.tidy()
        gone = (await f.get(f"{URL}/{first}")).status_code
        cut = await refusal(f, "x", previous_response_id=second)

    assert (kept, gone, cut) == (200, 404, NOT_FOUND)


@pytest.mark.slow
async def test_a_store_that_fails_costs_a_warning_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with front(tmp_path) as f:
        write = Database.write

        async def fail_once_charged(self: Database, work: Any) -> Any:
            if "keep" in work.__qualname__:
                raise Unavailable("The job store cannot be reached at the moment.")
            return await write(self, work)

        monkeypatch.setattr(Database, "write", fail_once_charged)
        response = await create(f, "One")

    assert response["output"][0]["content"][0]["text"] == "You said: One"
    assert "could not be stored" in response["warnings"][0]


async def test_a_response_that_is_too_large_is_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "MAX_BYTES", 3000)
    async with front(tmp_path) as f:
        response = await create(f, "x" * 2500)
        missing = await refusal(f, "x", previous_response_id=response["id"])

    assert "not stored" in response["warnings"][0]
    assert missing == NOT_FOUND


@pytest.mark.parametrize(("limit", "value"), [("MAX_CHAIN", 2), ("MAX_CHAIN_BYTES", 3000)])
async def test_a_chain_has_a_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    monkeypatch.setattr(responses, limit, value)
    async with front(tmp_path) as f:
        last = (await create(f, "One"))["id"]
        last = (await create(f, "Two", previous_response_id=last))["id"]
        last = (await create(f, "Three", previous_response_id=last))["id"]
        status, code, param = await refusal(f, "Four", previous_response_id=last)

    assert (status, param) == (400, "previous_response_id")
    assert code != "previous_response_not_found"


async def test_the_items_that_a_request_refers_to_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "MAX_CHAIN_BYTES", 3000)
    async with front(tmp_path) as f:
        references = [
            {"type": "item_reference", "id": (await create(f, text))["output"][0]["id"]}
            for text in ("One", "Two", "Three")
        ]
        few = await f.post(URL, {"input": references[:1]})
        many = await refusal(f, references)

    assert few.status_code == 200
    assert many == (400, None, "input")


async def test_an_item_may_be_referred_to_once(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        reference = {"type": "item_reference", "id": (await create(f, "One"))["output"][0]["id"]}
        twice = await refusal(f, [reference, reference])

    assert twice == (400, None, "input")
