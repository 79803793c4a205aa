"""Decides the next action of the device. Device thread only: no torch, no locks, no I/O, no clock of its own.

`next_action` reads the state and the time and returns an action; the engine carries it out and reports the outcome.

The decision is the first of these that applies:
  1. an idle model that must leave is evicted, and an adapter that has been idle for longer than its keep-alive
  2. a waiting job whose model is ready and has room for it is admitted, the fairest job first (`admission.py`)
  3. a model that jobs wait for is loaded or unparked, if it fits beside the activations of running jobs
     (`model_loads.py`)
  4. models that occupy its memory leave: the whole set is planned first, and evicted only if it suffices
     (`eviction.py`); while no model waits, a KV cache that was cut grows back
  5. a lane with work takes a step (`time_slices.py`), as wide as is useful and fits (`batch_size.py`)
  6. a model that has been idle for longer than its keep-alive is evicted
  7. the device waits until something may change
A job that may have ended the process before runs alone: it is admitted once nothing else runs, and until its end is in
the store nothing is admitted, loaded or merged beside it, so that another end of the process counts against the right
job.
After `patience_s`, a waiting model stops admission to the models that occupy its memory, so that they drain. Only a
message, an outcome or a moment that is known in advance changes 1 to 4. Between those a decision consists of 5 alone,
so its cost does not grow with the queue.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import assert_never

from pipelines.interface import NextStep
from server.engine_status import LoadError
from server.job import Job
from server.memory.activations import Peaks
from server.memory.ledger import Ledger, Reading
from server.protocol import (
    Drain,
    FilesRead,
    Forget,
    KeepAlive,
    LoadModel,
    Pin,
    PolicyMessage,
    SetAside,
    Settled,
    UnloadModel,
)
from server.scheduling.actions import Action, Evict, ModelFacts, Step, Wait
from server.scheduling.admission import Admission
from server.scheduling.batch_size import BatchSizes, StepSizer
from server.scheduling.fair_queue import FairQueue, Waiting
from server.scheduling.lent_weights import LentWeights
from server.scheduling.model_loads import ModelLoads
from server.scheduling.residency import Cooldown, LoadInProgress, Residency
from server.scheduling.resident import Resident
from server.scheduling.time_slices import TimeSlices

SETTLE_LIMIT_S = 60.0  # longest that others wait for the end of a job that ran alone to be stored
OTHERS_POLL_S = 1.0  # other programs do not report when they free memory: a model that waits for it is tried this often


class Scheduler:
    def __init__(
        self,
        ledger: Ledger,
        facts: Callable[[str], ModelFacts],
        *,
        chat_share: float = 0.5,
        min_residency_s: float = 2.0,
        patience_s: float = 10.0,
        max_step_s: float = math.inf,
        reads_ahead: bool = False,
    ) -> None:
        """max_step_s: the longest that a merged forward should take while another lane has work.

        reads_ahead: `Read` precedes every `Load`.
        """
        self.ledger = ledger
        self.queue = FairQueue()
        self.peaks = Peaks()
        self.batch_sizes = BatchSizes()
        self.residency = Residency(ledger, facts, self._is_wanted, min_residency_s=min_residency_s)
        self.lent_weights = LentWeights(ledger, self.residents, self.residency.adapter_keep_alive_s)
        self.time_slices = TimeSlices(chat_share)
        self.model_loads = ModelLoads(
            ledger, self.queue, self.residency, self.peaks, patience_s=patience_s, reads_ahead=reads_ahead
        )
        self._admission = Admission(ledger, self.queue, self.residency, self.model_loads, self.lent_weights)
        self.draining = False
        self.revision = 0  # counts changes of the state: a snapshot of an older revision is out of date
        self._step_sizer = StepSizer(ledger, self.peaks, self.batch_sizes, max_step_s=max_step_s)
        self._jobs: dict[str, tuple[Job, float]] = {}  # running jobs and the device seconds they used
        self._settling: str | None = None  # the job that has run alone and whose end is not in the store yet
        self._settles_by: float | None = None  # after it nothing waits for that any more
        self._settled_until = -math.inf  # before this moment, 1 to 4 need not be decided again

    @property
    def residents(self) -> Mapping[str, Resident]:
        return self.residency.residents

    @property
    def cooldowns(self) -> Mapping[str, Cooldown]:
        return self.residency.cooldowns

    # Messages and outcomes, reported by the engine

    def handle(self, message: PolicyMessage, now: float) -> None:
        match message:
            case LoadModel() | UnloadModel() | Forget() | Pin() | KeepAlive() | SetAside():
                self.residency.handle(message, now)
            case Settled(job_id):
                if self._settling == job_id:
                    self._settling = None
            case FilesRead(model, seconds):
                self.residency.files_read(model, seconds)
            case Drain():
                self.draining = True
            case _:
                assert_never(message)
        self._invalidate()

    def add(self, job: Job, now: float) -> None:
        self.queue.add(job, now)
        self._invalidate()

    def withdraw(self, job_id: str) -> Waiting:
        """Remove a waiting job that will not run. Raises KeyError."""
        self._invalidate()
        return self.queue.remove(job_id)

    def admitted(self, job: Job, now: float) -> Waiting:
        resident = self.residents[job.model]
        if not resident.running:
            self.time_slices.rejoin(resident, self.residents.values())
        resident.running[job.id] = len(job.requests)
        resident.requests += len(job.requests)
        resident.last_used = now
        resident.served = True
        self.lent_weights.admitted(resident, job, now)
        self._jobs[job.id] = (job, 0.0)
        self._invalidate()
        return self.queue.take(job.id)

    def expects(self, model: str, next_step: NextStep | None, mid_forward: bool = False, waits: bool = False) -> None:
        """Record what the lane's next step would run; reported whenever that may have changed."""
        resident = self.residents[model]
        if resident.waits and not waits:
            self.time_slices.rejoin(resident, self.residents.values())
        resident.waits = waits
        if (next_step and next_step.component) != (resident.next_step and resident.next_step.component):
            self._invalidate()
        resident.next_step, resident.mid_forward = next_step, mid_forward

    def placed(self, model: str, components: Mapping[str, int], parked: Mapping[str, int]) -> None:
        """Record where the lane's weights are: bytes by component, on the device and in host memory."""
        resident = self.residents[model]
        resident.components, resident.parked = dict(components), dict(parked)
        self.ledger.correct_weights(model, dict(components), dict(parked))
        self.lent_weights.placed(resident)
        if not resident.to_unpark:
            self.residency.ready(model)
        self._invalidate()

    def load_started(self, model: str) -> None:
        """The model's bytes are booked and, with `reads_ahead`, the reading of its files has begun."""
        if not self.residency.is_loading(model):
            self.residency.loading = LoadInProgress(model)
        self._invalidate()

    def loaded(self, model: str, now: float, load_s: float) -> None:
        """load_s: seconds of the whole load, with the reading of the files."""
        self.residency.loaded(model, now, load_s)
        self.model_loads.ended()
        self._invalidate()

    def unparked(self, model: str, now: float, seconds: float) -> None:
        self.residency.unparked(model, now, seconds)
        self.model_loads.ended()
        self._invalidate()

    def ran_out_of_memory(self, model: str, free_bytes: int) -> bool:
        """A load or unpark did not fit into `free_bytes`. True: it is tried once more, with all obtainable memory."""
        self.model_loads.ended()
        self._invalidate()
        return self.residency.ran_out_of_memory(model, free_bytes)

    def load_failed(self, model: str, now: float, error: LoadError) -> Cooldown:
        """Start the model's cooldown. The engine fails the jobs that wait for it."""
        self.model_loads.ended()
        self._invalidate()
        return self.residency.load_failed(model, now, error)

    def evicted(self, model: str, seconds: float = 0.0) -> None:
        """seconds: how long the eviction took."""
        self.residency.evicted(model, seconds)
        self._invalidate()

    def adapters_dropped(self, model: str, components: Collection[str], now: float) -> None:
        """The lane was asked to drop these; `placed` has told what it holds now."""
        self.lent_weights.dropped(self.residents[model], components, now)
        self._invalidate()

    def cache_resized(self, model: str, now: float, asked_bytes: int, n_bytes: int) -> None:
        self.ledger.correct(model, "kv_cache", n_bytes)
        resident = self.residents[model]
        resident.cache_floor = n_bytes if n_bytes > asked_bytes else -1
        resident.cache_cut_at = now if max(asked_bytes, n_bytes) < 0.9 * resident.facts.cache_bytes else math.inf
        self._invalidate()

    def stepped(self, model: str, now: float, seconds: float, shares: Mapping[str, float] | None = None) -> None:
        """Charge the lane for `seconds`. shares: job id → its part of the device seconds."""
        resident = self.residents[model]
        resident.last_used = now
        self.time_slices.used(resident, seconds)
        for job_id, used in (shares or {}).items():
            if job_id in self._jobs:
                job, before = self._jobs[job_id]
                self._jobs[job_id] = (job, before + used)

    def is_running(self, job_id: str, model: str) -> bool:
        """Whether the job has unfinished requests."""
        return model in self.residents and job_id in self.residents[model].running

    def request_ended(self, job_id: str, model: str) -> bool:
        """True when that was the job's last unfinished request."""
        resident = self.residents[model]
        resident.requests -= 1
        resident.running[job_id] -= 1
        resident.cache_floor = -1
        self._invalidate()
        if resident.running[job_id]:
            return False
        del resident.running[job_id]
        self.lent_weights.job_ended(resident, job_id)
        job, used = self._jobs.pop(job_id)
        if job.alone:
            self._settling, self._settles_by = job_id, None
        self.queue.ended(job, used)
        return True

    def unload(self, model: str) -> None:
        """Evict the model once it is idle, unless it is pinned."""
        self.residency.unload(model)
        self._invalidate()

    def observe(self, reading: Reading | None) -> None:
        """Update the ledger from what the driver reports."""
        others = self.ledger.others_bytes
        self.ledger.observe(reading)
        if self.ledger.others_bytes != others:
            self._invalidate()

    # Decisions, asked for by the engine

    def next_action(self, now: float) -> Action:
        if self._settling is not None:
            self._settles_by = now + SETTLE_LIMIT_S if self._settles_by is None else self._settles_by
            if now >= self._settles_by:
                self._settling = None
                self._invalidate()
        if now >= self._settled_until:
            action = self._change(now)
            if action is not None:
                return action
            self._settled_until = min(
                self.model_loads.next_change(now),
                self.lent_weights.next_expiry(now),
                self._settles_by if self._settling is not None and self._settles_by is not None else math.inf,
            )
        working = [r for r in self.residents.values() if r.running and not r.to_unpark]
        working = [r for r in working if not r.waits] or working
        if working:
            return self._step(self.time_slices.next_of(working, self.model_loads.draining_for_chat), now)  # 5
        stale = min(self.residents.values(), key=self.residency.expires_at, default=None)
        if stale is not None and self.residency.expires_at(stale) <= now:
            return Evict(stale.name)  # 6
        until = min(self._settled_until, self.residency.expires_at(stale) if stale is not None else math.inf)
        if self.ledger.others_bytes and self.model_loads.has_claims(now, self.draining):
            until = min(until, now + OTHERS_POLL_S)
        return Wait(None if until == math.inf else until)  # 7

    def decided_until(self, model: str) -> float:
        """Returns until when equal steps of this lane need no new decision; -inf: decide after each step.

        Chats need one after each step, because each token is sent at once.
        """
        resident = self.residents[model]
        return -math.inf if resident.is_chat or self._others_wait(resident) else self._settled_until

    @property
    def chat_due_in_s(self) -> float:
        """Seconds that a step of another lane may take from now on before a chat lane goes first; inf: no chat runs."""
        chat_waits = any(r.is_chat and r.running and not r.to_unpark for r in self.residents.values())
        return self.time_slices.chat_due_in_s if chat_waits else math.inf

    @property
    def _lone_job_runs(self) -> bool:
        return len(self._jobs) == 1 and any(job.alone for job, _ in self._jobs.values())

    # The parts of a decision

    def _invalidate(self) -> None:
        """Decide 1 to 4 again, and let the next snapshot be made."""
        self._settled_until = -math.inf
        self.revision += 1

    def _is_wanted(self, model: str) -> bool:
        return not self.draining and self.queue.n_of_model(model) > 0

    def _change(self, now: float) -> Action | None:
        """1 to 4: admissions, loads and evictions."""
        for model in self.residency.leaving:
            if model in self.residents and not self.residents[model].running:
                return Evict(model)  # 1
        if (drop := self.lent_weights.stale(now)) is not None:
            return drop  # 1
        if self._lone_job_runs or self._settling is not None:  # only what it needs comes back to the device
            return self.model_loads.next(now, draining=True)[0]
        load, urgent = self.model_loads.next(now, self.draining)  # 3, 4
        # While models drain for an urgent claim, the other models go on admitting jobs.
        load_first = urgent and load is not None
        if not load_first and not self.draining:
            admission = self._admission.next(now, others_run=bool(self._jobs) or self.residency.loading is not None)
            if admission is not None:
                return admission  # 2
        return load or self.model_loads.cache_to_grow(now, self.draining)

    def _step(self, resident: Resident, now: float) -> Action:
        next_step = resident.next_step
        if next_step is None or resident.mid_forward:
            return Step(resident.name)
        if self._lone_job_runs:
            next_step = replace(next_step, rows=1)
        rows, need = self._step_sizer.rows_and_bytes(resident, next_step, self._others_wait(resident))
        if need > self.ledger.free_bytes:
            plan = self.residency.plan_eviction(need, now, keep=resident.name)
            if plan.action is not None:
                return plan.action
            if (tiled := self._step_sizer.tiled_bytes(resident, next_step)) is not None:
                return Step(resident.name, 1, min(tiled, self.ledger.free_bytes), in_tiles=True)
        return Step(resident.name, rows, min(need, self.ledger.free_bytes))

    def _others_wait(self, resident: Resident) -> bool:
        """Whether another lane's work would run sooner if this step were short."""
        return any(r.running and not r.to_unpark and r is not resident for r in self.residents.values())
