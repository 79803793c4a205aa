"""Bytes that proxies and servers are known to read in different ways are refused, whichever way they arrive."""

from __future__ import annotations

from typing import Any

import h11
import pytest

from server.http.strict_parser import MANY_CHUNKS, MAX_HEAD_BYTES, MAX_HEADERS, StrictParser

HEAD = b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\n"
GOOD = {
    "no body": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/1.0": b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n",
    "a query": b"GET /api/jobs?limit=1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a length": HEAD + b"Content-Length: 2\r\n\r\n{}",
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunks with an extension and a trailer": HEAD
    + b"Transfer-Encoding: chunked\r\n\r\n2;x=y\r\n{}\r\n0\r\nTrailer: 1\r\n\r\n",
    "line feeds in the body": HEAD + b"Content-Length: 4\r\n\r\n\n\n \n",
    "as many headers as may be": HEAD + b"X: 1\r\n" * (MAX_HEADERS - 1) + b"\r\n",
}
BAD = {
    "a length beside chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks beside a length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST / HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "the same length twice": HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "two lengths in a line": HEAD + b"content-length: 2, 2\r\n\r\n{}",
    "a negative length": HEAD + b"Content-Length: -2\r\n\r\n{}",
    "a length with a sign": HEAD + b"Content-Length: +2\r\n\r\n{}",
    "a length that is no number": HEAD + b"Content-Length: 0x2\r\n\r\n{}",
    "a length of thirty digits": HEAD + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n{}",
    "two encodings": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "an encoding twice": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown encoding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "an encoding after a tab": HEAD + b"Transfer-Encoding:\tchunked, identity\r\n\r\n0\r\n\r\n",
    "a chunk size that is no number": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "a negative chunk size": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    "a chunk size with a prefix": HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
    "an endless chunk size": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 64 + b"\r\n",
    "a chunk that is longer than said": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
    "a chunk line that ends in LF": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\n",
    "many tiny chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * (MANY_CHUNKS + 1),
    "a folded header": HEAD + b"X: a\r\n b\r\n\r\n",
    "a header folded by a tab": HEAD + b"X: a\r\n\tb\r\n\r\n",
    "a first header that is folded": b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n",
    "a header that ends in LF": HEAD + b"X: a\n\r\n",
    "a head that ends in LF": HEAD + b"X: a\r\n\n",
    "all lines in LF": b"GET / HTTP/1.1\nHost: localhost\n\n",
    "a carriage return in a value": HEAD + b"X: a\rY: b\r\n\r\n",
    "NUL in a value": HEAD + b"X: a\0b\r\n\r\n",
    "NUL in a name": HEAD + b"X\0: a\r\n\r\n",
    "NUL in the target": b"GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a space before the colon": HEAD + b"X : a\r\n\r\n",
    "a header without a colon": HEAD + b"X\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9.9": b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "http in small letters": b"GET / http/1.1\r\nHost: localhost\r\n\r\n",
    "a target that is a URL": b"GET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a target that is a host": b"CONNECT localhost:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a target of all": b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no target": b"GET  HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a space in the target": b"GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "bytes above ASCII in the target": "GET /ä HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
    "a method that is no token": b"G(T / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an empty line first": b"\r\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "the hello of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "the hello of SSH": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
}
TOO_LONG = {
    "a header": HEAD + b"X: " + b"y" * MAX_HEAD_BYTES + b"\r\n\r\n",
    "a header without an end": HEAD + b"X: " + b"y" * MAX_HEAD_BYTES,
    "a target": b"GET /" + b"x" * MAX_HEAD_BYTES + b" HTTP/1.1\r\n\r\n",
    "too many headers": HEAD + b"X: 1\r\n" * MAX_HEADERS + b"\r\n",
}


def feed(parser: StrictParser, *pieces: bytes) -> list[Any]:
    """Feeds the parser as a connection does, and returns the events."""
    events = []
    for piece in pieces:
        parser.receive_data(piece)
        while (event := parser.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            events.append(event)
    return events


@pytest.mark.parametrize("name", GOOD)
def test_a_good_request_is_read_whole_and_in_pieces(name: str) -> None:
    whole, pieces = GOOD[name], [GOOD[name][at : at + 1] for at in range(len(GOOD[name]))]

    for events in (feed(StrictParser(), whole), feed(StrictParser(), *pieces)):
        assert isinstance(events[0], h11.Request)
        assert isinstance(events[-1], h11.EndOfMessage)


@pytest.mark.parametrize(("name", "status"), [*((name, 400) for name in BAD), *((name, 431) for name in TOO_LONG)])
def test_a_bad_request_is_refused_whole_and_in_pieces(name: str, status: int) -> None:
    content = (BAD | TOO_LONG)[name]
    for size in (len(content), 1 if len(content) < 2000 else 997):
        parser = StrictParser()
        with pytest.raises(h11.RemoteProtocolError):
            feed(parser, *(content[at : at + size] for at in range(0, len(content), size)))
        assert parser.refused_with == status


def test_many_chunks_of_a_fair_size_are_read() -> None:
    chunks = (b"10\r\n" + b"x" * 16 + b"\r\n") * (2 * MANY_CHUNKS)
    events = feed(StrictParser(), HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")

    assert sum(len(event.data) for event in events if isinstance(event, h11.Data)) == 32 * MANY_CHUNKS


def test_small_chunks_of_several_requests_are_not_added_up() -> None:
    request = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * (MANY_CHUNKS - 1) + b"0\r\n\r\n"
    parser = StrictParser()
    feed(parser, request)
    parser.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
    parser.send(h11.EndOfMessage())
    parser.start_next_cycle()

    assert isinstance(feed(parser, request)[-1], h11.EndOfMessage)
