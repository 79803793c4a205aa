"""Runs the whole server in its own process, as `make serve` does, with a small client. For tests and benchmarks."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.catalogue_reader import STILL_READ
from tests.support.http.seen import Seen

START_S = 90.0  # a first start on a busy two-core machine
POLL_S = 0.02
STARTED: list[LiveServer] = []  # by this process, for the audit after each test


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(eq=False)
class LiveServer:
    """A server process and its data directory, which stays: `start` works again after `stop` or `kill`."""

    data_dir: Path
    env: dict[str, str] = field(default_factory=dict)
    port: int = 0
    key: str = ""
    process: subprocess.Popen[str] | None = None
    tree: Path | None = None  # the checkout whose server runs; None: the present folder's
    seen: Seen = field(default_factory=Seen)
    program: Sequence[str] = ("-m", "server")  # what Python runs

    def start(self) -> LiveServer:
        """Returns once /readyz answers 200. The log goes to a file beside the data directory."""
        env = os.environ | {"AGENTNAME_LOG_FORMAT": "json", "PYTHONUNBUFFERED": "1"} | self.env
        command = [sys.executable, *self.program, "serve", "--data-dir", str(self.data_dir), "--port", str(self.port)]
        self.log = (self.data_dir.parent / f"{self.data_dir.name}.log").open("a")
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self.log, env=env, cwd=self.tree, text=True
        )
        if self not in STARTED:
            STARTED.append(self)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(r"http://localhost:(\d+)\b", line):
                self.port = int(found[1])
            if found := re.search(r"an_[0-9A-Za-z]+_[0-9A-Za-z]+", line):
                self.key = found[0]
            if line.startswith("curl"):
                break
        assert self.port, f"the server did not start: {self.log_tail()}"
        self.wait_ready()
        return self

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while self.get("/readyz", key=None).status != 200:
            assert time.monotonic() < deadline, self.log_tail()
            time.sleep(POLL_S)

    def wait_read(self) -> LiveServer:
        """Waits until every model has been read. On a busy machine the server starts before that."""
        self.wait_until("/api/models", lambda all: STILL_READ.reason not in {m["reason"] for m in all["refused"]}, 60)
        return self

    def log_tail(self) -> str:
        self.log.flush()
        return Path(self.log.name).read_text()[-4000:]

    def server_pid(self) -> int:
        """The id of the process that serves: the supervisor's child."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    def stop(self, sig: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(sig)
        try:
            code = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self._close()
        return code

    def kill(self, everything: bool) -> None:
        """Sends SIGKILL to the serving process, and to its supervisor first if `everything`."""
        assert self.process is not None
        pid = self.server_pid()
        if everything:
            self.process.kill()
            self.process.wait()
            self._close()
        with contextlib.suppress(ProcessLookupError):  # it may have ended with its supervisor
            os.kill(pid, signal.SIGKILL)

    def _close(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()

    def request(self, method: str, path: str, body: Any = None, key: str | None = "", **headers: str) -> Reply:
        """Sends one request. `key`: "" is the server's first key, None sends no key."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        headers = dict(headers)
        if key is not None:
            headers["Authorization"] = f"Bearer {key or self.key}"
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            reply = Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
            self.seen.note(method, path, body, headers.get("Authorization", ""), reply.status, reply.body)
            return reply
        finally:
            connection.close()

    def get(self, path: str, key: str | None = "", **headers: str) -> Reply:
        return self.request("GET", path, None, key, **headers)

    def post(self, path: str, body: Any, key: str | None = "", **headers: str) -> Reply:
        return self.request("POST", path, body, key, **headers)

    def submit(self, **body: Any) -> str:
        reply = self.post("/api/generate", body)
        assert reply.status == 200, reply.body
        return str(reply.json["jobId"])

    def chat(self, message: str, **body: Any) -> list[float]:
        """Runs a chat and returns the seconds from the request to each piece of its text."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        began = time.perf_counter()
        connection.request("POST", "/api/chat", json.dumps({"message": message, "stream": True} | body), headers)
        with contextlib.closing(connection), connection.getresponse() as response:
            assert response.status == 200, response.read()
            pieces_s, event = [], ""
            while line := response.readline():
                text = line.decode().strip()
                if text.startswith("event:"):
                    event = text.removeprefix("event:").strip()
                elif text.startswith("data:") and event == "delta":
                    pieces_s.append(time.perf_counter() - began)
        return pieces_s

    def wait(self, job_id: str, timeout_s: float = 180.0) -> dict[str, Any]:
        """Waits for the end of the job and returns its status."""
        ends = ("completed", "failed", "canceled")
        return dict(self.wait_until(f"/api/status/{job_id}", lambda status: status["status"] in ends, timeout_s))

    def wait_until(self, path: str, condition: Callable[[Any], bool], timeout_s: float = 20.0) -> Any:
        """Polls `path` until its JSON meets the condition, and returns it. The engine's snapshot is a moment old."""
        deadline = time.monotonic() + timeout_s
        while not condition(reply := self.get(path).json):
            assert time.monotonic() < deadline, reply
            time.sleep(POLL_S)
        return reply

    def fetch(self, url: str, **headers: str) -> Reply:
        """Gets an output by the link in a job's status, without a key."""
        return self.get(re.sub(r"^https?://[^/]+", "", url), key=None, **headers)
