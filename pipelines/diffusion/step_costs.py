"""Measures the forwards of a diffusion lane and notes what they cost. Device thread only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipelines.costs import CostLog, Meter
from pipelines.interface import NextStep, Note, OutOfMemory, StepCost, WeightsChanged


@dataclass(frozen=True, slots=True)
class StepInProgress:
    """The forward under way, which may have been preempted."""

    next_step: NextStep
    meter: Meter


class StepCosts:
    def __init__(self, device_name: str) -> None:
        self._log = CostLog(device_name, always_measure_bytes=device_name.startswith("cuda"))

    def begin(self, step: NextStep) -> StepInProgress:
        return StepInProgress(step, self._log.meter(_key(step)))

    def ran_out_of_memory(self, step: NextStep, widths: Iterable[int]) -> None:
        for width in widths:
            self._log.add(OutOfMemory(step.component, step.entry, step.shape, step.units, width, step.request_ids))

    def ended(self, current: StepInProgress, *, ran_once: bool) -> None:
        """ran_once: False for retries and proofs, which run calls more than once: their peak is not the forward's."""
        step, meter = current.next_step, current.meter
        cost = StepCost(
            step.shape, step.rows, meter.seconds, step.request_ids, step.stage, step.component, step.entry, step.units
        )
        self._log.add_step(cost, _key(step), meter.peak_bytes if ran_once else None)

    def weights_changed(self) -> None:
        self._log.add(WeightsChanged())

    def take(self) -> Sequence[Note]:
        """Return the notes since the last call."""
        return self._log.take()


def _key(step: NextStep) -> tuple[str, str, str, int]:
    """Forwards with the same key use the same memory."""
    return step.component, step.entry, step.shape, step.rows
