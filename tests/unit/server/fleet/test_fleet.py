"""A fleet of two devices: with engines that only record calls, and with two real engines over fake lanes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest

from pipelines.diffusion_interface import DiffusionRequest
from pipelines.interface import Update
from server.engine.engine import Engine
from server.engine.model_loader import Device
from server.engine_status import DeviceStatus, EngineStatus, ModelStatus, QueueEntry
from server.errors import Conflict, NeverFits, Unavailable
from server.fleet.fleet import Fleet
from server.job import Job
from server.memory.ledger import Ledger
from server.protocol import (
    Cancel,
    Event,
    JobCanceled,
    JobEmbedded,
    JobFailed,
    JobReplied,
    JobReturned,
    JobStarted,
    KeepAlive,
    LoadModel,
    Message,
    OutputReady,
    Pin,
    Recall,
    UnloadModel,
)
from server.scheduling.actions import ModelFacts
from server.scheduling.scheduler import Scheduler
from tests.support.lanes.fake_lane import FakeLane, is_memory_error
from tests.support.threadless_engines import ThreadlessEngines

pytestmark = pytest.mark.anyio
GIB = 2**30


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class RecordingEngine:
    """Records the calls of the fleet and starts no job."""

    deliver: Callable[[Event], None]
    usable_bytes: int = 10 * GIB
    not_ready_reason: str | None = None
    alive: bool = True
    stuck_in: str | None = None
    draining: bool = False
    jobs: list[str] = field(default_factory=list)
    submitted_at: dict[str, float | None] = field(default_factory=dict)
    calls: list[object] = field(default_factory=list)

    def start(self) -> None:
        self.calls.append(("start",))

    def submit(self, job: Job, need_bytes: int = 0, at: float | None = None) -> None:
        if self.not_ready_reason:
            raise Unavailable("no")
        self.jobs.append(job.id)
        self.submitted_at[job.id] = at

    def send(self, message: Message) -> None:
        self.calls.append(message)

    async def drain(self, timeout_s: float) -> None:
        self.calls.append(("drain", timeout_s))


class FleetOfTwo:
    """A fleet of two recording engines, and the events that it delivered."""

    def __init__(self) -> None:
        self.now = 100.0
        self.delivered: list[Event] = []
        self.engines: list[RecordingEngine] = []
        self.fleet = Fleet([self.make, self.make], self.delivered.append, clock=lambda: self.now)

    def make(self, deliver: Callable[[Event], None]) -> RecordingEngine:
        self.engines.append(RecordingEngine(deliver))
        return self.engines[-1]

    def submit(self, *job_ids: str, model: str = "a") -> None:
        for job_id in job_ids:
            self.fleet.submit(job(job_id, model), 4 * GIB)

    def status(self, device: int, *waiting: str, models: tuple[ModelStatus, ...] = (), free: int = 10) -> None:
        queue = tuple(QueueEntry(job_id, "turn", 0, None) for job_id in waiting)
        of_device = DeviceStatus(f"cpu {device}", 10 * GIB, 0, 0, 0, free * GIB, ())
        self.engines[device].deliver(EngineStatus(queue, (), models, of_device))


def job(job_id: str, model: str = "a", steps: int = 2) -> Job:
    request = DiffusionRequest(
        id=f"{job_id}/0", prompt="p", negative_prompt=None, width=8, height=8, num_frames=None, steps=steps,
        guidance_scale=None, seed=0,
    )  # fmt: skip
    return Job(id=job_id, owner="anna", type="image", model=model, requests=(request,))


def resident(model: str, pinned: bool = False) -> ModelStatus:
    return ModelStatus(model, "resident", 4 * GIB, 0, "on", 0, None, pinned=pinned)


def test_jobs_of_one_model_share_a_device_and_those_of_another_model_go_to_the_idle_device() -> None:
    two = FleetOfTwo()
    two.submit("1", "2")
    two.submit("3", model="b")
    two.submit("4")

    assert [engine.jobs for engine in two.engines] == [["1", "2", "4"], ["3"]]


@pytest.mark.parametrize(
    "end",
    [
        OutputReady("1", 0, np.zeros((1, 8, 8, 3), np.float32), 2, "x"),
        JobReplied("1", "Hi", 1, 1, "stop"),
        JobEmbedded("1", np.zeros((1, 4), np.float32), 3),
        JobFailed("1", "model_error", "no", True),
        JobCanceled("1"),
    ],
    ids=lambda end: type(end).__name__,
)
def test_every_end_of_a_job_makes_its_device_idle_again(end: Event) -> None:
    two = FleetOfTwo()
    two.submit("1")
    two.engines[0].deliver(JobStarted("1", 0, 0))
    two.engines[0].deliver(end)

    assert two.delivered[-1] is end
    assert two.fleet._assignments.get("1") is None
    assert not any(two.fleet._assignments.job_counts)


def test_a_waiting_job_moves_to_the_idle_device_and_keeps_its_submission_time() -> None:
    two = FleetOfTwo()
    two.submit("1", "2", "3")
    two.engines[0].deliver(JobStarted("1", 0, 0))
    two.now = 130.0
    two.status(1, models=(resident("a"),))
    two.status(0, "2", "3", models=(resident("a"),))
    assert two.engines[0].calls == [Recall("2")]
    two.status(0, "2", "3", models=(resident("a"),))  # it was not returned yet: no second recall
    assert two.engines[0].calls == [Recall("2")]

    two.engines[0].deliver(JobReturned(job("2")))

    assert two.engines[1].jobs == ["2"]
    assert two.engines[1].submitted_at == {"2": 100.0}
    assert not any(isinstance(event, JobReturned) for event in two.delivered)


def test_a_job_canceled_during_its_move_is_canceled_and_runs_on_no_device() -> None:
    two = FleetOfTwo()
    two.submit("1", "2")
    two.status(1, models=(resident("a"),))
    two.status(0, "1", "2", models=(resident("a"),))
    moving = two.engines[0].calls[0].job_id
    two.fleet.send(Cancel(moving))
    two.engines[0].deliver(JobReturned(job(moving)))

    assert JobCanceled(moving) in two.delivered
    assert two.engines[1].jobs == []
    assert two.engines[0].calls[-1] == Cancel(moving)


def test_a_job_that_started_before_the_recall_arrived_stays_on_its_device() -> None:
    two = FleetOfTwo()
    two.submit("1", "2")
    two.status(1, models=(resident("a"),))
    two.status(0, "1", "2", models=(resident("a"),))
    two.engines[0].deliver(JobStarted("1", 0, 0))
    two.engines[0].deliver(OutputReady("1", 0, None, 1, "S"))  # type: ignore[arg-type]  # no frames needed

    two.submit("3", model="b")  # the target of the abandoned move counts as idle again
    assert two.engines[1].jobs == ["3"]


def test_a_job_returned_to_a_draining_fleet_fails_with_engine_stopped() -> None:
    two = FleetOfTwo()
    two.submit("1", "2")
    two.status(1, models=(resident("a"),))
    two.status(0, "1", "2", models=(resident("a"),))
    two.engines[1].not_ready_reason = "the server is shutting down"
    two.engines[0].deliver(JobReturned(job("1")))

    assert [event.code for event in two.delivered if isinstance(event, JobFailed)] == ["engine_stopped"]


def test_a_fleet_with_a_dead_or_stuck_engine_is_dead_or_stuck() -> None:
    two = FleetOfTwo()
    assert two.fleet.alive
    two.engines[1].alive, two.engines[1].stuck_in = False, "step"
    assert (two.fleet.alive, two.fleet.stuck_in) == (False, "step")
    two.engines[1].not_ready_reason = "it broke"
    assert two.fleet.not_ready_reason == "it broke"


def test_a_model_that_can_never_run_is_refused_with_the_figures() -> None:
    two = FleetOfTwo()
    with pytest.raises(NeverFits, match=r"11\.0 GiB, the largest device here has 10\.0 GiB"):
        two.fleet.check_fits("a", 11 * GIB)
    for device in (0, 1):
        two.status(device, models=(resident("p", pinned=True),))
    two.fleet.check_fits("a", 6 * GIB)
    two.fleet.check_fits("p", 9 * GIB)  # it is loaded already
    with pytest.raises(Conflict, match="Unpin"):
        two.fleet.check_fits("a", 7 * GIB)


def test_an_unpinned_model_is_in_nobodys_way_although_no_engine_has_reported_it_yet() -> None:
    two = FleetOfTwo()
    for device in (0, 1):
        two.status(device, models=(resident("p", pinned=True),))
    two.fleet.send(Pin("p", False))
    two.fleet.check_fits("a", 7 * GIB)
    two.fleet.send(Pin("p", True))
    with pytest.raises(Conflict, match="Unpin"):
        two.fleet.check_fits("a", 7 * GIB)


def test_a_model_bound_to_a_device_loads_and_runs_only_there_and_an_unknown_device_is_refused() -> None:
    engines: list[RecordingEngine] = []

    def make(deliver: Callable[[Event], None]) -> RecordingEngine:
        engines.append(RecordingEngine(deliver))
        return engines[-1]

    bound = {"a": "cuda:1", "b": "cuda", "c": "cuda:7"}
    fleet = Fleet([make, make], lambda event: None, names=["cuda:0", "cuda:1"], device_of=bound.get)

    for number in range(4):
        fleet.submit(job(f"a{number}", "a"), GIB)
        fleet.submit(job(f"b{number}", "b"), GIB)
    fleet.send(LoadModel("a", GIB))

    assert engines[1].jobs == ["a0", "a1", "a2", "a3"]
    assert engines[0].jobs == ["b0", "b1", "b2", "b3"]
    assert engines[1].calls == [LoadModel("a", GIB)]
    fleet.check_fits("b", GIB)
    with pytest.raises(NeverFits, match="bound to cuda:7, which is not among the devices here: cuda:0, cuda:1"):
        fleet.check_fits("c", GIB)


def test_a_load_goes_to_the_device_with_the_model_and_other_model_messages_go_to_all_devices() -> None:
    two = FleetOfTwo()
    two.status(0, free=2)
    two.status(1, models=(resident("a"),), free=6)
    two.fleet.send(LoadModel("a", 4 * GIB))
    two.fleet.send(UnloadModel("a"))
    two.fleet.send(Pin("a", True))
    two.fleet.send(KeepAlive("a", 5.0))
    common = [UnloadModel("a"), Pin("a", True), KeepAlive("a", 5.0)]

    assert two.engines[0].calls == common
    assert two.engines[1].calls == [LoadModel("a", 4 * GIB), *common]


N_JOBS = 60  # of 20 steps each


async def run_many(load_s: float, *step_s: float) -> ThreadlessEngines:
    """Runs `N_JOBS` jobs of one model, submitted at once, on devices of the given speeds, with their fake clocks."""
    delivered: list[Event] = []
    facts = ModelFacts("a", "image", need_bytes=100, max_running=1, keep_alive_s=float("inf"))
    threadless = ThreadlessEngines(lambda _: facts, capacity=150, load_s=load_s, step_s=step_s)
    fleet = Fleet([threadless.make for _ in step_s], delivered.append, clock=threadless.clock)
    fleet.start()
    for i in range(N_JOBS):
        fleet.submit(job(f"j{i}", steps=20), 100)
    await threadless.run_until_idle()
    assert sorted(event.job_id for event in delivered if isinstance(event, OutputReady)) == sorted(
        f"j{i}" for i in range(N_JOBS)
    )
    return threadless


@pytest.mark.parametrize("load_s", [0.0, 5.0, 50.0])
async def test_two_devices_of_one_speed_share_many_jobs_of_one_model_evenly(load_s: float) -> None:
    threadless = await run_many(load_s, 1.0, 1.0)

    assert len(threadless.lanes) == 2
    assert threadless.steps(0) + threadless.steps(1) == N_JOBS * 20
    assert abs(threadless.steps(0) - threadless.steps(1)) <= 0.1 * N_JOBS * 20


async def test_a_slower_device_gives_waiting_jobs_to_a_faster_one() -> None:
    threadless = await run_many(0.0, 1.0, 10.0)

    assert 0 < threadless.steps(1) <= 0.15 * N_JOBS * 20  # its fair share is 1/11
    # Both finish at about the same time.
    assert max(engine.clock.now for engine in threadless.engines) <= 1.2 * N_JOBS * 20 * 10 / 11


async def test_two_real_engines_share_many_jobs_of_one_model() -> None:
    """The second engine loads a copy once the queue outweighs the load, and no job runs twice."""
    delivered: list[Event] = []
    loads: list[int] = []
    lanes: list[FakeLane] = []
    facts = ModelFacts("a", "image", need_bytes=100, max_running=1, keep_alive_s=float("inf"))

    # The steps of the first lane wait for the second lane, so that the queue outweighs the load on any machine.
    both_loaded = threading.Event()

    class Lane(FakeLane):
        def step(self, *args: Any, **kwargs: Any) -> Sequence[Update]:
            assert both_loaded.wait(30)
            return super().step(*args, **kwargs)

    def load(device: int, _: str) -> FakeLane:
        loads.append(device)
        lanes.append(Lane())
        if len(lanes) == 2:
            both_loaded.set()
        return lanes[-1]

    def make(device: int, deliver: Callable[[Event], None]) -> Engine:
        ledger = Ledger(name=f"cpu {device}", capacity_bytes=150)
        device_calls = Device(
            partial(load, device), lambda: None, lambda _: False, is_memory_error, lambda: None, lambda: None
        )
        return Engine(Scheduler(ledger, lambda _: facts), device_calls, deliver)

    fleet = Fleet([partial(make, 0), partial(make, 1)], delivered.append)
    fleet.start()
    for i in range(200):
        fleet.submit(job(f"j{i}", steps=20), 100)
    rendered: list[str] = []
    for _ in range(2000):
        await asyncio.sleep(0.01)
        rendered = [event.job_id for event in delivered if isinstance(event, OutputReady)]
        if len(rendered) == 200:
            break
    await fleet.drain(5)

    assert sorted(rendered) == sorted({f"j{i}" for i in range(200)})
    assert sorted(loads) == [0, 1]
    assert sum(len(lane.step_log) for lane in lanes) == 200 * 20
    assert all(lane.step_log for lane in lanes)
