"""Keeps the bodies that real clients send, of which tests/http/openai/recorded/ is made."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from tests.support.http.front import Front


def record(f: Front, place: Callable[[Any], tuple[str, str]]) -> None:
    """Keeps bodies of chat completions in the folder $RECORD_BODIES, if that is named.

    place: returns the name of the file, and of the body in it, of which the last one is kept.
    """
    folder = os.environ.get("RECORD_BODIES")
    if not folder:
        return
    app = f.app

    async def recording(scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_and_keep() -> Message:
            message = await receive()
            if message["type"] == "http.request" and scope["path"] == "/v1/chat/completions":
                body = json.loads(message["body"])
                name, way = place(body)
                path = Path(folder) / f"{name}.json"
                recorded = json.loads(path.read_text()) if path.exists() else {}
                recorded[way] = body
                path.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n")
            return message

        await app(scope, receive_and_keep, send)

    f.app = recording  # type: ignore[assignment]  # stands between the socket and the application
