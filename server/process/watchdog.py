"""Ends the process when one of its threads hangs, because a thread cannot be ended. Event loop only.

What stops the whole process, such as native code that holds the interpreter's lock, the supervisor sees by the
heartbeat that stays away. Either way the marks tell the next process what it was doing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable

from server.fleet.engine_port import Engine
from server.jobs.crashes import FOR_PROMPTS
from server.marks import Marks, remove_recent
from server.process.supervisor import HUNG
from server.service.running_chats import RunningChats

logger = logging.getLogger(__name__)

RECENT_S = 1.0  # what began within this is not what hangs
ANSWER_S = 0.3  # for the answers to chats before the process ends


class Watchdog:
    def __init__(
        self,
        engine: Engine,
        marks: Marks,
        limit_s: float,
        chats: RunningChats,
        leave: Callable[[int], None] = os._exit,
    ) -> None:
        """limit_s: of the reading of a prompt or of texts; an engine has its own limits. leave: ends the process."""
        self._engine = engine
        self._marks = marks
        self._limit_s = limit_s
        self._chats = chats
        self._leave = leave

    @property
    def stuck_in(self) -> str | None:
        """What a thread has been in for too long."""
        return self._engine.stuck_in or self._marks.overdue(self._limit_s, FOR_PROMPTS)

    async def look(self) -> None:
        """Leave if a thread hangs. While the server drains, the supervisor's grace period is the limit."""
        stuck_in = self.stuck_in
        if stuck_in is None or self._engine.draining:
            return
        logger.error("the server is stuck, leaving", extra={"stuck_in": stuck_in})
        self._chats.fail_all("The server was stuck and starts again.")
        await asyncio.sleep(ANSWER_S)
        remove_recent(self._marks.folder, time.monotonic() - RECENT_S)
        self._leave(HUNG)
