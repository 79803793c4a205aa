"""kill -9 at work: who listens hears every end once, and every webhook gets through, whatever died when."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.live_server import LiveServer

pytestmark = [pytest.mark.live, pytest.mark.slow]

JOBS = 5
PATIENCE_S = 120.0  # a restart on a busy machine
ENDS = ("completed", "failed", "canceled")


@dataclass
class Receiver:
    """Notes the body of each call. Until `go_on` it answers none: those are calls under way when the server dies."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    called: threading.Condition = field(default_factory=threading.Condition)
    go_on: threading.Event = field(default_factory=threading.Event)

    def wait_for(self, enough: Callable[[], bool]) -> None:
        with self.called:
            assert self.called.wait_for(enough, PATIENCE_S), self.calls


@pytest.fixture
def receiver() -> Iterator[tuple[Receiver, str]]:
    """And its address."""
    heard = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            assert body["id"] == self.headers["webhook-id"]
            with heard.called:
                heard.calls.append(body)
                heard.called.notify_all()
            heard.go_on.wait(PATIENCE_S)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):  # who called is dead
                super().handle()

    http_server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http_server.serve_forever, daemon=True).start()
    yield heard, f"http://127.0.0.1:{http_server.server_port}/hook"
    heard.go_on.set()
    http_server.shutdown()
    http_server.server_close()


@dataclass
class Listener:
    """Reads an event stream on a thread of its own, and comes back with the last id whenever it breaks, as a browser does."""

    server: LiveServer
    path: str
    until: Callable[[list[tuple[int, str, str]]], bool]  # told of it: enough was heard
    last_id: str | None = None
    told: list[tuple[int, str, str]] = field(default_factory=list)  # id, event, job
    opened: threading.Event = field(default_factory=threading.Event)
    broke: int = 0

    def start(self) -> Listener:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self.opened.wait(PATIENCE_S)
        return self

    def finish(self) -> list[tuple[int, str, str]]:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), self.told
        return self.told

    def _run(self) -> None:
        while not self.until(self.told):
            try:
                self._listen()
            except (OSError, http.client.HTTPException):  # the server is gone, or not here again
                self.broke += 1
                threading.Event().wait(0.1)

    def _listen(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE_S)
        said = {"Authorization": f"Bearer {self.server.key}"}
        if self.last_id is not None:
            said["Last-Event-ID"] = self.last_id
        try:
            connection.request("GET", self.path, headers=said)
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
                        self.told.append((int(event["id"]), event["event"], json.loads(event["data"])["jobId"]))
                event = {}
                if self.until(self.told):
                    return
            raise http.client.HTTPException("the stream ended")
        finally:
            connection.close()


def ends(told: list[tuple[int, str, str]]) -> list[tuple[int, str, str]]:
    return [one for one in told if one[1] in ENDS]


@pytest.mark.parametrize("everything", [False, True], ids=["the server", "the supervisor, too"])
def test_after_kill_9_every_end_is_told_once_and_every_webhook_gets_through(
    tmp_path: Path, receiver: tuple[Receiver, str], everything: bool
) -> None:
    heard, hook = receiver
    server = LiveServer(tmp_path / "data", {"AGENTNAME_WEBHOOK_NETWORKS": "127.0.0.0/8"}).start()
    everybody = Listener(server, "/api/events", lambda told: len(ends(told)) >= JOBS).start()
    bookmark = everybody.last_id
    jobs = [server.submit(prompt="A forest", type="image", steps=4, seed=i, webhook_url=hook) for i in range(JOBS)]
    last = Listener(server, f"/api/jobs/{jobs[-1]}/events", lambda told: bool(ends(told))).start()
    heard.wait_for(lambda: len(heard.calls) >= 1)

    server.kill(everything)
    heard.go_on.set()
    if everything:
        server.start()
    told, told_of_last = everybody.finish(), last.finish()
    heard.wait_for(lambda: len({call["id"] for call in heard.calls}) >= JOBS)
    again = Listener(server, "/api/events", lambda told: len(ends(told)) >= JOBS, last_id=bookmark)
    whole = again.start().finish()
    calls = {call["id"]: (call["type"], call["data"]["jobId"]) for call in heard.calls}
    assert server.stop() == 0

    assert everybody.broke, "the kill came too late to break a stream"
    assert told == whole, "what was heard over the kill is what the store has, once each and in order"
    assert sorted(job for _, name, job in told if name == "completed") == sorted(jobs)
    assert ends(told_of_last) == [one for one in ends(whole) if one[2] == jobs[-1]]
    assert calls == {f"evt_{number}": (f"job.{name}", job) for number, name, job in ends(whole)}
