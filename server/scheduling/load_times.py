"""How long models take to come onto the device and to leave it, as measured. Device thread only; pure."""

from __future__ import annotations

from collections import deque
from statistics import median_low

BYTES_PER_S = 1e9  # of a load, until one was measured
SAYS_NOTHING_S = 0.1  # a load this short is of a tiny model: it tells nothing of the disk
FIRST_PAYS = 2.0  # a first load that took more than so many times what its bytes say tells nothing of the next
LOADS_KEPT = 5  # the last few of a model, whose median is how long its next will take
LEAVE_MEMORY = 0.3  # weight of the newest leave in their mean


class LoadTimes:
    def __init__(self) -> None:
        self.leave_s = 0.0  # what it takes an idle model to go: a running mean
        self._load_s: dict[str, deque[float]] = {}
        self._read_share: dict[str, float] = {}  # by model, of its last load
        self._bytes_per_s = BYTES_PER_S

    def loaded(self, model: str, n_bytes: int, seconds: float, read_s: float = 0.0) -> None:
        """`read_s`: of `seconds`, in which its files were read while others stepped."""
        self._load_s.setdefault(model, deque(maxlen=LOADS_KEPT)).append(seconds)
        self._read_share[model] = min(1.0, read_s / seconds) if seconds else 0.0
        if seconds > SAYS_NOTHING_S:
            self._bytes_per_s = max(1.0, n_bytes / seconds)

    def left(self, seconds: float) -> None:
        self.leave_s += LEAVE_MEMORY * (seconds - self.leave_s)

    def forget(self, model: str) -> None:
        self._load_s.pop(model, None)

    def expected_s(self, model: str, n_bytes: int) -> float:
        """Of its next load: as measured, or guessed from its bytes.

        The first of a process also imports libraries and tries the model out. Of two, the shorter is the better guess; one that took many times what its
        bytes say is none.
        """
        measured, guess = self._load_s.get(model), n_bytes / self._bytes_per_s
        if not measured or (len(measured) == 1 and measured[0] > FIRST_PAYS * guess):
            return guess
        return median_low(measured)

    def read_share(self, model: str) -> float:
        """How much of its next load goes by while others step; until one was measured, nothing."""
        return self._read_share.get(model, 0.0)
