"""Times short work on a device, to choose between ways of doing it. Device thread only."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipelines import device as devices

REPEATS, RUNS = 3, 4
WORTH = 0.97  # of the usual way's time: what does not take less is not worth another rounding


def shortest_seconds(work: Callable[[], object], device: str, runs: int = RUNS) -> float:
    """The shortest of several timings of `runs` calls, for one of them.

    The caller has made one call before, which plans its kernels.
    """
    best = float("inf")
    for _ in range(REPEATS):
        devices.finish(device)
        began = time.perf_counter()
        for _ in range(runs):
            work()
        devices.finish(device)
        best = min(best, (time.perf_counter() - began) / runs)
    return best
