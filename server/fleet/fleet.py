"""Presents several engines as one: assigns each job to a device and moves waiting jobs from busy devices to idle ones.

Event loop only. Each engine has its own device thread, memory ledger and queue. The fleet knows which jobs it submitted
where and the latest status of each engine; jobs of different devices are never batched together.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import assert_never

from server.engine_status import EngineStatus, ModelStatus
from server.errors import Conflict, NeverFits, Unavailable
from server.fleet.assignments import Assignment, Assignments
from server.fleet.engine_port import Engine
from server.fleet.job_times import JobTimes
from server.fleet.placement import DeviceView, choose_device, rebalance
from server.job import Job
from server.protocol import (
    Cancel,
    Event,
    Forget,
    JobCanceled,
    JobEmbedded,
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
    SetAside,
    Settled,
    UnloadModel,
)
from server.units import size

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
        """engines: each makes one engine from the callback that takes its events. names: of the devices, in that order.

        device_of: the name of the device that a model is bound to; None: it may use every device.
        """
        self._names = names
        self._device_of = device_of
        self._deliver = deliver
        self._clock = clock
        self._engines = [make(partial(self._handle, device)) for device, make in enumerate(engines)]
        self._assignments = Assignments(len(engines))
        self._statuses: list[EngineStatus | None] = [None for _ in self._engines]
        self._pins: dict[str, bool] = {}  # by model, as last sent to the engines
        self._need_bytes: dict[str, int] = {}  # by model, from its latest job
        self._job_times = JobTimes()
        self.draining = False

    # The engine port

    def start(self) -> None:
        for engine in self._engines:
            engine.start()

    @property
    def not_ready_reason(self) -> str | None:
        return next((e.not_ready_reason for e in self._engines if e.not_ready_reason is not None), None)

    @property
    def alive(self) -> bool:
        """False as soon as one engine is dead or stuck: the process then ends, and all devices start again."""
        return all(engine.alive for engine in self._engines)

    @property
    def stuck_in(self) -> str | None:
        return next((engine.stuck_in for engine in self._engines if engine.stuck_in is not None), None)

    async def drain(self, timeout_s: float) -> None:
        self.draining = True
        await asyncio.gather(*(engine.drain(timeout_s) for engine in self._engines))

    def check_fits(self, model: str, need_bytes: int) -> None:
        """Raises `NeverFits` when no job of `model` can ever start here, `Conflict` when pinned models prevent it."""
        allowed = [device for device in range(len(self._engines)) if self._may_use(device, model)]
        if not allowed:
            raise NeverFits(
                f"{model} is bound to {self._device_of(model)}, "
                f"which is not among the devices here: {', '.join(self._names)}."
            )
        need = f"{model} needs {size(need_bytes)}"
        usable = max(self._engines[device].usable_bytes for device in allowed)
        if need_bytes > usable:
            which = "this device has" if len(self._engines) == 1 else "the largest device here has"
            raise NeverFits(f"{need}, {which} {size(usable)} for models.")
        if all(self._blocked_by_pins(device, model, need_bytes) for device in allowed):
            raise Conflict(f"{need}, but pinned models leave too little memory for it. Unpin one of them.")

    def _blocked_by_pins(self, device: int, model: str, need_bytes: int) -> bool:
        """Whether the device cannot load the model because of its pinned models."""
        status = self._statuses[device]
        if status is None or any(listed.model == model and listed.state != "failed" for listed in status.models):
            return False
        pinned_bytes = sum(
            listed.weight_bytes + listed.cache_bytes for listed in status.models if self._is_pinned(listed)
        )
        return pinned_bytes > 0 and need_bytes > self._engines[device].usable_bytes - pinned_bytes

    def _is_pinned(self, listed: ModelStatus) -> bool:
        """By the newest message: the engine's status may be older than it."""
        return self._pins.get(listed.model, listed.pinned)

    @property
    def usable_bytes(self) -> int:
        return max(engine.usable_bytes for engine in self._engines)

    def submit(self, job: Job, need_bytes: int = 0, at: float | None = None) -> None:
        at, device = self._clock() if at is None else at, 0
        if len(self._engines) > 1:
            chosen = choose_device(job.model, need_bytes, self._views(job.model), self._job_times)
            device = chosen if chosen is not None else 0  # that engine raises `NeverFits` with the figures
        self._engines[device].submit(job, need_bytes, at)
        self._need_bytes[job.model] = need_bytes
        self._assignments.add(Assignment(job, need_bytes, device, submitted_at=at, outputs_left=len(job.requests)))

    def send(self, message: Cancel | Recall | ModelMessage) -> None:
        match message:
            case Cancel(job_id) | Recall(job_id):
                assignment = self._assignments.get(job_id)
                if assignment is not None:
                    assignment.cancel_requested |= isinstance(message, Cancel)
                    self._engines[assignment.device].send(message)
            case LoadModel(model, need_bytes):
                device = choose_device(model, need_bytes, self._views(model), self._job_times)
                self._engines[device or 0].send(message)
            case Pin(model, pinned):
                self._pins[model] = pinned
                self._send_to_all(message)
            case Forget(model):
                self._pins.pop(model, None)
                self._send_to_all(message)
            case UnloadModel() | KeepAlive() | SetAside() | Settled():
                self._send_to_all(message)
            case _:
                assert_never(message)

    def _send_to_all(self, message: ModelMessage) -> None:
        for engine in self._engines:
            engine.send(message)

    # Events of the engines

    def _handle(self, device: int, event: Event) -> None:
        match event:
            case EngineStatus():
                self._statuses[device] = event
                self._deliver(event)
                self._rebalance()
                return
            case JobReturned(job):
                self._job_returned(job)
                return
            case JobStarted(job_id, queue_ms):
                assignment = self._assignments.get(job_id)
                if assignment is not None:
                    # From the device's own measurement: this thread may receive start and end together.
                    self._assignments.start(assignment, assignment.submitted_at + queue_ms / 1000)
                    self._job_times.add_load(assignment.job.model, event.load_ms / 1000)
            case OutputReady(job_id):
                assignment = self._assignments.get(job_id)
                if assignment is not None:
                    assignment.outputs_left -= 1
                    if not assignment.outputs_left:
                        self._job_ended(job_id)
            case JobReplied(job_id) | JobEmbedded(job_id) | JobFailed(job_id) | JobCanceled(job_id):
                self._job_ended(job_id)
            case _:
                pass
        self._deliver(event)

    def _job_ended(self, job_id: str) -> None:
        ended = self._assignments.remove(job_id)
        if ended is not None and ended.started_at is not None:
            self._job_times.add_job(ended.device, ended.job.model, ended.started_at, self._clock())

    def _job_returned(self, job: Job) -> None:
        """Submits a recalled job to the device it moves to."""
        recalled = self._assignments.get(job.id)
        if recalled is None or recalled.move_target is None:  # the service recalled the job, not the fleet
            self._assignments.remove(job.id)
            self._deliver(JobReturned(job))
            return
        assignment = self._assignments.finish_move(job.id)
        if assignment.cancel_requested:
            self._handle(assignment.device, JobCanceled(job.id))
            return
        try:
            self._engines[assignment.device].submit(job, assignment.need_bytes, assignment.submitted_at)
        except (Unavailable, NeverFits):
            # The engine drains or has died. The next start submits a stored job again; a chat's client waits now.
            failed = JobFailed(job.id, "engine_stopped", "The server is shutting down.", True)
            self._handle(assignment.device, failed)

    # Moves between devices

    def _rebalance(self) -> None:
        if len(self._engines) < 2 or self.draining or all(self._assignments.job_counts):
            return
        queues = [status.queue if status else () for status in self._statuses]
        waiting = [self._assignments.movable(entry.job_id for entry in queue) for queue in queues]
        for move in rebalance(self._views(), waiting, self._need_bytes, self._job_times):
            self._assignments.begin_move(move.job_id, move.target)
            self._engines[move.source].send(Recall(move.job_id))
            logger.info("job moved", extra={"job": move.job_id, "from": move.source, "to": move.target})

    def _may_use(self, device: int, model: str) -> bool:
        bound_to = self._device_of(model)
        # "cuda" is the first GPU.
        return bound_to is None or not self._names or self._names[device] in (bound_to, f"{bound_to}:0")

    def _views(self, *new_models: str) -> list[DeviceView]:
        """All devices as `placement` sees them. new_models: models that no job was submitted for yet."""
        known = (*self._need_bytes, *new_models)
        return [
            replace(self._view(device), excluded_models=frozenset(m for m in known if not self._may_use(device, m)))
            for device in range(len(self._engines))
        ]

    def _view(self, device: int) -> DeviceView:
        jobs = self._assignments.job_counts[device] + self._assignments.incoming(device)
        usable_bytes, status = self._engines[device].usable_bytes, self._statuses[device]
        if status is None:
            return DeviceView(usable_bytes, usable_bytes, models=frozenset(jobs), jobs=dict(jobs))
        present = {listed.model for listed in status.models if listed.state != "failed"}
        evictable_bytes = sum(
            listed.weight_bytes + listed.cache_bytes
            for listed in status.models
            if not self._is_pinned(listed) and listed.model not in jobs
        )
        # Models of assigned jobs that are not loaded yet will take free memory.
        expected_bytes = sum(self._need_bytes.get(model, 0) for model in jobs.keys() - present)
        return DeviceView(
            usable_bytes=usable_bytes,
            free_bytes=max(0, status.device.free_bytes - expected_bytes),
            evictable_bytes=evictable_bytes,
            models=frozenset(jobs.keys() | present),
            jobs=dict(jobs),
        )
