"""Makes the engine's events permanent: writes outputs to disk and the ends of jobs to the store. Event loop only.

Each job ends once: the first caller that sets `LiveJob.end` decides how, and its task retries until the end is stored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import Connection

from server.errors import ServerError, Unavailable
from server.fleet.engine_port import Engine
from server.job import State
from server.jobs.artifacts import Artifacts, SavedFile, new_id
from server.jobs.encoding import EncodingFailed, InvalidFrames
from server.jobs.file_hashes import FileHashes
from server.jobs.live_jobs import LiveJob, LiveJobs
from server.jobs.metadata import file_metadata
from server.jobs.webhooks import Webhooks
from server.protocol import Cancel, JobCanceled, JobFailed, JobStarted, OutputReady, Settled
from server.store import jobs as store
from server.store.database import Database
from server.store.jobs import OutputRow

T = TypeVar("T")

logger = logging.getLogger(__name__)

GIF_WITHOUT_SOUND = "A GIF has no sound: the sound that the model generated was left out."
INTERNAL_ERROR: dict[str, Any] = {
    "code": "internal_error",
    "message": "The server failed to deliver the result. Its log has the reason.",
    "retryable": False,
}
RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)  # between tries of a write while the store is unavailable; the last value repeats


class Results:
    def __init__(
        self,
        *,
        database: Database,
        artifacts: Artifacts,
        live_jobs: LiveJobs,
        clock: Callable[[], datetime],
        output_retention: timedelta,
        engine: Engine,
        webhooks: Webhooks,
        on_end: Callable[[str, State], None],
    ) -> None:
        self._database = database
        self._artifacts = artifacts
        self._file_hashes = FileHashes()
        self._live_jobs = live_jobs
        self._clock = clock
        self._output_retention = output_retention
        self._engine = engine
        self._webhooks = webhooks
        self._on_end = on_end  # called with the type of a job and its final state
        self._tasks: set[asyncio.Task[Any]] = set()

    def on_started(self, event: JobStarted) -> None:
        at = self._clock()
        self._live_jobs.start(event, at)
        job = self._live_jobs.get(event.job_id)
        if job is not None and job.end is None:
            row = job.row
            logger.info("job started", extra={"job": row.id, "queue_ms": event.queue_ms, "load_ms": event.load_ms})
            self.spawn(self._store_start(row.id, row.attempt, at))

    async def _store_start(self, job_id: str, attempt: int, at: datetime) -> None:
        try:
            await self._database.write(lambda conn: store.start_job(conn, job_id, attempt, at))
        except Unavailable:
            logger.warning("job start not stored", extra={"job": job_id})  # its end is stored from either state

    def on_output(self, event: OutputReady) -> None:
        """Saves the output in a task; the last output completes the job."""
        job = self._live_jobs.get(event.job_id)
        if job is None or job.end is not None:
            return
        job.n_rendered += 1
        if job.n_rendered == job.row.request["n"]:
            self._live_jobs.advance(job, "saving")
        self.spawn(self._save(job, event))

    async def _save(self, job: LiveJob, event: OutputReady) -> None:
        """Saves one output. Whatever the encoder, the disk or the stored request raises ends the job with a reason."""
        row = job.row
        try:
            saved = await self._saved(job, event)
        except InvalidFrames as error:
            message = "The output of the model is invalid: it contains NaN or infinite values."
            self._fail_output(job, event, error, "invalid_output", message, retryable=False)
            return
        except (EncodingFailed, OSError) as error:
            self._fail_output(job, event, error, "output_not_saved", "The result could not be written to disk.")
            return
        except Exception as error:  # noqa: BLE001  # a worker may raise anything, and the job must end all the same
            message = f"The result could not be encoded as {row.request.get('output_format')}."
            self._fail_output(job, event, error, "encoding_failed", message, retryable=isinstance(error, MemoryError))
            return
        if job.end is not None:  # the job failed or was canceled meanwhile
            await self._artifacts.delete([saved.file_name])
            return
        job.saved[event.index] = saved
        if len(job.saved) == row.request["n"]:
            if job.cancel_requested:
                self.cancel(job, refund=False)
            else:
                self.complete(job)

    async def _saved(self, job: LiveJob, event: OutputReady) -> OutputRow:
        row = job.row
        job.batch_peak = max(job.batch_peak, event.batch_peak)
        if event.peak_bytes is not None:
            job.peak_bytes = max(job.peak_bytes or 0, event.peak_bytes)
        warnings = list(event.warnings)
        if event.sound is not None and row.request["output_format"] == "gif":
            warnings.append(GIF_WITHOUT_SOUND)
        job.warnings += [warning for warning in warnings if warning not in job.warnings]
        job.scheduler = event.scheduler
        saved = await self._artifacts.save(
            output_id := new_id(),
            event.frames,
            event.sound,
            row.request["output_format"],
            await asyncio.to_thread(file_metadata, row, event.index, event.scheduler, self._file_hashes),
            row.request["fps"],
            row.id,
        )
        return _output_row(output_id, job, event, saved)

    def _fail_output(
        self, job: LiveJob, event: OutputReady, error: Exception, code: str, message: str, *, retryable: bool = True
    ) -> None:
        logger.error("output not saved", exc_info=error, extra={"job": job.row.id, "index": event.index})
        self._engine.send(Cancel(job.row.id))
        self.fail(job, code, message, retryable)

    def complete(self, job: LiveJob) -> None:
        at = self._clock()
        row, outputs = job.row, [job.saved[index] for index in sorted(job.saved)]
        metrics = {
            "queueMs": job.queue_ms,
            "loadMs": job.load_ms,
            "runMs": round((at - (job.started_at or row.created_at)).total_seconds() * 1000),
            "batchPeak": job.batch_peak,
            "peakBytes": job.peak_bytes,
            "scheduler": job.scheduler,
            "totalSteps": job.total_steps,
        }
        expires_at = at + self._output_retention
        self._end(
            job,
            State.COMPLETED,
            lambda conn: store.complete_job(conn, row.id, row.attempt, outputs, metrics, at, expires_at, job.warnings),
            keep_files=True,
        )

    def on_failed(self, event: JobFailed) -> None:
        """Fails the job, except when its engine stops: the next start submits such jobs again."""
        job = self._live_jobs.get(event.job_id)
        if job is not None and event.code != "engine_stopped":
            self.fail(job, event.code, event.message, event.retryable)

    def fail_internal(self, job_id: str) -> None:
        """Fails a job whose event could not be handled because of a bug, which the log has."""
        job = self._live_jobs.get(job_id)
        if job is not None and job.end is None:
            self._engine.send(Cancel(job_id))
            self.fail(job, **INTERNAL_ERROR)

    def fail(self, job: LiveJob, code: str, message: str, retryable: bool) -> None:
        """Ends the job as failed and refunds it."""
        row, at = job.row, self._clock()
        error = {"code": code, "message": message, "retryable": retryable}
        self._end(job, State.FAILED, lambda conn: store.fail_job(conn, row.id, row.attempt, error, at, refund=True))

    def on_canceled(self, event: JobCanceled) -> None:
        job = self._live_jobs.get(event.job_id)
        if job is not None:
            self.cancel(job, refund=job.state is State.QUEUED)

    def cancel(self, job: LiveJob, *, refund: bool) -> None:
        row, at = job.row, self._clock()
        self._end(job, State.CANCELED, lambda conn: store.cancel_job(conn, row.id, at, refund))

    def _end(
        self, job: LiveJob, state: State, write: Callable[[Connection], bool], *, keep_files: bool = False
    ) -> None:
        if job.end is None:
            job.end = self.spawn(self._write_end(job, state, write, keep_files))

    async def _write_end(
        self, job: LiveJob, state: State, write: Callable[[Connection], bool], keep_files: bool
    ) -> None:
        try:
            recorded = await self.persist(write)  # False: the job has already ended, or has a newer attempt
        except Exception:  # the values cannot be stored; those of a failure are plain texts
            logger.exception("end of job cannot be stored", extra={"job": job.row.id, "status": state.value})
            state, keep_files = State.FAILED, False
            recorded = await self._store_internal_error(job)
        self._live_jobs.remove(job.row.id)
        if job.row.attempt > 1:
            self._engine.send(Settled(job.row.id))
        if job.row.request.get("webhook_url"):
            self._webhooks.wake()
        if not (recorded and keep_files):
            await self._artifacts.delete([output.file_name for output in job.saved.values()])
        if recorded:
            self._on_end(job.row.type, state)
        logger.info(
            "job ended" if recorded else "job had ended before", extra={"job": job.row.id, "status": state.value}
        )

    async def _store_internal_error(self, job: LiveJob) -> bool:
        """Fails the job in the store. False: not even that can be stored; the next start decides on the job."""
        row, at = job.row, self._clock()
        try:
            return await self.persist(
                lambda conn: store.fail_job(conn, row.id, row.attempt, INTERNAL_ERROR, at, refund=True)
            )
        except Exception:
            logger.exception("end of job cannot be stored", extra={"job": row.id, "status": State.FAILED.value})
            return False

    async def persist(self, work: Callable[[Connection], T]) -> T:
        """Retries a write until the store accepts it, so that a full disk or a lock loses nothing."""
        tries = 0
        while True:
            try:
                return await self._database.write(work)
            except Unavailable:
                wait_s = RETRY_S[min(tries, len(RETRY_S) - 1)]
                logger.warning("store write failed, trying again", extra={"tries": tries + 1, "wait_s": wait_s})
                tries += 1
                await asyncio.sleep(wait_s)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Runs `work` in a task that outlives the request which started it; an unexpected error is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception) and not isinstance(error, ServerError):  # a ServerError goes to its client
            logger.error("background task failed", exc_info=error)

    async def close(self, timeout_s: float) -> None:
        """Waits at most `timeout_s` for saves and writes, then cancels them; the next start runs those jobs again."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


def _output_row(output_id: str, job: LiveJob, event: OutputReady, saved: SavedFile) -> OutputRow:
    return OutputRow(
        id=output_id,
        job_id=job.row.id,
        index=event.index,
        mime_type=saved.mime_type,
        width=saved.width,
        height=saved.height,
        duration_s=saved.duration_s,
        seed=job.row.request["seed"] + event.index,
        n_bytes=saved.n_bytes,
        sha256=saved.sha256,
        file_name=saved.file_name,
        flagged=event.flagged or None,
    )
