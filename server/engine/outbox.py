"""Sends events from the device thread to the event loop, several at a time. Device thread only, but for `bind`.

Each wake of the event loop takes a core from the step that is running. So progress events wait until another event is
sent, at most for `PROGRESS_INTERVAL_S`. All other events, and the first and last progress of a stage, are sent at once.
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
        """deliver: called with each event, in order, on the event loop."""
        self._deliver = deliver
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._events: list[Event] = []
        self._urgent = False  # whether one of the events must be sent at once
        self._flush_at = 0.0  # when progress events are sent

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set the event loop to deliver to. Called on that loop, before the device thread starts."""
        self._loop = loop

    def put(self, event: Event) -> None:
        self._events.append(event)
        self._urgent = self._urgent or not (isinstance(event, JobProgressed) and 0 < event.step < event.total_steps)

    def flush(self, *, force: bool = False) -> None:
        """Send the events if one is urgent, if progress has waited long enough, or if `force` is set."""
        now = self._clock()
        if not self._events or self._loop is None or not (force or self._urgent or now >= self._flush_at):
            return
        events, self._events = self._events, []
        self._urgent, self._flush_at = False, now + PROGRESS_INTERVAL_S
        try:
            self._loop.call_soon_threadsafe(self._deliver_all, events)
        except RuntimeError:  # the loop is closed: the process ends, and its jobs are restored at the next start
            logger.warning("events dropped at shutdown", extra={"count": len(events)})

    def _deliver_all(self, events: list[Event]) -> None:
        for event in events:
            self._deliver(event)
