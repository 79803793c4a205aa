"""What a lane tells of its work: the seconds of each quantum, and its bytes until they are known. Device thread only."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import replace

from pipelines import device
from pipelines.interface import Note, StepCost


class Meter:
    """Entered by each step that works on the quantum."""

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


class Costs:
    def __init__(self, device_name: str, *, bytes_always: bool = False) -> None:
        """bytes_always: where measuring them costs nothing."""
        self._device_name = device_name
        self._bytes_always = bytes_always
        self._measured: set[Hashable] = set()
        self._notes: list[Note] = []

    def meter(self, key: Hashable) -> Meter:
        """For a quantum that takes the bytes that others of the same `key` take."""
        return Meter(self._device_name, with_bytes=self._bytes_always or key not in self._measured)

    def add(self, note: Note) -> None:
        self._notes.append(note)

    def stepped(self, cost: StepCost, key: Hashable, peak_bytes: int | None) -> None:
        """`peak_bytes` None: not measured, or of something else than this quantum."""
        if peak_bytes is not None:
            self._measured.add(key)
        self._notes.append(replace(cost, peak_bytes=peak_bytes))

    def take(self) -> Sequence[Note]:
        """What was told since the last time."""
        notes, self._notes = self._notes, []
        return notes

    def forget_bytes(self) -> None:
        """Measure all of them once more."""
        self._measured.clear()
