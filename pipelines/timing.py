"""Times short work on a device, to choose between ways of doing it. Device thread only."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipelines import device as devices

REPEATS, RUNS = 3, 4
WORTH = 0.97  # of the usual way's time: what does not take less is not worth another rounding


def shortest_seconds(work: Callable[[], object], device: str) -> float:
    """The shortest of several timings of one call. The caller has run it once, which plans its kernels."""
    best = float("inf")
    for _ in range(REPEATS):
        devices.finish(device)
        began = time.perf_counter()
        for _ in range(RUNS):
            work()
        devices.finish(device)
        best = min(best, (time.perf_counter() - began) / RUNS)
    return best
