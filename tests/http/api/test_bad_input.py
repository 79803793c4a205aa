"""Invalid and hostile input: each gets one exact status, at once, and never a 500."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from server.http.guard import Guard
from server.http.http11 import Http11
from tests.support.http.front import Front, front

pytestmark = pytest.mark.anyio

LEAKS = re.compile(r"0x[0-9a-f]{6,}|/home|/tmp|/root|Traceback|site-packages|pydantic", re.IGNORECASE)


def image(**fields: Any) -> bytes:
    return json.dumps({"prompt": "a red circle", "type": "image"} | fields).encode()


def video(**fields: Any) -> bytes:
    return json.dumps({"prompt": "waves", "type": "video"} | fields).encode()


def raw(field: str, text: str) -> bytes:
    """Returns a body whose `field` has the literal `text`, which need not be valid JSON."""
    return f'{{"prompt": "a red circle", "type": "image", "{field}": {text}}}'.encode()


BODIES: dict[str, tuple[bytes, int]] = {
    # JSON itself
    "empty": (b"", 400),
    "null": (b"null", 400),
    "array": (b"[]", 400),
    "string": (b'"x"', 400),
    "number": (b"7", 400),
    "empty object": (b"{}", 400),
    "cut off": (b'{"prompt": "x", "type": "im', 400),
    "two objects": (image() + image(), 400),
    "trailing comma": (b'{"prompt": "x", "type": "image",}', 400),
    "single quotes": (b"{'prompt': 'x', 'type': 'image'}", 400),
    "byte order mark": (b"\xef\xbb\xbf" + image(), 400),
    "UTF-16": (image().decode().encode("utf-16"), 400),
    "UTF-16 without mark": (image().decode().encode("utf-16-le"), 400),
    "bad UTF-8": (b'{"prompt": "\xff\xfe", "type": "image"}', 400),
    "overlong UTF-8": (b'{"prompt": "\xc0\xaf", "type": "image"}', 400),
    "raw surrogate": (b'{"prompt": "\xed\xa0\x80", "type": "image"}', 400),
    "raw control character": (b'{"prompt": "a\x01b", "type": "image"}', 400),
    "deep arrays": (b"[" * 60_000, 400),
    "deep arrays, closed": (b'{"prompt":' + b"[" * 30_000 + b"]" * 30_000 + b"}", 400),
    "deep objects": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 400),
    "duplicate key": (b'{"prompt": "a", "prompt": "b", "type": "image"}', 400),
    "unknown key": (image(colour="red"), 400),
    "unknown key, a secret": (image(api_key="SECRETSECRET"), 400),
    "unknown key, markup": (image(**{"<script>alert(1)</script>": 1}), 400),
    "unknown key, surrogate": (b'{"prompt": "a", "type": "image", "\\ud800": 1}', 400),
    "proto key": (image(__proto__={"n": 8}), 400),
    "63 KiB key": (image(**{"k" * 64_000: 1}), 400),
    # numbers
    "NaN": (raw("guidance_scale", "NaN"), 400),
    "Infinity": (raw("guidance_scale", "Infinity"), 400),
    "-Infinity": (raw("guidance_scale", "-Infinity"), 400),
    "1e999": (raw("guidance_scale", "1e999"), 400),
    "1e999 as seed": (raw("seed", "1e999"), 400),
    "-0": (raw("seed", "-0"), 200),
    "-0.0": (raw("guidance_scale", "-0.0"), 200),
    "5000 digits": (raw("seed", "9" * 5000), 400),
    "400 digits as a real": (raw("guidance_scale", "9" * 400), 400),
    "true as a number": (image(n=True), 400),
    "a number as text": (image(n="7"), 400),
    "a real as a whole": (image(n=1.5), 400),
    "a whole written real": (raw("n", "1.0"), 400),
    "leading zero": (raw("n", "01"), 400),
    "hexadecimal": (raw("n", "0x1"), 400),
    "1 as true": (image(deterministic=1), 400),
    "seed -1": (image(seed=-1), 400),
    "seed 0": (image(seed=0), 200),
    "seed at its end": (image(seed=2**63 - 1), 200),
    "seed past its end": (image(seed=2**63), 400),
    # prompts
    "prompt missing": (b'{"type": "image"}', 400),
    "prompt null": (image(prompt=None), 400),
    "prompt array": (image(prompt=["x"]), 400),
    "prompt empty": (image(prompt=""), 400),
    "prompt of spaces": (image(prompt=" \t\n\u3000"), 400),
    "prompt of 1": (image(prompt="x"), 200),
    "prompt of 4000": (image(prompt="x" * 4000), 200),
    "prompt of 4001": (image(prompt="x" * 4001), 400),
    "4000 emoji": (json.dumps({"prompt": "🌊" * 4000, "type": "image"}, ensure_ascii=False).encode(), 200),
    "lone surrogate": (b'{"prompt": "\\ud800", "type": "image"}', 400),
    "surrogate pair": (b'{"prompt": "\\ud83c\\udf0a", "type": "image"}', 200),
    "NUL": (image(prompt="a\x00b"), 400),
    "NUL in the negative prompt": (image(negative_prompt="a\x00b"), 400),
    "1000 combining marks": (image(prompt="e" + "\u0301" * 1000), 200),
    "right to left": (image(prompt="‮قطة حمراء"), 200),
    "joined emoji": (image(prompt="👩‍👩‍👧‍👦"), 200),
    "special tokens": (image(prompt="<|endoftext|><s></s><|im_start|>system"), 200),
    "template": (image(prompt="{{7*7}} ${7*7} {% for x in y %}"), 200),
    "SQL": (image(prompt="' OR 1=1; DROP TABLE jobs; --"), 200),
    "format strings": (image(prompt="%s%s%n {0.__class__} {}"), 200),
    "options": (image(prompt="-vf scale=1:1 --help"), 200),
    # choices
    "type missing": (b'{"prompt": "x"}', 400),
    "type chat": (image(type="chat"), 400),
    "type Image": (image(type="Image"), 400),
    "type a list": (image(type=["image"]), 400),
    "type an object": (image(type={}), 400),
    "ratio 4:3": (image(aspect_ratio="4:3"), 400),
    "ratio a number": (image(aspect_ratio=1.78), 400),
    "ratio null": (image(aspect_ratio=None), 200),
    "speed": (image(speed="balanced"), 200),
    "speed quick": (image(speed="quick"), 400),
    "speed a number": (image(speed=2), 400),
    "format svg": (image(output_format="svg"), 400),
    "model a path": (image(model="../../etc/passwd"), 404),
    "model upper case, another name": (image(model="Paynter"), 404),
    "model empty": (image(model=""), 400),
    "model with a line break": (image(model="painter\n"), 400),
    "model unknown": (image(model="nobody"), 404),
    "deterministic": (image(deterministic=True), 200),
    # sizes and counts
    "width 0": (image(width=0, height=64), 400),
    "width -1": (image(width=-1, height=64), 400),
    "width 7": (image(width=7, height=64), 400),
    "width 8": (image(width=8, height=8), 200),
    "width odd": (image(width=65, height=64), 400),
    "width 2^31": (image(width=2**31, height=64), 400),
    "too many pixels": (image(width=16384, height=16384), 400),
    "width alone": (image(width=64), 400),
    "steps 0": (image(steps=0), 400),
    "steps at the model's end": (image(steps=100), 200),
    "steps past it": (image(steps=101), 400),
    "n 0": (image(n=0), 400),
    "n 8": (image(n=8), 200),
    "n 9": (image(n=9), 400),
    "guidance -1": (image(guidance_scale=-1), 400),
    "guidance 101": (image(guidance_scale=101), 400),
    "duration on an image": (image(duration=3), 400),
    "n on a video": (video(n=2), 400),
    "duration 0": (video(duration=0), 400),
    "duration 1": (video(duration=1), 200),
    "duration at the model's end": (video(duration=12), 200),
    "duration past it": (video(duration=13), 400),
    "duration 61": (video(duration=61), 400),
    "duration 2.5": (video(duration=2.5), 400),
    "duration text": (video(duration="10"), 400),
    "frames 0": (video(num_frames=0), 400),
    "frames 1": (video(num_frames=1), 200),
    "frames at the model's end": (video(num_frames=49), 200),
    "frames past it": (video(num_frames=53), 400),
    "frames off the grid": (video(num_frames=10), 400),
    # what could make the server fetch or load something
    "loras": (image(loras=[{"name": "x", "weight": 1}]), 400),
    "webhook": (image(webhook_url="http://169.254.169.254/"), 400),
    "image to fetch": (image(image="file:///etc/passwd"), 400),
    "exactly 64 KiB": (image(prompt="x").ljust(64 * 1024), 200),
    "64 KiB and 1": (image(prompt="x").ljust(64 * 1024 + 1), 413),
    "64 KiB and 1 of no JSON": (b"{" + b" " * 64 * 1024, 400),
}

CHATS: dict[str, tuple[dict[str, Any], int]] = {
    "empty": ({"message": ""}, 400),
    "of 32000": ({"message": "x" * 32_000}, 200),
    "of 32001": ({"message": "x" * 32_001}, 400),
    "messages": ({"messages": [{"role": "user", "content": "x"}]}, 400),
    "template": ({"message": "x", "chat_template": "{{ 7*7 }}"}, 400),
    "template arguments": ({"message": "x", "chat_template_kwargs": {"tokenize": False}}, 400),
    "temperature 2": ({"message": "x", "temperature": 2}, 200),
    "temperature 2.1": ({"message": "x", "temperature": 2.1}, 400),
    "top_p 0": ({"message": "x", "top_p": 0}, 400),
    "max_tokens 0": ({"message": "x", "max_tokens": 0}, 400),
    "stop empty": ({"message": "x", "stop": ""}, 400),
    "five stops": ({"message": "x", "stop": list("abcde")}, 400),
    "conversation a path": ({"message": "x", "conversationId": "../x"}, 400),
    "stream a word": ({"message": "x", "stream": "true"}, 400),
    "NUL": ({"message": "\x00"}, 400),
}


def check(status: int, content: bytes, expected: int) -> None:
    assert status == expected, content
    if expected >= 400:
        assert len(content) <= 1024
        body = json.loads(content)
        assert body.keys() == {"error", "code"}
        assert body["code"] == expected
        assert body["error"]
        assert not LEAKS.search(body["error"])
        assert "SECRETSECRET" not in body["error"]
        assert "<" not in body["error"]


async def test_every_body_of_the_corpus_gets_its_status_within_a_second(tmp_path: Path) -> None:
    """One server gets all bodies, so that no body may affect the next one."""
    async with front(tmp_path) as f:
        for name, (body, status) in BODIES.items():
            started = time.perf_counter()
            reply = await f.post("/api/generate", body)
            assert time.perf_counter() - started < 1, name
            check(reply.status_code, reply.content, status)
        accepted = sum(status == 200 for _, status in BODIES.values())
        assert len(f.engine.jobs) == accepted


@pytest.mark.parametrize("name", CHATS)
async def test_every_chat_of_the_corpus_gets_its_status(tmp_path: Path, name: str) -> None:
    body, status = CHATS[name]
    async with front(tmp_path) as f:
        reply = await f.post("/api/chat", body)

    check(reply.status_code, reply.content, status)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/json"}, 200),
        ({"content-type": "application/json; charset=utf-8"}, 200),
        ({"content-type": "Application/JSON;charset=UTF-8"}, 200),
        ({"content-type": 'application/json; charset="utf-8"'}, 200),
        ({"content-type": ""}, 400),
        ({"content-type": "text/plain"}, 400),
        ({"content-type": "application/x-www-form-urlencoded"}, 400),
        ({"content-type": "multipart/form-data; boundary=x"}, 400),
        ({"content-type": "application/jsonp"}, 400),
        ({"content-type": "application/json, text/plain"}, 400),
        ({"content-type": "application/json; charset=utf-16"}, 400),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
        ({"content-type": "application/json", "content-encoding": "br"}, 415),
        ({"content-type": "application/json", "content-encoding": "identity"}, 200),
    ],
)
async def test_a_body_must_be_uncompressed_json_with_its_content_type(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    body = gzip.compress(image()) if headers.get("content-encoding") == "gzip" else image()
    async with front(tmp_path) as f:
        reply = await f.client.post("/api/generate", content=body, headers=f.auth("pro") | headers)

    check(reply.status_code, reply.content, status)


async def test_a_body_without_any_content_type_is_refused(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        reply = await f.client.post("/api/generate", content=image(), headers=f.auth("pro"))

    check(reply.status_code, reply.content, 400)


# Over a real socket: the HTTP layer below ASGI


@asynccontextmanager
async def listening(tmp_path: Path) -> AsyncIterator[tuple[Front, int]]:
    async with front(tmp_path) as f:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            impatient = Guard(f.app, body_timeout_s=0.3)  # a second guard with a shorter timeout
            config = uvicorn.Config(
                impatient, http=Http11, ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=1
            )
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server.serve(sockets=[sock]))
            try:
                yield f, sock.getsockname()[1]
            finally:
                server.should_exit = True
                await serving


async def exchange(port: int, *parts: bytes, end: bool = False) -> tuple[int, bytes]:
    """Sends the parts, reads one reply, and returns its status and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if end:
            writer.write_eof()
        async with asyncio.timeout(5):
            return await read_reply(reader)
    finally:
        writer.close()


async def read_reply(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    assert length is not None, head
    return int(head.split()[1]), await reader.readexactly(int(length[1]))


def head(f: Front, *lines: str, method: str = "POST", path: str = "/api/generate", version: str = "1.1") -> bytes:
    start = [f"{method} {path} HTTP/{version}", "Host: localhost", f"Authorization: Bearer {f.keys['pro']}"]
    return "\r\n".join([*start, *lines, "", ""]).encode()


JSON_TYPE = "Content-Type: application/json"


async def test_a_content_length_of_a_gibibyte_is_refused_at_once(tmp_path: Path) -> None:
    async with listening(tmp_path) as (f, port):
        check(*await exchange(port, head(f, JSON_TYPE, f"Content-Length: {2**30}"), b"{"), 413)


async def test_a_client_that_sends_megabytes_still_gets_its_413(tmp_path: Path) -> None:
    async with listening(tmp_path) as (f, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head(f, JSON_TYPE, f"Content-Length: {2**30}"))
        for _ in range(64):  # 4 MiB, more than the socket buffers hold
            writer.write(b" " * 65_536)
            await writer.drain()
        check(*await read_reply(reader), 413)
        writer.close()


async def test_a_chunked_body_is_limited_while_it_arrives(tmp_path: Path) -> None:
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    async with listening(tmp_path) as (f, port):
        start = head(f, JSON_TYPE, "Transfer-Encoding: chunked", path="/api/keys")
        check(*await exchange(port, start, *[chunk] * 5), 413)


async def test_a_chunked_body_is_accepted(tmp_path: Path) -> None:
    body = image()
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    async with listening(tmp_path) as (f, port):
        check(*await exchange(port, head(f, JSON_TYPE, "Transfer-Encoding: chunked"), chunks), 200)


@pytest.mark.slow
async def test_a_body_that_does_not_end_is_refused_after_a_timeout(tmp_path: Path) -> None:
    async with listening(tmp_path) as (f, port):
        check(*await exchange(port, head(f, JSON_TYPE, "Transfer-Encoding: chunked"), b"1\r\n{\r\n"), 400)
        check(*await exchange(port, head(f, JSON_TYPE, "Content-Length: 50"), b"{"), 400)


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: -1"],
        ["Content-Length: 5x"],
        ["Content-Length: " + "9" * 30],
        ["Transfer-Encoding: gzip, chunked"],
        ["X: " + "y" * 70_000],
        ["Host: localhost"],
        [" folded: yes"],
        ["no colon"],
        ["Sp ace: x"],
    ],
)
async def test_invalid_http_gets_the_usual_error_body(tmp_path: Path, lines: list[str]) -> None:
    async with listening(tmp_path) as (f, port):
        status, content = await exchange(port, head(f, JSON_TYPE, *lines), b"{}")

    check(status, content, status)
    assert status in (400, 413, 431)


@pytest.mark.parametrize(
    "start", ["GET / HTTP/0.9", "GET /", "x", "GET / HTTP/9.9", "\x16\x03\x01\x02", "GET  / HTTP/1.1"]
)
async def test_another_protocol_is_a_400(tmp_path: Path, start: str) -> None:
    async with listening(tmp_path) as (_, port):
        check(*await exchange(port, f"{start}\r\n\r\n".encode("latin-1")), 400)


async def test_a_content_length_with_chunks_cannot_smuggle_a_second_request(tmp_path: Path) -> None:
    """Whichever of the two headers h11 uses, the rest is not parsed as another request on this connection."""
    hidden = b"0\r\n\r\n" + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    lines = [JSON_TYPE, f"Content-Length: {len(hidden)}", "Transfer-Encoding: chunked"]
    async with listening(tmp_path) as (f, port):
        status, content = await exchange(port, head(f, *lines), hidden)

    check(status, content, 400)


async def test_a_missing_host_is_a_400_in_http_1_0_and_1_1(tmp_path: Path) -> None:
    async with listening(tmp_path) as (_, port):
        for version in ("1.0", "1.1"):
            check(*await exchange(port, f"GET /healthz HTTP/{version}\r\n\r\n".encode()), 400)


async def test_two_pipelined_requests_get_two_replies(tmp_path: Path) -> None:
    async with listening(tmp_path) as (f, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head(f, method="GET", path="/api/jobs") * 2)
        assert [(await read_reply(reader))[0] for _ in range(2)] == [200, 200]
        writer.close()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("OPTIONS", "/api/generate", 405),
        ("OPTIONS", "*", 400),
        ("TRACE", "/api/generate", 405),
        ("CONNECT", "localhost:443", 400),
        ("PATCH", "/api/generate", 405),
        ("PUT", "/api/chat", 405),
        ("BREW", "/api/chat", 405),
        ("GET", "http://evil.example/api/jobs", 400),
        ("GET", "/" + "x" * 30_000, 404),
        ("GET", "/" + "x" * 60_000, 431),
    ],
)
async def test_unusual_methods_and_targets_get_their_status(
    tmp_path: Path, method: str, path: str, status: int
) -> None:
    async with listening(tmp_path) as (f, port):
        check(*await exchange(port, head(f, method=method, path=path)), status)


async def test_the_number_of_headers_is_limited(tmp_path: Path) -> None:
    async with listening(tmp_path) as (f, port):
        for n_headers, status in ((100, 200), (2000, 431)):
            lines = [f"X-{n}: {n}" for n in range(n_headers)]
            check(*await exchange(port, head(f, *lines, method="GET", path="/api/jobs")), status)


@pytest.mark.parametrize(
    "path", ["/api/chat", "/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"]
)
async def test_a_body_of_very_many_values_is_refused_before_it_is_parsed(tmp_path: Path, path: str) -> None:
    async with front(tmp_path) as f:
        lists = await f.post(path, b'{"a":[' + b"[]," * 260_000 + b"1]}")
        numbers = await f.post(path, b'{"a":[' + b"1," * 2_100_000 + b"1]}")

    assert (lists.status_code, numbers.status_code) == (413, 413)
    assert "too many values" in lists.text
