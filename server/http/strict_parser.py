"""h11's parser, stricter where proxies and servers are known to read the same bytes in different ways. Pure: no I/O.

What is refused: header lines that do not end in CR LF or continue the line before, a length that is given twice or
beside chunks, targets that are no path, other versions than HTTP/1.0 and 1.1, and heads or chunks that cost more than
they carry.
"""

from __future__ import annotations

import re
from typing import Any

import h11

MAX_HEAD_BYTES = 32 * 1024  # of a request line with its headers, as nginx allows
MAX_HEADERS = 128
MANY_CHUNKS = 1024  # from here on, chunks must carry this much on average: each costs time on the event loop
MIN_CHUNK_BYTES = 16
HEAD_END = re.compile(rb"\n\r?\n")
LONE_LINE_FEED = re.compile(rb"(?<!\r)\n")
FOLDED_LINE = re.compile(rb"\n[ \t]")
LENGTH_LINE = re.compile(rb"\ncontent-length[ \t]*:([^\r]*)", re.IGNORECASE)
VERSIONS = (b"1.0", b"1.1")


class StrictParser(h11.Connection):
    """`refused_with`: the status for the request that `next_event` has raised `RemoteProtocolError` for."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEAD_BYTES)
        self.refused_with = 400
        self._n_chunks = self._n_chunk_bytes = 0

    def next_event(self) -> Any:
        if self.their_state is h11.IDLE:
            self._check_head(self.trailing_data[0])
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            self.refused_with = 431 if error.error_status_hint == 431 else 400
            raise
        if isinstance(event, h11.Request):
            self._n_chunks = self._n_chunk_bytes = 0
            self._check_request(event)
        elif isinstance(event, h11.Data):
            self._check_chunks(event)
        return event

    def _check_head(self, received: bytes) -> None:
        """Looks at the bytes themselves, because h11 has joined lines and lengths by the time it tells of them."""
        end = HEAD_END.search(received)
        if end is None:
            return  # h11 limits the bytes of a head that has not ended
        if end.end() > MAX_HEAD_BYTES:
            raise self._refused("the head is too long", 431)
        head = received[: end.end()]
        if LONE_LINE_FEED.search(head):
            raise self._refused("a line ends without CR")
        if FOLDED_LINE.search(head):
            raise self._refused("a header is continued on another line")
        lengths = LENGTH_LINE.findall(head)
        if len(lengths) > 1 or b"," in b"".join(lengths):
            raise self._refused("two Content-Lengths")

    def _check_request(self, request: h11.Request) -> None:
        names = {name for name, _ in request.headers}
        if len(request.headers) > MAX_HEADERS:
            raise self._refused("too many headers", 431)
        if request.http_version not in VERSIONS:
            raise self._refused("another version of HTTP")
        if not request.target.startswith(b"/"):
            raise self._refused("the target is no path")
        if b"transfer-encoding" in names and (b"content-length" in names or request.http_version == b"1.0"):
            raise self._refused("Transfer-Encoding with a length, or in HTTP/1.0")

    def _check_chunks(self, data: h11.Data) -> None:
        self._n_chunks += data.chunk_end  # h11 forgets some of the starts
        self._n_chunk_bytes += len(data.data)
        if self._n_chunks > MANY_CHUNKS and self._n_chunk_bytes < MIN_CHUNK_BYTES * self._n_chunks:
            raise self._refused("the chunks are too small")

    def _refused(self, reason: str, status: int = 400) -> h11.RemoteProtocolError:
        self.refused_with = status
        return h11.RemoteProtocolError(reason)
