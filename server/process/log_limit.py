"""Limits how many log lines of one kind are written, so that nobody can fill the disk or the processor with them.

A kind is a phrase of a logger: "request failed", whatever its fields say. How many were left out is told by a line at
the end of each period. Any thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from typing import TypeAlias

PERIOD_S = 10.0
MOST = 200  # lines of a kind in a period
MOST_TRACEBACKS = 20
MOST_KINDS = 256  # libraries put values into their phrases; the kinds after these count as one
PHRASE_CHARACTERS = 200
OTHERS = ("", "others")

Kind: TypeAlias = tuple[str, str]  # name of the logger, phrase

logger = logging.getLogger(__name__)


class KindLimit(logging.Filter):
    def __init__(self, *, most: int = MOST, most_tracebacks: int = MOST_TRACEBACKS, period_s: float = PERIOD_S) -> None:
        super().__init__()
        self._most, self._most_tracebacks, self._period_s = most, most_tracebacks, period_s
        self._lock = threading.Lock()
        self._seen: Counter[Kind] = Counter()
        self._left_out: Counter[Kind] = Counter()
        self._ends_at = 0.0  # of the period
        self._telling: threading.Timer | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == __name__:
            return True
        with self._lock:
            now = time.monotonic()
            if now >= self._ends_at:
                self._seen.clear()
                self._ends_at = now + self._period_s
            kind = (record.name, str(record.msg)[:PHRASE_CHARACTERS])
            if kind not in self._seen and len(self._seen) >= MOST_KINDS:
                kind = OTHERS
            self._seen[kind] += 1
            if self._seen[kind] <= (self._most_tracebacks if record.exc_info else self._most):
                return True
            self._left_out[kind] += 1
            if self._telling is None:
                self._telling = threading.Timer(self._ends_at - now, self.tell)
                self._telling.daemon = True
                self._telling.start()
            return False

    def tell(self) -> None:
        """Logs how many lines of each kind were left out since the last time."""
        with self._lock:
            left_out, self._left_out, self._telling = self._left_out, Counter(), None
        for (name, phrase), n_lines in left_out.items():
            fields = {"lines": n_lines, "phrase": phrase, "of": name}
            logger.warning("lines of one kind were left out", extra=fields)
