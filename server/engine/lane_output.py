"""Turns the updates that come out of a lane's steps into events of its jobs. Device thread only."""

from __future__ import annotations

import logging
from typing import assert_never

from pipelines.interface import (
    Canceled,
    Embedded,
    Failed,
    Lane,
    Previewed,
    Progressed,
    Rendered,
    Replied,
    TextDelta,
    Update,
)
from server.engine.eta import Estimates
from server.engine.outbox import Outbox
from server.engine.running_jobs import RunningJobs
from server.job import Job
from server.protocol import (
    JobCanceled,
    JobEmbedded,
    JobFailed,
    JobPreviewed,
    JobProgressed,
    JobReplied,
    JobText,
    OutputReady,
    VerdictsReached,
)
from server.scheduling.scheduler import Scheduler

logger = logging.getLogger(__name__)


class LaneOutput:
    def __init__(self, scheduler: Scheduler, jobs: RunningJobs, estimates: Estimates, outbox: Outbox) -> None:
        self._scheduler = scheduler
        self._jobs = jobs
        self._estimates = estimates
        self._outbox = outbox
        self._verdicts: dict[str, dict[str, bool]] = {}  # by fingerprint, as last reported

    def take(self, lane: Lane, model: str, update: Update, at: float) -> bool:
        """Report one update. True when it made the other requests of its job end, in the lane's next step.

        at: the engine's clock when the step ended.
        """
        job, put = self._jobs.of_request(update.request_id), self._outbox.put
        match update:
            case Progressed(request_id, stage, step, total):
                put(JobProgressed(job.id, *self._jobs.record_progress(request_id, stage, step, total)))
            case Previewed(request_id, colours):
                if self._jobs.find(request_id)[0] == 0:
                    put(JobPreviewed(job.id, colours))
            case TextDelta(_, text, section, logprobs, call):
                put(JobText(job.id, text, at, section, logprobs, call))
            case Rendered(request_id, frames, batch_peak, scheduler, warnings, sound, flagged):
                index, request = self._jobs.find(request_id)
                peak_bytes = self._estimates.peak_bytes(request_id)
                self._estimates.finished(model, request)
                all_warnings = (*lane.warnings, *warnings)
                made = frames, batch_peak, scheduler, peak_bytes, all_warnings, sound, flagged
                put(OutputReady(job.id, index, *made))
                self._report_verdicts(lane, model)
                self._end_request(job, request_id)
            case Replied():
                self._estimates.finished(model, self._jobs.find(update.request_id)[1])
                put(_replied(job.id, update))
                self._end_request(job, update.request_id)
            case Embedded(request_id, vectors, n_tokens):
                self._estimates.finished(model, self._jobs.find(request_id)[1])
                put(JobEmbedded(job.id, vectors, n_tokens, tuple(lane.warnings)))
                self._end_request(job, request_id)
            case Failed(request_id, code, message, detail):
                logger.error("job failed", extra={"job": job.id, "code": code, "detail": detail})
                first = self._jobs.fail(job.id)
                if first:
                    put(JobFailed(job.id, code, message, code in ("out_of_memory", "model_error")))
                    for request in job.requests:
                        lane.cancel(request.id)
                self._end_request(job, request_id)
                return first
            case Canceled(request_id):
                self._end_request(job, request_id)
            case _:
                assert_never(update)
        return False

    def drop(self, job: Job) -> None:
        """End what is left of a job whose lane is gone. Its failure has been reported."""
        for request in job.requests:
            if self._scheduler.is_running(job.id, job.model) and self._jobs.get(job.id) is not None:
                self._end_request(job, request.id)

    def _report_verdicts(self, lane: Lane, model: str) -> None:
        key, verdicts = self._scheduler.residents[model].key, dict(lane.verdicts)
        if verdicts and verdicts != self._verdicts.get(key):
            self._verdicts[key] = verdicts
            self._outbox.put(VerdictsReached(key, verdicts))

    def _end_request(self, job: Job, request_id: str) -> None:
        self._estimates.forget(request_id)
        if self._scheduler.request_ended(job.id, job.model) and self._jobs.end(job.id) == "canceled":
            self._outbox.put(JobCanceled(job.id))


def _replied(job_id: str, reply: Replied) -> JobReplied:
    return JobReplied(
        job_id,
        text=reply.text,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        finish_reason=reply.finish_reason,
        thinking=reply.thinking,
        thinking_tokens=reply.thinking_tokens,
        warnings=reply.warnings,
        tool_calls=reply.tool_calls,
        stop_text=reply.stop_text,
    )
