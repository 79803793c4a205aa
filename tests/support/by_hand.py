"""Engines without threads, each with a clock of its own: the one that is furthest behind takes the next turn. Nothing races.

Devices work side by side, so a step or a load moves only the clock of its own engine.
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
from tests.support.fake_lane import FakeLane


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class TimedLane(FakeLane):
    """Its steps take `step_s` for each of their rows on its engine's clock."""

    clock: Clock

    def step(self, *args: Any, **kwargs: Any) -> Sequence[Update]:
        before = len(self.step_log)
        updates = super().step(*args, **kwargs)
        self.clock.now += self.step_s * sum(map(len, self.step_log[before:]))
        return updates


class HandEngine(Engine):
    """Turned by `Hand`, not by a thread."""

    def __init__(self, clock: Clock, *args: Any) -> None:
        super().__init__(*args, clock=clock)
        self.clock = clock
        self.resting = True

    def start(self) -> None:
        self._outbox.bind(asyncio.get_running_loop())
        self._not_ready_reason = None

    def turn(self) -> None:
        self.resting = False
        self._handle_messages(block=False)
        self._turn()

    @property
    def has_mail(self) -> bool:
        return not self._inbox.empty()

    def _handle_messages(self, *, block: bool, until: float | None = None) -> bool:
        if block:
            self.resting = True
            return True
        return super()._handle_messages(block=False)


class Hand:
    """Makes the engines of a fleet, and turns them."""

    def __init__(
        self, facts: Callable[[str], ModelFacts], *, capacity: int, load_s: float, step_s: Sequence[float]
    ) -> None:
        """`step_s`: seconds of a step, by device."""
        self._facts = facts
        self._capacity = capacity
        self._load_s = load_s
        self._step_s = step_s
        self.engines: list[HandEngine] = []
        self.lanes: list[tuple[int, TimedLane]] = []  # in the order they were loaded, with their device

    def clock(self) -> float:
        """How far all have come."""
        return min((engine.clock.now for engine in self.engines), default=0.0)

    def make(self, deliver: Callable[[Event], None]) -> HandEngine:
        clock, device = Clock(), len(self.engines)

        def load(_: str) -> FakeLane:
            clock.now += self._load_s
            lane = TimedLane(step_s=self._step_s[device])
            lane.clock = clock
            self.lanes.append((device, lane))
            return lane

        ledger = Ledger(name=f"cpu {device}", capacity_bytes=self._capacity)
        tools = Device(load, lambda: None, lambda _: False, lambda: None, lambda: None)
        self.engines.append(HandEngine(clock, Scheduler(ledger, self._facts), tools, deliver))
        return self.engines[-1]

    async def work(self) -> None:
        """Until every engine rests and nobody has told it anything."""
        while awake := [engine for engine in self.engines if not engine.resting or engine.has_mail]:
            behind = min(awake, key=lambda engine: engine.clock.now)
            if behind.resting:  # it slept until it was told something, by one that has come so far
                others = [engine.clock.now for engine in self.engines if engine is not behind]
                behind.clock.now = max(behind.clock.now, min(others, default=0.0))
            behind.turn()
            await asyncio.sleep(0)  # the loop hears of it

    def steps(self, device: int) -> int:
        return sum(len(lane.step_log) for its, lane in self.lanes if its == device)
