"""Reads how much host memory there is, how much is available now, and how much of it this process holds for models.

The limits of the control groups (cgroups) of a container or systemd unit count as well as the machine's memory. Any
thread; the figures of the last half second are reused.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from server.memory.ledger import Reading
from server.process.cgroup import memory_cgroups

REUSE_S = 0.5  # a reading takes 0.3 ms (0.7 ms on busy cores), and the scheduler wants one before every decision


@dataclass(frozen=True, slots=True)
class _Figures:
    at: float
    available_bytes: int
    private_bytes: (
        int | None
    )  # of this process: its resident memory that is no file; None where the system does not tell


class HostMemory:
    def __init__(
        self, *, root: Path = Path("/"), system: Any = psutil, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """root: where proc and sys are. system: `psutil`, or a fake."""
        self._system = system
        self._process = system.Process()
        self._clock = clock
        self._cgroups = memory_cgroups(root)
        self._figures: _Figures | None = None
        self._baseline_bytes: int | None = None  # private bytes before the first model

    @property
    def total_bytes(self) -> int:
        """Memory of the machine, or the lowest limit of a cgroup where that is less."""
        limits = [cgroup.limit_bytes() for cgroup in self._cgroups]
        return min([int(self._system.virtual_memory().total), *(limit for limit in limits if limit is not None)])

    def available_bytes(self) -> int:
        """What can be taken now without swapping and without reaching the limit of a cgroup."""
        return self._read().available_bytes

    def reading(self) -> Reading | None:
        """A reading for a CPU device; None where the system does not tell what this process holds.

        The first call must come before any model is loaded. `ours_bytes` is what the process holds beyond the
        interpreter and its libraries, without files: mapped weights are pages of a file, which count as available. The
        sum of both figures therefore does not change when a model is loaded or leaves, whether its weights are mapped
        or not and however much freed memory the C library keeps.
        """
        figures = self._read()
        if figures.private_bytes is None:
            return None
        if self._baseline_bytes is None:
            self._baseline_bytes = figures.private_bytes
        ours = max(0, figures.private_bytes - self._baseline_bytes)
        return Reading(free_bytes=figures.available_bytes, ours_bytes=ours, exact=False)

    def _read(self) -> _Figures:
        now, figures = self._clock(), self._figures
        if figures is None or now - figures.at >= REUSE_S:
            left = [cgroup.available_bytes() for cgroup in self._cgroups]
            held = self._process.memory_info()
            shared = getattr(held, "shared", None)  # files and shared memory; Linux alone tells it
            figures = self._figures = _Figures(
                at=now,
                available_bytes=min(
                    [
                        int(self._system.virtual_memory().available),
                        *(n_bytes for n_bytes in left if n_bytes is not None),
                    ]
                ),
                private_bytes=None if shared is None else int(held.rss - shared),
            )
        return figures
