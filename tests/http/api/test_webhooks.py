"""Webhooks: their content and signature, retries, and addresses that are never called."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import socket
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from server.api.wire import job_json
from server.jobs.safe_post import Target
from server.jobs.webhooks import BACK_OFF_S, MAX_PER_KEY, Describe
from server.store import webhooks as store
from tests.support.http.front import Front, front

pytestmark = pytest.mark.anyio

URL = "https://hooks.example/jobs?x=1"


class Receiver:
    """Records every call, and answers with `statuses` in turn, then with 200. A status of 0 refuses the connection."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.called = threading.Event()
        self.calls: list[tuple[Target, str, bytes, Mapping[str, str]]] = []

    def post(self, target: Target, address: str, body: bytes, headers: Mapping[str, str]) -> int:
        self.called.set()
        self.calls.append((target, address, body, headers))
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 0:
            raise ConnectionRefusedError
        return status

    @property
    def network(self) -> dict[str, Any]:
        return {"post": self.post, "look_up": lambda host, port: ["93.184.216.34"]}


async def deliver(f: Front, describe: Describe | None = None) -> float:
    """Makes all calls that are due; returns the seconds until the next one is."""

    async def job(key_id: str, job_id: str) -> Any:
        return job_json(await f.service.jobs.status_of(key_id, job_id), f.service.jobs.link)

    while True:
        wait_s = await f.service.webhooks.begin_due(describe or job)
        if not f.service.webhooks.under_way:
            return wait_s
        await asyncio.gather(*f.service.webhooks.under_way, return_exceptions=True)


async def pending(f: Front) -> int:
    far = f.clock().replace(year=2030)
    return len(await f.database.read(lambda conn: store.due(conn, far, 1000)))


async def test_a_call_that_cannot_be_made_is_tried_later_and_does_not_hold_up_the_others(tmp_path: Path) -> None:
    receiver = Receiver()
    async with front(tmp_path, webhooks=receiver.network) as f:
        broken, fine = await f.submit(webhook_url=URL), await f.submit(webhook_url=URL)
        for job_id in (broken, fine):
            f.engine.start_job(job_id)
            f.engine.render(job_id)
        await f.settle()

        async def describe(key_id: str, job_id: str) -> Any:
            return {"jobId": job_id, "odd": object()} if job_id == broken else {"jobId": job_id}  # is no JSON

        await deliver(f, describe)

        assert [json.loads(body)["data"]["jobId"] for _, _, body, _ in receiver.calls] == [fine]
        assert await pending(f) == 1


@pytest.mark.parametrize("ended", ["completed", "failed", "canceled"])
async def test_each_end_of_a_job_makes_one_signed_call(tmp_path: Path, ended: str) -> None:
    receiver = Receiver()
    async with front(tmp_path, webhooks=receiver.network) as f:
        job_id = await f.submit(webhook_url=URL)
        await f.submit()
        if ended == "canceled":
            await f.delete(f"/api/jobs/{job_id}")
        else:
            f.engine.start_job(job_id)
            f.engine.render(job_id) if ended == "completed" else f.engine.fail(job_id)
        await f.settle()
        await deliver(f)
        await deliver(f)
        status = await f.status(job_id)
        secret = (await f.get("/api/webhooks/secret")).json()["secret"]
        foreign = (await f.get("/api/webhooks/secret", "other")).json()["secret"]

    ((target, address, body, headers),) = receiver.calls
    content = json.loads(body)
    assert (content["type"], content["id"], content["data"]) == (f"job.{ended}", headers["webhook-id"], status)
    assert (target, address) == (Target("https", "hooks.example", 443, "/jobs?x=1"), "93.184.216.34")
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(hmac.digest(key, signed, 'sha256')).decode()}"
    assert foreign != secret


@pytest.mark.parametrize("fault", [500, 302, 404, 0])
async def test_a_failed_call_is_retried_later_with_the_same_id(tmp_path: Path, fault: int) -> None:
    """A redirect counts as a failure and is not followed."""
    receiver = Receiver(fault)
    async with front(tmp_path, webhooks=receiver.network) as f:
        await f.complete(webhook_url=URL)
        assert await deliver(f) == pytest.approx(BACK_OFF_S[0])
        await deliver(f)
        assert len(receiver.calls) == 1
        f.clock.forward(seconds=BACK_OFF_S[0])
        await deliver(f)

        assert await pending(f) == 0
    assert len({headers["webhook-id"] for *_, headers in receiver.calls}) == 1
    assert len(receiver.calls) == 2


async def test_a_call_is_given_up_after_a_day_of_failures(tmp_path: Path) -> None:
    receiver = Receiver(*[503] * 100)
    async with front(tmp_path, webhooks=receiver.network) as f:
        await f.complete(webhook_url=URL)
        while await pending(f):
            await deliver(f)
            f.clock.forward(hours=13)

    assert len(receiver.calls) == len(BACK_OFF_S) + 1


async def test_undelivered_calls_are_made_after_a_restart(tmp_path: Path) -> None:
    before, after = Receiver(0), Receiver()
    async with front(tmp_path, webhooks=before.network) as f:
        await f.complete(webhook_url=URL)
        await deliver(f)
        await f.complete(webhook_url=URL)  # the server stops before the delivery
        keys = f.keys
    async with front(tmp_path, keys=keys, webhooks=after.network) as f:
        f.clock.forward(minutes=1)
        await deliver(f)

        assert await pending(f) == 0
    assert len(after.calls) == 2
    assert before.calls[0][3]["webhook-id"] in {headers["webhook-id"] for *_, headers in after.calls}


async def test_the_end_of_a_job_wakes_the_delivery(tmp_path: Path) -> None:
    receiver = Receiver()
    async with front(tmp_path, webhooks=receiver.network) as f:

        async def describe(key_id: str, job_id: str) -> Any:
            return {}

        delivering = asyncio.create_task(f.service.webhooks.run(describe))
        await f.complete(webhook_url=URL)
        assert await asyncio.to_thread(receiver.called.wait, 5)
        delivering.cancel()


async def test_receivers_that_never_answer_take_the_room_of_their_own_key_alone(tmp_path: Path) -> None:
    released, fine_called = threading.Event(), threading.Event()
    called: list[str] = []

    def post(target: Target, address: str, body: bytes, headers: Mapping[str, str]) -> int:
        called.append(target.host)
        if target.host == "never.example":
            released.wait(30)
        else:
            fine_called.set()
        return 200

    async def describe(key_id: str, job_id: str) -> Any:
        return {}

    network = {"post": post, "look_up": lambda host, port: ["93.184.216.34"]}
    async with front(tmp_path, webhooks=network) as f:
        for _ in range(MAX_PER_KEY + 3):
            await f.complete(webhook_url="https://never.example/")
        await f.service.webhooks.begin_due(describe)
        await f.complete(webhook_url="https://fine.example/", key="other")
        await f.service.webhooks.begin_due(describe)
        assert await asyncio.to_thread(fine_called.wait, 20)  # while the others still wait for their receiver

        assert (called.count("fine.example"), called.count("never.example")) == (1, MAX_PER_KEY)
        released.set()


async def test_calls_under_way_do_not_hold_up_the_end_of_the_server(tmp_path: Path) -> None:
    """Uses a real socket whose owner never answers. The next process makes the call again."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with front(tmp_path, webhooks={"allowed_networks": ["127.0.0.0/8"]}) as f:
            await f.complete(webhook_url=f"http://127.0.0.1:{listener.getsockname()[1]}/")
            await f.service.webhooks.begin_due(lambda key_id, job_id: asyncio.sleep(0, {}))
            connection, _ = await asyncio.to_thread(listener.accept)
            with connection:
                f.service.webhooks.close()
                await asyncio.gather(*f.service.webhooks.under_way, return_exceptions=True)

            assert await pending(f) == 1


INVALID_URLS = [
    "http://2130706433/", "http://127.1/", "http://0x7f.1/", "http://0177.0.0.1/", "http://[64:ff9b:1::1]/",
    "http://127.0.0.1/", "http://[::1]/", "http://[::ffff:7f00:1]/", "http://169.254.169.254/latest",
    "http://a@b.example/", "ftp://x.example/", "http://127.0.0.1:6666\\@1.1.1.1", "http:///x", "http://x.example:0/",
    "http://x.example:99999/", "http://x.example/#a", "http://x.example/a b", "http://x.example/\n",
    "http://é.example/", "//x.example", "x", "http://%31/", "http://x.example\r\nHost: y/", "HTTP://x.example",
]  # fmt: skip


@pytest.mark.parametrize("url", INVALID_URLS)
async def test_an_invalid_or_private_url_is_a_400(tmp_path: Path, url: str) -> None:
    async with front(tmp_path) as f:
        reply = await f.post("/api/generate", {"prompt": "x", "type": "image", "webhook_url": url})

    assert (reply.status_code, "webhook_url must be" in reply.json()["error"]) == (400, True)


@pytest.mark.parametrize("host", ["localhost", "localhost.localdomain"])
async def test_a_name_for_this_machine_is_not_called(tmp_path: Path, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        async with front(tmp_path) as f:
            await f.complete(webhook_url=f"http://{host}:{listener.getsockname()[1]}/")
            await deliver(f)
        with pytest.raises(TimeoutError):
            listener.accept()


async def test_an_allowed_network_is_called_and_a_redirect_is_not_followed(tmp_path: Path) -> None:
    """Uses a real socket."""
    requests: list[str] = []

    class Redirecting(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            requests.append(f"{self.path} {self.headers['host']}")
            self.send_response(307)
            self.send_header("location", "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Redirecting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        async with front(tmp_path, webhooks={"allowed_networks": ["127.0.0.0/8"]}) as f:
            await f.complete(webhook_url=f"http://127.0.0.1:{server.server_port}/hook")
            await deliver(f)

            assert await pending(f) == 1
        server.shutdown()

    assert requests == [f"/hook 127.0.0.1:{server.server_port}"]


async def test_deleting_a_job_removes_its_call(tmp_path: Path) -> None:
    receiver = Receiver()
    async with front(tmp_path, webhooks=receiver.network) as f:
        job = await f.complete(webhook_url=URL)
        await f.delete(f"/api/jobs/{job['jobId']}")
        await deliver(f)

    assert receiver.calls == []
