"""Compares jobs of this tree with those of another one: whole jobs, short ones, many at once, polls.

    git worktree add /tmp/before COMMIT
    python benchmarks/job_speed.py --before /tmp/before [--rounds 12]

What `overhead.py` and `frontend.py` measure of one tree, here of two. Both servers run, and take turns: in each round
each of them does each kind of work once, and the order changes with each round, so that other work on the machine
meets both. The requests use no field that the older tree does not have. The ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import common
from server_client import BEFORE, IMAGE, Connection, both_servers, new_prompt

from tests.support.http.live_server import LiveServer

ROUNDS = 12
MOST = 1.02  # of the ratios of seconds, after over before
SHORT = IMAGE | {"steps": 2}
CLIP = {"type": "video", "prompt": "Ocean waves at sunset"}
SMALL = IMAGE | {"steps": 1, "width": 64, "height": 64}
TIMES = 8  # of what is short, in a row
BURST, SUBMITTERS = 96, 8
POLLS = 400


async def one_image(live: LiveServer, turn: int) -> None:
    await _job(live, IMAGE, turn)


async def short_images(live: LiveServer, turn: int) -> None:
    for number in range(TIMES):
        await _job(live, SHORT, TIMES * turn + number)


async def one_clip(live: LiveServer, turn: int) -> None:
    await _job(live, CLIP, turn)


async def short_chats(live: LiveServer, turn: int) -> None:
    async with Connection(live) as connection:
        for number in range(TIMES):
            question = {"message": f"What is {turn} and {number}?", "max_tokens": 1, "temperature": 0}
            status, reply = await connection.send("POST", "/api/chat", question)
            assert status == 200, reply


async def burst_of_images(live: LiveServer, turn: int) -> None:
    """Submits many at once, and waits for all of them."""

    async def submit(first: int) -> list[str]:
        async with Connection(live) as connection:
            numbers = range(first, BURST, SUBMITTERS)
            return [await connection.submit({**SMALL, "prompt": new_prompt(SMALL, BURST * turn + n)}) for n in numbers]

    jobs = await asyncio.gather(*(submit(first) for first in range(SUBMITTERS)))
    async with Connection(live) as connection:
        for job in itertools.chain.from_iterable(jobs):
            await connection.ended(job)


async def polls(live: LiveServer, turn: int) -> None:
    async with Connection(live) as connection:
        job = await connection.submit({**SMALL, "prompt": new_prompt(SMALL, -turn)})
        await connection.ended(job)
        for _ in range(POLLS):
            status, reply = await connection.send("GET", f"/api/status/{job}")
            assert status == 200, reply


KINDS: dict[str, Callable[[LiveServer, int], Awaitable[None]]] = {
    "an image": one_image,
    f"{TIMES} images of two steps": short_images,
    f"{TIMES} chats of one token": short_chats,
    f"{BURST} images of one step at once": burst_of_images,
    f"{POLLS} polls": polls,
    "a clip": one_clip,
}


def main() -> None:
    arguments = common.arguments(
        __doc__ or "",
        BEFORE,
        ("--rounds", {"type": int, "default": ROUNDS, "help": f"turns of each side (default: {ROUNDS})"}),
    )
    report = common.Report("job speed")
    with both_servers(arguments.before) as servers:
        asyncio.run(compare(report, servers, arguments.rounds))
    report.save(arguments.json)


async def compare(report: common.Report, servers: dict[str, LiveServer], rounds: int) -> None:
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number in range(rounds + 1):  # the first loads the models and does not count
        for kind, work in KINDS.items():
            for side in sorted(servers, reverse=bool(number % 2)):
                common.settle()
                began = time.perf_counter()
                await work(servers[side], number)
                if number:
                    seconds[kind, side].append(time.perf_counter() - began)
    for kind in KINDS:
        for side in servers:
            report.add(f"{kind}, {side}", statistics.median(seconds[kind, side]), "s")
        pairs = zip(seconds[kind, "before"], seconds[kind, "after"], strict=True)
        report.add(f"{kind}, after over before", statistics.median(b / a for a, b in pairs), "x", most=MOST)


async def _job(live: LiveServer, body: dict[str, Any], turn: int) -> None:
    async with Connection(live) as connection:
        await connection.ended(await connection.submit({**body, "prompt": new_prompt(body, turn), "seed": turn}))


if __name__ == "__main__":
    main()
