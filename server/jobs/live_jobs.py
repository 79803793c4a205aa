"""The live view: what the event loop knows about jobs that have not ended, so that a poll reads no store and takes no lock.

Event loop only. A job is on the board from its acceptance until its end is in the store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from pipelines.interface import Stage
from server.fleet.status import FleetStatus, ModelSnapshot
from server.job import State
from server.jobs.watchers import Watchers
from server.protocol import DeviceStatus, EngineStatus, JobProgressed, JobStarted, QueueEntry, RunningEntry, WaitingFor
from server.store.jobs import JobRow, OutputRow

# How far along a job is when a stage begins. Denoising is where the time goes, so its steps fill the middle.
STAGE_BEGINS: dict[Stage, float] = {
    "waiting": 0.0,
    "loading_model": 0.0,
    "encoding": 0.02,
    "denoising": 0.05,
    "decoding": 0.92,
    "saving": 0.97,
    "done": 1.0,
}


STEP_MEMORY = 0.2  # weight of the newest step in the running mean


@dataclass(slots=True)
class LiveJob:
    row: JobRow  # as accepted; what changed since is below
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
    warnings: list[str] = field(default_factory=list)  # as accepted, and what came up since
    stepped_at: float = 0.0  # monotonic; when its step last changed
    scheduler: str | None = None  # class name of the noise scheduler
    rendered: int = 0  # outputs the engine has delivered
    saved: dict[int, OutputRow] = field(default_factory=dict)  # by output index
    preview: NDArray[np.uint8] | None = None  # how its first output looks by now: (H, W, 3), small
    cancel_asked: bool = False
    end: asyncio.Task[None] | None = None  # writes its end to the store: set once, and nothing else ends it then


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """Where a waiting job stands."""

    position: int  # 0 starts next
    length: int
    waiting_for: WaitingFor
    need_bytes: int
    free_bytes: int


class LiveJobs:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._jobs: dict[str, LiveJob] = {}
        self._of_key: dict[str, dict[str, LiveJob]] = {}
        self.watchers = Watchers()
        self._n_queued = 0
        self._clock = clock
        self._statuses = FleetStatus(clock)
        self._step_s: dict[str, float] = {}

    def add(self, row: JobRow) -> LiveJob:
        total = int(row.params.get("steps") or 0)
        job = self._jobs[row.id] = LiveJob(row, total_steps=total, warnings=list(row.warnings))
        self._of_key.setdefault(row.key_id, {})[row.id] = job
        self._n_queued += 1
        self.watchers.committed(row.key_id, row.id)
        self.watchers.moved(row.key_id, row.id)
        return job

    def remove(self, job_id: str) -> None:
        """Its end is in the store now."""
        job = self._jobs.pop(job_id, None)
        if job is None:
            return
        of_key = self._of_key[job.row.key_id]
        del of_key[job_id]
        if not of_key:
            del self._of_key[job.row.key_id]
        if job.state is State.QUEUED:
            self._n_queued -= 1
        self.watchers.committed(job.row.key_id, job_id)

    def show(self, job_id: str, colours: NDArray[np.uint8]) -> None:
        job = self._jobs.get(job_id)
        if job is not None:
            job.preview = colours
            self.watchers.moved(job.row.key_id, job_id)

    def view(self, job_id: str) -> LiveJob | None:
        return self._jobs.get(job_id)

    def update_status(self, status: EngineStatus) -> None:
        """Replace what is known of one device: its queue, running jobs, models and memory."""
        self._statuses.take(status)
        self._note_positions()

    def start(self, event: JobStarted, at: datetime) -> None:
        job = self._jobs.get(event.job_id)
        if job is None:
            return
        if job.state is State.QUEUED:
            self._n_queued -= 1
        job.state, job.started_at = State.PROCESSING, at
        job.queue_ms, job.load_ms = event.queue_ms, event.load_ms
        self.advance(job, "encoding")

    def progress(self, event: JobProgressed) -> float | None:
        """Apply one report of progress; returns the seconds that a denoising step took, None when no step was timed."""
        job = self._jobs.get(event.job_id)
        if job is None:
            return None
        before = job.step
        self.advance(job, event.stage, event.step, event.total_steps)
        return self._time_step(job, job.step - before)

    def advance(self, job: LiveJob, stage: Stage, step: int | None = None, total_steps: int | None = None) -> None:
        """`progress`, `stage` and `step` never go back, whatever order parts of a job report in."""
        if STAGE_BEGINS[stage] < STAGE_BEGINS[job.stage]:
            return
        job.stage = stage
        if total_steps:
            job.total_steps = total_steps
        if step is not None:
            job.step = max(job.step, min(step, job.total_steps))
        share = job.step / job.total_steps if stage == "denoising" and job.total_steps else 0.0
        span = STAGE_BEGINS["decoding"] - STAGE_BEGINS["denoising"]
        job.progress = max(job.progress, STAGE_BEGINS[stage] + share * span)
        self.watchers.moved(job.row.key_id, job.row.id)

    def _note_positions(self) -> None:
        """Waiting jobs may stand elsewhere now. Those behind the list are told only when their own stream asks."""
        for watch in self.watchers.all():
            for job_id in (watch.job_id,) if watch.job_id is not None else self._of_key.get(watch.key_id, ()):
                job = self._jobs.get(job_id)
                if (
                    job is not None
                    and job.state is State.QUEUED
                    and (watch.job_id or self._statuses.waiting(job_id) is not None)
                ):
                    watch.note_moved(job_id)

    def _time_step(self, job: LiveJob, n_steps: int) -> float | None:
        if n_steps <= 0:
            return None
        now, model, seconds = self._clock(), job.row.model, None
        if job.step > n_steps:  # the first step is not timed: it may include a wait for the text encoder
            seconds = (now - job.stepped_at) / n_steps
            old = self._step_s.get(model, seconds)
            self._step_s[model] = old + STEP_MEMORY * (seconds - old)
        job.stepped_at = now
        return seconds

    def step_s(self, model: str) -> float | None:
        """Seconds from one denoising step of a job to its next, others' turns included: what who waits sees. None: none seen."""
        return self._step_s.get(model)

    @property
    def n_queued(self) -> int:
        return self._n_queued

    def n_of_key(self, key_id: str) -> int:
        """Jobs of this key that have not ended."""
        return len(self._of_key.get(key_id, ()))

    def all(self) -> Collection[LiveJob]:
        """Every job that has not ended."""
        return self._jobs.values()

    def of_key(self, key_id: str) -> Iterator[LiveJob]:
        """Its jobs that have not ended, oldest first."""
        return iter(list(self._of_key.get(key_id, {}).values()))

    def place(self, job: LiveJob) -> QueuePosition:
        """The engines list the heads of long queues; a job they have not listed yet stands behind those."""
        statuses = self._statuses
        listed = statuses.waiting(job.row.id)
        if listed is None:
            behind = max(statuses.n_waiting, self._n_queued - 1)
            return QueuePosition(behind, max(behind + 1, self._n_queued), "turn", 0, statuses.free_bytes)
        length = max(statuses.n_waiting, self._n_queued)
        entry = listed.entry
        return QueuePosition(listed.position, length, entry.waiting_for, entry.need_bytes, listed.free_bytes)

    def stage_of(self, job: LiveJob) -> Stage:
        """A job whose model is being loaded waits in the queue, but says what for."""
        listed = self._statuses.waiting(job.row.id)
        if job.state is State.QUEUED and listed is not None and listed.entry.waiting_for == "model_load":
            return "loading_model"
        return job.stage

    def eta_s(self, job: LiveJob) -> float | None:
        """Seconds until done; None while the engines cannot know."""
        return self._statuses.eta_s(job.row.id)

    def under_way(self) -> tuple[Sequence[RunningEntry], Sequence[QueueEntry]]:
        """What runs, and what waits in the order it will start, on all devices; chats, too."""
        return self._statuses.under_way()

    def devices(self) -> list[DeviceStatus]:
        """Those whose engine has told of itself."""
        return self._statuses.devices()

    def models(self) -> list[ModelSnapshot]:
        """The models that some device holds, loads or has failed to load."""
        return self._statuses.models()

    def model(self, name: str) -> ModelSnapshot | None:
        """None: it is only on the disk."""
        return next((picture for picture in self.models() if picture.status.model == name), None)
