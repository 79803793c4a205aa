"""The running jobs: which request belongs to which job, and how requests add up to a job. Device thread only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipelines.interface import Request, Stage
from server.job import Job

STAGES: Sequence[Stage] = ("waiting", "loading_model", "encoding", "denoising", "decoding", "saving", "done")


@dataclass(slots=True)
class Progress:
    stage: Stage
    step: int
    total_steps: int


@dataclass(slots=True)
class RunningJob:
    job: Job
    failed: bool = False
    canceled: bool = False
    has_run: bool = False  # its lane has begun it, or is about to run a forward for it
    progress: dict[str, Progress] = field(default_factory=dict)  # by request id


class RunningJobs:
    def __init__(self) -> None:
        self._by_id: dict[str, RunningJob] = {}
        self._by_request: dict[str, RunningJob] = {}
        self.revision = 0  # counts reports of progress

    def __len__(self) -> int:
        return len(self._by_id)

    def all(self) -> list[Job]:
        return [running.job for running in self._by_id.values()]

    def get(self, job_id: str) -> Job | None:
        running = self._by_id.get(job_id)
        return running.job if running else None

    def add(self, job: Job) -> None:
        running = self._by_id[job.id] = RunningJob(job)
        self._by_request.update({request.id: running for request in job.requests})

    def has_request(self, request_id: str) -> bool:
        return request_id in self._by_request

    def of_request(self, request_id: str) -> Job:
        return self._by_request[request_id].job

    def find(self, request_id: str) -> tuple[int, Request]:
        """Returns the index of the request among the job's outputs, and the request."""
        requests = self._by_request[request_id].job.requests
        return next((i, request) for i, request in enumerate(requests) if request.id == request_id)

    def record_progress(self, request_id: str, stage: Stage, step: int, total: int) -> tuple[Stage, int, int]:
        """Record one request's progress; returns the progress of the job, which is that of its slowest request."""
        running = self._by_request[request_id]
        running.progress[request_id] = Progress(stage, step, total)
        self.revision += 1
        slowest = min(running.progress.values(), key=lambda p: (STAGES.index(p.stage), p.step / max(1, p.total_steps)))
        if len(running.progress) < len(running.job.requests):
            return "encoding", 0, total
        return slowest.stage, slowest.step, slowest.total_steps

    def ran(self, request_ids: Iterable[str]) -> None:
        for request_id in request_ids:
            if request_id in self._by_request:
                self._by_request[request_id].has_run = True

    def has_run(self, job_id: str) -> bool:
        return self._by_id[job_id].has_run

    def fail(self, job_id: str) -> bool:
        """Mark the job as failed. False when it was failed already, so that its failure is reported once."""
        running = self._by_id[job_id]
        first, running.failed = not running.failed, True
        return first

    def cancel(self, job_id: str) -> None:
        self._by_id[job_id].canceled = True

    def end(self, job_id: str) -> Literal["finished", "failed", "canceled"]:
        """Remove the job, whose last request has ended; returns how the job ended."""
        running = self._by_id.pop(job_id)
        for request in running.job.requests:
            del self._by_request[request.id]
        if running.failed:
            return "failed"
        return "canceled" if running.canceled else "finished"
