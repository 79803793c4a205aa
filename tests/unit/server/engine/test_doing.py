"""The watchdog of a device thread: whatever it hangs in, the event loop can tell, and so can the next process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.interface import Update
from server.engine import doing
from server.engine.engine import Engine
from server.engine.model_loader import Device
from server.marks import Marks, read_marks
from server.memory.ledger import Ledger, Reading
from server.protocol import Cancel, Event, JobStarted, UnloadModel
from server.scheduling.actions import ModelFacts
from server.scheduling.scheduler import Scheduler
from tests.support.jobs import chat_job, job
from tests.support.lanes.fake_lane import FakeLane, is_memory_error

LIMIT_S = 0.05


class Hang:
    """Hangs in the place that a test names, until the test is over."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.over = threading.Event()

    def reach(self, place: str) -> None:
        if place == self.place:
            assert self.over.wait(30)


class HangingLane(FakeLane):
    hang: Hang

    def admit(self, *args: Any) -> None:
        self.hang.reach("admit")
        super().admit(*args)

    def step(self, max_rows: int | None = None, *args: Any, **kwargs: Any) -> Sequence[Update]:
        self.hang.reach("cancel" if max_rows == 0 else "step")
        return super().step(max_rows, *args, **kwargs)

    def close(self) -> None:
        self.hang.reach("evict")
        super().close()


def engine_with(hang: Hang, kind: Any, marks: Path, deliver: Callable[[Event], None]) -> Engine:
    lane = HangingLane(kind=kind, reply_steps=10**6)
    lane.hang = hang

    def load(model: str) -> FakeLane:
        hang.reach("load")
        return lane

    def read_memory() -> Reading | None:
        hang.reach("decide")
        return None

    device = Device(
        load=load,
        read_memory=read_memory,
        is_fatal=lambda error: False,
        is_out_of_memory=is_memory_error,
        die=lambda: None,
        warm_up=lambda: hang.reach("start"),
    )
    scheduler = Scheduler(
        Ledger(name="fake", capacity_bytes=1000),
        lambda model: ModelFacts(model, kind, 100, 4, 1000.0),
        min_residency_s=0,
    )
    return Engine(scheduler, device, deliver, step_timeout_s=LIMIT_S, mark=Marks(marks).device(0))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["image", "chat"])
@pytest.mark.parametrize(
    ("place", "stuck_in"),
    [
        ("start", "start"),
        ("decide", "decide"),
        ("load", "load of m"),
        ("admit", "admit of m for {job}"),
        ("step", "step of m for {job}"),
        ("cancel", "cancel of m for {job}"),
        ("evict", "evict of m"),
    ],
)
def test_a_thread_that_hangs_in_an_action_is_stuck_and_its_mark_says_in_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, place: str, stuck_in: str
) -> None:
    monkeypatch.setattr(doing, "LOAD_LIMIT_S", LIMIT_S)
    monkeypatch.setattr(doing, "START_LIMIT_S", LIMIT_S)
    hang, started, stuck_in = Hang(place), threading.Event(), stuck_in.format(job="j")

    async def story() -> None:
        engine = engine_with(hang, kind, tmp_path, lambda event: isinstance(event, JobStarted) and started.set())
        engine.start()
        engine.submit(chat_job("j") if kind == "chat" else job("j", steps=10**6))
        if place in ("cancel", "evict"):
            await asyncio.to_thread(started.wait, 5)
            engine.send(Cancel("j"))
            engine.send(UnloadModel("m"))
        deadline = time.monotonic() + 10
        while engine.stuck_in != stuck_in:
            assert time.monotonic() < deadline, engine.stuck_in
            await asyncio.sleep(0.005)
        assert not engine.alive
        assert engine.not_ready_reason == f"the engine is stuck in {stuck_in}"
        assert [str(marked) for marked in read_marks(tmp_path)] == [stuck_in]
        hang.over.set()
        engine.send(Cancel("j"))
        await engine.drain(5)

    asyncio.run(story())


def test_a_thread_that_waits_for_messages_is_never_stuck_and_has_no_mark(tmp_path: Path) -> None:
    done = threading.Event()

    async def story() -> None:
        engine = engine_with(Hang("nowhere"), "image", tmp_path, lambda event: done.set())
        engine.start()
        engine.submit(job("j"))
        await asyncio.to_thread(done.wait, 5)
        while read_marks(tmp_path):
            await asyncio.to_thread(threading.Event().wait, 0.005)
        await asyncio.to_thread(threading.Event().wait, 2 * LIMIT_S)
        assert (engine.stuck_in, engine.not_ready_reason) == (None, None)
        await engine.drain(5)

    asyncio.run(story())
