"""Builds the view of a job that its owner gets: from its live state until it ends, from the store afterwards.

Event loop only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipelines.interface import Stage
from server.job import State
from server.jobs.live_jobs import LiveJob, LiveJobs, QueuePosition
from server.store.jobs import JobRow, OutputRow


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    id: str
    status: State
    type: str
    model: str
    prompt: str | None  # None: deleted together with the outputs
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    progress: float
    stage: Stage
    step: int
    total_steps: int
    queue_position: QueuePosition | None  # None: the job does not wait
    eta_s: float | None
    params: dict[str, Any]
    warnings: Sequence[str]
    outputs: Sequence[OutputRow]
    error: dict[str, Any] | None
    attempt: int
    metrics: dict[str, Any] | None


def of_live(job: LiveJob, live_jobs: LiveJobs) -> JobView:
    row = job.row
    return JobView(
        id=row.id,
        status=job.state,
        type=row.type,
        model=row.model,
        prompt=row.request.get("prompt"),
        created_at=row.created_at,
        started_at=job.started_at,
        finished_at=None,
        expires_at=None,
        progress=job.progress,
        stage=live_jobs.stage_of(job),
        step=job.step,
        total_steps=job.total_steps,
        queue_position=live_jobs.queue_position(job) if job.state is State.QUEUED else None,
        eta_s=live_jobs.eta_s(job),
        params=row.params,
        warnings=job.warnings,
        outputs=(),
        error=None,
        attempt=row.attempt,
        metrics=None,
    )


def of_row(row: JobRow, outputs: Sequence[OutputRow]) -> JobView:
    """The view of a stored job.

    The engine reports the noise scheduler and the number of steps that ran, so the store has them among the metrics;
    the view shows them elsewhere. With `strength`, fewer steps run than the request names.
    """
    metrics = dict(row.metrics or {})
    scheduler = metrics.pop("scheduler", row.params.get("scheduler"))
    total_steps = int(metrics.pop("totalSteps", None) or row.params.get("steps") or 0)
    stage: Stage = "done" if row.state.terminal else "waiting"
    completed = row.state is State.COMPLETED
    return JobView(
        id=row.id,
        status=row.state,
        type=row.type,
        model=row.model,
        prompt=row.request.get("prompt"),
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        expires_at=row.expires_at,
        progress=1.0 if completed else 0.0,
        stage=stage,
        step=total_steps if completed else 0,
        total_steps=total_steps,
        queue_position=None,
        eta_s=0.0 if completed else None,
        params={**row.params, "scheduler": scheduler},
        warnings=row.warnings,
        outputs=outputs,
        error=row.error,
        attempt=row.attempt,
        metrics=metrics or None,
    )
