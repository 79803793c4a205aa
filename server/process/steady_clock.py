"""The time of day for everything that is stored, without the jumps of the machine's clock. Any thread.

A clock that is set wrong for some minutes (a broken time server, a resumed machine, a hand that slipped) must not make
results expire, quotas begin anew, or a job end before it began. So time goes on at the pace of the machine's counter,
and follows its clock at once only by small steps. After a jump it follows when the clock has stayed there for a while.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

logger = logging.getLogger(__name__)

JUMP_S = 60.0  # a larger step of the clock is a jump
SETTLED_S = 900.0  # a clock that has stayed where it jumped to for this long is right
TOGETHER_S = 5.0  # within this, the clock has stayed there


def _counter() -> float:
    """Seconds that go on while the machine is suspended, where the system counts them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class SteadyClock:
    """Call it for the time, in UTC. It never goes back by more than a step of the clock that is no jump."""

    def __init__(self, wall: Callable[[], float] = time.time, counter: Callable[[], float] = _counter) -> None:
        self._wall, self._counter = wall, counter
        self._lock = threading.Lock()
        self._ahead_s = wall() - counter()  # of the counter
        self._jumped: tuple[float, float] | None = None  # where to, by the counter, and when

    def __call__(self) -> datetime:
        with self._lock:
            return datetime.fromtimestamp(self._now(), UTC)

    def _now(self) -> float:
        counted = self._counter()
        ahead_s = self._wall() - counted
        if abs(ahead_s - self._ahead_s) <= JUMP_S:
            self._ahead_s, self._jumped = ahead_s, None
        elif self._jumped is None or abs(ahead_s - self._jumped[0]) > TOGETHER_S:
            logger.warning(
                "the machine's clock has jumped; it is followed if it stays there",
                extra={"by": str(timedelta(seconds=round(ahead_s - self._ahead_s))), "after_s": SETTLED_S},
            )
            self._jumped = (ahead_s, counted)
        elif counted - self._jumped[1] >= SETTLED_S:
            self._ahead_s, self._jumped = ahead_s, None
        return counted + self._ahead_s
