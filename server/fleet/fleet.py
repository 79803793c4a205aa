"""Several devices as one engine: places jobs, merges nothing, moves waiting jobs from a busy device to an idle one.

Event loop only. Each engine has its own device thread, ledger and queue; the fleet knows what it sent where and what each
engine told last. To the service it looks like one engine.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import assert_never

from server.errors import Conflict, NeverFits, Unavailable
from server.fleet.assignments import Assignment, Assignments
from server.fleet.job_times import JobTimes
from server.fleet.placement import DeviceView, place, rebalance
from server.fleet.port import Engine
from server.job import Job
from server.protocol import (
    Cancel,
    EngineStatus,
    Event,
    Forget,
    JobCanceled,
    JobFailed,
    JobReplied,
    JobReturned,
    JobStarted,
    KeepAlive,
    LoadModel,
    ModelMessage,
    OutputReady,
    Pin,
    Recall,
    UnloadModel,
)

logger = logging.getLogger(__name__)


class Fleet:
    def __init__(
        self,
        engines: Sequence[Callable[[Callable[[Event], None]], Engine]],
        deliver: Callable[[Event], None],
        *,
        names: Sequence[str] = (),
        device_of: Callable[[str], str | None] = lambda model: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`engines` make one engine each, given where its events go. names: of their devices. device_of: the one a model is bound to."""
        self._names = names
        self._device_of = device_of
        self._deliver = deliver
        self._clock = clock
        self._engines = [make(self._receiver(device)) for device, make in enumerate(engines)]
        self._assignments = Assignments(len(engines))
        self._statuses: list[EngineStatus | None] = [None for _ in self._engines]
        self._need_bytes: dict[str, int] = {}  # by model, as last said
        self._job_times = JobTimes()
        self.draining = False

    # As one engine

    def start(self) -> None:
        for engine in self._engines:
            engine.start()

    @property
    def not_ready_reason(self) -> str | None:
        return next((e.not_ready_reason for e in self._engines if e.not_ready_reason is not None), None)

    @property
    def alive(self) -> bool:
        """False as soon as one engine is dead or stuck: the process then ends and all devices start afresh."""
        return all(engine.alive for engine in self._engines)

    @property
    def stuck(self) -> bool:
        return any(engine.stuck for engine in self._engines)

    async def drain(self, timeout_s: float) -> None:
        self.draining = True
        await asyncio.gather(*(engine.drain(timeout_s) for engine in self._engines))

    def check_fits(self, model: str, need_bytes: int) -> None:
        """Raises what keeps a job of `model` from ever starting here: NeverFits; Conflict, every byte it needs is pinned."""
        allowed = [device for device in range(len(self._engines)) if self._allows(device, model)]
        if not allowed:
            raise NeverFits(
                f"{model} is bound to {self._device_of(model)}, which is not among the devices here: {', '.join(self._names)}."
            )
        usable = max(self._engines[device].usable_bytes for device in allowed)
        if need_bytes > usable:
            which = "this device has" if len(self._engines) == 1 else "the largest device here has"
            raise NeverFits(f"{model} needs {need_bytes / 2**30:.1f} GiB, {which} {usable / 2**30:.1f} GiB for models.")
        if all(self._is_pinned_full(device, model, need_bytes) for device in allowed):
            raise Conflict(
                f"{model} needs {need_bytes / 2**30:.1f} GiB, and pinned models hold too much. Unpin one of them."
            )

    def _is_pinned_full(self, device: int, model: str, need_bytes: int) -> bool:
        status = self._statuses[device]
        if status is None or any(it.model == model and it.state != "failed" for it in status.models):
            return False
        pinned = sum(it.weight_bytes + it.cache_bytes for it in status.models if it.pinned)
        return pinned > 0 and need_bytes > self._engines[device].usable_bytes - pinned

    @property
    def usable_bytes(self) -> int:
        return max(engine.usable_bytes for engine in self._engines)

    def submit(self, job: Job, need_bytes: int = 0, at: float | None = None) -> None:
        at, device = self._clock() if at is None else at, 0
        if len(self._engines) > 1:
            placed = place(job.model, need_bytes, self._views(job.model), self._job_times)
            device = placed if placed is not None else 0  # the engine raises `NeverFits` with the figures
        self._engines[device].submit(job, need_bytes, at)
        self._need_bytes[job.model] = need_bytes
        self._assignments.add(Assignment(job, need_bytes, device, at, left=len(job.requests)))

    def send(self, message: Cancel | Recall | ModelMessage) -> None:
        match message:
            case Cancel(job_id) | Recall(job_id):
                assignment = self._assignments.get(job_id)
                if assignment is not None:
                    assignment.cancel_asked |= isinstance(message, Cancel)
                    self._engines[assignment.device].send(message)
            case LoadModel(model, need_bytes):
                device = place(model, need_bytes, self._views(model), self._job_times)
                self._engines[device or 0].send(message)
            case UnloadModel() | Forget() | Pin() | KeepAlive():
                for engine in self._engines:
                    engine.send(message)
            case _:
                assert_never(message)

    # What the engines tell

    def _receiver(self, device: int) -> Callable[[Event], None]:
        return lambda event: self._take(device, event)

    def _take(self, device: int, event: Event) -> None:
        match event:
            case EngineStatus():
                self._statuses[device] = event
                self._deliver(event)
                self._rebalance()
                return
            case JobReturned(job):
                self._returned(job)
                return
            case JobStarted(job_id, queue_ms):
                placed = self._assignments.get(job_id)
                if placed is not None:
                    # By the device's own account: this loop may hear of start and end at once.
                    self._assignments.started(placed, placed.at + queue_ms / 1000)
                    self._job_times.loaded(placed.job.model, event.load_ms / 1000)
            case OutputReady(job_id):
                placed = self._assignments.get(job_id)
                if placed is not None:
                    placed.left -= 1
                    if not placed.left:
                        self._ended(job_id)
            case JobReplied(job_id) | JobFailed(job_id) | JobCanceled(job_id):
                self._ended(job_id)
            case _:
                pass
        self._deliver(event)

    def _ended(self, job_id: str) -> None:
        placed = self._assignments.remove(job_id)
        if placed is not None and placed.started_at is not None:
            self._job_times.ended(placed.device, placed.job.model, placed.started_at, self._clock())

    def _returned(self, job: Job) -> None:
        recalled = self._assignments.get(job.id)
        if recalled is None or recalled.moving_to is None:  # the service asked for it, not the fleet
            self._assignments.remove(job.id)
            self._deliver(JobReturned(job))
            return
        placed = self._assignments.moved(job.id)
        if placed.cancel_asked:
            self._take(placed.device, JobCanceled(job.id))
            return
        try:
            self._engines[placed.device].submit(job, placed.need_bytes, placed.at)
        except (Unavailable, NeverFits):
            # It drains or died. A stored job is handed back by the next start; a chat has somebody waiting.
            failed = JobFailed(job.id, "engine_stopped", "The server is shutting down.", True)
            self._take(placed.device, failed)

    # Balance

    def _rebalance(self) -> None:
        if len(self._engines) < 2 or self.draining or all(self._assignments.jobs):
            return
        queues = [status.queue if status else () for status in self._statuses]
        waiting = [self._assignments.movable(entry.job_id for entry in queue) for queue in queues]
        for move in rebalance(self._views(), waiting, self._need_bytes, self._job_times):
            self._assignments.move(move.job_id, move.target)
            self._engines[move.source].send(Recall(move.job_id))
            logger.info("job moved", extra={"job": move.job_id, "from": move.source, "to": move.target})

    def _allows(self, device: int, model: str) -> bool:
        bound = self._device_of(model)
        return (
            bound is None or not self._names or self._names[device] in (bound, f"{bound}:0")
        )  # "cuda" is the first GPU

    def _views(self, *coming: str) -> list[DeviceView]:
        known = (*self._need_bytes, *coming)
        return [
            replace(self._view(device), barred=frozenset(m for m in known if not self._allows(device, m)))
            for device in range(len(self._engines))
        ]

    def _view(self, device: int) -> DeviceView:
        jobs, usable = (
            self._assignments.jobs[device] + self._assignments.coming(device),
            self._engines[device].usable_bytes,
        )
        status = self._statuses[device]
        if status is None:
            return DeviceView(usable, usable, models=frozenset(jobs), jobs=dict(jobs))
        there = {it.model for it in status.models if it.state != "failed"}
        idle = sum(it.weight_bytes + it.cache_bytes for it in status.models if not (it.pinned or it.model in jobs))
        # What was sent here and is not loaded yet will need room.
        promised = sum(self._need_bytes.get(model, 0) for model in jobs.keys() - there)
        return DeviceView(
            usable_bytes=usable,
            free_bytes=max(0, status.device.free_bytes - promised),
            idle_bytes=idle,
            models=frozenset(jobs.keys() | there),
            jobs=dict(jobs),
        )
