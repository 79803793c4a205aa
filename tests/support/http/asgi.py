"""Calls the application through ASGI, as a server does for a client that may disconnect at any moment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from tests.support.http.front import Front


def http_scope(method: str, path: str, headers: Mapping[str, str], query: str = "") -> dict[str, Any]:
    return {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()], "http_version": "1.1",
        "scheme": "http", "root_path": "", "client": None, "server": None,
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }  # fmt: skip


def start_post(
    f: Front, path: str, body: Any, disconnected: asyncio.Event, key: str = "enterprise"
) -> asyncio.Task[None]:
    """Starts a request whose client discards the reply, and disconnects when `disconnected` is set."""
    content = json.dumps(body).encode()
    headers = {"host": "localhost", "content-type": "application/json", "content-length": str(len(content))}
    messages = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await disconnected.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    scope = http_scope("POST", path, headers | f.auth(key))
    return asyncio.create_task(f.app(scope, receive, send))  # type: ignore[arg-type]  # mutable mappings in Starlette
