"""The engine's whole picture for the status endpoints: queue, running jobs, models, device. Device thread only.

Made at most ten times a second, and less often when the queue is so long that making it takes long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipelines.interface import Lane
from server.engine.eta import Estimates, etas_s
from server.engine.running_jobs import RunningJobs
from server.protocol import EngineStatus, ModelStatus, QueueEntry, RunningEntry
from server.scheduling.scheduler import Scheduler

INTERVAL_S = 0.1
SHARE = 0.05  # of the device thread's time that may go into pictures
SHOWN = 2_000  # waiting jobs with a place and an estimate of their own; those behind are counted


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
        self.changed = True  # a job, a model or a holder came or went
        self.moved = False  # only progress
        self.loading: str | None = None

    def due(self, now: float, force: bool) -> EngineStatus | None:
        if not (self.changed or self.moved or self.loading) or (now < self._next_at and not force):
            return None
        self.changed = self.moved = False
        began = self._clock()
        status = self._draw(now)
        self._next_at = now + INTERVAL_S + (self._clock() - began) / SHARE
        return status

    def _draw(self, now: float) -> EngineStatus:
        scheduler = self._scheduler
        running = self._jobs.all()
        waiting = [entry.job for entry in scheduler.queue.in_order(SHOWN)]
        etas = etas_s(scheduler, self._estimates, running, waiting, now)
        reasons = {
            model: (scheduler.model_loads.waiting_for(model, now), scheduler.residency.missing_bytes(model))
            for model in {j.model for j in waiting}
        }
        return EngineStatus(
            queue=tuple(QueueEntry(job.id, *reasons[job.model], etas.get(job.id)) for job in waiting),
            running=tuple(RunningEntry(job.id, etas.get(job.id)) for job in running),
            models=tuple(self._models(now)),
            device=scheduler.ledger.status(),
        )

    def _models(self, now: float) -> list[ModelStatus]:
        scheduler = self._scheduler
        shown = []
        steps: dict[str, list[tuple[str, int, float]]] = {}
        for key, shape, rows, seconds in scheduler.batch_sizes.all():
            steps.setdefault(key, []).append((shape, rows, seconds))
        for name, resident in scheduler.residents.items():
            shown.append(
                ModelStatus(
                    model=name,
                    state="parked" if resident.parked and not resident.components else "resident",
                    weight_bytes=scheduler.ledger.held_by(name, "weights"),
                    cache_bytes=scheduler.ledger.held_by(name, "kv_cache"),
                    merging=self._lanes[name].merging,
                    running=len(resident.running),
                    idle_unload_in_s=None if resident.running else scheduler.expires_in_s(name, now),
                    requests=resident.requests,
                    waiting=scheduler.queue.n_of_model(name),
                    pinned=scheduler.residency.is_pinned(name),
                    keep_alive_s=scheduler.residency.keep_alive_s(name),
                    parked_bytes=sum(resident.parked.values()),
                    components=tuple(sorted(resident.components.items())),
                    step_s=tuple(steps.get(resident.key, ())),
                )
            )
        if self.loading is not None:
            shown.append(
                ModelStatus(
                    self.loading, "loading", scheduler.residency.bytes_to_load(self.loading), 0, "unproven", 0, None
                )
            )
        for name, cooldown in scheduler.cooldowns.items():
            if cooldown.until > now and name not in scheduler.residents:
                shown.append(ModelStatus(name, "failed", 0, 0, "unproven", 0, None, retry_in_s=cooldown.until - now))
        return shown
