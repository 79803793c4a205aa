"""Measures the seconds and peak bytes of one forward, even when it is spread over several steps. Device thread only."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import replace

from pipelines import device
from pipelines.interface import Note, StepCost


class Meter:
    """Adds up what one forward takes; every step that works on the forward enters it."""

    def __init__(self, device_name: str, *, with_bytes: bool) -> None:
        self.seconds = 0.0
        self._peak = device.PeakMeter(device_name) if with_bytes else None
        self._began = 0.0

    @property
    def peak_bytes(self) -> int | None:
        return None if self._peak is None else self._peak.peak_bytes

    def __enter__(self) -> None:
        self._began = time.perf_counter()
        if self._peak is not None:
            self._peak.resume()

    def __exit__(self, *_: object) -> None:
        if self._peak is not None:
            self._peak.pause()
        self.seconds += time.perf_counter() - self._began


class CostLog:
    """Collects a lane's notes until the engine takes them."""

    def __init__(self, device_name: str, *, always_measure_bytes: bool = False) -> None:
        """always_measure_bytes: on devices where measuring them costs nothing. Otherwise once for each key."""
        self._device_name = device_name
        self._always_measure_bytes = always_measure_bytes
        self._measured: set[Hashable] = set()
        self._notes: list[Note] = []

    def meter(self, key: Hashable) -> Meter:
        """A meter for a forward that takes about the same memory as others with the same `key`."""
        return Meter(self._device_name, with_bytes=self._always_measure_bytes or key not in self._measured)

    def add(self, note: Note) -> None:
        self._notes.append(note)

    def add_step(self, cost: StepCost, key: Hashable, peak_bytes: int | None) -> None:
        """peak_bytes: None when it was not measured, or includes more than this forward."""
        if peak_bytes is not None:
            self._measured.add(key)
        self._notes.append(replace(cost, peak_bytes=peak_bytes))

    def take(self) -> Sequence[Note]:
        """Return the notes since the last call."""
        notes, self._notes = self._notes, []
        return notes

    def forget_bytes(self) -> None:
        """Measure the bytes of every key once more."""
        self._measured.clear()
