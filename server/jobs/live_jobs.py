"""Holds the live state of every job that has not ended, so that a status poll neither reads the store nor takes a lock.

Event loop only. A job is live from its acceptance until its end is in the store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from pipelines.interface import Stage
from server.engine_status import DeviceStatus, EngineStatus, QueueEntry, RunningEntry, WaitingFor
from server.fleet.status import FleetStatus, ModelSnapshot
from server.job import State
from server.jobs.watchers import Watchers
from server.protocol import JobProgressed, JobStarted
from server.store.jobs import JobRow, OutputRow

# The progress of a job when a stage begins. Denoising takes most of the time, so its steps fill the largest part.
STAGE_START_PROGRESS: dict[Stage, float] = {
    "waiting": 0.0,
    "loading_model": 0.0,
    "encoding": 0.02,
    "denoising": 0.05,
    "decoding": 0.92,
    "saving": 0.97,
    "done": 1.0,
}

STEP_WEIGHT = 0.2  # exponential moving average of step times: weight of the newest step


@dataclass(slots=True)
class LiveJob:
    row: JobRow  # as accepted; the fields below hold what has changed since
    state: State = State.QUEUED
    stage: Stage = "waiting"
    step: int = 0
    total_steps: int = 0
    progress: float = 0.0
    started_at: datetime | None = None
    queue_ms: int = 0
    load_ms: int = 0
    batch_peak: int = 0
    peak_bytes: int | None = None
    warnings: list[str] = field(default_factory=list)  # from the acceptance, and from outputs since
    stepped_at: float = 0.0  # monotonic time of the latest change of `step`
    scheduler: str | None = None  # class name of the noise scheduler
    n_rendered: int = 0  # outputs that the engine has delivered
    saved: dict[int, OutputRow] = field(default_factory=dict)  # by output index
    preview: NDArray[np.uint8] | None = None  # of the unfinished first output: (H, W, 3), small
    cancel_requested: bool = False
    end: asyncio.Task[None] | None = None  # writes the job's end to the store; set once, which decides how the job ends


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """The place of a waiting job in the queue, and what it waits for."""

    position: int  # 0: starts next
    length: int
    waiting_for: WaitingFor
    need_bytes: int
    free_bytes: int  # of the device whose queue lists the job; else of the device with most


class LiveJobs:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._jobs: dict[str, LiveJob] = {}
        self._of_key: dict[str, dict[str, LiveJob]] = {}
        self.watchers = Watchers()
        self._n_queued = 0
        self._clock = clock
        self._fleet_status = FleetStatus(clock)
        self._step_s: dict[str, float] = {}  # by model

    def add(self, row: JobRow) -> LiveJob:
        total = int(row.params.get("steps") or 0)
        job = self._jobs[row.id] = LiveJob(row, total_steps=total, warnings=list(row.warnings))
        self._of_key.setdefault(row.key_id, {})[row.id] = job
        self._n_queued += 1
        self.watchers.notify_transition(row.key_id, row.id)
        self.watchers.notify_live_change(row.key_id, row.id)
        return job

    def remove(self, job_id: str) -> None:
        """Removes a job whose end is in the store."""
        job = self._jobs.pop(job_id, None)
        if job is None:
            return
        of_key = self._of_key[job.row.key_id]
        del of_key[job_id]
        if not of_key:
            del self._of_key[job.row.key_id]
        if job.state is State.QUEUED:
            self._n_queued -= 1
        self.watchers.notify_transition(job.row.key_id, job_id)

    def set_preview(self, job_id: str, preview: NDArray[np.uint8]) -> None:
        """preview: (H, W, 3)."""
        job = self._jobs.get(job_id)
        if job is not None:
            job.preview = preview
            self.watchers.notify_live_change(job.row.key_id, job_id)

    def get(self, job_id: str) -> LiveJob | None:
        return self._jobs.get(job_id)

    def update_status(self, status: EngineStatus) -> None:
        """Replaces the state of one device: its queue, running jobs, models and memory."""
        self._fleet_status.update(status)
        self._notify_positions()

    def start(self, event: JobStarted, at: datetime) -> None:
        job = self._jobs.get(event.job_id)
        if job is None:
            return
        if job.state is State.QUEUED:
            self._n_queued -= 1
        job.state, job.started_at = State.PROCESSING, at
        job.queue_ms, job.load_ms = event.queue_ms, event.load_ms
        self.advance(job, "encoding")

    def update_progress(self, event: JobProgressed) -> float | None:
        """Applies a progress report; returns the seconds that a denoising step took, None when no step was timed."""
        job = self._jobs.get(event.job_id)
        if job is None:
            return None
        before = job.step
        self.advance(job, event.stage, event.step, event.total_steps)
        return self._time_step(job, job.step - before)

    def advance(self, job: LiveJob, stage: Stage, step: int | None = None, total_steps: int | None = None) -> None:
        """Moves the job on. Its progress, stage and step never decrease, whatever the order of its outputs' reports."""
        if STAGE_START_PROGRESS[stage] < STAGE_START_PROGRESS[job.stage]:
            return
        job.stage = stage
        if total_steps:
            job.total_steps = total_steps
        if step is not None:
            job.step = max(job.step, min(step, job.total_steps))
        share = job.step / job.total_steps if stage == "denoising" and job.total_steps else 0.0
        span = STAGE_START_PROGRESS["decoding"] - STAGE_START_PROGRESS["denoising"]
        job.progress = max(job.progress, STAGE_START_PROGRESS[stage] + share * span)
        self.watchers.notify_live_change(job.row.key_id, job.row.id)

    def _notify_positions(self) -> None:
        """Notifies the watchers of waiting jobs, whose positions may have changed.

        Engines list only the heads of long queues. A job behind them is notified only to a watch of that one job.
        """
        for watch in self.watchers.all():
            for job_id in (watch.job_id,) if watch.job_id is not None else self._of_key.get(watch.key_id, ()):
                job = self._jobs.get(job_id)
                if (
                    job is not None
                    and job.state is State.QUEUED
                    and (watch.job_id or self._fleet_status.queued_job(job_id) is not None)
                ):
                    watch.note_live_change(job_id)

    def _time_step(self, job: LiveJob, n_steps: int) -> float | None:
        if n_steps <= 0:
            return None
        now, model, seconds = self._clock(), job.row.model, None
        if job.step > n_steps:  # the first step is not timed: it may include a wait for the text encoder
            seconds = (now - job.stepped_at) / n_steps
            old = self._step_s.get(model, seconds)
            self._step_s[model] = old + STEP_WEIGHT * (seconds - old)
        job.stepped_at = now
        return seconds

    def step_s(self, model: str) -> float | None:
        """Mean seconds between two denoising steps of a job, other jobs' time slices included; None: not measured."""
        return self._step_s.get(model)

    @property
    def n_queued(self) -> int:
        return self._n_queued

    def n_of_key(self, key_id: str) -> int:
        """Jobs of this key that have not ended."""
        return len(self._of_key.get(key_id, ()))

    def key_ids(self) -> AbstractSet[str]:
        """The keys that have jobs which have not ended."""
        return self._of_key.keys()

    def all(self) -> Collection[LiveJob]:
        """Every job that has not ended."""
        return self._jobs.values()

    def of_key(self, key_id: str) -> Iterator[LiveJob]:
        """The key's jobs that have not ended, oldest first."""
        return iter(list(self._of_key.get(key_id, {}).values()))

    def queue_position(self, job: LiveJob) -> QueuePosition:
        """The position of a waiting job. A job that no engine lists is behind the listed ones: lists may be cut off."""
        status = self._fleet_status
        listed = status.queued_job(job.row.id)
        if listed is None:
            position = max(status.n_queued, self._n_queued - 1)
            return QueuePosition(position, max(position + 1, self._n_queued), "turn", 0, status.most_free_bytes)
        length = max(status.n_queued, self._n_queued)
        entry = listed.entry
        return QueuePosition(listed.position, length, entry.waiting_for, entry.need_bytes, listed.free_bytes)

    def stage_of(self, job: LiveJob) -> Stage:
        """The stage to report: `loading_model` for a queued job whose model is being loaded."""
        listed = self._fleet_status.queued_job(job.row.id)
        if job.state is State.QUEUED and listed is not None and listed.entry.waiting_for == "model_load":
            return "loading_model"
        return job.stage

    def eta_s(self, job: LiveJob) -> float | None:
        """Seconds until the job is done; None while its engine has no estimate."""
        return self._fleet_status.eta_s(job.row.id)

    def running_and_queued(self) -> tuple[Sequence[RunningEntry], Sequence[QueueEntry]]:
        """Running jobs, and waiting ones in the order in which they will start, on all devices; chats included."""
        return self._fleet_status.running_and_queued()

    def devices(self) -> list[DeviceStatus]:
        """The devices whose engine has sent a status."""
        return self._fleet_status.devices()

    def models(self) -> list[ModelSnapshot]:
        """The models that some device holds, is loading or has failed to load."""
        return self._fleet_status.models()

    def model(self, name: str) -> ModelSnapshot | None:
        """None: no device holds the model, is loading it or has failed to load it."""
        return next((snapshot for snapshot in self.models() if snapshot.status.model == name), None)
