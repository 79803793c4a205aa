"""A mixed load from seeded clients, each with a key of its own: images, clips, chats, cancels, disconnects, bad input.

A job is sent with an Idempotency-Key and again until it is answered, as the client library does it.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from tests.support.http.live_server import LiveServer, Reply

BROKEN = (OSError, http.client.HTTPException)  # a connection
TEMPORARY = (429, 502)
ENDS = ("completed", "failed", "canceled")
TRIES = 200
PAUSE_S = 0.3
MIX = MappingProxyType({"image": 60, "video": 10, "chat": 30})  # percent
BAD_BODIES: tuple[Any, ...] = (
    {"type": "image"},
    {"type": "image", "prompt": 7},
    {"type": "image", "prompt": "a bad size", "width": -1},
    {"type": "audio", "prompt": "a bad type"},
    b'{"type": "image", ',
    b"\xff\xfe",
)


@dataclass
class Load:
    """Start it, then stop it. Any thread may read the counts."""

    live: LiveServer
    seed: int
    clients: int
    mix: Mapping[str, int] = field(default_factory=lambda: MIX)
    cancels: float = 0.0  # share of jobs
    disconnects: float = 0.0  # share of chats
    bad: float = 0.0  # share of requests
    pause_s: float = 0.5  # the most between two requests of a client
    most_open: int = 0  # jobs of a client that have not ended; with more it waits for the oldest; 0: no such bound
    replies: Counter[tuple[str, int | str]] = field(default_factory=Counter)
    jobs: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # by Idempotency-Key
    keys: dict[str, str] = field(default_factory=dict)  # id → key
    owners: dict[str, str] = field(default_factory=dict)  # job → id of its key
    chats: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))  # key → replied, broken

    def start(self) -> Load:
        self._stop, self._lock = threading.Event(), threading.Lock()
        for number in range(self.clients):
            made = self.live.post("/api/keys", {"name": f"client {number}", "plan": "enterprise"})
            assert made.status == 200, made.body
            self.keys[made.json["id"]] = made.json["key"]
        self._threads = [
            threading.Thread(target=self._client, args=(number, *each), daemon=True)
            for number, each in enumerate(self.keys.items())
        ]
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """Returns once every client has the answer to its last request."""
        self._stop.set()
        for thread in self._threads:
            thread.join(300)
            assert not thread.is_alive(), "a client still waits for its answer after five minutes"

    def _client(self, number: int, key_id: str, key: str) -> None:
        rng = random.Random(f"{self.seed} {number}")
        open_jobs: deque[str] = deque()
        for turn in range(1_000_000):
            if self._stop.is_set():
                return
            kind = rng.choices(list(self.mix), list(self.mix.values()))[0]
            if rng.random() < self.bad:
                self._send("bad", key, rng.choice(BAD_BODIES))
            elif kind == "chat":
                self._chat(rng, key_id, key)
            else:
                open_jobs.append(self._job(rng, kind, key_id, key, f"{self.seed}-{number}-{turn}"))
            while self.most_open and len(open_jobs) > self.most_open and not self._stop.is_set():
                if has_ended(self.live, open_jobs[0], key):
                    open_jobs.popleft()
                else:
                    self._stop.wait(self.pause_s)
            self._stop.wait(rng.random() * self.pause_s)

    def _job(self, rng: random.Random, kind: str, key_id: str, key: str, claim: str) -> str:
        body: dict[str, Any] = {"type": kind, "prompt": f"a red house {claim}", "seed": 1, "width": 64, "height": 64}
        body |= {"steps": 2, "num_frames": 8} if kind == "video" else {"steps": 3, "n": rng.choice([1, 1, 2])}
        for _ in range(TRIES):
            reply = self._send(kind, key, body, claim)
            if reply is not None and reply.status == 200:
                job = reply.json["jobId"]
                with self._lock:
                    self.jobs[claim].add(job)
                    self.owners[job] = key_id
                if rng.random() < self.cancels:
                    self._send("cancel", key, {}, path=f"/api/jobs/{job}/cancel")
                return str(job)
            assert reply is None or reply.status in TEMPORARY, reply.body
            time.sleep(PAUSE_S)
        raise AssertionError(f"{claim} was not accepted in {TRIES} tries")

    def _chat(self, rng: random.Random, key_id: str, key: str) -> None:
        body = {"message": "Say hello to everybody", "max_tokens": 8}
        if rng.random() < self.disconnects:
            self._hang_up(key, body)
            self.chats[key_id]["broken"] += 1
            return
        reply = self._send("chat", key, body, path="/api/chat")
        if reply is None:
            self.chats[key_id]["broken"] += 1
        elif reply.status == 200:
            self.chats[key_id]["replied"] += 1

    def _hang_up(self, key: str, body: Mapping[str, Any]) -> None:
        """Asks for a streamed chat and closes the connection in the middle of it."""
        payload = json.dumps({**body, "stream": True, "max_tokens": 64}).encode()
        head = f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        try:
            with socket.create_connection(("127.0.0.1", self.live.port), timeout=60) as connection:
                connection.sendall(head.encode() + payload)
                connection.recv(64)
            outcome = "left"
        except OSError:
            outcome = "broken"
        with self._lock:
            self.replies["hang up", outcome] += 1

    def _send(
        self, kind: str, key: str, body: Any, claim: str | None = None, path: str = "/api/generate"
    ) -> Reply | None:
        headers = {} if claim is None else {"Idempotency-Key": claim}
        try:
            reply = self.live.post(path, body, key, **headers)
        except BROKEN:
            reply = None
        with self._lock:
            self.replies[kind, "broken" if reply is None else reply.status] += 1
        return reply


def wait_ready(live: LiveServer, limit_s: float = 120.0) -> None:
    """As the server's own, for one that may be down at the moment."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            return live.wait_ready()
        except BROKEN:
            assert time.monotonic() < deadline, live.log_tail()
            time.sleep(0.02)


def has_ended(live: LiveServer, job: str, key: str) -> bool:
    """Also True of a job that is not there any more. A server that is away at the moment counts as not yet."""
    try:
        reply = live.get(f"/api/status/{job}", key=key)
    except BROKEN:
        return False
    return reply.status == 404 or (reply.status == 200 and reply.json["status"] in ENDS)


def wait_all_ended(load: Load, limit_s: float = 600.0) -> Counter[str]:
    """Waits for the end of every job that was accepted and counts how they ended, unknown and endless ones too."""
    ends: Counter[str] = Counter()
    deadline = time.monotonic() + limit_s
    for job, key_id in load.owners.items():
        while True:
            reply = load.live.get(f"/api/status/{job}", key=load.keys[key_id])
            if reply.status == 404:
                ends["lost"] += 1
                break
            if reply.status == 200 and reply.json["status"] in ENDS:
                ends[reply.json["status"]] += 1
                if error := reply.json["error"]:
                    ends[f"failed with {error['code']}"] += 1
                break
            if time.monotonic() > deadline:
                ends["endless"] += 1
                break
            time.sleep(0.05)
    return ends
