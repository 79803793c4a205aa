"""The Python client against the real application in this process: what it sends, what it makes of what comes back, what it tries again."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from server import client
from server.api.schemas import Chat, GenerateImage, GenerateVideo
from server.client import AsyncAgentName, ChatDelta, ChatReply, Job, address
from server.client.calls import Calls
from server.client.events import EventReader
from server.client.methods import Methods
from server.client.options import ChatOptions, GenerateOptions
from tests.support.front import Front, front
from tests.support.paths import ROOT

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AGENTNAME_URL", "AGENTNAME_API_KEY", "AGENTNAME_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))


@asynccontextmanager
async def talking(f: Front, plan: str = "enterprise", **options: Any) -> AsyncIterator[AsyncAgentName]:
    transport = options.pop("transport", httpx.ASGITransport(f.app))
    async with AsyncAgentName("http://localhost:3001", f.keys[plan], transport=transport, **options) as talker:
        yield talker


class Flaky(httpx.AsyncBaseTransport):
    """The application behind a bad network: `break_after` breaks the connection after so many requests got their answer."""

    def __init__(self, app: Any, *faults: Exception | httpx.Response | None) -> None:
        self._inner = httpx.ASGITransport(app)
        self._faults = list(faults)
        self.seen: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        fault = self._faults.pop(0) if self._faults else None
        if isinstance(fault, httpx.Response):
            return fault
        if isinstance(fault, httpx.ConnectError):
            raise fault
        response = await self._inner.handle_async_request(request)
        if fault is not None:
            raise fault  # the server did it, and nobody heard
        return response


def pauses() -> tuple[list[float], Callable[[float], Awaitable[None]]]:
    seen: list[float] = []

    async def sleep(seconds: float) -> None:
        seen.append(seconds)
        await asyncio.sleep(0)

    return seen, sleep


def pictures_left(folder: Path, suffix: str) -> list[str]:
    return [path.name for path in folder.iterdir() if "city.png" in path.name and path.name.endswith(suffix)]


def refused(status: int, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": "No.", "code": status}, headers=headers)


async def test_a_picture_is_asked_for_waited_for_and_saved(tmp_path: Path) -> None:
    async with front(tmp_path) as f, talking(f) as talker:
        accepted = await talker.generate("A futuristic city at night", aspect_ratio="16:9", seed=7, n=2)
        waiting = asyncio.create_task(talker.wait(accepted.job_id))
        await f.engine.submitted.wait()
        f.engine.run(accepted.job_id)
        job = await waiting

        assert (job.status, job.progress, job.ended) == ("completed", 1.0, True)
        assert job.params["seed"] == 7
        assert [output.seed for output in job.outputs] == [7, 8]
        content = await talker.download(job.outputs[0])
        assert content.startswith(b"\x89PNG")
        path = await talker.save(job.outputs[0], tmp_path / "city.png")
        assert path.read_bytes() == content
        assert not pictures_left(tmp_path, ".part")


async def test_what_comes_while_a_job_is_watched_ends_with_its_end(tmp_path: Path) -> None:
    async with front(tmp_path) as f, talking(f) as talker:
        job_id = (await talker.generate("Ocean waves at sunset", type="video", duration=2)).job_id
        seen: list[Job] = []
        async with aclosing(talker.watch(job_id)) as watching:
            async for job in watching:
                seen.append(job)
                if len(seen) == 1:
                    f.engine.run(job_id)

    assert (seen[0].type, seen[0].status) == ("video", "queued")
    assert seen[-1].status == "completed"
    assert [job.progress for job in seen] == sorted(job.progress for job in seen)


async def test_conversations_are_listed_read_back_named_and_forgotten(tmp_path: Path) -> None:
    async with front(tmp_path) as f, talking(f) as talker:
        begun = (await talker.chat("I am Ann.")).conversation_id
        await talker.chat("Who am I?", conversation_id=begun)
        await talker.chat("Another")
        first = await talker.conversations(limit=1)
        rest = await talker.conversations(cursor=first.next_cursor)
        renamed = await talker.rename_conversation(begun, "Ann's")
        whole = await talker.conversation(begun)
        forgotten = await talker.forget_conversation(begun)
        with pytest.raises(client.NotFound):
            await talker.conversation(begun)

    assert [one.title for one in (*first.conversations, *rest.conversations)] == ["Another", "I am Ann."]
    assert [said.content for said in whole.messages][2:] == ["Who am I?", "You said: Who am I?"]
    assert (renamed.title, whole.title, forgotten.deleted) == ("Ann's", "Ann's", True)


async def test_a_job_that_fails_raises_with_its_status(tmp_path: Path) -> None:
    async with front(tmp_path) as f, talking(f) as talker:
        job_id = (await talker.generate("A lake")).job_id
        f.engine.start(job_id)
        f.engine.fail(job_id, "out_of_memory", "The device ran out of memory.")
        await f.settle()
        with pytest.raises(client.JobFailed, match="ran out of memory") as raised:
            await talker.wait(job_id)

    assert raised.value.job.error is not None
    assert raised.value.job.error.code == "out_of_memory"


async def test_a_canceled_job_raises_and_a_deleted_one_is_gone(tmp_path: Path) -> None:
    async with front(tmp_path) as f, talking(f) as talker:
        job_id = (await talker.generate("A lake")).job_id
        assert (await talker.cancel(job_id)).status == "canceled"
        with pytest.raises(client.JobCanceled):
            await talker.wait(job_id)

        done = await f.complete()
        await talker.delete(done["jobId"])
        with pytest.raises(client.NotFound):
            await talker.download((Job.model_validate(done)).outputs[0])


async def test_jobs_come_page_by_page(tmp_path: Path) -> None:
    async with front(tmp_path) as f, talking(f) as talker:
        ids = [(await talker.generate(f"A lake {i}")).job_id for i in range(3)]
        first = await talker.jobs(limit=2)
        second = await talker.jobs(limit=2, cursor=first.next_cursor)

        assert {job.job_id for job in first.jobs + second.jobs} == set(ids)
        assert second.next_cursor is None
        assert (await talker.jobs("completed")).jobs == []


async def test_chat_whole_and_in_pieces_and_going_on(tmp_path: Path) -> None:
    async with front(tmp_path) as f, talking(f) as talker:
        reply = await talker.chat("What can you help me with?", system="Be short.", temperature=0.5)
        pieces = [piece async for piece in talker.stream_chat("And?", conversation_id=reply.conversation_id)]

    assert reply.reply == "You said: What can you help me with?"
    assert (reply.usage.completion_tokens, reply.finish_reason) == (5, "stop")
    assert isinstance(pieces[-1], ChatReply)
    assert pieces[-1].conversation_id == reply.conversation_id
    assert "".join(p.text for p in pieces if isinstance(p, ChatDelta)) == pieces[-1].reply == "You said: And?"


async def test_a_stream_that_fails_raises_what_the_server_says(tmp_path: Path) -> None:
    async with front(tmp_path) as f, talking(f) as talker:
        f.engine.reply = None

        async def fail() -> None:
            await f.engine.submitted.wait()
            job_id = next(iter(f.engine.jobs))
            f.engine.start(job_id)
            f.engine.say(job_id, "I ")
            f.engine.fail(job_id)

        failing = asyncio.create_task(fail())
        pieces = talker.stream_chat("Hello")
        assert await anext(pieces) == ChatDelta(text="I ")
        with pytest.raises(client.ServerFault):
            await anext(pieces)
        await failing


async def test_models_and_memory(tmp_path: Path) -> None:
    async with front(tmp_path) as f, talking(f) as talker:
        f.engine.publish()
        models, devices = await talker.models(), await talker.gpu()

    assert {model.name: model.type for model in models}["painter"] == "image"
    assert [(holder.name, holder.n_bytes) for holder in devices[0].holders] == [("painter", 2 * 2**30)]
    assert models[0].as_json()["bytes"] == models[0].n_bytes


async def test_residency_is_changed_by_those_who_may(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        async with talking(f) as talker:
            with pytest.raises(client.Forbidden):
                await talker.pin("painter")
        async with talking(f, "admin") as talker:
            assert (await talker.load("painter")).name == "painter"
            assert (await talker.unload("painter")).state == "available"
            assert (await talker.pin("painter")).pinned
            assert not (await talker.unpin("painter")).pinned


@pytest.mark.parametrize(
    ("call", "error", "code"),
    [
        (lambda t: t.generate("x", steps=0), client.BadRequest, 400),
        (lambda t: t.generate("x", model="nobody"), client.NotFound, 404),
        (lambda t: t.status("job_1_nothing"), client.NotFound, 404),
        (lambda t: t.request("PUT", "/api/gpu"), client.Refused, 405),
    ],
)
async def test_a_refusal_says_its_code_and_words(tmp_path: Path, call: Any, error: Any, code: int) -> None:
    async with front(tmp_path) as f, talking(f) as talker:
        with pytest.raises(error) as raised:
            await call(talker)

    assert raised.value.code == code
    assert raised.value.message
    assert len(raised.value.request_id) == 16


async def test_a_used_up_plan_is_told_at_once_with_when_to_come_back(tmp_path: Path) -> None:
    slept, sleep = pauses()
    async with front(tmp_path) as f, talking(f, "free", sleep=sleep) as talker:
        for _ in range(2):
            await talker.generate("Waves", type="video")
        with pytest.raises(client.TooManyRequests) as raised:
            await talker.generate("Waves", type="video")

    assert raised.value.retry_after_s == 15 * 3600  # it is nine in the morning, UTC
    assert slept == []


async def test_a_broken_connection_is_tried_again_and_the_job_is_one(tmp_path: Path) -> None:
    slept, sleep = pauses()
    async with front(tmp_path) as f:
        network = Flaky(f.app, httpx.ReadError("reset"), httpx.ConnectError("refused"))
        async with talking(f, transport=network, sleep=sleep) as talker:
            accepted = await talker.generate("A lake")

        assert list(f.engine.jobs) == [accepted.job_id]
        assert len({request.headers["idempotency-key"] for request in network.seen}) == 1
        assert (len(network.seen), slept) == (3, [0.25, 0.5])


async def test_a_message_that_may_have_been_heard_is_not_said_twice(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        network = Flaky(f.app, httpx.ConnectError("refused"), httpx.ReadError("reset"))
        async with talking(f, transport=network, sleep=pauses()[1]) as talker:
            with pytest.raises(client.NotReachable, match="reset"):
                await talker.chat("Hello")

        assert len(network.seen) == 2  # refused: nobody heard, so again; reset: perhaps somebody did
        assert await f.used("chats", "enterprise") == 1


async def test_a_server_that_starts_is_waited_for(tmp_path: Path) -> None:
    slept, sleep = pauses()
    async with front(tmp_path) as f:
        network = Flaky(f.app, refused(502, **{"retry-after": "2"}), refused(429, **{"retry-after": "1"}))
        async with talking(f, transport=network, sleep=sleep) as talker:
            await talker.models()

    assert slept == [2, 4]  # never sooner than told, and slower each time


@pytest.mark.parametrize(("retries", "tries"), [(0, 1), (3, 4)])
async def test_trying_again_has_an_end(tmp_path: Path, retries: int, tries: int) -> None:
    async with front(tmp_path) as f:
        network = Flaky(f.app, *[httpx.ConnectError("refused")] * 9)
        async with talking(f, transport=network, sleep=pauses()[1], retries=retries) as talker:
            with pytest.raises(client.NotReachable):
                await talker.gpu()

    assert len(network.seen) == tries


@pytest.mark.parametrize(
    "reply", [httpx.Response(200, text="<html>"), httpx.Response(404, text="nginx"), httpx.Response(200, json={"a": 1})]
)
async def test_another_program_behind_the_address_is_said_so(tmp_path: Path, reply: httpx.Response) -> None:
    async with front(tmp_path) as f, talking(f, transport=Flaky(f.app, reply)) as talker:
        with pytest.raises(client.NotThisServer):
            await talker.models()


async def test_a_result_that_came_damaged_is_not_kept(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job = Job.model_validate(await f.complete())
        async with talking(f, transport=Flaky(f.app, httpx.Response(200, content=b"half"))) as talker:
            with pytest.raises(client.NotThisServer, match="try again"):
                await talker.save(job.outputs[0], tmp_path / "city.png")

    assert not pictures_left(tmp_path, "")


async def test_a_field_of_a_newer_server_is_kept(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job = Job.model_validate(await f.complete() | {"mood": "good"})

    assert job.as_json()["mood"] == "good"


def test_where_the_server_is_and_which_key_it_gets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "agentname"
    with pytest.raises(client.NoKey, match="agentname serve"):
        address.find(None, None)
    folder.mkdir(parents=True)
    (folder / "local-key").write_text("an_local\n")

    assert address.find(None, None) == address.Address("http://localhost:3001", "an_local", True)
    assert address.find("http://[::1]:4000/api/", "an_said") == address.Address("http://[::1]:4000", "an_said", True)
    monkeypatch.setenv("AGENTNAME_URL", "https://box.example")
    with pytest.raises(client.NoKey, match="AGENTNAME_API_KEY"):
        address.find(None, None)  # this machine's admin key goes to no other machine
    monkeypatch.setenv("AGENTNAME_API_KEY", "an_environment")
    assert address.find(None, None) == address.Address("https://box.example", "an_environment", False)
    assert "an_environment" not in repr(address.find(None, None))
    with pytest.raises(client.AgentNameError, match="looks like"):
        address.find("localhost:3001", "an_said")


def test_every_field_of_a_request_can_be_said() -> None:
    generate = set(GenerateImage.model_fields) | set(GenerateVideo.model_fields)

    assert set(GenerateOptions.__annotations__) == generate - {"prompt"}
    assert set(ChatOptions.__annotations__) == {
        "conversation_id" if name == "conversationId" else name for name in Chat.model_fields
    } - {"message", "stream"}


STREAM = (
    'id: 7\nevent: delta\ndata: {"text":"ä"}\n\n: keep-alive\n\ndata: one\ndata:two\r\n\r\nevent: nothing\n\n'
    "event: end\rdata: 3\r\rdata: never finished"
).encode()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_read_wherever_the_network_cut_them(size: int) -> None:
    reader = EventReader()
    read = [e for i in range(0, len(STREAM), size) for e in reader.feed(STREAM[i : i + size])]

    assert [(e.name, e.data, e.id) for e in read] == [
        ("delta", '{"text":"ä"}', "7"),
        ("message", "one\ntwo", "7"),
        ("end", "3", "7"),
    ]


def test_the_client_is_light() -> None:
    heavy = ("torch", "fastapi", "sqlalchemy", "starlette", "uvicorn", "numpy", "pydantic_settings")
    code = f"import sys, server.client; print([m for m in {heavy} if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert ended.stdout.strip() == "[]"


def test_both_clients_have_every_call_and_help_tells_it() -> None:
    calls = {name for name in vars(Calls) if not name.startswith("_")}
    assert calls == {name for name in vars(Methods) if not name.startswith("_")}
    for kind in (client.AgentName, AsyncAgentName):
        talker = kind("http://localhost:3001", "an_key")
        for name in calls:
            method = getattr(talker, name)
            assert (method.__name__, method.__doc__) == (name, getattr(Calls, name).__doc__)
            assert method.__doc__, f"{name} says what it does"
