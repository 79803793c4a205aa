"""The jobs the lanes are working on, and how their requests add up to one job. Device thread only."""

from __future__ import annotations

from collections.abc import Sequence
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
class Running:
    job: Job
    unfinished: set[str]
    failed: bool = False
    canceled: bool = False
    progress: dict[str, Progress] = field(default_factory=dict)


class RunningJobs:
    def __init__(self) -> None:
        self._by_id: dict[str, Running] = {}
        self._by_request: dict[str, Running] = {}
        self.revision = 0  # counts reports of progress

    def __len__(self) -> int:
        return len(self._by_id)

    def all(self) -> list[Job]:
        return [running.job for running in self._by_id.values()]

    def get(self, job_id: str) -> Job | None:
        running = self._by_id.get(job_id)
        return running.job if running else None

    def add(self, job: Job) -> None:
        running = self._by_id[job.id] = Running(job, {request.id for request in job.requests})
        self._by_request.update(dict.fromkeys(running.unfinished, running))

    def has_request(self, request_id: str) -> bool:
        return request_id in self._by_request

    def of_request(self, request_id: str) -> Job:
        return self._by_request[request_id].job

    def find(self, request_id: str) -> tuple[int, Request]:
        """The request and its place among the job's outputs."""
        requests = self._by_request[request_id].job.requests
        return next((i, request) for i, request in enumerate(requests) if request.id == request_id)

    def progress(self, request_id: str, stage: Stage, step: int, total: int) -> tuple[Stage, int, int]:
        """Note one request's progress; returns the job's: that of its slowest request."""
        running = self._by_request[request_id]
        running.progress[request_id] = Progress(stage, step, total)
        self.revision += 1
        slowest = min(running.progress.values(), key=lambda p: (STAGES.index(p.stage), p.step / max(1, p.total_steps)))
        if len(running.progress) < len(running.job.requests):
            return "encoding", 0, total
        return slowest.stage, slowest.step, slowest.total_steps

    def fail(self, job_id: str) -> bool:
        """False when the job had failed before: it is told once."""
        running = self._by_id[job_id]
        first, running.failed = not running.failed, True
        return first

    def cancel(self, job_id: str) -> None:
        self._by_id[job_id].canceled = True

    def end(self, job_id: str) -> Literal["finished", "failed", "canceled"]:
        """Forget the job; its last request has ended."""
        running = self._by_id.pop(job_id)
        for request in running.job.requests:
            del self._by_request[request.id]
        if running.failed:
            return "failed"
        return "canceled" if running.canceled else "finished"
