"""Loads the whole server with many clients at once, and measures how long they wait.

    python benchmarks/load.py --clients 200 --seconds 180 --json load.json

First the mixed clients, each with a connection of its own: status, lists, the queue, submissions, chats and bad
requests. Then LD1 to LD4 of the test plan: 50 clients that submit, 50 that ask for status while others submit,
submissions beside 450 connections that send nothing or half a request, and 2,000 submissions at once to a queue of 256.
A reply may be a 5xx only if it is a 502 that says when to try again.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import random
import re
import resource
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import common
import server_client
from server_client import Connection

from tests.support.http.live_server import LiveServer

CONNECTIONS, IDLE = 50, 450
BURST, N_BURSTING, QUEUE = 2000, 200, 256
REPLY_S = 120.0


class Load:
    """What a group of clients has seen."""

    def __init__(self) -> None:
        self.seconds: collections.defaultdict[str, list[float]] = collections.defaultdict(list)
        self.ends: collections.Counter[str] = collections.Counter()
        self.job_ids: list[str] = []

    async def call(
        self, connection: Connection, what: str, method: str, path: str, body: dict[str, Any] | None = None
    ) -> None:
        began = time.perf_counter()
        try:
            async with asyncio.timeout(REPLY_S):
                status, reply = await connection.send(method, path, body)
        except (OSError, EOFError, TimeoutError) as error:
            self.ends[f"{what} {type(error).__name__}"] += 1
            raise
        self.seconds[what].append(time.perf_counter() - began)
        self.ends[f"{what} {status}"] += 1
        if what == "submit" and status == 200:
            self.job_ids.append(str(json.loads(reply)["jobId"]))

    def ms(self, what: str, share: float) -> float:
        seconds = sorted(self.seconds[what])
        return 1000 * seconds[min(len(seconds) - 1, int(len(seconds) * share))] if seconds else float("nan")

    def n_unexpected(self) -> int:
        """Replies that are neither a success, a refusal with a reason, nor a 502; and connections that broke."""
        return sum(n for end, n in self.ends.items() if end.split()[1] not in ("200", "400", "404", "429", "502"))


async def for_a_while(live: LiveServer, n: int, seconds: float, act: Callable[[Connection], Awaitable[None]]) -> None:
    """Lets `n` clients repeat something, each on a connection that it opens again when it breaks."""
    end = time.monotonic() + seconds

    async def client() -> None:
        while time.monotonic() < end:
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                async with Connection(live) as connection:
                    while time.monotonic() < end:
                        await act(connection)

    await asyncio.gather(*(client() for _ in range(n)))


async def mixed(report: common.Report, live: LiveServer, body: dict[str, Any], n_clients: int, seconds: float) -> None:
    load, draw = Load(), random.Random(1)  # the clients take turns on one thread

    async def act(connection: Connection) -> None:
        job_id = draw.choice(load.job_ids) if load.job_ids else ""
        for share, what, method, path, content in (
            (0.10, "submit", "POST", "/api/generate", {**body, "steps": 1}),
            (0.11, "chat", "POST", "/api/chat", {"message": "hi", "max_tokens": 4}),
            (0.20, "list", "GET", "/api/jobs?limit=20", None),
            (0.23, "bad", "POST", "/api/generate", {**body, "prompt": ""}),
            (0.26, "queue", "GET", "/api/queue", None),
            (1.00, "status", "GET", f"/api/status/{job_id}" if job_id else "/api/me", None),
        ):
            if what == "submit" and len(load.job_ids) > 3 * seconds:
                continue  # more than a CPU can make, and the queue would grow all the time
            if what == "chat" and not has_chat:
                continue
            if draw.random() < share:
                await load.call(connection, what, method, path, content)
                break
        await asyncio.sleep(draw.uniform(0.4, 1.6))

    has_chat = common.built_in("chat") is not None
    await for_a_while(live, n_clients, seconds, act)
    for what in sorted(load.seconds):
        report.add(f"mixed: {what}, requests", len(load.seconds[what]))
        report.add(f"mixed: {what}, median", load.ms(what, 0.5), "ms")
        report.add(f"mixed: {what}, p99", load.ms(what, 0.99), "ms", most=150 if what == "status" else None)
    report.add("mixed: unexpected replies", load.n_unexpected(), most=0)
    report.add("mixed: replies", json.dumps(dict(sorted(load.ends.items()))))


async def submissions(report: common.Report, live: LiveServer, body: dict[str, Any], seconds: float) -> None:
    load = Load()
    await for_a_while(live, CONNECTIONS, seconds, submitting(load, body))
    report.add("LD1: submissions", len(load.seconds["submit"]) / seconds, "1/s", least=150)
    report.add("LD1: submission, p99", load.ms("submit", 0.99), "ms", most=400)
    report.add("LD1: ids that are there twice", len(load.job_ids) - len({*load.job_ids}), most=0)
    report.add("LD1: unexpected replies", load.n_unexpected(), most=0)


async def status_beside_submissions(
    report: common.Report, live: LiveServer, body: dict[str, Any], seconds: float
) -> None:
    load, submitted = Load(), Load()

    async def ask(connection: Connection) -> None:
        path = f"/api/status/{random.choice(submitted.job_ids)}" if submitted.job_ids else "/api/me"
        await load.call(connection, "status", "GET", path)

    async def submit_slowly(connection: Connection) -> None:
        await submitting(submitted, body)(connection)
        await asyncio.sleep(0.02)

    await asyncio.gather(for_a_while(live, CONNECTIONS, seconds, ask), for_a_while(live, 1, seconds, submit_slowly))
    report.add("LD2: status requests", len(load.seconds["status"]) / seconds, "1/s", least=200)
    report.add("LD2: status, p99", load.ms("status", 0.99), "ms", most=300)
    report.add("LD2: unexpected replies", load.n_unexpected() + submitted.n_unexpected(), most=0)


async def beside_idle_clients(report: common.Report, live: LiveServer, body: dict[str, Any], seconds: float) -> None:
    load, health = Load(), Load()
    async with contextlib.AsyncExitStack() as idle:
        for n in range(IDLE):
            connection = await idle.enter_async_context(Connection(live))
            if n % 2:
                connection._writer.write(b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nX: ")

        async def look(connection: Connection) -> None:
            await health.call(connection, "health", "GET", "/healthz")
            await asyncio.sleep(0.05)

        await asyncio.gather(
            for_a_while(live, CONNECTIONS, seconds, submitting(load, body)), for_a_while(live, 1, seconds, look)
        )
    report.add("LD3: health, p99", health.ms("health", 0.99), "ms", most=500)
    report.add("LD3: submissions", len(load.seconds["submit"]) / seconds, "1/s", least=50)
    report.add("LD3: unexpected replies", load.n_unexpected() + health.n_unexpected(), most=0)


async def burst(report: common.Report, live: LiveServer, body: dict[str, Any]) -> None:
    """More submissions at once than the queue has places."""
    load, without_retry = Load(), 0

    async def client() -> None:
        nonlocal without_retry
        async with Connection(live) as connection:
            for _ in range(BURST // N_BURSTING):
                await load.call(connection, "submit", "POST", "/api/generate", {**body, "steps": 4})
                if connection.head.startswith(b"HTTP/1.1 429"):
                    after = re.search(rb"retry-after: (\d+)", connection.head.lower())
                    without_retry += after is None or int(after[1]) < 1

    began = time.monotonic()
    await asyncio.gather(*(client() for _ in range(N_BURSTING)))
    seconds = time.monotonic() - began
    async with Connection(live) as connection:
        ended = [await connection.ended(job_id) for job_id in load.job_ids]
    report.add("LD4: submissions at once", sum(load.ends.values()))
    report.add("LD4: accepted", len(load.job_ids), least=QUEUE)
    report.add("LD4: until all were answered", seconds, "s")
    report.add("LD4: longest wait for an answer", load.ms("submit", 1), "ms", most=5000)
    report.add("LD4: refused without Retry-After", without_retry, most=0)
    report.add(
        "LD4: neither accepted nor told 429",
        sum(load.ends.values()) - load.ends["submit 200"] - load.ends["submit 429"],
        most=0,
    )
    report.add("LD4: accepted and not completed", sum(job["status"] != "completed" for job in ended), most=0)


def submitting(load: Load, body: dict[str, Any]) -> Callable[[Connection], Awaitable[None]]:
    async def submit(connection: Connection) -> None:
        await load.call(connection, "submit", "POST", "/api/generate", {**body, "steps": 1})

    return submit


@contextlib.contextmanager
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def measure(report: common.Report, live: LiveServer, body: dict[str, Any], n: int, seconds: float) -> None:
    await mixed(report, live, body, n, seconds)
    short = seconds / 6
    await submissions(report, live, body, short)
    await status_beside_submissions(report, live, body, short)
    await beside_idle_clients(report, live, body, short)


def main() -> None:
    arguments = common.arguments(
        __doc__,
        ("--clients", {"type": int, "default": 200, "help": "of the mixed load"}),
        ("--seconds", {"type": float, "default": 180.0, "help": "of the mixed load; the others take a sixth each"}),
    )
    report = common.Report("load")
    with many_descriptors(), server_client.server({"AGENTNAME_QUEUE_SIZE": "100000"}) as (live, body):
        server_client.wait_done(live, live.submit(**body, steps=1))
        asyncio.run(measure(report, live, body, arguments.clients, arguments.seconds))
    with many_descriptors(), server_client.server({"AGENTNAME_QUEUE_SIZE": str(QUEUE)}) as (live, body):
        server_client.wait_done(live, live.submit(**body, steps=1))
        asyncio.run(burst(report, live, body))
    report.save(arguments.json)


if __name__ == "__main__":
    main()
