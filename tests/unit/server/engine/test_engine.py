"""The device thread with lanes that compute nothing: what goes in comes out, once, in order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from pipelines.interface import Failed, Update, WeightsChanged
from server.engine.engine import Engine
from server.engine.model_loader import Device
from server.errors import NeverFits, Unavailable
from server.memory.ledger import Ledger
from server.protocol import (
    Cancel,
    EngineStatus,
    Event,
    Forget,
    JobCanceled,
    JobFailed,
    JobProgressed,
    JobReturned,
    JobStarted,
    KeepAlive,
    LoadModel,
    OutputReady,
    Pin,
    RanOutOfMemory,
    Recall,
    UnloadModel,
)
from server.scheduling.actions import ModelFacts
from server.scheduling.scheduler import Scheduler
from tests.support.fake_lane import FakeLane
from tests.support.jobs import job


@dataclass
class Bench:
    """An engine over fake lanes, and all it told. `wait` returns when a condition holds: every event wakes it."""

    lanes: dict[str, FakeLane] = field(default_factory=lambda: {"m": FakeLane()})
    capacity: int = 1000
    events: list[Event] = field(default_factory=list)
    died: bool = False
    slow: tuple[str, threading.Event | None] = ("", None)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(
            Ledger(name="fake", capacity_bytes=self.capacity),
            lambda model: ModelFacts(model, "image", 100, 4, 1000.0),
            min_residency_s=0,
            reads_ahead=True,
        )
        device = Device(
            load=self._load,
            read=self._read,
            read_memory=lambda: None,
            is_fatal=lambda error: isinstance(error, SystemError),
            die=self._die,
            warm_up=lambda: None,
        )
        self.loads: list[str] = []
        self.engine = Engine(self.scheduler, device, self._deliver, step_timeout_s=5)
        self._told = asyncio.Event()

    def read_slowly(self, model: str, until: threading.Event | None) -> None:
        """Reading that model's files ends with the event, or fails at once where there is none."""
        self.slow = model, until

    def _read(self, model: str) -> None:
        if model == self.slow[0]:
            if self.slow[1] is None:
                raise OSError("the disk is slow, and gone")
            assert self.slow[1].wait(10)

    def _load(self, model: str) -> FakeLane:
        self.loads.append(model)
        return self.lanes[model]

    def _die(self) -> None:
        self.died = True

    def _deliver(self, event: Event) -> None:
        self.events.append(event)
        self._told.set()

    async def wait(self, condition: Callable[[], bool], timeout_s: float = 5) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._told.clear()
                await self._told.wait()

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def ends(self) -> list[Event]:
        return [e for e in self.events if isinstance(e, (OutputReady, JobFailed, JobCanceled))]


def run(story: Callable[[Bench], object], bench: Bench | None = None, **settings: object) -> Bench:
    """Run `story` on a started engine and end it."""

    async def scene() -> Bench:
        nonlocal bench
        bench = bench or Bench(**settings)  # type: ignore[arg-type]  # fields of Bench
        bench.engine.start()
        await story(bench)  # type: ignore[misc]  # an async function
        await bench.engine.drain(2)
        return bench

    return asyncio.run(scene())


class HeldLane(FakeLane):
    """Its first step waits until it is let go: what is told to the engine meanwhile is there before the second."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def step(self, *args: Any, **kwargs: Any) -> Sequence[Update]:
        assert self.go.wait(30)
        return super().step(*args, **kwargs)


def test_a_job_is_started_makes_progress_and_gives_its_output_in_that_order() -> None:
    async def story(bench: Bench) -> None:
        bench.engine.submit(job("j"))
        await bench.wait(lambda: len(bench.of(OutputReady)) == 1)

    told = [type(e) for e in run(story).events if not isinstance(e, EngineStatus)]

    assert told == [JobStarted, JobProgressed, JobProgressed, JobProgressed, OutputReady]


def test_jobs_that_run_together_share_steps() -> None:
    lane = FakeLane()

    async def story(bench: Bench) -> None:
        for name in "abc":
            bench.engine.submit(job(name, steps=5))
        await bench.wait(lambda: len(bench.of(OutputReady)) == 3)

    run(story, lanes={"m": lane})

    assert max(len(together) for together in lane.step_log) == 3


def test_a_forward_that_did_not_fit_is_told_though_its_jobs_go_on() -> None:
    lane = FakeLane()
    lane.room = 2

    async def story(bench: Bench) -> None:
        bench.engine.submit(job("j", n=3))
        await bench.wait(lambda: len(bench.of(OutputReady)) == 3)

    assert run(story, lanes={"m": lane}).of(RanOutOfMemory)[0] == RanOutOfMemory("m")


class DressedLane(FakeLane):
    """Its first step brings in an adapter."""

    def step(self, *args: Any, **kwargs: Any) -> Sequence[Update]:
        if self.weights["model"] == 100:
            self.weights["model"] += 30
            self._costs.append(WeightsChanged())
        return super().step(*args, **kwargs)


def test_an_adapter_that_a_job_brought_in_is_on_the_books() -> None:
    async def story(bench: Bench) -> None:
        bench.engine.submit(job("j"))
        await bench.wait(lambda: len(bench.of(OutputReady)) == 1)

    bench = run(story, lanes={"m": DressedLane()})

    assert bench.scheduler.ledger.held_by("m", "weights") == 130
    assert bench.scheduler.residents["m"].components == {"model": 130}


def test_every_output_of_a_job_comes_with_its_index() -> None:
    async def story(bench: Bench) -> None:
        bench.engine.submit(job("j", n=3))
        await bench.wait(lambda: len(bench.of(OutputReady)) == 3)

    assert [e.index for e in run(story).of(OutputReady)] == [0, 1, 2]  # type: ignore[union-attr]  # filtered


def test_a_waiting_job_that_is_canceled_never_starts() -> None:
    lane = FakeLane()

    async def story(bench: Bench) -> None:
        bench.engine.submit(job("long", n=4, steps=100))
        bench.engine.submit(job("next", n=4))
        bench.engine.send(Cancel("next"))
        bench.engine.send(Cancel("long"))
        await bench.wait(lambda: len(bench.of(JobCanceled)) == 2)

    bench = run(story, lanes={"m": lane})

    assert [e.job_id for e in bench.ends()] == ["next", "long"]  # type: ignore[union-attr]
    assert not any("next/0" in together for together in lane.step_log)


def test_a_running_job_that_is_canceled_ends_once_and_the_lane_is_free_for_the_next() -> None:
    async def story(bench: Bench) -> None:
        bench.engine.submit(job("j", n=2, steps=10_000_000))
        await bench.wait(lambda: len(bench.of(JobProgressed)) > 2)
        bench.engine.send(Cancel("j"))
        bench.engine.send(Cancel("j"))
        bench.engine.submit(job("next"))
        await bench.wait(lambda: len(bench.ends()) == 2)

    ends = run(story).ends()

    assert [(type(e), e.job_id) for e in ends] == [(JobCanceled, "j"), (OutputReady, "next")]  # type: ignore[union-attr]


def test_a_request_that_fails_ends_its_job_once_and_no_other() -> None:
    lane = FakeLane(fails={"bad/1": Failed("bad/1", "model_error", "it broke")})

    async def story(bench: Bench) -> None:
        bench.engine.submit(job("bad", n=2, steps=5))
        bench.engine.submit(job("good", n=2, steps=5))
        await bench.wait(lambda: len(bench.ends()) == 3)

    bench = run(story, lanes={"m": lane})

    assert [e.message for e in bench.of(JobFailed)] == ["it broke"]  # type: ignore[union-attr]
    assert [e.job_id for e in bench.of(OutputReady)] == ["good", "good"]  # type: ignore[union-attr]


def test_a_model_that_does_not_load_fails_its_jobs_and_leaves_the_others_alone() -> None:
    async def story(bench: Bench) -> None:
        bench.engine.submit(job("lost", model="missing"))
        bench.engine.submit(job("fine"))
        await bench.wait(lambda: len(bench.ends()) == 2)
        bench.engine.submit(job("again", model="missing"))
        await bench.wait(lambda: len(bench.ends()) == 3)

    bench = run(story)

    assert {e.job_id: e.code for e in bench.of(JobFailed)} == {
        "lost": "model_load_failed",
        "again": "model_load_failed",
    }  # type: ignore[union-attr]
    assert bench.scheduler.ledger.held_by("missing") == 0


def test_a_model_larger_than_the_device_is_refused_with_the_figures() -> None:
    async def story(bench: Bench) -> None:
        with pytest.raises(NeverFits, match=r"needs 3\.0 GiB, this device has 0\.0 GiB"):
            bench.engine.submit(job("j"), need_bytes=3 * 2**30)

    run(story)


def test_nothing_is_taken_while_shutting_down_and_what_waits_is_left_for_the_next_start() -> None:
    lane = HeldLane()

    async def story(bench: Bench) -> None:
        bench.engine.submit(job("running", n=4, steps=3))
        await bench.wait(lambda: len(bench.of(JobStarted)) == 1)
        bench.engine.submit(job("waiting", n=4))
        draining = asyncio.create_task(bench.engine.drain(5))
        await asyncio.sleep(0)  # it has told the engine
        lane.go.set()
        await draining
        with pytest.raises(Unavailable, match="shutting down"):
            bench.engine.submit(job("late"))

    bench = run(story, lanes={"m": lane})

    assert {e.job_id for e in bench.ends()} == {"running"}  # type: ignore[union-attr]


def test_a_poisoned_device_ends_the_process_and_says_so() -> None:
    lane = FakeLane(explodes=SystemError("CUDA error: an illegal memory access was encountered"))

    async def story(bench: Bench) -> None:
        bench.engine.submit(job("j", type_="chat"))
        await bench.wait(lambda: len(bench.ends()) == 1)

    bench = run(story, lanes={"m": lane})

    assert bench.died
    assert bench.engine.not_ready_reason is not None


def test_an_engine_that_stopped_on_an_error_is_not_alive_and_takes_nothing() -> None:
    lane = FakeLane(explodes=ValueError("a bug"))

    async def story(bench: Bench) -> None:
        bench.engine.submit(job("j", type_="chat"))
        await bench.wait(lambda: len(bench.ends()) == 1)
        with pytest.raises(Unavailable):
            bench.engine.submit(job("k"))

    bench = run(story, lanes={"m": lane})

    assert not bench.died
    assert not bench.engine.alive


def test_the_picture_shows_who_waits_for_what_and_the_bytes_add_up() -> None:
    async def story(bench: Bench) -> None:
        bench.engine.submit(job("r", n=4, steps=10**9))
        bench.engine.submit(job("w", n=4, steps=1))
        await bench.wait(lambda: any(isinstance(e, EngineStatus) and e.running and e.queue for e in bench.events))
        bench.engine.send(Cancel("r"))

    bench = run(story)
    picture = next(e for e in bench.events if isinstance(e, EngineStatus) and e.running and e.queue)

    assert [entry.job_id for entry in picture.running] == ["r"]
    assert [(entry.job_id, entry.waiting_for, entry.eta_s) for entry in picture.queue] == [("w", "turn", None)]
    assert sum(holder.n_bytes for holder in picture.device.holders) == picture.device.used_bytes == 100


def test_a_model_asked_for_is_loaded_without_a_job_and_leaves_when_asked_to() -> None:
    lane = FakeLane()

    async def story(bench: Bench) -> None:
        bench.engine.send(LoadModel("m"))
        await bench.wait(lambda: any(isinstance(e, EngineStatus) and e.device.used_bytes for e in bench.events))
        bench.engine.send(UnloadModel("m"))
        await bench.wait(lambda: lane.closed)

    assert run(story, lanes={"m": lane}).scheduler.ledger.booked_bytes == 0


def test_a_busy_model_asked_to_leave_finishes_its_jobs_and_the_next_one_loads_it_again() -> None:
    async def story(bench: Bench) -> None:
        bench.engine.submit(job("running", steps=200))
        await bench.wait(lambda: len(bench.of(JobStarted)) == 1)
        bench.engine.send(UnloadModel("m"))
        bench.engine.submit(job("waiting", steps=1))
        await bench.wait(lambda: len(bench.ends()) == 2)

    bench = run(story)

    assert [(type(e), e.job_id) for e in bench.ends()] == [(OutputReady, "running"), (OutputReady, "waiting")]  # type: ignore[union-attr]
    assert bench.loads == ["m", "m"]


def test_a_pinned_model_stays_when_asked_to_leave_and_goes_once_unpinned() -> None:
    lane = FakeLane()

    async def story(bench: Bench) -> None:
        bench.engine.send(Pin("m", True))
        bench.engine.send(LoadModel("m"))
        bench.engine.send(UnloadModel("m"))
        bench.engine.submit(job("j"))
        await bench.wait(lambda: len(bench.ends()) == 1)
        assert not lane.closed
        bench.engine.send(Pin("m", False))
        bench.engine.send(KeepAlive("m", 0))
        await bench.wait(lambda: lane.closed)

    assert run(story, lanes={"m": lane}).loads == ["m"]


def test_a_waiting_job_that_is_recalled_comes_back_and_a_running_one_stays() -> None:
    lane = HeldLane()

    async def story(bench: Bench) -> None:
        bench.engine.submit(job("running", n=4, steps=3))
        bench.engine.submit(job("waiting", n=4))
        await bench.wait(lambda: len(bench.of(JobStarted)) == 1)
        bench.engine.send(Recall("running"))
        bench.engine.send(Recall("waiting"))
        bench.engine.send(Cancel("running"))
        lane.go.set()
        await bench.wait(lambda: len(bench.of(JobReturned)) == 1 and len(bench.ends()) == 1)

    bench = run(story, lanes={"m": lane})

    assert bench.of(JobReturned) == [JobReturned(job("waiting", n=4))]
    assert [e.job_id for e in bench.ends()] == ["running"]  # type: ignore[union-attr]


def test_a_forgotten_model_fails_its_waiting_jobs_ends_its_running_ones_and_leaves_pinned_or_not() -> None:
    lane = HeldLane()

    async def story(bench: Bench) -> None:
        bench.engine.send(Pin("m", True))
        bench.engine.submit(job("running", n=4, steps=3))
        bench.engine.submit(job("waiting", n=4))
        await bench.wait(lambda: len(bench.of(JobStarted)) == 1)
        bench.engine.send(Forget("m"))
        lane.go.set()
        await bench.wait(lambda: len(bench.ends()) == 5 and lane.closed)

    bench = run(story, lanes={"m": lane})

    assert [e.job_id for e in bench.of(JobFailed)] == ["waiting"]  # type: ignore[union-attr]
    assert bench.scheduler.ledger.booked_bytes == 0


def test_a_model_whose_files_are_slow_to_read_does_not_hold_up_the_others() -> None:
    """The reader's thread stands until a whole job of another model is done."""
    done = threading.Event()
    bench = Bench(lanes={"m": FakeLane(), "slow": FakeLane()})
    bench.read_slowly("slow", done)

    async def story(bench: Bench) -> None:
        bench.engine.submit(job("first", model="m"))
        bench.engine.submit(job("waits", model="slow"))
        bench.engine.submit(job("second", model="m"))
        await bench.wait(lambda: len(bench.of(OutputReady)) == 2)
        assert bench.scheduler.ledger.held_by("slow", "weights") == 100  # nobody else may take it
        done.set()
        await bench.wait(lambda: len(bench.of(OutputReady)) == 3)

    run(story, bench=bench)

    assert [event.job_id for event in bench.of(OutputReady)] == ["first", "second", "waits"]  # type: ignore[union-attr]  # filtered


def test_a_reader_that_fails_leaves_it_to_the_load() -> None:
    bench = Bench()
    bench.read_slowly("m", None)

    async def story(bench: Bench) -> None:
        bench.engine.submit(job("j"))
        await bench.wait(lambda: len(bench.of(OutputReady)) == 1)

    assert run(story, bench=bench).loads == ["m"]
