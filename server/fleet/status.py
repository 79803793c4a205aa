"""The engines' pictures as one: a queue over all devices, a model that may have copies, a row per device. Event loop only.

A picture is whole and replaces the one before it of the same device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from server.protocol import DeviceStatus, EngineStatus, ModelState, ModelStatus, QueueEntry, RunningEntry

BEST_FIRST: Sequence[ModelState] = ("resident", "loading", "parked", "failed", "available")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A waiting job as its device's engine told it."""

    position: int  # over all devices: their queues are worked off side by side
    entry: QueueEntry
    free_bytes: int  # of its device


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """A model over all devices; its bytes and jobs are added up."""

    status: ModelStatus
    devices: tuple[str, ...]  # where it is resident
    idle_unload_in_s: float | None  # when the last copy goes, counted from now; None: it works, or stays
    retry_in_s: float | None  # after a failed load, until the next one is tried, counted from now


class FleetStatus:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._by_device: dict[str, tuple[EngineStatus, float]] = {}
        self._waiting: dict[str, tuple[Waiting, float]] = {}  # by job id
        self._running: dict[str, tuple[float | None, float]] = {}  # by job id: seconds left, told when

    def take(self, status: EngineStatus) -> None:
        told = self._by_device | {status.device.name: (status, self._clock())}
        self._by_device = dict(sorted(told.items()))  # by name, whichever reported first
        listed = [
            (rank, entry, its.device.free_bytes, at)
            for its, at in self._by_device.values()
            for rank, entry in enumerate(its.queue)
        ]
        listed.sort(key=lambda place: place[0])  # the heads of all queues, then the second ones
        self._waiting = {
            entry.job_id: (Waiting(position, entry, free_bytes), at)
            for position, (_, entry, free_bytes, at) in enumerate(listed)
        }
        self._running = {
            entry.job_id: (entry.eta_s, at) for its, at in self._by_device.values() for entry in its.running
        }

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    @property
    def free_bytes(self) -> int:
        """Of the device with most: where a job that is not listed yet may go."""
        return max((status.device.free_bytes for status, _ in self._by_device.values()), default=0)

    def waiting(self, job_id: str) -> Waiting | None:
        found = self._waiting.get(job_id)
        return found[0] if found else None

    def eta_s(self, job_id: str) -> float | None:
        """Seconds until done, counted down since the engine said so; None while it cannot know."""
        if job_id in self._running:
            eta_s, at = self._running[job_id]
        elif job_id in self._waiting:
            waiting, at = self._waiting[job_id]
            eta_s = waiting.entry.eta_s
        else:
            return None
        return None if eta_s is None else max(0.0, eta_s - (self._clock() - at))

    def under_way(self) -> tuple[list[RunningEntry], list[QueueEntry]]:
        """What runs, and what waits in the order it will start, with the seconds left counted down."""
        running = [RunningEntry(job_id, self.eta_s(job_id)) for job_id in self._running]
        return running, [replace(its.entry, eta_s=self.eta_s(job_id)) for job_id, (its, _) in self._waiting.items()]

    def devices(self) -> list[DeviceStatus]:
        return [status.device for status, _ in self._by_device.values()]

    def models(self) -> list[ModelSnapshot]:
        copies: dict[str, list[tuple[ModelStatus, str, float]]] = {}
        for status, at in self._by_device.values():
            for model in status.models:
                copies.setdefault(model.model, []).append((model, status.device.name, at))
        return [self._model(its) for its in copies.values()]

    def _model(self, copies: Sequence[tuple[ModelStatus, str, float]]) -> ModelSnapshot:
        best = min((status for status, _, _ in copies), key=lambda status: BEST_FIRST.index(status.state))
        there = [(status, device, at) for status, device, at in copies if status.state in ("resident", "parked")]
        components: Counter[str] = Counter()
        for status, _, _ in there:
            components.update(dict(status.components))
        merged = replace(
            best,
            weight_bytes=sum(status.weight_bytes for status, _, _ in there or copies),
            cache_bytes=sum(status.cache_bytes for status, _, _ in there),
            parked_bytes=sum(status.parked_bytes for status, _, _ in there),
            components=tuple(components.items()),
            running=sum(status.running for status, _, _ in there),
            requests=sum(status.requests for status, _, _ in there),
            waiting=sum(status.waiting for status, _, _ in copies),
        )
        left = [self._left_s(status.idle_unload_in_s, at) for status, _, at in there]
        idle = [seconds for seconds in left if seconds is not None]
        retries = [self._left_s(status.retry_in_s, at) or 0.0 for status, _, at in copies if status.state == "failed"]
        return ModelSnapshot(
            merged,
            devices=tuple(device for _, device, _ in there),
            idle_unload_in_s=max(idle) if idle and len(idle) == len(left) else None,
            retry_in_s=min(retries) if retries and best.state == "failed" else None,
        )

    def _left_s(self, seconds: float | None, at: float) -> float | None:
        return None if seconds is None else max(0.0, seconds - (self._clock() - at))
