"""After SIGKILL in the middle of work, streams give every job's end exactly once and every webhook gets through."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.http.live_server import LiveServer

pytestmark = [pytest.mark.live, pytest.mark.slow]

JOBS = 5
WAIT_S = 120.0  # enough for a restart on a busy machine
ENDS = ("completed", "failed", "canceled")


@dataclass
class Receiver:
    """Records webhooks, and answers none before `go_on`: calls are open when the server dies."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    called: threading.Condition = field(default_factory=threading.Condition)
    go_on: threading.Event = field(default_factory=threading.Event)

    def wait_for(self, enough: Callable[[], bool]) -> None:
        with self.called:
            assert self.called.wait_for(enough, WAIT_S), self.calls


@pytest.fixture
def receiver() -> Iterator[tuple[Receiver, str]]:
    """A running HTTP server that records webhooks, and the URL to send them to."""
    webhooks = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            assert body["id"] == self.headers["webhook-id"]
            with webhooks.called:
                webhooks.calls.append(body)
                webhooks.called.notify_all()
            webhooks.go_on.wait(WAIT_S)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):  # the caller was killed
                super().handle()

    http_server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http_server.serve_forever, daemon=True).start()
    yield webhooks, f"http://127.0.0.1:{http_server.server_port}/hook"
    webhooks.go_on.set()
    http_server.shutdown()
    http_server.server_close()


class StreamEvent(NamedTuple):
    id: int
    name: str
    job: str


@dataclass
class Listener:
    """Reads an event stream on its own thread and reconnects with the last event's id, as a browser does."""

    server: LiveServer
    path: str
    until: Callable[[list[StreamEvent]], bool]  # true for the events after which it stops reading
    last_id: str | None = None
    events: list[StreamEvent] = field(default_factory=list)
    opened: threading.Event = field(default_factory=threading.Event)
    disconnects: int = 0

    def start(self) -> Listener:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self.opened.wait(WAIT_S)
        return self

    def finish(self) -> list[StreamEvent]:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), self.events
        return self.events

    def _run(self) -> None:
        while not self.until(self.events):
            try:
                self._listen()
            except (OSError, http.client.HTTPException):  # the server is down
                self.disconnects += 1
                threading.Event().wait(0.1)

    def _listen(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=WAIT_S)
        headers = {"Authorization": f"Bearer {self.server.key}"}
        if self.last_id is not None:
            headers["Last-Event-ID"] = self.last_id
        try:
            connection.request("GET", self.path, headers=headers)
            reply = connection.getresponse()
            if reply.status != 200:
                raise http.client.HTTPException(f"{reply.status}")
            event: dict[str, str] = {}
            while line := reply.readline().decode():
                name, _, value = line.rstrip("\n").partition(": ")
                if name:
                    event[name] = value
                    continue
                if "id" in event:
                    self.last_id = event["id"]
                    self.opened.set()
                    if "event" in event:
                        job = json.loads(event["data"])["jobId"]
                        self.events.append(StreamEvent(int(event["id"]), event["event"], job))
                event = {}
                if self.until(self.events):
                    return
            raise http.client.HTTPException("the stream ended")
        finally:
            connection.close()


def ends(events: list[StreamEvent]) -> list[StreamEvent]:
    return [event for event in events if event.name in ENDS]


@pytest.mark.parametrize("everything", [False, True], ids=["server", "server and supervisor"])
def test_after_sigkill_streams_give_every_end_once_and_every_webhook_gets_through(
    tmp_path: Path, receiver: tuple[Receiver, str], everything: bool
) -> None:
    webhooks, url = receiver
    server = LiveServer(tmp_path / "data", {"AGENTNAME_WEBHOOK_NETWORKS": "127.0.0.0/8"}).start()
    all_jobs = Listener(server, "/api/events", lambda events: len(ends(events)) >= JOBS).start()
    bookmark = all_jobs.last_id
    jobs = [server.submit(prompt="A forest", type="image", steps=4, seed=i, webhook_url=url) for i in range(JOBS)]
    last_job = Listener(server, f"/api/jobs/{jobs[-1]}/events", lambda events: bool(ends(events))).start()
    webhooks.wait_for(lambda: len(webhooks.calls) >= 1)

    server.kill(everything)
    webhooks.go_on.set()
    if everything:
        server.start()
    received, received_by_last = all_jobs.finish(), last_job.finish()
    webhooks.wait_for(lambda: len({call["id"] for call in webhooks.calls}) >= JOBS)
    replay = Listener(server, "/api/events", lambda events: len(ends(events)) >= JOBS, last_id=bookmark)
    stored = replay.start().finish()
    calls = {call["id"]: (call["type"], call["data"]["jobId"]) for call in webhooks.calls}
    assert server.stop() == 0

    assert all_jobs.disconnects, "the kill came too late to interrupt a stream"
    assert received == stored, "a stream that was interrupted must give the stored events, each once and in order"
    assert sorted(event.job for event in received if event.name == "completed") == sorted(jobs)
    assert ends(received_by_last) == [event for event in ends(stored) if event.job == jobs[-1]]
    assert calls == {f"evt_{event.id}": (f"job.{event.name}", event.job) for event in ends(stored)}
