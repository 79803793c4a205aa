"""A small HTTP server with fixed replies, for commands that talk to a server."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class ScriptedServer(http.server.BaseHTTPRequestHandler):
    """Replies like a server with one model in memory and one running job."""

    status = 200
    authorization = ""
    model: ClassVar[dict[str, object]] = {}  # fields of the model's reply that differ from the default
    posted: ClassVar[list[tuple[str, object]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.posted.append((self.path, json.loads(body) if body else None))
        self._answer(json.dumps({"name": "tiny-scenes", "running": 1}).encode())

    def do_GET(self) -> None:
        type(self).authorization = self.headers["Authorization"]
        gib = 2**30
        model = {
            "name": "tiny-scenes", "type": "image", "state": "resident", "bytes": 24 * 2**20, "dtype": "float32",
            "devices": ["CPU"], "running": 1, "waiting": 2, "idleUnloadAt": "2999-01-01T00:00:00.000Z",
        } | self.model  # fmt: skip
        holder = {"name": "tiny-scenes", "kind": "weights", "bytes": 24 * 2**20}
        device = {"name": "CPU", "others": 0, "total": 8 * gib, "used": 2 * gib, "free": 6 * gib, "holders": [holder]}
        nulls = dict.fromkeys(["startedAt", "finishedAt", "expiresAt", "queue", "etaSeconds", "error", "metrics"])
        job = nulls | {
            "jobId": "job_1_abc", "type": "image", "model": "tiny-scenes", "status": "processing", "progress": 0.456,
            "createdAt": "2026-11-24T09:00:00.000Z", "stage": "denoising", "step": 5, "totalSteps": 12, "attempt": 1,
            "params": {}, "warnings": [], "outputs": [],
        }  # fmt: skip
        replies = {
            "/api/gpu": {"devices": [device]},
            "/api/models": {"models": [model]},
            "/api/jobs?status=processing": {"jobs": [job], "nextCursor": None},
            "/api/jobs?status=queued": {"jobs": [], "nextCursor": None},
        }
        body = json.dumps(replies[self.path] if self.status == 200 else {"error": "No.", "code": self.status}).encode()
        self._answer(body)

    def _answer(self, body: bytes) -> None:
        self.send_response(self.status)
        if self.status in (429, 502):
            self.send_header("Retry-After", "3600")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def scripted_server() -> Iterator[tuple[type[ScriptedServer], int]]:
    """Yields the request handler, whose class attributes change the replies, and the port."""
    handler = type("Handler", (ScriptedServer,), {"model": {}, "posted": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))  # seconds until it sees that it is to stop
    thread.start()
    try:
        yield handler, server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
