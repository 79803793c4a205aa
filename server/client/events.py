"""Parses server-sent events from chunks of bytes that are cut at arbitrary places. Does no I/O itself.

Source: WHATWG HTML, "Server-sent events", interpretation of an event stream.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

LINE_END = re.compile(rb"\r\n|\n|\r(?!$)")  # a CR at the end of the chunk may be the first half of a CR LF


@dataclass(frozen=True, slots=True)
class Event:
    name: str
    data: str
    id: str  # the last id seen, for Last-Event-ID; empty before the first


class EventReader:
    def __init__(self) -> None:
        self._rest = b""
        self._id = ""
        self._name = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Yields the events that `chunk` completes, and keeps the bytes of an incomplete one for the next call."""
        *lines, self._rest = LINE_END.split(self._rest + chunk)
        for line in lines:
            if line:
                self._field(*line.decode(errors="replace").partition(":")[::2])
            elif self._data:
                yield Event(self._name or "message", "\n".join(self._data), self._id)
                self._name, self._data = "", []
            else:
                self._name = ""

    def _field(self, name: str, value: str) -> None:
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._name = value
        elif name == "id" and "\0" not in value:
            self._id = value
