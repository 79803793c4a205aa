"""An engine with its device thread over fake lanes: which events follow from which messages, and in which order."""

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
from server.engine_status import EngineStatus
from server.errors import NeverFits, Unavailable
from server.memory.ledger import Ledger
from server.protocol import (
    Cancel,
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
from tests.support.jobs import job
from tests.support.lanes.fake_lane import FakeLane, is_memory_error


@dataclass
class Bench:
    """An engine over fake lanes, and the events that it delivered."""

    lanes: dict[str, FakeLane] = field(default_factory=lambda: {"m": FakeLane()})
    capacity: int = 1000
    events: list[Event] = field(default_factory=list)
    died: bool = False
    slow_model: str = ""  # reading this model's files takes until `read_ends` is set; if that is None, it fails
    read_ends: threading.Event | None = None

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
            is_out_of_memory=is_memory_error,
            die=self._die,
            warm_up=lambda: None,
        )
        self.loads: list[str] = []
        self.engine = Engine(self.scheduler, device, self._deliver, step_timeout_s=5)
        self._delivered = asyncio.Event()

    def _read(self, model: str) -> None:
        if model == self.slow_model:
            if self.read_ends is None:
                raise OSError("the disk cannot be read")
            assert self.read_ends.wait(10)

    def _load(self, model: str) -> FakeLane:
        self.loads.append(model)
        return self.lanes[model]

    def _die(self) -> None:
        self.died = True

    def _deliver(self, event: Event) -> None:
        self.events.append(event)
        self._delivered.set()

    async def wait(self, condition: Callable[[], bool], timeout_s: float = 5) -> None:
        """Wait until the condition holds; it is checked after each event."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._delivered.clear()
                await self._delivered.wait()

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def ends(self) -> list[Event]:
        return [event for event in self.events if isinstance(event, (OutputReady, JobFailed, JobCanceled))]


def run(story: Callable[[Bench], object], bench: Bench | None = None, **settings: object) -> Bench:
    """Start an engine, run `story` on it, and drain it. settings: fields of `Bench`."""

    async def start_and_drain() -> Bench:
        nonlocal bench
        bench = bench or Bench(**settings)  # type: ignore[arg-type]  # fields of Bench
        bench.engine.start()
        await story(bench)  # type: ignore[misc]  # an async function
        await bench.engine.drain(2)
        return bench

    return asyncio.run(start_and_drain())


class HeldLane(FakeLane):
    """Its first step waits for `go`, so that messages sent meanwhile are handled before the second step."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def step(self, *args: Any, **kwargs: Any) -> Sequence[Update]:
        assert self.go.wait(30)
        return super().step(*args, **kwargs)


def test_a_job_starts_makes_progress_and_gives_its_output_in_that_order() -> None:
    async def story(bench: Bench) -> None:
        bench.engine.submit(job("j"))
        await bench.wait(lambda: len(bench.of(OutputReady)) == 1)

    kinds = [type(event) for event in run(story).events if not isinstance(event, EngineStatus)]

    assert kinds == [JobStarted, JobProgressed, JobProgressed, JobProgressed, OutputReady]


def test_jobs_that_run_together_share_steps() -> None:
    lane = FakeLane()

    async def story(bench: Bench) -> None:
        for name in "abc":
            bench.engine.submit(job(name, steps=5))
        await bench.wait(lambda: len(bench.of(OutputReady)) == 3)

    run(story, lanes={"m": lane})

    assert max(len(request_ids) for request_ids in lane.step_log) == 3


def test_a_forward_that_ran_out_of_memory_is_reported_although_its_jobs_go_on() -> None:
    lane = FakeLane()
    lane.room = 2

    async def story(bench: Bench) -> None:
        bench.engine.submit(job("j", n=3))
        await bench.wait(lambda: len(bench.of(OutputReady)) == 3)

    assert run(story, lanes={"m": lane}).of(RanOutOfMemory)[0] == RanOutOfMemory("m")


class AdapterLane(FakeLane):
    """Its first step loads an adapter."""

    def step(self, *args: Any, **kwargs: Any) -> Sequence[Update]:
        if self.weights["model"] == 100:
            self.weights["model"] += 30
            self._costs.append(WeightsChanged())
        return super().step(*args, **kwargs)


def test_an_adapter_that_a_job_has_loaded_is_booked_in_the_ledger() -> None:
    async def story(bench: Bench) -> None:
        bench.engine.submit(job("j"))
        await bench.wait(lambda: len(bench.of(OutputReady)) == 1)

    bench = run(story, lanes={"m": AdapterLane()})

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
    assert not any("next/0" in request_ids for request_ids in lane.step_log)


def test_a_running_job_that_is_canceled_twice_ends_once_and_the_next_job_runs() -> None:
    async def story(bench: Bench) -> None:
        bench.engine.submit(job("j", n=2, steps=10_000_000))
        await bench.wait(lambda: len(bench.of(JobProgressed)) > 2)
        bench.engine.send(Cancel("j"))
        bench.engine.send(Cancel("j"))
        bench.engine.submit(job("next"))
        await bench.wait(lambda: len(bench.ends()) == 2)

    ends = run(story).ends()

    assert [(type(e), e.job_id) for e in ends] == [(JobCanceled, "j"), (OutputReady, "next")]


def test_a_request_that_fails_ends_its_own_job_once_and_no_other_job() -> None:
    lane = FakeLane(fails={"bad/1": Failed("bad/1", "model_error", "it broke")})

    async def story(bench: Bench) -> None:
        bench.engine.submit(job("bad", n=2, steps=5))
        bench.engine.submit(job("good", n=2, steps=5))
        await bench.wait(lambda: len(bench.ends()) == 3)

    bench = run(story, lanes={"m": lane})

    assert [e.message for e in bench.of(JobFailed)] == ["it broke"]  # type: ignore[union-attr]
    assert [e.job_id for e in bench.of(OutputReady)] == ["good", "good"]  # type: ignore[union-attr]


def test_a_model_that_does_not_load_fails_its_waiting_jobs_and_those_of_its_cooldown_and_no_others() -> None:
    async def story(bench: Bench) -> None:
        bench.engine.submit(job("lost", model="missing"))
        bench.engine.submit(job("fine"))
        await bench.wait(lambda: len(bench.ends()) == 2)
        bench.engine.submit(job("again", model="missing"))
        await bench.wait(lambda: len(bench.ends()) == 3)

    bench = run(story)

    codes = {e.job_id: e.code for e in bench.of(JobFailed)}  # type: ignore[union-attr]
    assert codes == {"lost": "model_load_failed", "again": "model_load_failed"}
    (failed,) = [m for m in bench.of(EngineStatus)[-1].models if m.model == "missing"]  # type: ignore[union-attr]
    assert (failed.state, failed.load_error.detail) == ("failed", "KeyError: 'missing'")
    assert bench.scheduler.ledger.held_by("missing") == 0


def test_a_model_larger_than_the_device_is_refused_with_the_figures() -> None:
    async def story(bench: Bench) -> None:
        with pytest.raises(NeverFits, match=r"needs 3\.0 GiB, this device has 1000 B for models"):
            bench.engine.submit(job("j"), need_bytes=3 * 2**30)

    run(story)


def test_a_draining_engine_refuses_jobs_finishes_the_running_ones_and_does_not_start_the_waiting_ones() -> None:
    lane = HeldLane()

    async def story(bench: Bench) -> None:
        bench.engine.submit(job("running", n=4, steps=3))
        await bench.wait(lambda: len(bench.of(JobStarted)) == 1)
        bench.engine.submit(job("waiting", n=4))
        draining = asyncio.create_task(bench.engine.drain(5))
        await asyncio.sleep(0)  # `drain` has sent its message
        lane.go.set()
        await draining
        with pytest.raises(Unavailable, match="shutting down"):
            bench.engine.submit(job("late"))

    bench = run(story, lanes={"m": lane})

    assert {e.job_id for e in bench.ends()} == {"running"}  # type: ignore[union-attr]


def test_a_poisoned_device_ends_the_process_and_the_engine_is_not_ready() -> None:
    lane = FakeLane(explodes=SystemError("CUDA error: an illegal memory access was encountered"))

    async def story(bench: Bench) -> None:
        bench.engine.submit(job("j", type_="chat"))
        await bench.wait(lambda: len(bench.ends()) == 1)

    bench = run(story, lanes={"m": lane})

    assert bench.died
    assert bench.engine.not_ready_reason is not None


@pytest.mark.parametrize("error", [ValueError("a bug"), BaseException("a panic of native code")])
def test_a_lane_that_raises_fails_its_jobs_and_leaves_the_device_and_other_models_go_on(error: BaseException) -> None:
    lanes = {"m": FakeLane(explodes=error), "other": FakeLane()}

    async def story(bench: Bench) -> None:
        bench.engine.submit(job("beside", model="other", steps=50))
        bench.engine.submit(job("j", n=2))
        await bench.wait(lambda: len(bench.ends()) == 2)
        lanes["m"] = FakeLane()
        bench.engine.submit(job("again"))
        await bench.wait(lambda: len(bench.ends()) == 3)
        assert bench.engine.alive

    bench = run(story, lanes=lanes)

    failed = [event for event in bench.ends() if isinstance(event, JobFailed)]
    assert [(event.job_id, event.code, event.retryable) for event in failed] == [("j", "model_error", True)]
    assert {event.job_id for event in bench.events if isinstance(event, OutputReady)} == {"beside", "again"}
    assert bench.loads.count("m") == 2


def test_an_engine_that_stopped_on_an_error_is_not_alive_and_refuses_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(bench: Bench) -> None:
        monkeypatch.setattr(bench.scheduler, "stepped", None)  # a bug of the server's own, wherever it is
        monkeypatch.setattr(bench.scheduler, "evicted", None)
        bench.engine.submit(job("j", type_="chat"))
        await bench.wait(lambda: len(bench.ends()) == 1)
        await asyncio.to_thread(bench.engine._thread.join, 5)
        with pytest.raises(Unavailable):
            bench.engine.submit(job("k"))

    bench = run(story)

    assert not bench.died
    assert not bench.engine.alive


def test_the_status_shows_what_each_job_waits_for_and_its_memory_holders_add_up() -> None:
    async def story(bench: Bench) -> None:
        bench.engine.submit(job("r", n=4, steps=10**9))
        bench.engine.submit(job("w", n=4, steps=1))
        await bench.wait(lambda: any(isinstance(e, EngineStatus) and e.running and e.queue for e in bench.events))
        bench.engine.send(Cancel("r"))

    bench = run(story)
    status = next(e for e in bench.events if isinstance(e, EngineStatus) and e.running and e.queue)

    assert [entry.job_id for entry in status.running] == ["r"]
    assert [(entry.job_id, entry.waiting_for, entry.eta_s) for entry in status.queue] == [("w", "turn", None)]
    assert sum(holder.n_bytes for holder in status.device.holders) == status.device.used_bytes == 100


def test_a_model_is_loaded_and_unloaded_on_request_without_a_job() -> None:
    lane = FakeLane()

    async def story(bench: Bench) -> None:
        bench.engine.send(LoadModel("m"))
        await bench.wait(lambda: any(isinstance(e, EngineStatus) and e.device.used_bytes for e in bench.events))
        bench.engine.send(UnloadModel("m"))
        await bench.wait(lambda: lane.closed)

    assert run(story, lanes={"m": lane}).scheduler.ledger.booked_bytes == 0


def test_a_busy_model_that_is_unloaded_finishes_its_running_jobs_and_is_loaded_again_for_the_waiting_one() -> None:
    async def story(bench: Bench) -> None:
        bench.engine.submit(job("running", steps=200))
        await bench.wait(lambda: len(bench.of(JobStarted)) == 1)
        bench.engine.send(UnloadModel("m"))
        bench.engine.submit(job("waiting", steps=1))
        await bench.wait(lambda: len(bench.ends()) == 2)

    bench = run(story)

    assert [(type(e), e.job_id) for e in bench.ends()] == [(OutputReady, "running"), (OutputReady, "waiting")]
    assert bench.loads == ["m", "m"]


def test_a_pinned_model_ignores_an_unload_and_is_evicted_once_it_is_unpinned() -> None:
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


def test_a_recall_returns_a_waiting_job_and_leaves_a_running_one_alone() -> None:
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


def test_a_forgotten_model_fails_its_waiting_jobs_finishes_the_running_ones_and_is_evicted_although_pinned() -> None:
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


def test_jobs_of_other_models_run_while_the_files_of_a_model_are_read() -> None:
    """The reading thread waits until two jobs of another model have ended."""
    read_ends = threading.Event()
    bench = Bench(lanes={"m": FakeLane(), "slow": FakeLane()}, slow_model="slow", read_ends=read_ends)

    async def story(bench: Bench) -> None:
        bench.engine.submit(job("first", model="m"))
        bench.engine.submit(job("waits", model="slow"))
        bench.engine.submit(job("second", model="m"))
        await bench.wait(lambda: len(bench.of(OutputReady)) == 2)
        assert bench.scheduler.ledger.held_by("slow", "weights") == 100  # booked before the load
        read_ends.set()
        await bench.wait(lambda: len(bench.of(OutputReady)) == 3)

    run(story, bench=bench)

    assert [event.job_id for event in bench.of(OutputReady)] == ["first", "second", "waits"]


def test_a_model_is_loaded_although_its_files_could_not_be_read_ahead() -> None:
    bench = Bench(slow_model="m")

    async def story(bench: Bench) -> None:
        bench.engine.submit(job("j"))
        await bench.wait(lambda: len(bench.of(OutputReady)) == 1)

    assert run(story, bench=bench).loads == ["m"]
