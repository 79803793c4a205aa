"""Compares chats of this tree with those of another one: tokens a second, and the time to the first text.

    git worktree add /tmp/before COMMIT
    python benchmarks/chat_speed.py --before /tmp/before [--rounds 12]

Both servers run, and take turns: in each round each of them replies to one chat, to eight chats at once and to 64
streams at once, and the order changes with each round, so that other work on the machine meets both. The requests use
no field that the older tree does not have. The ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import asyncio
import functools
import json
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import common
from server_client import BEFORE, both_servers
from streams import ChatConnection, body, streamed

from tests.support.http.live_server import LiveServer

ROUNDS = 12
LEAST = 0.97  # of the ratios of tokens a second, after over before


@dataclass(frozen=True)
class Load:
    chats: int
    tokens: int
    stream: bool

    def __str__(self) -> str:
        kind = "stream" if self.stream else "chat"
        return f"{self.chats} {kind}{'s' if self.chats > 1 else ''} of {self.tokens} tokens"


LOADS = (Load(1, 64, stream=False), Load(8, 48, stream=False), Load(64, 16, stream=True))


def main() -> None:
    arguments = common.arguments(
        __doc__ or "",
        BEFORE,
        ("--rounds", {"type": int, "default": ROUNDS, "help": f"turns of each side (default: {ROUNDS})"}),
    )
    report = common.Report("chat speed")
    with both_servers(arguments.before) as servers:
        asyncio.run(compare(report, servers, arguments.rounds))
    report.save(arguments.json)


async def compare(report: common.Report, servers: dict[str, LiveServer], rounds: int) -> None:
    rates: dict[tuple[Load, str], list[float]] = defaultdict(list)
    first_s: dict[str, list[float]] = defaultdict(list)
    replies: dict[Load, dict[str, list[str]]] = defaultdict(dict)
    for number in range(rounds + 1):  # the first loads the model and does not count
        for side in sorted(servers, reverse=bool(number % 2)):
            for load in LOADS:
                texts, rate, first = await run(servers[side], load, number)
                replies[load][side] = texts
                if number:
                    rates[load, side].append(rate)
                    if load.chats == 1:
                        first_s[side].append(first)
    for load in LOADS:
        same = replies[load]["before"] == replies[load]["after"]
        ratios = [after / before for before, after in zip(rates[load, "before"], rates[load, "after"], strict=True)]
        for side in servers:
            report.add(f"{load}, {side}", statistics.median(rates[load, side]), "tok/s")
        report.add(f"{load}, after over before", statistics.median(ratios), "x", least=LEAST)
        report.add(f"{load}, same replies", str(same))
    for side in servers:
        report.add(f"seconds of a whole reply of 1 token, {side}", statistics.median(first_s[side]), "s")


async def run(live: LiveServer, load: Load, turn: int) -> tuple[list[str], float, float]:
    """Returns the replies, tokens a second, and for one chat the seconds of a reply of one token.

    The questions differ from turn to turn, because the lanes cache prompts.
    """
    loop = asyncio.get_running_loop()
    connect = functools.partial(ChatConnection, live)
    connections = [(await loop.create_connection(connect, "127.0.0.1", live.port))[1] for _ in range(load.chats)]
    began = time.perf_counter()
    if load.chats == 1:
        await connections[0].ask({**body(1000 * turn + 999, stream=False), "max_tokens": 1})
    first_s, began = time.perf_counter() - began, time.perf_counter()
    asked = [
        connection.ask({**body(1000 * turn + number, load.stream), "max_tokens": load.tokens})
        for number, connection in enumerate(connections)
    ]
    answers = await asyncio.gather(*asked)
    seconds = time.perf_counter() - began
    done: list[dict[str, Any]] = [(streamed if load.stream else json.loads)(answer.body) for answer in answers]
    for connection in connections:
        connection.close()
    tokens = sum(each["usage"]["completionTokens"] for each in done)
    return [str(each["reply"]) for each in done], tokens / seconds, first_s


if __name__ == "__main__":
    main()
