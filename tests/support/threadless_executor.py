"""The scheduler and the executor over fake lanes, without a thread: a test takes each turn, on a clock of its own."""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.interface import Lane
from server.engine.doing import Doing
from server.engine.executor import Executor
from server.engine.model_loader import Device
from server.memory.ledger import Ledger, Reading
from server.protocol import Event, Message
from server.scheduling.actions import Action, ModelFacts, Wait
from server.scheduling.scheduler import Scheduler
from tests.support.lanes.fake_lane import is_memory_error


@dataclass
class ThreadlessExecutor:
    lanes: Mapping[str, Lane]
    capacity: int = 1000
    host_bytes: int = 0
    sizes: Mapping[str, int] = field(default_factory=dict)  # bytes by model; 100 for all others
    reading: Callable[[], Reading | None] = lambda: None
    turn_s: float = 0.1
    policy: Mapping[str, Any] = field(default_factory=dict)  # further arguments of the scheduler

    def __post_init__(self) -> None:
        self.now = 0.0
        self.cache_sizes: dict[str, int] = {}  # bytes of KV cache by model, as its lane had them at first
        self.load_failures: dict[str, list[Exception]] = {}  # by model: raised by its next loads, the last one first
        self.events: list[Event] = []
        self.actions: list[Action] = []
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        ledger = Ledger(name="fake", capacity_bytes=self.capacity, host_bytes=self.host_bytes)
        self.scheduler = Scheduler(ledger, self._facts, min_residency_s=0, **self.policy)
        device = Device(
            load=self._load,
            read_memory=self.reading,
            is_fatal=lambda error: False,
            is_out_of_memory=is_memory_error,
            die=lambda: None,
            warm_up=lambda: None,
        )
        self.executor = Executor(
            self.scheduler,
            device,
            self.inbox,
            self,  # type: ignore[arg-type]  # only `put` of an outbox is needed
            Doing(5, lambda: 0.0),
            clock=self._clock,
        )

    def put(self, event: Event) -> None:
        """Take an event as the outbox does."""
        self.events.append(event)

    def send(self, *messages: Message) -> None:
        for message in messages:
            self.executor.handle(message)

    def turn(self) -> Action:
        self.scheduler.observe(self.reading())
        action = self.scheduler.next_action(self.now)
        self.actions.append(action)
        if not isinstance(action, Wait):
            self.executor.carry_out(action)
        self.now += self.turn_s
        return action

    def turns(self, n: int) -> list[Action]:
        return [self.turn() for _ in range(n)]

    def until(self, condition: Callable[[Action], bool], most: int = 500) -> Action:
        """Take turns until an action that was carried out fulfils the condition."""
        for _ in range(most):
            action = self.turn()
            if condition(action):
                return action
        raise AssertionError(f"no action fulfilled the condition: {self.actions[:10]} … {self.actions[-20:]}")

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def _clock(self) -> float:
        """Advances by each look at it, so that equal steps do not follow each other for ever."""
        self.now += 0.03
        return self.now

    def _load(self, model: str) -> Lane:
        if failures := self.load_failures.get(model):
            raise failures.pop()
        return self.lanes[model]

    def _facts(self, model: str) -> ModelFacts:
        kind = self.lanes[model].kind
        cache_bytes = self.cache_sizes.setdefault(model, self.lanes[model].cache_bytes)
        return ModelFacts(model, kind, self.sizes.get(model, 100), 4, 1000.0, cache_bytes=cache_bytes)
