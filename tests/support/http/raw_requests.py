"""Makes byte streams that are almost HTTP, from a seed: valid requests, damaged in one to three ways. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

JSON = b'{"prompt":"a","type":"image","width":64,"height":64,"steps":1}'
KEY = b"Authorization: Bearer an_0000000000000000000000_2NKzqH\r\n"
HOST = b"Host: localhost\r\n"


def _request(start: bytes, headers: bytes = b"", body: bytes = b"") -> bytes:
    length = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body) if body else b""
    return start + b" HTTP/1.1\r\n" + HOST + headers + length + b"\r\n" + body


VALID: Sequence[bytes] = (
    _request(b"GET /healthz"),
    _request(b"GET /readyz", b"Connection: close\r\n"),
    _request(b"HEAD /healthz"),
    _request(b"GET /"),
    _request(b"GET /api/jobs?limit=2&status=queued", KEY),
    _request(b"GET /api/me", KEY),
    _request(b"GET /api/files/" + b"A" * 22 + b"?expires=1&signature=x"),
    _request(b"GET /api/events", KEY + b"Last-Event-ID: 3\r\n"),
    _request(b"OPTIONS /api/generate", b"Origin: http://localhost\r\nAccess-Control-Request-Method: POST\r\n"),
    _request(b"DELETE /api/jobs/job_1_" + b"0" * 22, KEY),
    _request(b"POST /api/generate", KEY, JSON),
    _request(b"POST /api/chat", KEY + b"Expect: 100-continue\r\n", b'{"message":"hi"}'),
    _request(b"POST /v1/chat/completions", KEY, b'{"model":"x","messages":[]}'),
    _request(b"POST /v1/messages", b"x-api-key: an_0\r\n", b'{"model":"x","messages":[],"max_tokens":1}'),
    _request(b"POST /sdapi/v1/txt2img", b"Authorization: Basic YTpi\r\n", b'{"prompt":"a"}'),
    _request(b"POST /api/files", KEY + b"X-Long: " + b"y" * 2000 + b"\r\n", b"--x"),
    _request(b"POST /api/keys", KEY + b"Transfer-Encoding: chunked\r\n") + b'5\r\n{"a":\r\n2\r\n1}\r\n0\r\n\r\n',
    _request(b"PATCH /api/models/x", KEY, b"{}"),
    _request(b"GET /healthz") + _request(b"GET /healthz") + _request(b"GET /api/me", KEY),
    b"GET /healthz HTTP/1.0\r\n" + HOST + b"\r\n",
)
TOKENS: Sequence[bytes] = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"%00", b"%2e%2e/", b"?", b"#", b"\xff", b"\xc3\xa4",
    b"\x16\x03\x01", b"\r\n\r\n", b"Host: evil.example\r\n", b"Content-Length: 5\r\n", b"Content-Length: -1\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n", b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"Expect: 100-continue\r\n", b"Content-Encoding: gzip\r\n", b" folded\r\n", b"HTTP/0.9", b"HTTP/2.0",
    b"CONNECT a:1", b"TRACE /", b"http://localhost/", b"*", b"9" * 400, b"-1", b"ffffffffffffffffff\r\n", b"0\r\n\r\n",
    b"&a=1" * 20, b"x" * 40_000, b"X: 1\r\n" * 300, b"1\r\nx\r\n" * 3000,
)  # fmt: skip

Damage: TypeAlias = Callable[[random.Random, bytes], bytes]


def _insert(r: random.Random, content: bytes) -> bytes:
    at = r.randrange(len(content) + 1)
    return content[:at] + r.choice(TOKENS) + content[at:]


def _insert_line(r: random.Random, content: bytes) -> bytes:
    """At the beginning of a line, where names of headers, sizes of chunks and requests are."""
    at = content.find(b"\n", r.randrange(len(content) + 1)) + 1
    return content[:at] + r.choice(TOKENS) + content[at:]


def _delete(r: random.Random, content: bytes) -> bytes:
    at = r.randrange(len(content) + 1)
    return content[:at] + content[at + r.choice((1, 2, 10, 100)) :]


def _flip(r: random.Random, content: bytes) -> bytes:
    if not content:
        return content
    at = r.randrange(len(content))
    return content[:at] + bytes([r.randrange(256)]) + content[at + 1 :]


def _cut(r: random.Random, content: bytes) -> bytes:
    return content[: r.randrange(len(content) + 1)]


def _repeat(r: random.Random, content: bytes) -> bytes:
    at, n_bytes = r.randrange(len(content) + 1), r.choice((1, 20, 200))
    return content[:at] + content[at : at + n_bytes] * r.choice((2, 50)) + content[at + n_bytes :]


def _noise(r: random.Random, content: bytes) -> bytes:
    return r.randbytes(r.choice((1, 50, 5000)))


def _bare_lines(r: random.Random, content: bytes) -> bytes:
    return content.replace(b"\r\n", r.choice((b"\n", b"\r", b"\r\r\n")), r.choice((1, -1)))


DAMAGES: Sequence[Damage] = (
    *(_insert, _insert, _insert_line, _insert_line, _delete, _flip, _cut, _repeat, _bare_lines),
    _noise,
)


@dataclass(frozen=True, slots=True)
class RawInput:
    pieces: Sequence[bytes]  # sent one after the other
    half_closes: bool  # the client then says that nothing follows
    reads: bool  # the client reads the reply before it closes


def raw_inputs(seed: int, n: int) -> Iterator[RawInput]:
    for index in range(n):
        r = random.Random(seed * 1_000_003 + index)  # each input can be made again by itself
        content = r.choice(VALID)
        for _ in range(r.choice((0, 1, 1, 2, 3))):
            content = r.choice(DAMAGES)(r, content)
        cuts = sorted(r.randrange(len(content) + 1) for _ in range(r.choice((0, 0, 1, 3))))
        ends = [0, *cuts, len(content)]
        pieces = [content[begin:end] for begin, end in pairwise(ends) if end > begin]
        yield RawInput(pieces, half_closes=r.random() < 0.2, reads=r.random() < 0.9)
