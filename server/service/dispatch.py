"""Routes each event of an engine to its handler: live jobs, results, chats, learned values. Event loop only."""

from __future__ import annotations

import logging
from typing import assert_never

from server.engine_status import EngineStatus
from server.jobs.crashes import FOR_JOBS, FOR_PROMPTS, Crashes
from server.jobs.live_jobs import LiveJobs
from server.jobs.results import Results
from server.protocol import (
    Event,
    JobCanceled,
    JobEmbedded,
    JobFailed,
    JobPreviewed,
    JobProgressed,
    JobReplied,
    JobReturned,
    JobStarted,
    JobText,
    OutputReady,
    PeaksLearned,
    RanOutOfMemory,
    VerdictsReached,
)
from server.service.learned import LearnedValues
from server.service.metrics import Metrics
from server.service.running_chats import RunningChats

logger = logging.getLogger(__name__)


class Dispatch:
    def __init__(
        self,
        *,
        live_jobs: LiveJobs,
        results: Results,
        running_chats: RunningChats,
        metrics: Metrics,
        learned: LearnedValues,
        crashes: Crashes,
    ) -> None:
        self._live_jobs = live_jobs
        self._results = results
        self._running_chats = running_chats
        self._metrics = metrics
        self._learned = learned
        self._crashes = crashes

    def handle(self, event: Event) -> None:
        """Never raises, so that the events behind this one are handled too. A job whose event is lost fails."""
        try:
            self._metrics.count(event)  # first, because metrics look up jobs that the event may end
        except Exception:
            logger.exception("event not counted", extra={"kind": type(event).__name__})
        try:
            if self._crashes.known:  # seldom
                self._note_success(event)
            self._handle(event)
        except Exception:
            logger.exception("event not handled", extra={"kind": type(event).__name__})
            if isinstance(event, JobStarted | OutputReady | JobFailed | JobCanceled):
                self._results.fail_internal(event.job_id)

    def _note_success(self, event: Event) -> None:
        """Forget that a model ended an earlier process at what it has now done well."""
        match event:
            case EngineStatus():
                for listed in event.models:
                    if listed.state == "resident":
                        self._crashes.worked(listed.model, "load")
            case OutputReady():
                job = self._live_jobs.get(event.job_id)
                if job is not None:
                    self._crashes.worked(job.row.model, *FOR_JOBS)
            case JobReplied() | JobEmbedded():
                model = self._running_chats.model_of(event.job_id)
                if model is not None:
                    self._crashes.worked(model, *FOR_JOBS, *FOR_PROMPTS)
            case _:
                pass

    def _handle(self, event: Event) -> None:
        match event:
            case EngineStatus():
                self._live_jobs.update_status(event)
            case JobProgressed():
                self._metrics.step_timed(event.job_id, self._live_jobs.update_progress(event))
            case JobPreviewed():
                self._live_jobs.set_preview(event.job_id, event.colours)
            case OutputReady():
                self._results.on_output(event)
            case JobText() | JobReplied() | JobEmbedded():
                self._running_chats.deliver(event)
            case JobStarted():
                if not self._running_chats.deliver(event):
                    self._results.on_started(event)
            case JobFailed():
                if not self._running_chats.deliver(event):
                    self._results.on_failed(event)
            case JobCanceled():
                if not self._running_chats.deliver(event):
                    self._results.on_canceled(event)
            case PeaksLearned() | VerdictsReached():
                self._learned.add(event)
            case JobReturned() | RanOutOfMemory():
                pass  # JobReturned is for the fleet only, RanOutOfMemory for the metrics only
            case _:
                assert_never(event)
