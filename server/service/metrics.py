"""What Prometheus is told, in a registry of its own. Event loop only: counted from the engine's events, read from the board when asked."""

from __future__ import annotations

import logging
import time
from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from server.job import State
from server.jobs.live_jobs import LiveJobs
from server.protocol import (
    EngineStatus,
    Event,
    JobFailed,
    JobProgressed,
    JobReplied,
    JobStarted,
    JobText,
    OutputReady,
    RanOutOfMemory,
)

logger = logging.getLogger(__name__)

WAITS_S = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800)
STEPS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SENT_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
HTTP_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)
ROWS = (1, 2, 4, 8, 16, 32)


class Metrics:
    def __init__(self, live_jobs: LiveJobs) -> None:
        self._live_jobs = live_jobs
        self._residents: dict[str, frozenset[str]] = {}  # by device
        registry = self._registry = CollectorRegistry()
        registry.register(_Now(live_jobs))
        self.http = Counter(
            "agentname_http_requests", "HTTP requests", ["method", "route", "status"], registry=registry
        )
        self.http_s = Histogram(
            "agentname_http_seconds", "Until the reply began", ["method", "route"], buckets=HTTP_S, registry=registry
        )
        self._ended = Counter("agentname_jobs_ended", "Jobs by how they ended", ["type", "status"], registry=registry)
        self._failed = Counter("agentname_jobs_failed", "Failures of jobs and chats", ["code"], registry=registry)
        self._ran_out = Counter(
            "agentname_out_of_memory",
            "Forwards that did not fit, survived ones among them",
            ["model"],
            registry=registry,
        )
        self._wait_s = Histogram(
            "agentname_queue_wait_seconds", "From acceptance to start", ["type"], buckets=WAITS_S, registry=registry
        )
        self._step_s = Histogram(
            "agentname_step_seconds",
            "From one denoising step of a job to its next, others' turns included",
            ["model"],
            buckets=STEPS_S,
            registry=registry,
        )
        self._rows = Histogram(
            "agentname_batch_rows", "Widest forward an output had a part in", ["model"], buckets=ROWS, registry=registry
        )
        self._outputs = Counter("agentname_outputs", "Pictures and clips made", ["model"], registry=registry)
        self._tokens = Counter("agentname_tokens", "Tokens of chats", ["kind"], registry=registry)
        self._sent_s = Histogram(
            "agentname_text_seconds",
            "From the end of the step that made a text until it went out on a stream",
            ["text"],
            buckets=SENT_S,
            registry=registry,
        )
        self._first_sent_s, self._later_sent_s = (self._sent_s.labels(text) for text in ("first", "later"))
        self._loads = Counter("agentname_model_loads", "Models brought into memory", ["model"], registry=registry)
        self._evictions = Counter(
            "agentname_model_evictions", "Models sent out of memory", ["model"], registry=registry
        )

    def text(self) -> bytes:
        """In Prometheus' exposition format."""
        return generate_latest(self._registry)

    def ended(self, kind: str, state: State) -> None:
        self._ended.labels(kind, state.value).inc()

    def take(self, event: Event) -> None:
        """Before the board has it."""
        match event:
            case EngineStatus():
                self._count_residents(event)
            case JobStarted(job_id, queue_ms):
                job = self._live_jobs.view(job_id)
                self._wait_s.labels(job.row.type if job is not None else "chat").observe(queue_ms / 1000)
            case JobFailed():
                self._failed.labels(event.code).inc()
            case JobReplied():
                self._tokens.labels("prompt").inc(event.prompt_tokens)
                self._tokens.labels("completion").inc(event.completion_tokens)
            case OutputReady():
                job = self._live_jobs.view(event.job_id)
                if job is not None:
                    self._outputs.labels(job.row.model).inc()
                    self._rows.labels(job.row.model).observe(event.batch_peak)
            case RanOutOfMemory(model):
                self._ran_out.labels(model).inc()
            case JobProgressed() | JobText() | _:
                pass

    def stepped(self, job_id: str, seconds: float | None) -> None:
        """seconds: None when no step was timed."""
        job = self._live_jobs.view(job_id)
        if job is not None and seconds is not None:
            self._step_s.labels(job.row.model).observe(seconds)

    def text_sent(self, step_ended_at: float, first: bool) -> None:
        """On a stream of a chat. step_ended_at: of the engine's clock, which is that of this process."""
        delay_s = time.monotonic() - step_ended_at
        (self._first_sent_s if first else self._later_sent_s).observe(delay_s)
        if first:
            logger.debug("first text sent", extra={"step_ended_at": step_ended_at, "ms": round(delay_s * 1000, 3)})

    def _count_residents(self, status: EngineStatus) -> None:
        """A picture is sent at every load and eviction, so that the difference of two is what happened between."""
        now = frozenset(model.model for model in status.models if model.state == "resident")
        before = self._residents.get(status.device.name, frozenset())
        self._residents[status.device.name] = now
        for model in now - before:
            self._loads.labels(model).inc()
        for model in before - now:
            self._evictions.labels(model).inc()


class _Now(Collector):
    """How things stand at this moment."""

    def __init__(self, live_jobs: LiveJobs) -> None:
        self._live_jobs = live_jobs

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return []

    def collect(self) -> Iterable[GaugeMetricFamily]:
        queued = GaugeMetricFamily("agentname_queue_jobs", "Jobs that wait", labels=["type", "reason"])
        running = GaugeMetricFamily("agentname_running_jobs", "Jobs that run", labels=["type"])
        waiting, working = Tally[tuple[str, str]](), Tally[str]()
        for job in self._live_jobs.all():
            if job.state is State.QUEUED:
                waiting[job.row.type, self._live_jobs.place(job).waiting_for] += 1
            else:
                working[job.row.type] += 1
        runs, waits = self._live_jobs.under_way()
        for entry in waits:  # chats are not on the board
            if self._live_jobs.view(entry.job_id) is None:
                waiting["chat", entry.waiting_for] += 1
        working["chat"] += sum(self._live_jobs.view(entry.job_id) is None for entry in runs)
        for (kind, reason), count in waiting.items():
            queued.add_metric([kind, reason], count)
        for kind, count in working.items():
            running.add_metric([kind], count)
        held = GaugeMetricFamily(
            "agentname_memory_bytes", "Device memory by holder", labels=["device", "holder", "kind"]
        )
        total = GaugeMetricFamily("agentname_memory_total_bytes", "Device memory", labels=["device"])
        free = GaugeMetricFamily(
            "agentname_memory_free_bytes", "Device memory for models that is free", labels=["device"]
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
