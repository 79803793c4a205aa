"""What a quantum takes, seconds and bytes, over as many steps as it is spread. Device thread only."""

from __future__ import annotations

import time

from pipelines import device


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
