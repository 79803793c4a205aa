"""Makes snapshots of the engine for the status endpoints: queue, running jobs, models, device. Device thread only.

A snapshot is made when something has changed since the last one: at most ten times a second, and less often while a
long queue makes it slow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from pipelines.interface import Lane
from server.engine.eta import Estimates, eta_seconds
from server.engine.running_jobs import RunningJobs
from server.engine_status import EngineStatus, ModelStatus, QueueEntry, RunningEntry
from server.scheduling.scheduler import Scheduler

INTERVAL_S = 0.1
MAX_TIME_SHARE = 0.05  # share of the device thread's time that snapshots may take
LISTED_JOBS = 2_000  # waiting jobs that a snapshot lists, with position and ETA; those behind are only counted


class SnapshotPublisher:
    def __init__(
        self,
        scheduler: Scheduler,
        jobs: RunningJobs,
        estimates: Estimates,
        lanes: Mapping[str, Lane],
        clock: Callable[[], float],
    ) -> None:
        self._scheduler = scheduler
        self._jobs = jobs
        self._estimates = estimates
        self._lanes = lanes
        self._clock = clock
        self._next_at = 0.0
        self._published: tuple[int, int] | None = None  # revisions of the scheduler and of the jobs' progress

    def due(self, now: float, force: bool) -> EngineStatus | None:
        """Returns a snapshot if one is due. force: a change makes it due, however new the last snapshot is."""
        revision = self._scheduler.revision, self._jobs.revision
        if revision == self._published or (now < self._next_at and not force):
            return None
        self._published = revision
        began = self._clock()
        status = self._make(now)
        self._next_at = now + INTERVAL_S + (self._clock() - began) / MAX_TIME_SHARE
        return status

    def _make(self, now: float) -> EngineStatus:
        scheduler = self._scheduler
        running = self._jobs.all()
        waiting = [entry.job for entry in scheduler.queue.in_order(LISTED_JOBS)]
        etas = eta_seconds(scheduler, self._estimates, running, waiting, now)
        reasons = {
            model: (scheduler.model_loads.waiting_for(model, now), scheduler.residency.missing_bytes(model))
            for model in {job.model for job in waiting}
        }
        return EngineStatus(
            queue=tuple(QueueEntry(job.id, *reasons[job.model], etas.get(job.id)) for job in waiting),
            running=tuple(RunningEntry(job.id, etas.get(job.id)) for job in running),
            models=tuple(self._models(now)),
            device=scheduler.ledger.status(),
        )

    def _models(self, now: float) -> list[ModelStatus]:
        scheduler = self._scheduler
        steps: dict[str, list[tuple[str, int, float]]] = defaultdict(list)
        for key, shape, rows, seconds in scheduler.batch_sizes.all():
            steps[key].append((shape, rows, seconds))
        models = [
            self._resident_status(name, steps[resident.key], now) for name, resident in scheduler.residents.items()
        ]
        loading = scheduler.residency.loading
        if loading is not None:
            n_bytes = scheduler.residency.bytes_to_load(loading.model)
            models.append(ModelStatus(loading.model, "loading", n_bytes, 0, "unproven", 0, None))
        for name, cooldown in scheduler.cooldowns.items():
            if name not in scheduler.residents and not scheduler.residency.is_loading(name):
                left_s = max(0.0, cooldown.until - now)
                failed = ModelStatus(name, "failed", 0, 0, "unproven", 0, None, retry_in_s=left_s)
                models.append(replace(failed, load_error=cooldown.error))
        return models

    def _resident_status(self, name: str, steps: Sequence[tuple[str, int, float]], now: float) -> ModelStatus:
        """steps: (shape, rows, seconds of the forward) of what was measured of the model."""
        scheduler, resident = self._scheduler, self._scheduler.residents[name]
        return ModelStatus(
            model=name,
            state="parked" if resident.parked and not resident.components else "resident",
            weight_bytes=scheduler.ledger.held_by(name, "weights"),
            cache_bytes=scheduler.ledger.held_by(name, "kv_cache"),
            merging=self._lanes[name].merging,
            running=len(resident.running),
            idle_unload_in_s=scheduler.residency.expires_in_s(resident, now),
            requests=resident.requests,
            waiting=scheduler.queue.n_of_model(name),
            pinned=scheduler.residency.is_pinned(name),
            keep_alive_s=scheduler.residency.keep_alive_s(name),
            parked_bytes=sum(resident.parked.values()),
            components=tuple(sorted(resident.components.items())),
            step_s=tuple(steps),
            notes=tuple(self._lanes[name].notes),
        )
