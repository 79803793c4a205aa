"""Recovers stored jobs at start, and removes expired jobs and files while the server runs. Event loop only.

Nothing here may stop the server from starting: a job that cannot run any more fails with the reason and is refunded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import Connection

from server.accounts.quotas import today
from server.jobs.artifacts import Artifacts
from server.jobs.crashes import Crashes
from server.jobs.inputs.files import InputFiles
from server.jobs.limits import Catalogue
from server.jobs.live_jobs import LiveJob, LiveJobs
from server.jobs.results import Results
from server.jobs.submission import Submission
from server.store import idempotency, messages, open_chats, responses, usage
from server.store import jobs as store
from server.store.database import Database
from server.store.jobs import JobRow

logger = logging.getLogger(__name__)


class Recovery:
    def __init__(
        self,
        *,
        database: Database,
        catalogue: Catalogue,
        artifacts: Artifacts,
        input_files: InputFiles,
        live_jobs: LiveJobs,
        submission: Submission,
        results: Results,
        crashes: Crashes,
        clock: Callable[[], datetime],
        job_retention: timedelta,
    ) -> None:
        self._database = database
        self._catalogue = catalogue
        self._artifacts = artifacts
        self._input_files = input_files
        self._live_jobs = live_jobs
        self._submission = submission
        self._results = results
        self._crashes = crashes
        self._clock = clock
        self._job_retention = job_retention
        self._waiting: list[LiveJob] = []  # their models are still being read

    async def recover(self) -> int:
        """Removes files without a job, refunds chats that the end of the last process cut off, and submits unfinished
        jobs again; returns the number of unfinished jobs.

        Call it at start, before the first request.
        """
        suspects = dict(self._crashes.suspects)

        def recover(conn: Connection) -> list[JobRow]:
            open_chats.refund_all(conn)
            return store.recover_jobs(conn, self._clock(), suspects)

        rows = await self._database.write(recover)
        self._crashes.count()
        swept = await self._sweep()  # before any job runs, because the store does not have a running job's files yet
        self._waiting = [self._live_jobs.add(row) for row in rows]
        self.resume()
        if rows or swept:
            logger.info("recovered", extra={"jobs": len(rows), "files_swept": swept})
        return len(rows)

    def resume(self) -> None:
        """Starts the recovered jobs whose models have been read by now. Call it after each change of the catalogue."""
        known = set(self._catalogue.names())
        read_later = {model.name for model in self._catalogue.refused if model.is_still_read}
        waiting, self._waiting = self._waiting, []
        for job in waiting:
            if job.end is not None or job.cancel_requested:
                continue
            if job.row.model in known:
                self._submission.start(job)
            elif job.row.model in read_later:
                self._waiting.append(job)
            else:
                self._results.fail(job, "model_gone", f"{job.row.model} is no longer in the catalogue.", False)

    async def _sweep(self) -> int:
        try:
            outputs = await self._artifacts.sweep(await self._database.read(store.file_names))
            return outputs + await self._input_files.sweep()
        except OSError:
            logger.exception("left-over files were not removed")
            return 0

    async def tidy(self) -> None:
        """Removes outputs, jobs, input files, conversations, responses and usage counts after their retention."""
        now = self._clock()

        def forget(conn: Connection) -> list[str]:
            gone = [name for job_id in store.expired(conn, now) for name in store.forget_outputs(conn, job_id)]
            gone += store.forget_jobs_before(conn, now - self._job_retention)
            idempotency.forget_before(conn, now)
            messages.forget_before(conn, now - self._job_retention)
            responses.forget_before(conn, now - self._job_retention)
            usage.forget_days_before(conn, today(now - self._job_retention))
            return gone

        await self._artifacts.delete(await self._database.write(forget))
        await self._input_files.tidy()
