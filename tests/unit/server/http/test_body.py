"""A body is limited while it arrives: by its route, by what all large bodies take together, and by its speed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.datastructures import Headers

from server.errors import BadRequest, TooLarge, TooMany, UnsupportedMedia
from server.http.body import MIB, RULES, SMALL_BYTES, Body, BodyRule, SharedMemory
from tests.support.paths import ROOT

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}
CHUNKED = {**JSON, "transfer-encoding": "chunked"}
LARGE = BodyRule(MIB)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Pieces:
    """The server's `receive`: pieces of a body, each after a wait on the loop's clock, which a test moves."""

    def __init__(self, *pieces: int, wait_s: float = 0.0) -> None:
        self._pieces: Iterator[int] = iter(pieces)
        self._wait_s = wait_s
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time()
        self.loop.time = lambda: self.now  # type: ignore[method-assign]  # the test's clock

    async def __call__(self) -> Any:
        self.now += self._wait_s
        for _ in range(3):  # lets the deadline fire if it has passed
            await asyncio.sleep(0)
        n_bytes = next(self._pieces, None)
        if n_bytes is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b" " * n_bytes, "more_body": n_bytes > 0}


def body_of(receive: Any, memory: SharedMemory | None = None, rule: BodyRule = LARGE, **options: Any) -> Body:
    return Body(Headers(CHUNKED), receive, rule, memory or SharedMemory(), **options)


async def test_the_chat_routes_take_more_and_all_others_64_kib() -> None:
    large = {path: rule.max_bytes for path, rule in RULES.items() if rule.max_bytes > SMALL_BYTES}

    assert large["/api/chat"] == 64 * MIB
    assert large["/v1/chat/completions"] == 64 * MIB
    assert BodyRule().max_bytes == 64 * 1024


async def test_the_limits_are_documented() -> None:
    text = (ROOT / "docs" / "proxy.md").read_text()
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| `/")]
    documented = {path: limit.strip() for paths, limit in rows for path in re.findall(r"`([^`]+)`", paths)}

    assert documented == {
        path: f"{rule.max_bytes // MIB} MiB" for path, rule in RULES.items() if rule.max_bytes > SMALL_BYTES
    }


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({**JSON, "content-length": str(MIB)}, None),
        ({**JSON, "content-length": str(MIB + 1)}, TooLarge),
        ({**JSON, "content-length": "x"}, BadRequest),
        ({**JSON, "content-length": "5", "content-encoding": "gzip"}, UnsupportedMedia),
        ({**JSON, "content-length": "5", "content-encoding": "identity"}, None),
        ({"content-length": "5"}, BadRequest),
        ({"content-length": "5", "content-type": "multipart/form-data; boundary=b"}, BadRequest),
        ({"content-length": "0", "content-encoding": "gzip"}, None),
        ({}, None),
    ],
)
async def test_what_the_headers_say_is_refused_before_a_byte_is_read(headers: Any, error: Any) -> None:
    async def receive() -> Any:
        raise AssertionError("nothing may be read")

    body = Body(Headers(headers), receive, LARGE, SharedMemory())
    if error is None:
        body.check_headers()
    else:
        with pytest.raises(error):
            body.check_headers()

    assert body.is_unread == (headers.get("content-length", "0") != "0")


async def test_a_second_encoding_header_is_seen() -> None:
    headers = [(b"content-length", b"5"), (b"content-encoding", b"identity"), (b"content-encoding", b"gzip")]

    with pytest.raises(UnsupportedMedia):
        Body(Headers(raw=headers), Pieces(), LARGE, SharedMemory()).check_headers()


async def test_the_limit_of_the_route_is_named() -> None:
    for rule, text in ((BodyRule(), "64 KiB"), (LARGE, "1 MiB"), (BodyRule(16 * MIB), "16 MiB")):
        body = body_of(Pieces(rule.max_bytes, 1), rule=rule)
        with pytest.raises(TooLarge, match=f"larger than {text},"):
            await body.read()
        assert body.is_unread


async def test_a_whole_body_is_read_and_then_the_servers_messages_follow() -> None:
    body = body_of(Pieces(3, MIB - 3, 0))

    assert await body.read() == b" " * MIB
    assert not body.is_unread
    assert await body.receive() == {"type": "http.disconnect"}


async def test_a_client_that_leaves_has_no_body() -> None:
    body = body_of(Pieces(3))

    assert await body.read() is None
    assert body.is_unread


# All large bodies together


async def test_bytes_beyond_64_kib_are_counted_as_they_arrive_and_given_back_at_the_end() -> None:
    memory = SharedMemory(MIB)
    body = body_of(Pieces(SMALL_BYTES, 100, 200), memory)

    for expected in (0, 100, 300):
        await body.receive()
        assert memory.used_bytes == expected
    body.release()
    body.release()

    assert memory.used_bytes == 0


async def test_a_body_over_the_shared_memory_is_told_to_come_back_and_takes_nothing() -> None:
    memory = SharedMemory(MIB)
    first, second, third = (body_of(Pieces(SMALL_BYTES, MIB // 2, 100), memory) for _ in range(3))
    for body in (first, second):
        await body.receive()
        await body.receive()
    await third.receive()  # small so far

    with pytest.raises(TooMany, match="1 MiB of memory together") as refused:
        await second.receive()
    assert refused.value.retry_after_s
    second.release()
    assert memory.used_bytes == MIB // 2
    await third.receive()
    first.release()
    third.release()

    assert memory.used_bytes == 0


async def test_the_bodies_of_one_key_leave_a_quarter_to_others() -> None:
    memory = SharedMemory(MIB)

    async def read(key: str, n_bytes: int) -> Body:
        body = body_of(Pieces(SMALL_BYTES, n_bytes), memory, BodyRule(2 * MIB), key_id=lambda: key)
        await body.receive()
        await body.receive()
        return body

    first = await read("anna", MIB // 2)
    with pytest.raises(TooMany, match="three quarters"):
        await read("anna", MIB // 3)
    second, other = await read("anna", MIB // 4), await read("bob", MIB // 4)
    for body in (first, second, other):
        body.release()
    alone = await read("anna", MIB)
    alone.release()

    assert memory.used_bytes == 0
    assert not memory._of_key


async def test_a_body_larger_than_the_shared_memory_can_ever_hold_is_too_large() -> None:
    body = body_of(Pieces(SMALL_BYTES + 4096, 1), SharedMemory(4096), BodyRule(MIB))

    with pytest.raises(TooLarge, match="larger than 68 KiB"):
        await body.read()


# Speed


async def test_a_slow_line_that_keeps_its_pace_gets_through() -> None:
    """1000 bytes a second are asked for after the first ten seconds; these pieces take 200 seconds."""
    body = body_of(Pieces(*[10_000] * 20, 0, wait_s=9.5), timeout_s=10.0, min_bytes_per_s=1000)

    assert len(await body.read() or b"") == 200_000


async def test_a_trickle_is_cut() -> None:
    body = body_of(Pieces(*[1] * 100, wait_s=1.0), timeout_s=10.0, min_bytes_per_s=1024)

    with pytest.raises(BadRequest, match="10 seconds, and one more for each 1 KiB"):
        await body.read()


async def test_the_time_begins_with_the_first_read() -> None:
    """The key check and the router run before, and their time is not the client's."""
    receive = Pieces(5, 0)
    body = body_of(receive, timeout_s=10.0)
    receive.now += 60

    assert await body.read() == b" " * 5


@pytest.mark.parametrize("length", ["0", None])
async def test_an_empty_body_is_passed_on_without_a_deadline(length: str | None) -> None:
    receive = Pieces(0, wait_s=99.0)
    body = Body(Headers({} if length is None else {"content-length": length}), receive, LARGE, SharedMemory())

    assert (await body.receive())["body"] == b""
    assert await body.receive() == {"type": "http.disconnect"}
