"""Merges the statuses of several engines: one queue, one entry per model with all its copies, a row per device.

Event loop only. An `EngineStatus` is complete and replaces the previous one of the same device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from server.engine_status import DeviceStatus, EngineStatus, ModelState, ModelStatus, QueueEntry, RunningEntry

# A model with copies in several states is reported in the first of these.
STATE_PRECEDENCE: Sequence[ModelState] = ("resident", "loading", "parked", "failed", "available")


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A waiting job as the engine of its device reported it."""

    position: int  # in the merged queue of all devices: the devices serve their queues in parallel
    entry: QueueEntry
    free_bytes: int  # of its device


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """A model over all devices; bytes and job counts of its copies are added up."""

    status: ModelStatus
    devices: tuple[str, ...]  # where it is resident
    idle_unload_in_s: float | None  # seconds from now until the last copy is evicted; None: it has work or stays
    retry_in_s: float | None  # seconds from now until the next try, after a failed load


class FleetStatus:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # The second element of each tuple is the time of the report.
        self._by_device: dict[str, tuple[EngineStatus, float]] = {}
        self._queued: dict[str, tuple[QueuedJob, float]] = {}  # by job id
        self._running: dict[str, tuple[float | None, float]] = {}  # job id → seconds left

    def update(self, status: EngineStatus) -> None:
        by_device = self._by_device | {status.device.name: (status, self._clock())}
        self._by_device = dict(sorted(by_device.items()))  # by name, whichever device reported first
        ranked = [
            (rank, entry, engine_status.device.free_bytes, at)
            for engine_status, at in self._by_device.values()
            for rank, entry in enumerate(engine_status.queue)
        ]
        ranked.sort(key=lambda ranked_entry: ranked_entry[0])  # the heads of all queues, then all second entries, …
        self._queued = {
            entry.job_id: (QueuedJob(position, entry, free_bytes), at)
            for position, (_, entry, free_bytes, at) in enumerate(ranked)
        }
        self._running = {
            entry.job_id: (entry.eta_s, at)
            for engine_status, at in self._by_device.values()
            for entry in engine_status.running
        }

    @property
    def n_queued(self) -> int:
        return len(self._queued)

    @property
    def most_free_bytes(self) -> int:
        """Free bytes of the device with most: a job that no device lists yet may go there."""
        return max((status.device.free_bytes for status, _ in self._by_device.values()), default=0)

    def queued_job(self, job_id: str) -> QueuedJob | None:
        """None when no device lists the job as waiting."""
        found = self._queued.get(job_id)
        return found[0] if found else None

    def eta_s(self, job_id: str) -> float | None:
        """Seconds until the job is done, counted down since the report; None while its engine has no estimate."""
        if job_id in self._running:
            eta_s, at = self._running[job_id]
        elif job_id in self._queued:
            queued, at = self._queued[job_id]
            eta_s = queued.entry.eta_s
        else:
            return None
        return self._left_s(eta_s, at)

    def running_and_queued(self) -> tuple[list[RunningEntry], list[QueueEntry]]:
        """Running jobs, and waiting ones in the order in which they will start, with their etas counted down."""
        running = [RunningEntry(job_id, self.eta_s(job_id)) for job_id in self._running]
        queued = [replace(job.entry, eta_s=self.eta_s(job_id)) for job_id, (job, _) in self._queued.items()]
        return running, queued

    def devices(self) -> list[DeviceStatus]:
        return [status.device for status, _ in self._by_device.values()]

    def models(self) -> list[ModelSnapshot]:
        copies: dict[str, list[tuple[ModelStatus, str, float]]] = {}
        for status, at in self._by_device.values():
            for model in status.models:
                copies.setdefault(model.model, []).append((model, status.device.name, at))
        return [self._merged(of_model) for of_model in copies.values()]

    def _merged(self, reports: Sequence[tuple[ModelStatus, str, float]]) -> ModelSnapshot:
        """reports: (status, device, time of the report) of one model on each device that lists it."""
        copies = [(self._now(status, at), device, at) for status, device, at in reports]
        best = min((status for status, _, _ in copies), key=lambda status: STATE_PRECEDENCE.index(status.state))
        loaded = [(status, device, at) for status, device, at in copies if status.state in ("resident", "parked")]
        components: Counter[str] = Counter()
        for status, _, _ in loaded:
            components.update(dict(status.components))
        merged = replace(
            best,
            weight_bytes=sum(status.weight_bytes for status, _, _ in loaded or copies),
            cache_bytes=sum(status.cache_bytes for status, _, _ in loaded),
            parked_bytes=sum(status.parked_bytes for status, _, _ in loaded),
            components=tuple(components.items()),
            running=sum(status.running for status, _, _ in loaded),
            requests=sum(status.requests for status, _, _ in loaded),
            waiting=sum(status.waiting for status, _, _ in copies),
            load_error=None if loaded else next((s.load_error for s, _, _ in copies if s.load_error), None),
        )
        unloads = [self._left_s(status.idle_unload_in_s, at) for status, _, at in loaded]
        known_unloads = [seconds for seconds in unloads if seconds is not None]
        retries = [status.retry_in_s for status, _, _ in copies if status.retry_in_s is not None]
        return ModelSnapshot(
            merged,
            devices=tuple(device for _, device, _ in loaded),
            idle_unload_in_s=max(known_unloads) if known_unloads and len(known_unloads) == len(unloads) else None,
            retry_in_s=min(retries) if retries and best.state == "failed" else None,
        )

    def _now(self, status: ModelStatus, at: float) -> ModelStatus:
        """The status reported at the time `at`, with its cooldown as it is now: an idle engine reports nothing new."""
        left_s = self._left_s(status.retry_in_s, at)
        if left_s is None:
            return status
        return replace(status, retry_in_s=left_s) if left_s else replace(status, state="available", retry_in_s=None)

    def _left_s(self, seconds: float | None, at: float) -> float | None:
        """What is left now of `seconds` reported at the time `at`."""
        return None if seconds is None else max(0.0, seconds - (self._clock() - at))
