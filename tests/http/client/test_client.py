"""The Python client against the real application in this process: requests, replies, errors and retries."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from server import client
from server.api.schemas import Chat, GenerateImage, GenerateVideo
from server.client import AsyncAgentName, ChatDelta, ChatReply, Job, address
from server.client.calls import Calls
from server.client.events import EventReader
from server.client.methods import Methods
from server.client.options import ChatOptions, GenerateOptions
from tests.support.http.front import Front, front
from tests.support.http.thinking import REPLY, THOUGHT, thinking
from tests.support.paths import ROOT

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AGENTNAME_URL", "AGENTNAME_API_KEY", "AGENTNAME_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))


@asynccontextmanager
async def connect(f: Front, plan: str = "enterprise", **options: Any) -> AsyncIterator[AsyncAgentName]:
    transport = options.pop("transport", httpx.ASGITransport(f.app))
    async with AsyncAgentName("http://localhost:3001", f.keys[plan], transport=transport, **options) as api:
        yield api


class Flaky(httpx.AsyncBaseTransport):
    """The application behind a bad network. Each request meets the next fault: a reply instead of the server's, an
    exception before the request arrives (`ConnectError`) or after the server has handled it (any other).
    """

    def __init__(self, app: Any, *faults: Exception | httpx.Response | None) -> None:
        self._inner = httpx.ASGITransport(app)
        self._faults = list(faults)
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        fault = self._faults.pop(0) if self._faults else None
        if isinstance(fault, httpx.Response):
            return fault
        if isinstance(fault, httpx.ConnectError):
            raise fault
        response = await self._inner.handle_async_request(request)
        if fault is not None:
            raise fault  # the server has handled the request, but its reply is lost
        return response


def recorded_sleep() -> tuple[list[float], Callable[[float], Awaitable[None]]]:
    """Returns a list of seconds, and a `sleep` that adds to the list instead of sleeping."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    return slept, sleep


def files_left(folder: Path, suffix: str) -> list[str]:
    return [path.name for path in folder.iterdir() if "city.png" in path.name and path.name.endswith(suffix)]


def refused(status: int, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": "No.", "code": status}, headers=headers)


async def test_an_image_is_generated_downloaded_and_saved(tmp_path: Path) -> None:
    async with front(tmp_path) as f, connect(f) as api:
        accepted = await api.generate("A futuristic city at night", aspect_ratio="16:9", seed=7, n=2)
        waiting = asyncio.create_task(api.wait(accepted.job_id))
        await f.engine.submitted.wait()
        f.engine.run(accepted.job_id)
        job = await waiting

        assert (job.status, job.progress, job.ended) == ("completed", 1.0, True)
        assert job.params["seed"] == 7
        assert [output.seed for output in job.outputs] == [7, 8]
        content = await api.download(job.outputs[0])
        assert content.startswith(b"\x89PNG")
        path = await api.save(job.outputs[0], tmp_path / "city.png")
        assert path.read_bytes() == content
        assert not files_left(tmp_path, ".part")


async def test_watching_a_job_yields_every_change_and_ends_with_the_job(tmp_path: Path) -> None:
    async with front(tmp_path) as f, connect(f) as api:
        job_id = (await api.generate("Ocean waves at sunset", type="video", duration=2)).job_id
        seen: list[Job] = []
        async with aclosing(api.watch(job_id)) as watching:
            async for job in watching:
                seen.append(job)
                if len(seen) == 1:
                    f.engine.run(job_id)

    assert (seen[0].type, seen[0].status) == ("video", "queued")
    assert seen[-1].status == "completed"
    assert [job.progress for job in seen] == sorted(job.progress for job in seen)


async def test_conversations_are_listed_read_renamed_and_deleted(tmp_path: Path) -> None:
    async with front(tmp_path) as f, connect(f) as api:
        conversation_id = (await api.chat("I am Ann.")).conversation_id
        await api.chat("Who am I?", conversation_id=conversation_id)
        await api.chat("Another")
        first = await api.conversations(limit=1)
        rest = await api.conversations(cursor=first.next_cursor)
        renamed = await api.rename_conversation(conversation_id, "Ann's")
        whole = await api.conversation(conversation_id)
        forgotten = await api.forget_conversation(conversation_id)
        with pytest.raises(client.NotFound):
            await api.conversation(conversation_id)

    assert [info.title for info in (*first.conversations, *rest.conversations)] == ["Another", "I am Ann."]
    assert [message.content for message in whole.messages][2:] == ["Who am I?", "You said: Who am I?"]
    assert (renamed.title, whole.title, forgotten.deleted) == ("Ann's", "Ann's", True)


async def test_files_are_uploaded_listed_and_deleted(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(picture("red"))
    async with front(tmp_path) as f, connect(f) as api:
        red = await api.upload(tmp_path / "red.png")
        again = await api.upload(str(tmp_path / "red.png"))
        blue = await api.upload(picture("blue"))
        newest = await api.files(limit=1)
        rest = await api.files(cursor=newest.next_cursor)
        deleted = await api.delete_file(blue.file_id)
        left = await api.files()
        with pytest.raises(FileNotFoundError):
            await api.upload(tmp_path / "green.png")
        with pytest.raises(client.BadRequest, match="file must be a PNG"):
            await api.upload(b"no picture")

    assert (red.mime_type, red.width, red.height, red.duration_seconds) == ("image/png", 16, 8, None)
    assert again.file_id == red.file_id
    assert {file.file_id for file in (*newest.files, *rest.files)} == {red.file_id, blue.file_id}
    assert newest.used_bytes > 0
    assert (deleted.deleted, [file.file_id for file in left.files]) == (True, [red.file_id])


async def test_pictures_of_a_job_are_uploaded_and_named_by_their_ids(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(picture("red"))
    accepted = httpx.Response(200, json={"jobId": "job_1", "status": "queued", "statusUrl": "/"})
    async with front(tmp_path) as f:
        network = Flaky(f.app, *[None] * 5, accepted)  # five uploads go through
        async with connect(f, transport=network) as api:
            sent = await api.upload(picture("green"))
            await api.generate(
                "A lake",
                image=tmp_path / "red.png",
                images=[picture("blue"), sent.file_id],
                control=[{"type": "canny", "image": picture("red"), "strength": 0.5}],
                ip_adapter={"images": [picture("blue")]},
            )
            ids = {file.sha256: file.file_id for file in (await api.files()).files}
    red, blue = (ids[hashlib.sha256(picture(color)).hexdigest()] for color in ("red", "blue"))

    assert json.loads(network.requests[5].content) == {
        "prompt": "A lake",
        "type": "image",
        "image": red,
        "images": [blue, sent.file_id],
        "control": [{"type": "canny", "image": red, "strength": 0.5}],
        "ip_adapter": {"images": [blue]},
    }


def picture(color: str) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (16, 8), color).save(target, "PNG")
    return target.getvalue()


async def test_a_job_that_fails_raises_with_its_status(tmp_path: Path) -> None:
    async with front(tmp_path) as f, connect(f) as api:
        job_id = (await api.generate("A lake")).job_id
        f.engine.start_job(job_id)
        f.engine.fail(job_id, "out_of_memory", "The device ran out of memory.")
        await f.settle()
        with pytest.raises(client.JobFailed, match="ran out of memory") as raised:
            await api.wait(job_id)

    assert raised.value.job.error is not None
    assert raised.value.job.error.code == "out_of_memory"


async def test_waiting_for_a_canceled_job_raises_and_a_deleted_job_has_no_files(tmp_path: Path) -> None:
    async with front(tmp_path) as f, connect(f) as api:
        job_id = (await api.generate("A lake")).job_id
        assert (await api.cancel(job_id)).status == "canceled"
        with pytest.raises(client.JobCanceled):
            await api.wait(job_id)

        done = await f.complete()
        await api.delete(done["jobId"])
        with pytest.raises(client.NotFound):
            await api.download((Job.model_validate(done)).outputs[0])


async def test_jobs_are_listed_page_by_page(tmp_path: Path) -> None:
    async with front(tmp_path) as f, connect(f) as api:
        ids = [(await api.generate(f"A lake {i}")).job_id for i in range(3)]
        first = await api.jobs(limit=2)
        second = await api.jobs(limit=2, cursor=first.next_cursor)

        assert {job.job_id for job in first.jobs + second.jobs} == set(ids)
        assert second.next_cursor is None
        assert (await api.jobs("completed")).jobs == []


async def test_chat_replies_whole_or_in_pieces_and_continues_a_conversation(tmp_path: Path) -> None:
    async with front(tmp_path) as f, connect(f) as api:
        reply = await api.chat("What can you help me with?", system="Be short.", temperature=0.5)
        pieces = [piece async for piece in api.stream_chat("And?", conversation_id=reply.conversation_id)]

    assert reply.reply == "You said: What can you help me with?"
    assert (reply.usage.completion_tokens, reply.finish_reason) == (5, "stop")
    assert isinstance(pieces[-1], ChatReply)
    assert pieces[-1].conversation_id == reply.conversation_id
    assert "".join(p.text for p in pieces if isinstance(p, ChatDelta)) == pieces[-1].reply == "You said: And?"


async def test_thinking_comes_apart_from_the_reply_and_stays_with_the_conversation(tmp_path: Path) -> None:
    async with front(tmp_path) as f, connect(f) as api:
        with thinking(f.engine):
            whole = await api.chat("Hi", thinking="high")
            pieces = [piece async for piece in api.stream_chat("Hi")]
        conversation = await api.conversation(whole.conversation_id)
        without = await api.chat("Hi", thinking=False)

    deltas = [piece for piece in pieces if isinstance(piece, ChatDelta)]
    assert "".join(delta.text for delta in deltas) == REPLY
    assert "".join(delta.thinking for delta in deltas) == THOUGHT
    for reply in (whole, pieces[-1]):
        assert isinstance(reply, ChatReply)
        assert (reply.reply, reply.thinking, reply.usage.thinking_tokens) == (REPLY, THOUGHT, 3)
    assert [message.thinking for message in conversation.messages] == ["", THOUGHT]
    assert (without.thinking, without.usage.thinking_tokens) == ("", 0)
    assert "thinking" not in without.as_json()


async def test_a_stream_that_fails_raises_the_servers_error(tmp_path: Path) -> None:
    async with front(tmp_path) as f, connect(f) as api:
        f.engine.reply = None

        async def fail() -> None:
            await f.engine.submitted.wait()
            job_id = next(iter(f.engine.jobs))
            f.engine.start_job(job_id)
            f.engine.say(job_id, "I ")
            f.engine.fail(job_id)

        failing = asyncio.create_task(fail())
        pieces = api.stream_chat("Hello")
        assert await anext(pieces) == ChatDelta(text="I ")
        with pytest.raises(client.ServerFault):
            await anext(pieces)
        await failing


async def test_models_and_device_memory_are_read(tmp_path: Path) -> None:
    async with front(tmp_path) as f, connect(f) as api:
        f.engine.publish()
        models, devices = await api.models(), await api.gpu()

    assert {model.name: model.type for model in models}["painter"] == "image"
    assert [(holder.name, holder.n_bytes) for holder in devices[0].holders] == [("painter", 2 * 2**30)]
    assert models[0].as_json()["bytes"] == models[0].n_bytes


async def test_only_an_admin_key_loads_unloads_and_pins_models(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        async with connect(f) as api:
            with pytest.raises(client.Forbidden):
                await api.pin("painter")
        async with connect(f, "admin") as api:
            assert (await api.load("painter")).name == "painter"
            assert (await api.unload("painter")).state == "available"
            assert (await api.pin("painter")).pinned
            assert not (await api.unpin("painter")).pinned


@pytest.mark.parametrize(
    ("call", "error", "code"),
    [
        (lambda t: t.generate("x", steps=0), client.BadRequest, 400),
        (lambda t: t.generate("x", model="nobody"), client.NotFound, 404),
        (lambda t: t.status("job_1_nothing"), client.NotFound, 404),
        (lambda t: t.request("PUT", "/api/gpu"), client.Refused, 405),
    ],
)
async def test_an_error_reply_raises_its_code_message_and_request_id(
    tmp_path: Path, call: Any, error: Any, code: int
) -> None:
    async with front(tmp_path) as f, connect(f) as api:
        with pytest.raises(error) as raised:
            await call(api)

    assert raised.value.code == code
    assert raised.value.message
    assert len(raised.value.request_id) == 16


async def test_a_used_up_plan_raises_at_once_with_the_time_to_retry(tmp_path: Path) -> None:
    slept, sleep = recorded_sleep()
    async with front(tmp_path) as f, connect(f, "free", sleep=sleep) as api:
        for _ in range(2):
            await api.generate("Waves", type="video")
        with pytest.raises(client.TooManyRequests) as raised:
            await api.generate("Waves", type="video")

    assert raised.value.retry_after_s == 15 * 3600  # it is nine in the morning, UTC
    assert slept == []


async def test_a_request_is_retried_after_a_broken_connection_and_creates_one_job(tmp_path: Path) -> None:
    slept, sleep = recorded_sleep()
    async with front(tmp_path) as f:
        network = Flaky(f.app, httpx.ReadError("reset"), httpx.ConnectError("refused"))
        async with connect(f, transport=network, sleep=sleep) as api:
            accepted = await api.generate("A lake")

        assert list(f.engine.jobs) == [accepted.job_id]
        assert len({request.headers["idempotency-key"] for request in network.requests}) == 1
        assert (len(network.requests), slept) == (3, [0.25, 0.5])


async def test_a_chat_message_that_may_have_arrived_is_not_sent_again(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        network = Flaky(f.app, httpx.ConnectError("refused"), httpx.ReadError("reset"))
        async with connect(f, transport=network, sleep=recorded_sleep()[1]) as api:
            with pytest.raises(client.NotReachable, match="reset"):
                await api.chat("Hello")

        assert len(network.requests) == 2  # a refused connection is safe to retry, a reset one is not
        assert await f.used("chats", "enterprise") == 1


async def test_the_client_waits_for_a_server_that_is_starting(tmp_path: Path) -> None:
    slept, sleep = recorded_sleep()
    async with front(tmp_path) as f:
        network = Flaky(f.app, refused(502, **{"retry-after": "2"}), refused(429, **{"retry-after": "1"}))
        async with connect(f, transport=network, sleep=sleep) as api:
            await api.models()

    assert slept == [2, 4]  # never shorter than Retry-After, and longer each time


@pytest.mark.parametrize(("retries", "tries"), [(0, 1), (3, 4)])
async def test_the_number_of_retries_is_limited(tmp_path: Path, retries: int, tries: int) -> None:
    async with front(tmp_path) as f:
        network = Flaky(f.app, *[httpx.ConnectError("refused")] * 9)
        async with connect(f, transport=network, sleep=recorded_sleep()[1], retries=retries) as api:
            with pytest.raises(client.NotReachable):
                await api.gpu()

    assert len(network.requests) == tries


@pytest.mark.parametrize(
    "reply", [httpx.Response(200, text="<html>"), httpx.Response(404, text="nginx"), httpx.Response(200, json={"a": 1})]
)
async def test_a_reply_of_another_program_raises_not_this_server(tmp_path: Path, reply: httpx.Response) -> None:
    async with front(tmp_path) as f, connect(f, transport=Flaky(f.app, reply)) as api:
        with pytest.raises(client.NotThisServer):
            await api.models()


async def test_a_damaged_download_leaves_no_file(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job = Job.model_validate(await f.complete())
        async with connect(f, transport=Flaky(f.app, httpx.Response(200, content=b"half"))) as api:
            with pytest.raises(client.NotThisServer, match="try again"):
                await api.save(job.outputs[0], tmp_path / "city.png")

    assert not files_left(tmp_path, "")


async def test_an_unknown_field_of_a_reply_is_kept(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job = Job.model_validate(await f.complete() | {"mood": "good"})

    assert job.as_json()["mood"] == "good"


def test_url_and_key_come_from_arguments_environment_or_data_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "home" / "agentname"
    with pytest.raises(client.NoKey, match="agentname serve"):
        address.find(None, None)
    folder.mkdir(parents=True)
    (folder / "local-key").write_text("an_local\n")

    assert address.find(None, None) == address.Address("http://localhost:3001", "an_local", True)
    assert address.find("http://[::1]:4000/api/", "an_given") == address.Address("http://[::1]:4000", "an_given", True)
    monkeypatch.setenv("AGENTNAME_URL", "https://box.example")
    with pytest.raises(client.NoKey, match="AGENTNAME_API_KEY"):
        address.find(None, None)  # the local admin key is sent to no other machine
    monkeypatch.setenv("AGENTNAME_API_KEY", "an_environment")
    assert address.find(None, None) == address.Address("https://box.example", "an_environment", False)
    assert "an_environment" not in repr(address.find(None, None))
    with pytest.raises(client.AgentNameError, match="An example is"):
        address.find("localhost:3001", "an_given")


def test_every_field_of_a_request_is_an_option_of_the_client() -> None:
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
def test_events_are_parsed_from_chunks_of_any_size(size: int) -> None:
    reader = EventReader()
    events = [e for i in range(0, len(STREAM), size) for e in reader.feed(STREAM[i : i + size])]

    assert [(e.name, e.data, e.id) for e in events] == [
        ("delta", '{"text":"ä"}', "7"),
        ("message", "one\ntwo", "7"),
        ("end", "3", "7"),
    ]


def test_the_client_imports_no_heavy_package() -> None:
    heavy = ("torch", "fastapi", "sqlalchemy", "starlette", "uvicorn", "numpy", "pydantic_settings")
    code = f"import sys, server.client; print([m for m in {heavy} if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert ended.stdout.strip() == "[]"


def test_both_clients_have_every_call_with_its_docstring() -> None:
    calls = {name for name in vars(Calls) if not name.startswith("_")}
    assert calls == {name for name in vars(Methods) if not name.startswith("_")}
    for kind in (client.AgentName, AsyncAgentName):
        api = kind("http://localhost:3001", "an_key")
        for name in calls:
            method = getattr(api, name)
            assert (method.__name__, method.__doc__) == (name, getattr(Calls, name).__doc__)
            assert method.__doc__, f"{name} has a docstring"
