"""Predicts how long models take to load and to be evicted, from measured times. Device thread only; pure."""

from __future__ import annotations

from collections import deque
from statistics import median_low

BYTES_PER_S = 1e9  # speed of a load, until one was measured
TINY_LOAD_S = 0.1  # a shorter load is of a tiny model, and says nothing about the speed of the disk
FIRST_LOAD_FACTOR = 2.0  # a first load that took longer than this many times the size-based estimate is ignored
LOADS_KEPT = 5  # the median of a model's last loads predicts the next one
EVICTION_WEIGHT = 0.3  # exponential moving average of eviction times: weight of the newest one


class LoadTimes:
    def __init__(self) -> None:
        self.eviction_s = 0.0  # mean seconds of an eviction
        self._load_s: dict[str, deque[float]] = {}
        self._read_share: dict[str, float] = {}  # by model, of its last load
        self._bytes_per_s = BYTES_PER_S

    def loaded(self, model: str, n_bytes: int, seconds: float, read_s: float = 0.0) -> None:
        """Learn from a load. read_s: the part of `seconds` in which the files were read while other lanes stepped."""
        self._load_s.setdefault(model, deque(maxlen=LOADS_KEPT)).append(seconds)
        self._read_share[model] = min(1.0, read_s / seconds) if seconds else 0.0
        if seconds > TINY_LOAD_S:
            self._bytes_per_s = max(1.0, n_bytes / seconds)

    def evicted(self, seconds: float) -> None:
        self.eviction_s += EVICTION_WEIGHT * (seconds - self.eviction_s)

    def forget(self, model: str) -> None:
        self._load_s.pop(model, None)

    def expected_s(self, model: str, n_bytes: int) -> float:
        """Returns the seconds of the model's next load: the median of the last ones, or an estimate from its size.

        A process's first load also imports libraries and runs the model once. So a single load that took far longer
        than the size-based estimate is ignored, and of two loads the shorter one is taken.
        """
        measured, by_size = self._load_s.get(model), n_bytes / self._bytes_per_s
        if not measured or (len(measured) == 1 and measured[0] > FIRST_LOAD_FACTOR * by_size):
            return by_size
        return median_low(measured)

    def read_share(self, model: str) -> float:
        """Returns the share of the model's next load during which other lanes step; 0 until one was measured."""
        return self._read_share.get(model, 0.0)
