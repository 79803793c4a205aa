"""Looks up, lists, cancels and deletes the jobs of a key, and opens their files. Event loop only."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from server.accounts.auth import ApiKey
from server.errors import NotFound, Unavailable
from server.fleet.engine_port import Engine
from server.job import State
from server.jobs import job_view
from server.jobs.artifacts import Artifacts
from server.jobs.event_stream import JobEvents
from server.jobs.job_view import JobView
from server.jobs.live_jobs import LiveJob, LiveJobs
from server.jobs.results import Results
from server.protocol import Cancel
from server.store import jobs as store
from server.store import keys
from server.store.database import Database
from server.store.jobs import JobRow, OutputRow

logger = logging.getLogger(__name__)

NO_SUCH_JOB = "There is no such job."
NO_SUCH_FILE = "There is no such file."
FINISHED_POLL_S = 60.0  # a wait for the end of a job also polls, in case it was not woken
CANCEL_WAIT_S = 5.0  # wait for the store to accept a cancellation; then the client is asked to try again


class Jobs:
    def __init__(
        self,
        *,
        database: Database,
        engine: Engine,
        artifacts: Artifacts,
        live_jobs: LiveJobs,
        results: Results,
        events: JobEvents,
    ) -> None:
        self._database = database
        self._engine = engine
        self._artifacts = artifacts
        self._live_jobs = live_jobs
        self._results = results
        self._events = events

    async def status(self, key: ApiKey, job_id: str) -> JobView:
        """The status of a job. Raises the same `NotFound` for an unknown, foreign and deleted job."""
        live = self._live(key, job_id)
        if live is not None:
            return job_view.of_live(live, self._live_jobs)
        # The job may have ended since. A job that is not stored yet has an id that no client knows.
        return await self.status_of(key.id, job_id)

    async def status_of(self, key_id: str, job_id: str) -> JobView:
        """As `status`, from the store only: for work without a request, such as webhooks."""
        row, outputs = await self._database.read(lambda conn: _look_up(conn, key_id, job_id))
        return job_view.of_row(row, outputs)

    def live(self, key: ApiKey) -> list[JobView]:
        """The key's jobs that have not ended, newest first."""
        return [job_view.of_live(job, self._live_jobs) for job in self._live_jobs.of_key(key.id)][::-1]

    def preview(self, key: ApiKey, job_id: str) -> NDArray[np.uint8] | None:
        """The latest preview of a running job, (H, W, 3); None when there is none."""
        live = self._live(key, job_id)
        return None if live is None else live.preview

    async def finished(self, key: ApiKey, job_id: str) -> JobView:
        """Waits for the end of a job; returns its status. Raises `NotFound`."""
        with self._events.watch(key, job_id) as watch:
            while self._live_jobs.get(job_id) is not None:
                await watch.wait(FINISHED_POLL_S)
        return await self.status(key, job_id)

    async def list(
        self,
        key: ApiKey,
        status: State | None,
        limit: int,
        cursor: str | None,
        kind: Literal["image", "video"] | None = None,
    ) -> tuple[Sequence[JobView], str | None]:
        """A page of jobs, newest first, and the cursor of the next page. Raises `BadRequest` for an invalid cursor."""

        def page(conn: Connection) -> tuple[list[tuple[JobRow, list[OutputRow]]], str | None]:
            rows, after = store.list_jobs(conn, key.id, status, limit, cursor, kind)
            return [(row, store.outputs_of(conn, row.id)) for row in rows], after

        found, after = await self._database.read(page)
        views = []
        for row, outputs in found:
            live = self._live_jobs.get(row.id)
            views.append(job_view.of_row(row, outputs) if live is None else job_view.of_live(live, self._live_jobs))
        return views, after

    async def cursor_after(self, key: ApiKey, job_id: str) -> str | None:
        """The cursor of the page that begins after this job; None when there is no such job."""
        return await self._database.read(lambda conn: store.cursor_after(conn, key.id, job_id))

    async def cancel(self, key: ApiKey, job_id: str) -> JobView:
        """Cancels a queued job at once with a refund, and a running job before its next step; deletes a finished job.

        Canceling twice changes nothing. Raises `NotFound`, `Unavailable`.
        """
        live = self._live(key, job_id)
        if live is None:
            return await self._delete(key, job_id)
        self._cancel(live)
        if live.end is None:
            return job_view.of_live(live, self._live_jobs)
        try:
            await asyncio.wait_for(asyncio.shield(live.end), CANCEL_WAIT_S)
        except TimeoutError:
            raise Unavailable("The cancellation is not stored yet. Ask again shortly.", retry_after_s=5) from None
        return await self.status(key, job_id)

    def cancel_all(self, key_id: str) -> int:
        """Cancels all jobs of a key; returns how many there were."""
        jobs = [live for live in self._live_jobs.of_key(key_id) if not live.cancel_requested]
        for live in jobs:
            self._cancel(live)
        return len(jobs)

    def _cancel(self, live: LiveJob) -> None:
        live.cancel_requested = True
        if live.state is State.QUEUED:
            self._results.cancel(live, refund=True)
        self._engine.send(Cancel(live.row.id))

    async def _delete(self, key: ApiKey, job_id: str) -> JobView:
        def delete(conn: Connection) -> tuple[JobRow, list[str]]:
            row, _ = _look_up(conn, key.id, job_id)
            return row, [] if row.state is State.CANCELED else store.delete_job(conn, job_id, key.id)

        row, file_names = await self._database.write(delete)
        await self._artifacts.delete(file_names)
        if row.state is not State.CANCELED:
            logger.info("job deleted", extra={"job": job_id})
        return job_view.of_row(row, ())

    async def file(self, output_id: str, key: ApiKey | None) -> tuple[OutputRow, Path]:
        """An output and its file. Raises the same `NotFound` for an unknown, foreign and deleted file.

        key: None when the request came with a valid link, which opens nothing of a key that was revoked since.
        """
        found = await self._database.read(lambda conn: _find_output(conn, output_id, key))
        if found is None:
            raise NotFound(NO_SUCH_FILE)
        path = self._artifacts.path(found.file_name)
        if path is None:
            raise NotFound(NO_SUCH_FILE)
        return found, path

    def link(self, output: OutputRow, expires_at: datetime) -> str:
        """The signed query string that opens this output without a key."""
        return self._artifacts.sign(output.id, expires_at)

    def link_opens(self, output_id: str, expires: str, signature: str) -> bool:
        return self._artifacts.verify(output_id, expires, signature)

    def _live(self, key: ApiKey, job_id: str) -> LiveJob | None:
        live = self._live_jobs.get(job_id)
        return live if live is not None and live.row.key_id == key.id else None


def _find_output(conn: Connection, output_id: str, key: ApiKey | None) -> OutputRow | None:
    found = store.get_output(conn, output_id)
    if found is None:
        return None
    output, owner = found
    may_open = owner == key.id if key is not None else not keys.revoked_among(conn, [owner])
    return output if may_open else None


def _look_up(conn: Connection, key_id: str, job_id: str) -> tuple[JobRow, list[OutputRow]]:
    row = store.get_job(conn, job_id, key_id)
    if row is None:
        raise NotFound(NO_SUCH_JOB)
    return row, store.outputs_of(conn, job_id)
