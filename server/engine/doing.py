"""What the device thread does now, for the watchdog of this process and for the next process. Written by that thread.

Everything that the thread does between two waits for a message is told here before it begins. Whatever lasts longer
than its limit is overdue: a thread that hangs cannot be ended, only the process can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from server.marks import Mark, described

LOAD_LIMIT_S = 900.0  # a large checkpoint from a slow disk takes minutes
START_LIMIT_S = 900.0  # imports of torch from a cold disk, while other devices wait for their turn


@dataclass(frozen=True, slots=True)
class Action:
    name: str
    model: str
    jobs: Sequence[str]
    until: float  # on the engine's clock; later than this it is overdue

    def __str__(self) -> str:
        return described(self.name, self.model, self.jobs)


class Doing:
    def __init__(self, limit_s: float, clock: Callable[[], float], mark: Mark | None = None) -> None:
        """limit_s: of each action, except of those that may take longer. mark: None in tests without a process."""
        self._limits_s = {"load": max(LOAD_LIMIT_S, limit_s), "start": max(START_LIMIT_S, limit_s)}
        self._limit_s = limit_s
        self._clock = clock
        self._mark = mark
        self._now: Action | None = None  # a reference that the device thread replaces as a whole

    def begin(self, name: str, model: str = "", jobs: Sequence[str] = ()) -> None:
        self._now = Action(name, model, jobs, self._clock() + self._limits_s.get(name, self._limit_s))
        if self._mark is not None:
            self._mark.begin(name, model, jobs)

    def end(self) -> None:
        """The thread waits for a message, or has ended."""
        self._now = None
        if self._mark is not None:
            self._mark.end()

    @property
    def overdue(self) -> str | None:
        """What the thread is stuck in; None while it is not. Called on the event loop."""
        now = self._now
        return str(now) if now is not None and self._clock() >= now.until else None
