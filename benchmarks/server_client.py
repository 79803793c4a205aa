"""Starts the whole server for a benchmark, with an image model, and gives clients that take little CPU time."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import common

from tests.support.http.live_server import LiveServer

IMAGE = {"type": "image", "prompt": "A futuristic city at night"}
POLL_S = 0.01


def new_prompt(body: Mapping[str, Any], turn: int) -> str:
    """Returns a prompt that differs for each turn, because lanes cache encoded prompts."""
    return f"{body['prompt']}, number {turn}"


@contextmanager
def server(env: Mapping[str, str] = MappingProxyType({})) -> Iterator[tuple[LiveServer, dict[str, Any]]]:
    """Starts a server on its own data directory. Yields it and the body of an image request."""
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "data"
        data_dir.mkdir()
        body = dict(IMAGE)
        if common.built_in("image") is None:
            common.stand_in().save_pretrained(data_dir / "stand-in")
            (data_dir / "models.toml").write_text(
                f'[models.stand-in]\ntype = "image"\nsource = "{data_dir / "stand-in"}"\ndefault = true\n'
                "[models.stand-in.defaults]\nsteps = 20\n"
                "[models.stand-in.call]\nuse_resolution_binning = false\nclean_caption = false\n"
                "max_sequence_length = 32\n"
            )
            body |= {"model": "stand-in", "width": 64, "height": 64}
        live = LiveServer(data_dir, dict(env)).start()
        try:
            yield live, body
        finally:
            live.stop()


# Arguments of a program that compares this tree with another one.
BEFORE = ("--before", {"type": Path, "required": True, "metavar": "FOLDER", "help": "the tree to compare with"})


@contextmanager
def both_servers(before: Path) -> Iterator[dict[str, LiveServer]]:
    """Starts a server of the tree `before` and one of this tree. Yields them as "before" and "after"."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers = {}
        for side, tree in {"before": before.resolve(), "after": common.ROOT}.items():
            data_dir = Path(folder) / side
            data_dir.mkdir()
            servers[side] = LiveServer(data_dir, tree=tree).start()
            stack.callback(servers[side].stop)
        yield servers


def wait_done(live: LiveServer, job_id: str) -> dict[str, Any]:
    """Polls until the job has completed and returns its status."""
    while True:
        status: dict[str, Any] = live.get(f"/api/status/{job_id}").json
        if status["status"] in ("completed", "failed", "canceled"):
            assert status["status"] == "completed", status["error"]
            return status
        time.sleep(POLL_S)


def chat(live: LiveServer, message: str, max_tokens: int) -> dict[str, Any]:
    reply = live.post("/api/chat", {"message": message, "max_tokens": max_tokens, "temperature": 0})
    assert reply.status == 200, reply.body
    return dict(reply.json)


class Connection:
    """A keep-alive HTTP connection with minimal parsing: a full client would take longer than what is measured."""

    def __init__(self, live: LiveServer) -> None:
        self.head = b""  # of the last reply
        self._live = live
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def __aenter__(self) -> Connection:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._live.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def submit(self, body: dict[str, Any]) -> str:
        status, reply = await self.send("POST", "/api/generate", body)
        assert status == 200, reply
        return str(json.loads(reply)["jobId"])

    async def ended(self, job_id: str) -> dict[str, Any]:
        """Waits for the completed event of the job and returns its status. Polling would take CPU time from the job."""
        async with Connection(self._live) as stream:
            stream._writer.write(self._head("GET", f"/api/jobs/{job_id}/events").encode() + b"\r\n")
            await stream._reader.readuntil(b"event: completed\ndata: ")  # raises if the stream ends first
            status: dict[str, Any] = json.loads(await stream._reader.readuntil(b"\n"))
        return status

    def _head(self, method: str, path: str) -> str:
        return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self._live.key}\r\n"

    async def send(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, bytes]:
        payload = json.dumps(body).encode() if body is not None else b""
        head = self._head(method, path)
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n"
        self._writer.write(head.encode() + b"\r\n" + payload)
        self.head = reply = await self._reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in reply.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return int(reply[9:12]), await self._reader.readexactly(length)
