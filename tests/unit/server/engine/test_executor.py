"""What one decision of the scheduler has the carrier do, with lanes that compute nothing and a clock of their own."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from typing import Any

import pytest

from pipelines.interface import Update
from server.engine.executor import Executor
from server.engine.model_loader import Device
from server.engine.outbox import Outbox
from server.job import Job
from server.memory.ledger import Ledger
from server.protocol import Drain, Message, Submit
from server.scheduling.actions import ModelFacts, Step
from server.scheduling.scheduler import Scheduler
from tests.support.fake_lane import FakeLane
from tests.support.jobs import job


class Ticking:
    """A clock that each step moves on by 10 ms."""

    def __init__(self) -> None:
        self.now = 0.0

    def lane(self, **how: Any) -> FakeLane:
        clock = self

        class Lane(FakeLane):
            def step(self, *args: Any, **kwargs: Any) -> Sequence[Update]:
                clock.now += 0.01
                return super().step(*args, **kwargs)

        return Lane(**how)


def steps_in_a_turn(
    lane: FakeLane, clock: Ticking, *jobs: Job, pressed: bool = False, beside: Job | None = None
) -> int:
    """What `lane` does of the first `Step` that the scheduler decides once all are admitted."""
    scheduler = Scheduler(
        Ledger(name="fake", capacity_bytes=1000), lambda model: ModelFacts(model, lane.kind, 100, 4, 1000.0)
    )
    lanes = {"m": lane, "other": FakeLane()}
    device = Device(
        load=lambda model: lanes[model],
        read=lambda model: None,
        read_memory=lambda: None,
        is_fatal=lambda error: False,
        die=lambda: None,
        warm_up=lambda: None,
    )
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    outbox = Outbox(lambda event: None, lambda: clock.now)
    executor = Executor(scheduler, device, inbox, outbox, step_timeout_s=5, clock=lambda: clock.now)
    for one in (*jobs, *filter(None, [beside])):
        executor.handle(Submit(one, 0.0))
    if pressed:
        inbox.put(Drain())
    while not isinstance(action := scheduler.next_action(clock.now), Step) or action.model != "m":
        executor.carry_out(action)
    lane.step_log.clear()
    executor.carry_out(action)
    return len(lane.step_log)


@pytest.mark.parametrize(
    ("kind", "jobs", "how", "steps"),
    [
        ("image", [job("a", steps=50)], {}, 5),
        ("image", [job("a", steps=50)], {"pressed": True}, 1),
        ("image", [job("a", steps=50)], {"beside": job("b", steps=50, model="other")}, 1),
        ("image", [job("a", steps=50), job("b", steps=50)], {}, 1),
        ("chat", [job("a", steps=50)], {}, 1),
    ],
    ids=[
        "alone",
        "a message waits",
        "another model works",
        "a width is to be chosen",
        "a chat's words go out one by one",
    ],
)
def test_equal_steps_of_a_job_alone_are_one_turn_for_as_long_as_nobody_notices(
    kind: Any, jobs: list[Job], how: dict[str, Any], steps: int
) -> None:
    clock = Ticking()
    assert steps_in_a_turn(clock.lane(kind=kind), clock, *jobs, **how) == steps
