"""Measures the error of the estimated times of arrival (ETAs): at submission and half way, against the real end."""

from __future__ import annotations

from statistics import median

from pipelines.interface import StepCost
from scripts.simulation.simulator import Simulator, engine_job
from scripts.simulation.traces import SimJob, Trace, TraceBuilder, chat_model, image_model, video_model
from server.engine.eta import Estimates, eta_seconds
from server.job import Job

EVERY_S = 2.0  # simulated seconds between two estimates
WARM_UP_S = 1000.0  # the first jobs of each model, whose step times the estimates are based on, have ended by then


def mixed_jobs(n: int, seed: int = 5) -> Trace:
    """Four models of which two or three fit: first a few jobs of each, then `n` jobs of four keys at once."""
    models = [
        image_model("small", 6, 5, 0.05, 0.15),
        image_model("large", 24, 20, 0.4, 0.96),
        video_model("film", 30, 25, 1.0, 30),
        chat_model("talk", 16, 12),
    ]
    builder = TraceBuilder("mixed jobs", 48, models, seed)
    for model in models:
        for _ in range(8 if model.type == "image" else 4):
            builder.add(0.0, "early", model.name)
    shares = {"small": 0.4, "large": 0.25, "film": 0.1, "talk": 0.25}
    builder.batch(WARM_UP_S, n, ["a", "b", "c", "d"], shares)
    return builder.trace()


def small_jobs(n: int, seed: int = 5) -> Trace:
    """The trace of `benchmarks/residency.py`: four small models of which two fit.

    Each model first runs one job, then eight at once; then one key submits `n` jobs at once.
    """
    models = [image_model(name, 10, 0.3, 0.02, 0.3, steps=8) for name in ("amber", "birch", "cedar", "dune")]
    builder = TraceBuilder("small jobs", 26, models, seed)
    for i, model in enumerate(models):
        builder.add(i * 40.0, "early", model.name)
        builder.batch(i * 40.0 + 20.0, 8, ["early"], {model.name: 1.0})
    builder.batch(WARM_UP_S, n, ["a"], {model.name: 0.25 for model in models})
    return builder.trace()


class EtaRecorder(Simulator):
    """A simulator that records the estimates of all jobs as it goes."""

    def __init__(self, trace: Trace, every_s: float) -> None:
        super().__init__(trace)
        self._every_s = every_s
        self.etas: dict[str, list[tuple[float, float]]] = {}  # job id → (when estimated, estimated end)
        self._estimates = Estimates()
        self._engine_jobs: dict[str, Job] = {}
        self._estimate_at = 0.0

    def arrived(self, job: SimJob) -> None:
        self._engine_jobs[job.id] = engine_job(job, self.trace.models[job.model])
        self._estimate_at = self.now

    def learned(self, name: str, cost: StepCost) -> None:
        self._estimates.record([cost])

    def ended(self, job_id: str) -> None:
        super().ended(job_id)
        job = self._engine_jobs.pop(job_id)
        self._estimates.finished(job.model, job.requests[0])

    def turn(self) -> None:
        if self.now >= self._estimate_at:
            self._estimate_at = self.now + self._every_s
            self._record()
        super().turn()

    def _record(self) -> None:
        queue = self.scheduler.queue
        waiting = [entry.job for entry in queue.in_order()]
        running = [job for job in self._engine_jobs.values() if job.id not in queue]
        for job_id, seconds in eta_seconds(self.scheduler, self._estimates, running, waiting, self.now).items():
            self.etas.setdefault(job_id, []).append((self.now, self.now + seconds))


def eta_errors(trace: Trace, every_s: float = EVERY_S) -> tuple[float, float, int]:
    """Returns the median of |estimated − actual| / actual time left, at submission and half way, and the job count."""
    recorder = EtaRecorder(trace, every_s)
    outcome = recorder.run()
    at_once, half_way = [], []
    for job in trace.jobs:
        etas = recorder.etas.get(job.id, [])
        if job.at < WARM_UP_S or not etas:
            continue
        took = outcome.ended[job.id] - job.at
        half = job.at + took / 2
        at_once.append(abs(etas[0][1] - job.at - took) / took)
        at, estimate = min(etas, key=lambda eta: abs(eta[0] - half))
        half_way.append(abs(estimate - outcome.ended[job.id]) / (outcome.ended[job.id] - at))
    return median(at_once), median(half_way), len(at_once)
