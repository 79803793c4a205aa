"""Runs the engines of a fleet without threads. Each has a clock of its own; the one that is furthest behind acts next.

Devices work side by side, so a step or a load advances only the clock of its own engine. Nothing races.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.interface import Update
from server.engine.engine import Engine
from server.engine.model_loader import Device
from server.memory.ledger import Ledger
from server.protocol import Event
from server.scheduling.actions import ModelFacts
from server.scheduling.scheduler import Scheduler
from tests.support.lanes.fake_lane import FakeLane, is_memory_error


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class TimedLane(FakeLane):
    """Each row of its steps takes `step_s` on its engine's clock."""

    clock: Clock

    def step(self, *args: Any, **kwargs: Any) -> Sequence[Update]:
        before = len(self.step_log)
        updates = super().step(*args, **kwargs)
        self.clock.now += self.step_s * sum(map(len, self.step_log[before:]))
        return updates


class ThreadlessEngine(Engine):
    """Takes its turns when `ThreadlessEngines` asks it to."""

    def __init__(self, clock: Clock, *args: Any) -> None:
        super().__init__(*args, clock=clock)
        self.clock = clock
        self.waits = True  # for a message

    def start(self) -> None:
        self._outbox.bind(asyncio.get_running_loop())
        self._not_ready_reason = None

    def turn(self) -> None:
        self.waits = False
        self._handle_messages(block=False)
        self._turn()

    @property
    def has_messages(self) -> bool:
        return not self._inbox.empty()

    def _handle_messages(self, *, block: bool, until: float | None = None) -> bool:
        if block:
            self.waits = True
            return True
        return super()._handle_messages(block=False)


class ThreadlessEngines:
    """Makes the engines of a fleet, and runs them."""

    def __init__(
        self, facts: Callable[[str], ModelFacts], *, capacity: int, load_s: float, step_s: Sequence[float]
    ) -> None:
        """step_s: seconds of a step, by device."""
        self._facts = facts
        self._capacity = capacity
        self._load_s = load_s
        self._step_s = step_s
        self.engines: list[ThreadlessEngine] = []
        self.lanes: list[tuple[int, TimedLane]] = []  # with their devices, in the order in which they were loaded

    def clock(self) -> float:
        """Returns the time that all engines have reached."""
        return min((engine.clock.now for engine in self.engines), default=0.0)

    def make(self, deliver: Callable[[Event], None]) -> ThreadlessEngine:
        clock, device = Clock(), len(self.engines)

        def load(_: str) -> FakeLane:
            clock.now += self._load_s
            lane = TimedLane(step_s=self._step_s[device])
            lane.clock = clock
            self.lanes.append((device, lane))
            return lane

        ledger = Ledger(name=f"cpu {device}", capacity_bytes=self._capacity)
        functions = Device(
            load=load,
            read_memory=lambda: None,
            is_fatal=lambda error: False,
            is_out_of_memory=is_memory_error,
            die=lambda: None,
            warm_up=lambda: None,
        )
        self.engines.append(ThreadlessEngine(clock, Scheduler(ledger, self._facts), functions, deliver))
        return self.engines[-1]

    async def run_until_idle(self) -> None:
        """Run the engines until all of them wait and no message is left."""
        while active := [engine for engine in self.engines if not engine.waits or engine.has_messages]:
            engine = min(active, key=lambda engine: engine.clock.now)
            if engine.waits:  # it slept until another engine, whose clock is ahead, caused the message
                others = [other.clock.now for other in self.engines if other is not engine]
                engine.clock.now = max(engine.clock.now, min(others, default=0.0))
            engine.turn()
            await asyncio.sleep(0)  # lets the loop deliver the events

    def steps(self, device: int) -> int:
        return sum(len(lane.step_log) for lane_device, lane in self.lanes if lane_device == device)
