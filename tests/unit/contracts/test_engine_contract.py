"""One contract for all implementations of the engine port: the tests' fake engine, a real engine, and a fleet of two.

It covers everything that the event loop relies on, so that a test with the fake engine shows what a real one would do.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from server.engine.engine import Engine
from server.engine.model_loader import Device
from server.errors import NeverFits, Unavailable
from server.fleet.fleet import Fleet
from server.memory.ledger import Ledger
from server.protocol import (
    Cancel,
    Event,
    Forget,
    JobCanceled,
    JobFailed,
    JobReturned,
    JobStarted,
    KeepAlive,
    LoadModel,
    OutputReady,
    Pin,
    Recall,
    UnloadModel,
)
from server.scheduling.actions import ModelFacts
from server.scheduling.scheduler import Scheduler
from tests.fakes import FakeEngine
from tests.support.jobs import job
from tests.support.lanes.fake_lane import FakeLane, is_memory_error

pytestmark = pytest.mark.anyio
CAPACITY = 1000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Case:
    """An implementation of the port, and the events that it delivered."""

    def __init__(self, make: Callable[[Callable[[Event], None]], Any]) -> None:
        self.events: list[Event] = []
        self._delivered = asyncio.Event()
        self.engine = make(self._deliver)

    def _deliver(self, event: Event) -> None:
        self.events.append(event)
        self._delivered.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self._delivered.clear()
                if isinstance(self.engine, FakeEngine):
                    self.engine.work()
                await self._delivered.wait()

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def ends(self) -> Counter[str]:
        """Returns how often each job ended, by job id. For jobs of one output."""
        return Counter(event.job_id for event in self.of((OutputReady, JobFailed, JobCanceled)))


def fake(deliver: Callable[[Event], None]) -> FakeEngine:
    engine = FakeEngine(CAPACITY)
    engine.deliver = deliver
    return engine


def real(deliver: Callable[[Event], None]) -> Engine:
    scheduler = Scheduler(
        Ledger(name="fake", capacity_bytes=CAPACITY), lambda model: ModelFacts(model, "image", 100, 4, 1000.0)
    )
    device = Device(
        load=lambda model: FakeLane(),
        read_memory=lambda: None,
        is_fatal=lambda error: False,
        is_out_of_memory=is_memory_error,
        die=lambda: None,
        warm_up=lambda: None,
    )
    return Engine(scheduler, device, deliver, step_timeout_s=5)


def fleet(deliver: Callable[[Event], None]) -> Fleet:
    return Fleet([real, real], deliver, names=["cuda:0", "cuda:1"])


@pytest.fixture(params=[fake, real, fleet], ids=["fake", "engine", "fleet"])
async def case(request: pytest.FixtureRequest) -> AsyncIterator[Case]:
    async with started(request.param) as case:
        yield case


@asynccontextmanager
async def started(make: Callable[[Callable[[Event], None]], Any]) -> AsyncIterator[Case]:
    case = Case(make)
    case.engine.start()
    yield case
    await case.engine.drain(2)


async def test_a_started_engine_is_alive_ready_and_has_bytes_for_models(case: Case) -> None:
    engine = case.engine
    assert (engine.alive, engine.stuck_in, engine.not_ready_reason, engine.draining) == (True, None, None, False)
    assert engine.usable_bytes == CAPACITY


async def test_every_job_starts_once_and_gives_each_output_once_after_its_start(case: Case) -> None:
    for i in range(3):
        case.engine.submit(job(f"j{i}"), 100)
    case.engine.submit(job("many", n=3), 100)
    await case.until(lambda: len(case.of(OutputReady)) == 6)

    assert Counter(event.job_id for event in case.of(JobStarted)) == {"j0": 1, "j1": 1, "j2": 1, "many": 1}
    assert sorted(event.index for event in case.of(OutputReady) if event.job_id == "many") == [0, 1, 2]
    starts = {event.job_id: case.events.index(event) for event in case.of(JobStarted)}
    assert all(starts[event.job_id] < case.events.index(event) for event in case.of(OutputReady))


async def test_a_job_larger_than_the_device_is_refused_and_one_that_just_fits_runs(case: Case) -> None:
    for refused_call in (
        lambda: case.engine.submit(job("j"), CAPACITY + 1),
        lambda: case.engine.check_fits("m", CAPACITY + 1),
    ):
        with pytest.raises(NeverFits, match="m needs"):
            refused_call()
    case.engine.check_fits("m", CAPACITY)
    case.engine.submit(job("fits"), CAPACITY)
    await case.until(lambda: bool(case.of(OutputReady)))

    assert case.ends() == {"fits": 1}


async def test_a_job_that_is_canceled_twice_ends_once_and_other_jobs_run(case: Case) -> None:
    case.engine.submit(job("long", steps=10_000_000))
    case.engine.send(Cancel("long"))
    case.engine.send(Cancel("long"))
    case.engine.send(Cancel("unknown"))
    case.engine.submit(job("next"))
    await case.until(lambda: case.ends().keys() == {"long", "next"})

    assert case.of(JobCanceled) == [JobCanceled("long")]
    assert case.ends() == {"long": 1, "next": 1}


async def test_messages_about_models_are_accepted_and_unknown_names_are_ignored(case: Case) -> None:
    for model in ("m", "unknown"):
        for message in (
            LoadModel(model, 100), KeepAlive(model, 5.0), KeepAlive(model, None), Pin(model, True), Pin(model, False),
            UnloadModel(model), Recall(model), Forget("other"),
        ):  # fmt: skip
            case.engine.send(message)
    case.engine.submit(job("j"))
    await case.until(lambda: bool(case.of(OutputReady)))

    assert (case.ends(), case.of(JobReturned)) == ({"j": 1}, [])


async def test_a_draining_engine_refuses_jobs_with_the_reason_and_ignores_messages(case: Case) -> None:
    await case.engine.drain(2)

    assert (case.engine.draining, case.engine.not_ready_reason) == (True, "the server is shutting down")
    with pytest.raises(Unavailable, match="shutting down"):
        case.engine.submit(job("late"))
    case.engine.send(Cancel("late"))


@pytest.mark.parametrize("make", [fake, real, fleet], ids=["fake", "engine", "fleet"])
async def test_an_engine_that_was_not_started_refuses_jobs(make: Callable[[Callable[[Event], None]], Any]) -> None:
    case = Case(make)
    with pytest.raises(Unavailable):
        case.engine.submit(job("early"))
