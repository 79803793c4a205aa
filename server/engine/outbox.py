"""Events on their way from the device thread to the event loop, gathered so that each wake of the loop carries several. Device thread only.

Each wake takes a core from the step that is running, so mere progress waits for company. An event that somebody waits for goes out at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from server.protocol import Event, JobProgressed

logger = logging.getLogger(__name__)

PROGRESS_INTERVAL_S = 0.1


class Outbox:
    def __init__(self, deliver: Callable[[Event], None], clock: Callable[[], float]) -> None:
        """`deliver` is called on the event loop, in the order of the events."""
        self._deliver = deliver
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._events: list[Event] = []
        self._urgent = False  # one of the events is waited for
        self._flush_at = 0.0  # when the others go out

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called on the event loop, before the device thread starts."""
        self._loop = loop

    def put(self, event: Event) -> None:
        self._events.append(event)
        self._urgent = self._urgent or not (isinstance(event, JobProgressed) and 0 < event.step < event.total_steps)

    def flush(self, *, force: bool = False) -> None:
        """Wake the event loop when an urgent event is here, when progress has waited long enough, or when forced."""
        now = self._clock()
        if not self._events or self._loop is None or not (force or self._urgent or now >= self._flush_at):
            return
        events, self._events = self._events, []
        self._urgent, self._flush_at = False, now + PROGRESS_INTERVAL_S
        try:
            self._loop.call_soon_threadsafe(self._deliver_all, events)
        except (
            RuntimeError
        ):  # the loop is closed: the process is ending, and the store hands the jobs back at the next start
            logger.warning("events dropped at shutdown", extra={"count": len(events)})

    def _deliver_all(self, events: list[Event]) -> None:
        for event in events:
            self._deliver(event)
