"""Each event of an engine goes to whom it concerns: the board, the delivery of a job, a chat, what is learned. Event loop only."""

from __future__ import annotations

from typing import assert_never

from server.jobs.live_jobs import LiveJobs
from server.jobs.results import Results
from server.protocol import (
    EngineStatus,
    Event,
    JobCanceled,
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
from server.service.chat import Chats
from server.service.learned import LearnedValues
from server.service.metrics import Metrics


class Dispatch:
    def __init__(
        self,
        *,
        live_jobs: LiveJobs,
        results: Results,
        chats: Chats,
        metrics: Metrics,
        learned: LearnedValues,
    ) -> None:
        self._live_jobs = live_jobs
        self._results = results
        self._chats = chats
        self._metrics = metrics
        self._learned = learned

    def take(self, event: Event) -> None:
        self._metrics.take(event)
        match event:
            case EngineStatus():
                self._live_jobs.update_status(event)
            case JobProgressed():
                self._metrics.stepped(event.job_id, self._live_jobs.progress(event))
            case JobPreviewed():
                self._live_jobs.show(event.job_id, event.colours)
            case OutputReady():
                self._results.rendered(event)
            case JobText() | JobReplied():
                self._chats.deliver(event)
            case JobStarted():
                if not self._chats.deliver(event):
                    self._results.started(event)
            case JobFailed():
                if not self._chats.deliver(event):
                    self._results.failed(event)
            case JobCanceled():
                if not self._chats.deliver(event):
                    self._results.canceled(event)
            case PeaksLearned() | VerdictsReached():
                self._learned.take(event)
            case JobReturned() | RanOutOfMemory():
                pass  # the fleet's own; what is only counted
            case _:
                assert_never(event)
