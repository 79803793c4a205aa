"""A fake model hub in this process: ranges, etags, gated and private repositories, downloads that break off or pause.

It has just enough of the hub's API for a download.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MAX_HOLD_S = 60.0
TOKEN = "hf_letmein"  # opens the gated repositories


@dataclass
class Hub:
    """repos: "owner/name" → file name → bytes. gated: the repositories that require TOKEN."""

    url: str
    repos: dict[str, dict[str, bytes]]
    gated: set[str] = field(default_factory=set)
    break_at: int | None = None  # the next larger file breaks off after so many bytes, once
    hold_at: int | None = None  # a larger file stops after so many bytes until `release`
    released: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str | None, str | None]] = field(default_factory=list)  # path, range, authorization

    def release(self) -> None:
        self.hold_at = None
        self.released.set()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        hub, path = self.hub, self.path.split("?")[0]
        byte_range, authorization = self.headers.get("Range"), self.headers.get("Authorization")
        if body:
            hub.requests.append((path, byte_range, authorization))
        repo = next((repo for repo in hub.repos if f"/{repo}/" in f"{path}/"), None)
        if repo is None:
            return self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
        if "/revision/" in path or "/tree/" in path or path.startswith("/api/"):
            return self._api(repo, path, body)
        if repo in hub.gated and authorization != f"Bearer {TOKEN}":
            return self._send(403 if authorization else 401, b"{}", {"X-Error-Code": "GatedRepo"}, body)
        name = path.split(f"/resolve/{COMMIT}/")[-1]
        content = hub.repos[repo].get(name)
        if content is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
        etag = hashlib.sha256(content).hexdigest()
        headers = {
            "ETag": f'"{etag}"',
            "X-Repo-Commit": COMMIT,
            "X-Linked-Size": str(len(content)),
            "X-Linked-Etag": f'"{etag}"',
        }
        begin = int(byte_range.removeprefix("bytes=").split("-")[0]) if byte_range else 0
        if byte_range:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        return self._send(206 if byte_range else 200, content[begin:], headers, body)

    def _api(self, repo: str, path: str, body: bool) -> None:
        files = self.hub.repos[repo]
        if "/tree/" in path:
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest(),
                 "lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}}
                for name, data in files.items()
            ]  # fmt: skip
            return self._send(200, json.dumps(tree).encode(), {}, body)
        info = {
            "id": repo, "modelId": repo, "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "likes": 0,
            "siblings": [{"rfilename": name, "size": len(data)} for name, data in files.items()],
        }  # fmt: skip
        return self._send(200, json.dumps(info).encode(), {"X-Repo-Commit": COMMIT}, body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if not body:
            return
        if self.hub.break_at is not None and len(data) > self.hub.break_at:
            data, self.hub.break_at = data[: self.hub.break_at], None
            self.close_connection = True
        if self.hub.hold_at is not None and len(data) > self.hub.hold_at:
            self.hub.released.clear()
            self.wfile.write(data[: self.hub.hold_at])
            self.wfile.flush()
            data = data[self.hub.hold_at :]
            self.hub.released.wait(MAX_HOLD_S)
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def fake_hub(repos: dict[str, dict[str, bytes]], gated: set[str] | None = None) -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}", repos, gated or set())
    server.RequestHandlerClass = type("Handler", (_Handler,), {"hub": hub})
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
