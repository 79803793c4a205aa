"""Measures the cost of streaming and the delay of tokens: 64 chats at once through the server, streamed and not.

    python benchmarks/streams.py --json streams.json        2 to 3 minutes on two cores

Runs pairs of rounds, one streamed and one not, in alternating order, for as long as `--seconds` allows. The ratio is
that of the medians. The deltas of every stream, in order, must be the reply in its `done` event. The additional cost of
a streamed token is measured as CPU time of the server's main thread, which does nothing but HTTP.

The server's debug log has the time at which the step of a reply's first text ended. The client uses the same clock to
record when the bytes arrive. It shares the server's cores and so parses nothing before a round is over.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import server_client

from tests.support.http.live_server import LiveServer

CHATS = 64
TOKENS = 16
SECONDS = 120.0  # of the pairs, after loading and the first round
LEAST_PAIRS = 3
FIRST = b"event: delta"


@dataclass
class Round:
    replies: list[str]
    tokens_per_s: float
    cpu_s: float  # of the server's main thread, per token
    firsts: dict[str, float]  # request id → when its first delta arrived


def main() -> None:
    arguments = common.arguments(
        __doc__ or "",
        ("--seconds", {"type": float, "default": SECONDS, "help": "how long to measure"}),
        ("--chats", {"type": int, "default": CHATS, "help": "concurrent chats"}),
    )
    report = common.Report("streams")
    with server_client.server(env={"AGENTNAME_LOG_LEVEL": "debug"}) as (live, _):
        asyncio.run(measure(report, live, arguments.chats, arguments.seconds))
    report.save(arguments.json)


async def measure(report: common.Report, live: LiveServer, chats: int, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(lambda: ChatConnection(live), "127.0.0.1", live.port))[1] for _ in range(chats)
    ]
    await together(live, connections, stream=True)  # loads the model
    until = time.monotonic() + seconds
    rounds: dict[bool, list[Round]] = {True: [], False: []}
    while len(rounds[True]) < LEAST_PAIRS or time.monotonic() < until:
        streamed_first = len(rounds[True]) % 2 == 0
        for stream in (streamed_first, not streamed_first):
            rounds[stream].append(await together(live, connections, stream=stream))
    streamed, whole = rounds[True], rounds[False]
    rate = {stream: statistics.median(one.tokens_per_s for one in rounds[stream]) for stream in rounds}
    equal = sum(a == b for a, b in zip(streamed[-1].replies, whole[-1].replies, strict=True))
    report.add("pairs of rounds", len(streamed))
    report.add(f"{chats} chats at once, not streamed", rate[False], "tok/s")
    report.add(f"{chats} chats at once, streamed", rate[True], "tok/s")
    report.add("streamed / not streamed", rate[True] / rate[False], "", least=0.9)
    report.add(
        "replies equal in both, of the last pair", equal, f"/{chats}"
    )  # rounding depends on which chats share a step
    cpu = statistics.median(one.cpu_s for one in streamed) - statistics.median(one.cpu_s for one in whole)
    report.add("additional CPU of the main thread per streamed token", cpu * 1e6, "µs")
    first_tokens(report, live, streamed)


def first_tokens(report: common.Report, live: LiveServer, rounds: list[Round]) -> None:
    ended: dict[str, tuple[float, float]] = {}  # request id → when the step ended, and the ms until its text was sent
    live.log.flush()
    for text in Path(live.log.name).read_text().splitlines():
        if '"first text sent"' in text:
            line = json.loads(text)
            ended[line["request_id"]] = line["step_ended_at"], line["ms"]
    arrived = {name: at for one in rounds for name, at in one.firsts.items()}
    sent_ms = [ended[name][1] for name in arrived]
    arrived_ms = [(at - ended[name][0]) * 1000 for name, at in arrived.items()]
    for what, values in (("leaves the server", sent_ms), ("reaches the client", arrived_ms)):
        report.add(f"first token {what}, after its step, median", statistics.median(values), "ms")
        report.add(f"first token {what}, after its step, p95", common.percentile(values, 0.95), "ms", most=10)


async def together(live: LiveServer, connections: list[ChatConnection], *, stream: bool) -> Round:
    cpu_s, began = main_thread_s(live), time.perf_counter()
    answers = await asyncio.gather(
        *(connection.ask(body(number, stream)) for number, connection in enumerate(connections))
    )
    seconds, cpu_s = time.perf_counter() - began, main_thread_s(live) - cpu_s
    replies = [(streamed if stream else json.loads)(answer.body) for answer in answers]
    tokens = sum(done["usage"]["completionTokens"] for done in replies)
    firsts = {answer.headers["x-request-id"]: answer.first_at for answer in answers} if stream else {}
    return Round([done["reply"] for done in replies], tokens / seconds, cpu_s / tokens, firsts)


def main_thread_s(live: LiveServer) -> float:
    """Returns the CPU seconds of the thread that runs the event loop."""
    pid = live.server_pid()
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


def body(number: int, stream: bool) -> dict[str, object]:
    question = f"{common.QUESTIONS[number % len(common.QUESTIONS)]} ({number})"
    return {"message": question, "max_tokens": TOKENS, "temperature": 0, "stream": stream}


def streamed(events: bytes) -> dict[str, Any]:
    """Returns the data of the `done` event, after checking it against the deltas."""
    text = ""
    for block in events.decode().split("\n\n"):
        name, _, data = block.partition("\ndata: ")
        if name == "event: delta":
            text += json.loads(data)["text"]
        elif name == "event: done":
            done: dict[str, Any] = json.loads(data)
            assert text == done["reply"], "a delta was lost or came in the wrong order"
            return done
        else:
            raise AssertionError(f"not an event of a chat stream: {block}")
    raise AssertionError("the stream ended without done")


@dataclass
class Answer:
    headers: Mapping[str, str]
    body: bytes
    first_at: float


class ChatConnection(asyncio.Protocol):
    """A keep-alive connection that does almost nothing while bytes arrive."""

    def __init__(self, live: LiveServer) -> None:
        self._live = live
        self._got = bytearray()
        self._first_at = 0.0
        self._whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not self._first_at and FIRST in data:
            self._first_at = time.monotonic()
        self._got += data
        # A chunked reply ends with these bytes, which its JSON data cannot contain.
        if not self._whole.done() and (self._got.endswith(b"\r\n0\r\n\r\n") or self._is_whole()):
            self._whole.set_result(None)

    def close(self) -> None:
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._whole.done():
            self._whole.set_exception(error or ConnectionError("the server hung up"))

    def _is_whole(self) -> bool:
        head, end, rest = self._got.partition(b"\r\n\r\n")
        length = headers_of(head).get("content-length") if end else None
        return length is not None and len(rest) == int(length)

    async def ask(self, request: Mapping[str, object]) -> Answer:
        self._got.clear()
        self._first_at = 0.0
        self._whole = asyncio.get_running_loop().create_future()
        payload = json.dumps(request).encode()
        head = (
            f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self._live.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        )
        self._transport.write(head.encode() + payload)
        await self._whole
        head_bytes, _, rest = self._got.partition(b"\r\n\r\n")
        assert head_bytes.startswith(b"HTTP/1.1 200"), bytes(self._got)
        headers = headers_of(head_bytes)
        return Answer(headers, bytes(rest) if "content-length" in headers else unchunked(rest), self._first_at)


def headers_of(head: bytes | bytearray) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def unchunked(rest: bytes | bytearray) -> bytes:
    whole = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        whole += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return whole


if __name__ == "__main__":
    main()
