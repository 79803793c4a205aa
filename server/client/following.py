"""Follows a job to its end, by the server's events or, where it refuses to stream, by its status. No network I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from typing import Any

from server.client.errors import JobCanceled, JobFailed, NotReachable, NotThisServer, Refused
from server.client.events import Event, EventReader
from server.client.replies import Job
from server.client.talk import Emit, Send, Sleep, Step, next_bytes, parse, read, send

STATUS_EVENTS = frozenset({"position", "loading", "progress", "completed", "failed", "canceled"})
FIRST_POLL_S, LONGEST_POLL_S = 0.1, 1.0
SILENCE_S = 45.0  # an event stream counts as broken after three missed keep-alives


def follow_job(job_id: str, on_change: Callable[[Job], object], n_retries: int) -> Generator[Step[Job], Any, Job]:
    """Emits the job now and after each change, until it has ended.

    Follows the server's events, and polls the status when the server refuses to stream. A stream that breaks does
    no harm, because the next status contains everything that was missed.
    """
    retries = 3 * n_retries  # a restart of the server takes longer than a broken connection
    streams, pause_s = True, FIRST_POLL_S
    job: Job | None = None
    while True:
        now = read((yield from send(Send("GET", f"/api/status/{job_id}"), retries)), Job)
        if now != job:
            on_change(now)
            yield Emit(now)
        if now.ended:
            return now
        job = now
        if streams:
            try:
                job = yield from _follow(job, on_change)
            except Refused:
                streams = False
            except NotReachable:
                pause_s = LONGEST_POLL_S
            if job.ended:
                return job
        yield Sleep(pause_s)
        pause_s = min(1.3 * pause_s, LONGEST_POLL_S)


def _follow(job: Job, on_change: Callable[[Job], object]) -> Generator[Step[Job], Any, Job]:
    """Emits the job after each event that changes it. Returns its state at the end of the stream."""
    path = f"/api/jobs/{job.job_id}/events"
    yield from send(Send("GET", path, stream=True, read_timeout_s=SILENCE_S), 0)
    reader = EventReader()
    while not job.ended and (chunk := (yield from next_bytes())):
        for event in reader.feed(chunk):
            if event.name in STATUS_EVENTS:
                job = _changed(job, event)
                on_change(job)
                yield Emit(job)
    return job


def completed(job: Job) -> Job:
    """Returns the job if it has completed. Raises `JobFailed` and `JobCanceled`."""
    if job.status == "failed":
        raise JobFailed(job)
    if job.status == "canceled":
        raise JobCanceled(job)
    return job


def _changed(job: Job, event: Event) -> Job:
    """Returns the job with the fields that the event contains. A job that no longer waits has no place in the queue."""
    fields = json.loads(event.data)
    if not isinstance(fields, dict):
        raise NotThisServer(f"The client cannot read an event: {event.name}")
    if fields.get("status") != "queued":
        fields = {"queue": None} | fields
    return parse(json.dumps(job.as_json() | fields), Job)
