"""The Prometheus metrics of the server: counters fed by the engines' events, gauges read from the live jobs.

Event loop only.
"""

from __future__ import annotations

import logging
import time
from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from server.engine_status import EngineStatus
from server.job import UNSTORED, State, unstored_type
from server.jobs.live_jobs import LiveJob, LiveJobs
from server.protocol import (
    Event,
    JobEmbedded,
    JobFailed,
    JobProgressed,
    JobReplied,
    JobStarted,
    JobText,
    OutputReady,
    RanOutOfMemory,
)

logger = logging.getLogger(__name__)

# Buckets of the histograms.
QUEUE_WAIT_S = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800)
STEP_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
TEXT_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
HTTP_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)
BATCH_ROWS = (1, 2, 4, 8, 16, 32)


class Metrics:
    def __init__(self, live_jobs: LiveJobs) -> None:
        self._live_jobs = live_jobs
        self._residents: dict[str, frozenset[str]] = {}  # by device
        registry = self._registry = CollectorRegistry()
        registry.register(_CurrentState(live_jobs))
        self.http = Counter(
            "agentname_http_requests", "HTTP requests", ["method", "route", "status"], registry=registry
        )
        self.http_s = Histogram(
            "agentname_http_seconds",
            "Seconds from the request to the first byte of the reply",
            ["method", "route"],
            buckets=HTTP_S,
            registry=registry,
        )
        self._ended = Counter(
            "agentname_jobs_ended", "Jobs that have ended, by final status", ["type", "status"], registry=registry
        )
        self._failed = Counter(
            "agentname_jobs_failed", "Failed jobs and chats, by error code", ["code"], registry=registry
        )
        self._ran_out = Counter(
            "agentname_out_of_memory",
            "Forwards that ran out of memory, including those that succeeded on a retry",
            ["model"],
            registry=registry,
        )
        self._wait_s = Histogram(
            "agentname_queue_wait_seconds",
            "Seconds from the acceptance of a job to its start",
            ["type"],
            buckets=QUEUE_WAIT_S,
            registry=registry,
        )
        self._step_s = Histogram(
            "agentname_step_seconds",
            "Seconds between two denoising steps of a job, time slices of other jobs included",
            ["model"],
            buckets=STEP_S,
            registry=registry,
        )
        self._rows = Histogram(
            "agentname_batch_rows",
            "Rows of the largest batch that an output was part of",
            ["model"],
            buckets=BATCH_ROWS,
            registry=registry,
        )
        self._outputs = Counter("agentname_outputs", "Images and videos made", ["model"], registry=registry)
        self._tokens = Counter(
            "agentname_tokens", "Tokens by kind: prompt, completion or embedding", ["kind"], registry=registry
        )
        self._sent_s = Histogram(
            "agentname_text_seconds",
            "Seconds from the end of the step that made a text until the text was sent on a stream",
            ["text"],
            buckets=TEXT_S,
            registry=registry,
        )
        self._first_sent_s, self._later_sent_s = (self._sent_s.labels(text) for text in ("first", "later"))
        self._loads = Counter(
            "agentname_model_loads", "Loads of models into device memory", ["model"], registry=registry
        )
        self._evictions = Counter(
            "agentname_model_evictions", "Evictions of models from device memory", ["model"], registry=registry
        )

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def job_ended(self, kind: str, state: State) -> None:
        self._ended.labels(kind, state.value).inc()

    def count(self, event: Event) -> None:
        """Counts an event, before the live jobs handle it."""
        match event:
            case EngineStatus():
                self._count_residents(event)
            case JobStarted(job_id, queue_ms):
                job = self._live_jobs.get(job_id)
                self._wait_s.labels(_type_of(job_id, job)).observe(queue_ms / 1000)
            case JobFailed():
                self._failed.labels(event.code).inc()
            case JobReplied():
                self._tokens.labels("prompt").inc(event.prompt_tokens)
                self._tokens.labels("completion").inc(event.completion_tokens)
            case JobEmbedded():
                self._tokens.labels("embedding").inc(event.n_tokens)
            case OutputReady():
                job = self._live_jobs.get(event.job_id)
                if job is not None:
                    self._outputs.labels(job.row.model).inc()
                    self._rows.labels(job.row.model).observe(event.batch_peak)
            case RanOutOfMemory(model):
                self._ran_out.labels(model).inc()
            case JobProgressed() | JobText() | _:
                pass

    def step_timed(self, job_id: str, seconds: float | None) -> None:
        """seconds: None when no step was timed."""
        job = self._live_jobs.get(job_id)
        if job is not None and seconds is not None:
            self._step_s.labels(job.row.model).observe(seconds)

    def text_sent(self, step_ended_at: float, first: bool) -> None:
        """A chat has sent a text on its stream. step_ended_at: on the monotonic clock."""
        delay_s = time.monotonic() - step_ended_at
        (self._first_sent_s if first else self._later_sent_s).observe(delay_s)
        if first:
            logger.debug("first text sent", extra={"step_ended_at": step_ended_at, "ms": round(delay_s * 1000, 3)})

    def _count_residents(self, status: EngineStatus) -> None:
        """Counts loads and evictions as differences of two statuses: an engine sends a status after each of them."""
        resident = frozenset(model.model for model in status.models if model.state == "resident")
        before = self._residents.get(status.device.name, frozenset())
        self._residents[status.device.name] = resident
        for model in resident - before:
            self._loads.labels(model).inc()
        for model in before - resident:
            self._evictions.labels(model).inc()


def _type_of(job_id: str, job: LiveJob | None = None) -> str:
    return job.row.type if job is not None else unstored_type(job_id) or "chat"


class _CurrentState(Collector):
    """Gauges that are read from the live jobs at each scrape."""

    def __init__(self, live_jobs: LiveJobs) -> None:
        self._live_jobs = live_jobs

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return []

    def collect(self) -> Iterable[GaugeMetricFamily]:
        queued = GaugeMetricFamily("agentname_queue_jobs", "Waiting jobs", labels=["type", "reason"])
        running = GaugeMetricFamily("agentname_running_jobs", "Running jobs", labels=["type"])
        n_queued, n_running = Tally[tuple[str, str]](), Tally[str](dict.fromkeys(UNSTORED, 0))
        for job in self._live_jobs.all():
            if job.state is State.QUEUED:
                n_queued[job.row.type, self._live_jobs.queue_position(job).waiting_for] += 1
            else:
                n_running[job.row.type] += 1
        running_entries, queue_entries = self._live_jobs.running_and_queued()
        for entry in queue_entries:  # includes chats and embeddings, which are not live jobs
            if self._live_jobs.get(entry.job_id) is None:
                n_queued[_type_of(entry.job_id), entry.waiting_for] += 1
        for running_entry in running_entries:
            if self._live_jobs.get(running_entry.job_id) is None:
                n_running[_type_of(running_entry.job_id)] += 1
        for (kind, reason), count in n_queued.items():
            queued.add_metric([kind, reason], count)
        for kind, count in n_running.items():
            running.add_metric([kind], count)
        held = GaugeMetricFamily(
            "agentname_memory_bytes", "Bytes of device memory, by holder", labels=["device", "holder", "kind"]
        )
        total = GaugeMetricFamily("agentname_memory_total_bytes", "Bytes of device memory in total", labels=["device"])
        free = GaugeMetricFamily(
            "agentname_memory_free_bytes", "Free bytes of device memory for models", labels=["device"]
        )
        for device in self._live_jobs.devices():
            total.add_metric([device.name], device.total_bytes)
            free.add_metric([device.name], device.free_bytes)
            by_holder = Tally[tuple[str, str]]()
            for holder in device.holders:
                by_holder[holder.name, holder.kind] += holder.n_bytes
            for (name, kind), n_bytes in by_holder.items():
                held.add_metric([device.name, name, kind], n_bytes)
        return queued, running, held, total, free
