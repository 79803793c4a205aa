"""What a quantum takes, seconds and bytes, over as many steps as it is spread. Device thread only."""

from __future__ import annotations

import time

from pipelines import device
from pipelines.interface import Quantum, StepCost


class InHand:
    """One quantum under way, over as many steps as it takes; entered by each of them."""

    def __init__(self, quantum: Quantum, meter: device.PeakMeter | None) -> None:
        self.quantum = quantum
        self.seconds = 0.0
        self._meter = meter
        self._began = 0.0

    @property
    def peak_bytes(self) -> int | None:
        return None if self._meter is None else self._meter.peak_bytes

    def cost(self, peak_bytes: int | None) -> StepCost:
        q = self.quantum
        return StepCost(
            q.shape, q.rows, self.seconds, q.request_ids, q.stage, q.component, q.entry, q.units, peak_bytes
        )

    def __enter__(self) -> None:
        self._began = time.perf_counter()
        if self._meter is not None:
            self._meter.resume()

    def __exit__(self, *_: object) -> None:
        if self._meter is not None:
            self._meter.pause()
        self.seconds += time.perf_counter() - self._began
