"""A file is fetched from a URL in the time that it may take in all, however slowly its server drips."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network

import pytest

from server.jobs.safe_get import NotFetched, get

LOCAL = [ip_network("127.0.0.0/8")]
FILE = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"


@contextmanager
def serving(first: bytes, drip: bytes = b"", times: int = 0) -> Iterator[int]:
    """A server of one connection that sends `drip` many times, a hundred times in a second."""
    ended = threading.Event()

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            try:
                connection.recv(4096)
                connection.sendall(first)
                for _ in range(times):
                    if ended.wait(0.01):
                        break
                    connection.sendall(drip)
            except OSError:
                pass  # the client has gone

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            ended.set()
            thread.join(10)


def test_a_file_is_fetched() -> None:
    with serving(FILE) as port:
        assert get(f"http://127.0.0.1:{port}/a.png", max_bytes=3, allowed=LOCAL) == b"abc"


@pytest.mark.parametrize(
    ("scheme", "first", "drip"),
    [
        ("http", b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        ("http", b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        ("http", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
        ("http", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"x"),
        ("https", b"\x16\x03\x03\x3f\xff", b"\x00"),
    ],
    ids=["header", "body without a length", "length of a chunk", "body", "handshake"],
)
def test_a_server_that_drips_has_so_much_time_and_no_more(scheme: str, first: bytes, drip: bytes) -> None:
    began = time.monotonic()
    with serving(first, drip, times=2000) as port, pytest.raises((NotFetched, OSError, http.client.HTTPException)):
        get(f"{scheme}://127.0.0.1:{port}/a.png", max_bytes=10_000, allowed=LOCAL, timeout_s=0.3)

    assert time.monotonic() - began < 5
