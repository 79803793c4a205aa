"""Does streaming cost anything? Chats at once through the whole server, streamed and not, turn about.

    python benchmarks/streams.py --json streams.json

Every stream's deltas, in the order they came, must be the reply that `done` gives whole:
nothing lost, nothing in another order. The first token's way from its decode step to the client is not measured here.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from dataclasses import dataclass

import common
import httpx
import served

from tests.live_server import LiveServer

CHATS = 64
TOKENS = 48
TURNS = 3


@dataclass
class Round:
    replies: list[str]
    tokens_per_s: float


def main() -> None:
    arguments = common.arguments(__doc__)
    report = common.Report("streams")
    with served.server() as (live, _):
        asyncio.run(measure(report, live))
    report.save(arguments.json)


async def measure(report: common.Report, live: LiveServer) -> None:
    headers = {"authorization": f"Bearer {live.key}"}
    limits = httpx.Limits(max_connections=CHATS)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{live.port}", headers=headers, timeout=600, limits=limits
    ) as client:
        await together(client, stream=True)  # loads the model and opens the connections
        ratios = []
        for _ in range(TURNS):
            whole, streamed = await together(client, stream=False), await together(client, stream=True)
            same = sum(a == b for a, b in zip(streamed.replies, whole.replies, strict=True))
            ratios.append(streamed.tokens_per_s / whole.tokens_per_s)
    report.add(f"{CHATS} chats at once, not streamed", whole.tokens_per_s, "tok/s")
    report.add(f"{CHATS} chats at once, streamed", streamed.tokens_per_s, "tok/s")
    report.add("replies equal in both, of the last turn", same, f"/{CHATS}")  # rounding differs with who shares a step
    report.add("streamed / not streamed, median of turns", statistics.median(ratios), "", least=0.9)


async def together(client: httpx.AsyncClient, *, stream: bool) -> Round:
    began = time.perf_counter()
    ask = streamed if stream else whole
    told = await asyncio.gather(*(ask(client, number) for number in range(CHATS)))
    seconds = time.perf_counter() - began
    return Round([reply for reply, _ in told], sum(tokens for _, tokens in told) / seconds)


def body(number: int, stream: bool) -> dict[str, object]:
    question = f"{common.QUESTIONS[number % len(common.QUESTIONS)]} ({number})"
    return {"message": question, "max_tokens": TOKENS, "temperature": 0, "stream": stream}


async def whole(client: httpx.AsyncClient, number: int) -> tuple[str, int]:
    reply = (await client.post("/api/chat", json=body(number, False))).raise_for_status().json()
    return reply["reply"], reply["usage"]["completionTokens"]


async def streamed(client: httpx.AsyncClient, number: int) -> tuple[str, int]:
    name, text = "", ""
    async with client.stream("POST", "/api/chat", json=body(number, True)) as reply:
        reply.raise_for_status()
        async for line in reply.aiter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data" and name == "delta":
                text += json.loads(value)["text"]
            elif field == "data":
                assert name == "done", value
                done = json.loads(value)
                assert text == done["reply"], "a delta was lost, or came in another order"
                return text, done["usage"]["completionTokens"]
    raise AssertionError("the stream ended without done")


if __name__ == "__main__":
    main()
