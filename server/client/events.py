"""Server-sent events out of bytes as they come, wherever the network cut them. Pure: it reads nothing itself.

Source: WHATWG HTML, "Server-sent events", interpretation of an event stream.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

LINE_END = re.compile(rb"\r\n|\n|\r(?!$)")  # a CR at the very end may be half of a CR LF: wait for what follows


@dataclass(frozen=True, slots=True)
class Event:
    name: str
    data: str
    id: str  # the last one seen, as Last-Event-ID wants it; empty before the first


class EventReader:
    def __init__(self) -> None:
        self._rest = b""
        self._id = ""
        self._name = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that `chunk` completes; an unfinished one waits, and is dropped with the reader."""
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
