"""How many steps the executor runs for one `Step` action, with fake lanes and a clock that each step advances."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from typing import Any

import pytest

from pipelines.interface import Update
from server.engine.doing import Doing
from server.engine.executor import Executor
from server.engine.model_loader import Device
from server.engine.outbox import Outbox
from server.job import Job
from server.memory.ledger import Ledger
from server.protocol import Drain, Message, Submit
from server.scheduling.actions import ModelFacts, Step
from server.scheduling.scheduler import Scheduler
from tests.support.jobs import job
from tests.support.lanes.fake_lane import FakeLane, is_memory_error


class StepClock:
    """A clock that each step of its lane advances by 10 ms."""

    def __init__(self) -> None:
        self.now = 0.0

    def lane(self, kind: Any) -> FakeLane:
        clock = self

        class Lane(FakeLane):
            def step(self, *args: Any, **kwargs: Any) -> Sequence[Update]:
                clock.now += 0.01
                return super().step(*args, **kwargs)

        return Lane(kind=kind)


def executor_of(lane: FakeLane, clock: StepClock) -> tuple[Executor, Scheduler, queue.SimpleQueue[Message]]:
    """An executor with `lane` as the model "m" and another one, its scheduler and its inbox."""
    scheduler = Scheduler(
        Ledger(name="fake", capacity_bytes=1000), lambda model: ModelFacts(model, lane.kind, 100, 4, 1000.0)
    )
    lanes = {"m": lane, "other": FakeLane()}
    device = Device(
        load=lambda model: lanes[model],
        read=lambda model: None,
        read_memory=lambda: None,
        is_fatal=lambda error: False,
        is_out_of_memory=is_memory_error,
        die=lambda: None,
        warm_up=lambda: None,
    )
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    outbox = Outbox(lambda event: None, lambda: clock.now)
    executor = Executor(scheduler, device, inbox, outbox, Doing(5, lambda: clock.now), clock=lambda: clock.now)
    return executor, scheduler, inbox


def steps_of_one_action(
    lane: FakeLane, clock: StepClock, jobs: Sequence[Job], *, message_waits: bool = False, other_job: Job | None = None
) -> int:
    """Returns the steps that `lane` takes for the first `Step` action once all jobs are admitted."""
    executor, scheduler, inbox = executor_of(lane, clock)
    for job_ in (*jobs, *filter(None, [other_job])):
        executor.handle(Submit(job_, 0.0))
    if message_waits:
        inbox.put(Drain())
    while not isinstance(action := scheduler.next_action(clock.now), Step) or action.model != "m":
        executor.carry_out(action)
    lane.step_log.clear()
    executor.carry_out(action)
    return len(lane.step_log)


@pytest.mark.parametrize(
    ("kind", "jobs", "circumstances", "steps"),
    [
        ("image", [job("a", steps=50)], {}, 5),
        ("image", [job("a", steps=50)], {"message_waits": True}, 1),
        ("image", [job("a", steps=50)], {"other_job": job("b", steps=50, model="other")}, 1),
        ("image", [job("a", steps=50), job("b", steps=50)], {}, 1),
        ("chat", [job("a", steps=50)], {}, 1),
    ],
    ids=[
        "a job alone",
        "a message waits",
        "another model has work",
        "there is a width to choose",
        "a chat, whose tokens are sent one by one",
    ],
)
def test_equal_steps_of_a_job_alone_are_run_without_a_new_decision_for_a_short_time(
    kind: Any, jobs: list[Job], circumstances: dict[str, Any], steps: int
) -> None:
    clock = StepClock()
    assert steps_of_one_action(clock.lane(kind), clock, jobs, **circumstances) == steps


def test_a_lane_goes_on_as_soon_as_its_files_are_read_though_another_took_all_steps_meanwhile() -> None:
    clock = StepClock()
    lane = clock.lane("image")
    executor, scheduler, _ = executor_of(lane, clock)
    lane.waits = True
    for job_ in (job("reads", steps=3), job("b", steps=50, model="other")):
        executor.handle(Submit(job_, 0.0))
    for _ in range(20):
        executor.look_for_inputs()
        executor.carry_out(scheduler.next_action(clock.now))
    assert lane.step_log == []
    lane.waits = False
    executor.look_for_inputs()
    for _ in range(10):
        executor.carry_out(scheduler.next_action(clock.now))

    assert lane.step_log
