"""Measures the time that HTTP, queue and store add, and polls and submissions while the models run at full load.

    python benchmarks/frontend.py --json frontend.json

The added time is that of a two-step image and a one-token chat over HTTP, less that of the same in a lane of this
process (with the image encoded), in alternation. The end of a job comes from its event stream. The client is a raw
socket, because a full HTTP client on the same cores would take longer than what is measured.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import server_client
from server_client import Connection

from models.loading.load import load
from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion_interface import DiffusionRequest
from server.jobs.encoding import FileMetadata, encode, to_pixels
from tests.support.http.live_server import LiveServer
from tests.support.lanes.lane_play import rendered

TURNS = 31
POLLS_PER_S = 50
SECONDS = 10.0
SUBMITTERS = 32


def main() -> None:
    arguments = common.arguments(__doc__)
    report = common.Report("front end")
    with server_client.server() as (live, body):
        asyncio.run(measure(report, live, body))
    report.save(arguments.json)


async def measure(report: common.Report, live: LiveServer, body: dict[str, Any]) -> None:
    async with Connection(live) as connection:
        await added_to_a_picture(report, connection, body)
        await added_to_a_chat(report, connection)
    await under_load(report, live, body)


async def added_to_a_picture(report: common.Report, connection: Connection, body: dict[str, Any]) -> None:
    quick = {**body, "steps": 2, "deterministic": True}
    status = await connection.ended(await connection.submit(quick))
    params = status["params"]
    spec = common.built_in("image")
    lane: Any = DiffusionLane(common.stand_in(), kind="image") if spec is None else load(spec, device="cpu")
    request = DiffusionRequest(
        id="x",
        prompt=body["prompt"],
        negative_prompt=params.get("negativePrompt"),
        width=params["width"],
        height=params["height"],
        num_frames=None,
        steps=2,
        guidance_scale=params.get("guidanceScale"),
        seed=1,
        call=common.STAND_IN_CALL if spec is None else spec.call,
    )

    def script(turn: int) -> None:
        end = rendered(lane, [replace(request, prompt=server_client.new_prompt(body, turn))])[request.id]
        encode(to_pixels(end.frames), "png", FileMetadata("", "{}"), 1, out)

    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        out = Path(file.name)
        script(0)
        through, alone = [], [common.timed(lambda: script(-1))[1]]
        for turn in range(1, TURNS + 1):
            common.settle()
            began = time.perf_counter()
            status = await connection.ended(
                await connection.submit(quick | {"prompt": server_client.new_prompt(body, turn)})
            )
            through.append(time.perf_counter() - began)
            common.settle()
            alone.append(common.timed(lambda turn=turn: script(turn))[1])
    lane.close()
    added = [job - (before + after) / 2 for job, before, after in zip(through, alone, alone[1:], strict=False)]
    report.add("a two-step picture in a lane, encoded", common.median(alone) * 1e3, "ms")
    report.add("the same over HTTP, stored and written", common.median(through) * 1e3, "ms")
    report.add("added to a picture, median of turns", common.median(added) * 1e3, "ms", most=15)


async def added_to_a_chat(report: common.Report, connection: Connection) -> None:
    spec = common.built_in("chat")
    if spec is None:
        return
    question = {"message": common.QUESTIONS[0], "max_tokens": 1, "temperature": 0}
    await connection.send("POST", "/api/chat", question)
    lane: Any = load(spec, device="cpu")
    run(lane, common.chat_request(0, 1))
    through, alone = [], []
    for _ in range(TURNS):
        common.settle()
        began = time.perf_counter()
        status, reply = await connection.send("POST", "/api/chat", question)
        through.append(time.perf_counter() - began)
        assert status == 200, reply
        common.settle()
        alone.append(common.timed(lambda: run(lane, common.chat_request(0, 1)))[1])
    lane.close()
    report.add("added to a chat, median", (common.median(through) - common.median(alone)) * 1e3, "ms", most=15)


async def under_load(report: common.Report, live: LiveServer, body: dict[str, Any]) -> None:
    """Polls at a steady rate, then submits as fast as possible, while images and chats run all the time."""
    async with Connection(live) as connection:
        job_ids = [await connection.submit(body) for _ in range(64)]
    replied: list[float] = []
    chats = [asyncio.create_task(keep_chatting(live, i, replied)) for i in range(4)]
    waits = await polls(live, job_ids[-1])
    report.add(f"status at {POLLS_PER_S}/s under load, median", common.median(waits) * 1e3, "ms")
    report.add(f"status at {POLLS_PER_S}/s under load, p99", common.percentile(waits, 0.99) * 1e3, "ms", most=100)
    report.add("chats replied to meanwhile", len(replied))
    accepted, seconds = await submissions(live, body)
    report.add("jobs accepted under load, each durable", accepted / seconds, "/s", least=150)
    queued_at = time.perf_counter()
    await asyncio.sleep(SECONDS)
    report.add("chats replied to in 10 s behind that queue", sum(at > queued_at for at in replied), least=1)
    for task in chats:
        task.cancel()
    await asyncio.gather(*chats, return_exceptions=True)


async def polls(live: LiveServer, job_id: str) -> list[float]:
    """Returns the seconds of each poll from when it was due: a client that waits for replies would hide a stall."""
    waits: list[float] = []
    free: asyncio.Queue[Connection] = asyncio.Queue()
    connections = [await Connection(live).__aenter__() for _ in range(POLLS_PER_S)]
    for connection in connections:
        free.put_nowait(connection)

    async def poll(due: float) -> None:
        connection = await free.get()
        status, _ = await connection.send("GET", f"/api/status/{job_id}")
        assert status == 200
        waits.append(time.perf_counter() - due)
        free.put_nowait(connection)

    began, tasks = time.perf_counter(), []
    for number in range(int(POLLS_PER_S * SECONDS)):
        due = began + number / POLLS_PER_S
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(poll(due)))
    await asyncio.gather(*tasks)
    for connection in connections:
        await connection.__aexit__()
    return waits


async def submissions(live: LiveServer, body: dict[str, Any]) -> tuple[int, float]:
    began = time.perf_counter()

    async def keep_submitting() -> int:
        accepted = 0
        async with Connection(live) as connection:
            while time.perf_counter() - began < SECONDS:
                await connection.submit(body)
                accepted += 1
        return accepted

    accepted = sum(await asyncio.gather(*(keep_submitting() for _ in range(SUBMITTERS))))
    return accepted, time.perf_counter() - began


async def keep_chatting(live: LiveServer, number: int, replied: list[float]) -> None:
    async with Connection(live) as connection:
        while True:
            question = {"message": common.QUESTIONS[number], "max_tokens": 32}
            status, reply = await connection.send("POST", "/api/chat", question)
            assert status == 200, reply
            replied.append(time.perf_counter())


def run(lane: Any, request: Any) -> None:
    lane.admit(request)
    while lane.has_work():
        lane.step()


if __name__ == "__main__":
    main()
