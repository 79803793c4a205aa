"""Streams of JSON objects, one a line, as Ollama's clients read them. Event loop only."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from server.errors import ServerError
from server.http.error_body import stream_error
from server.http.sse import EventStream


def line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode() + b"\n"


class JsonLines(EventStream):
    """As `EventStream`. The last line is an error's where one is raised after the first bytes."""

    media_type = "application/x-ndjson"

    def __init__(
        self, lines: AsyncGenerator[bytes], headers: Mapping[str, str] = {}, *, in_silence: Mapping[str, Any]
    ) -> None:
        """in_silence: an object that says nothing new, since these streams have no comments."""
        super().__init__(lines, headers, _error_line, comment=line(in_silence))


def _error_line(error: ServerError) -> bytes:
    return line(stream_error(error, "")[1])
