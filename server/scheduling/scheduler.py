"""Decides the next thing the device does. Device thread only: no torch, no locks, no I/O, no clock of its own.

`next_action` reads the state and the time and returns data; the engine carries it out and tells the outcome back.

The decision, first that applies:
  1. a model that was told to leave and is idle is evicted
  2. a waiting job whose model is there and has room is admitted, fairest first
  3. a model that work waits for is brought onto the device, once it fits beside what the running jobs need (`arrivals.py`)
  4. what stands in its way leaves: the whole set is planned first (`residency.py`), and only if the set suffices;
     where nobody waits to come, a KV cache that had to shrink grows back
  5. a lane with work takes a step (`turns.py`), as wide as is useful and fits (`stepping.py`)
  6. a model idle past its keep-alive is evicted
  7. wait, until something can change by itself
A model that waits longer than is worth its load closes the doors of those in its way, so that they drain. Nothing but a message, an
outcome or a moment foreseen changes 1 to 4, so between those a decision is only 5: its cost does not grow with the queue.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from pipelines.interface import NextStep
from server.job import Job
from server.memory.activations import Peaks
from server.memory.ledger import Ledger, Reading
from server.scheduling.actions import (
    Action,
    Admit,
    Evict,
    Load,
    ModelFacts,
    Park,
    Read,
    ResizeCache,
    Step,
    Unpark,
    Wait,
)
from server.scheduling.batch_size import BatchSizes, Stepping
from server.scheduling.fair_queue import FairQueue, Waiting
from server.scheduling.model_loads import ModelLoads
from server.scheduling.residency import Cooldown, Residency
from server.scheduling.resident import Resident
from server.scheduling.time_slices import TimeSlices

__all__ = [
    "Action", "Admit", "Evict", "Load", "ModelFacts", "Park", "Read", "ResizeCache", "Scheduler", "Step", "Unpark", "Wait",
]  # fmt: skip


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
        """`max_step_s`: most that a merged call should take while another lane has work. `reads_ahead`: a `Read` goes before every `Load`."""
        self.ledger = ledger
        self.queue = FairQueue()
        self.peaks = Peaks()
        self.batch_sizes = BatchSizes()
        self.residency = Residency(
            ledger,
            facts,
            lambda model: not self._draining and self.queue.n_of_model(model) > 0,
            min_residency_s=min_residency_s,
        )
        self.turns = TimeSlices(chat_share)
        self._draining = False
        self.model_loads = ModelLoads(
            ledger, self.queue, self.residency, self.peaks, patience_s=patience_s, reads_ahead=reads_ahead
        )
        self._stepping = Stepping(ledger, self.peaks, self.batch_sizes, max_step_s=max_step_s)
        self._jobs: dict[str, tuple[Job, float]] = {}  # running jobs and the device seconds they used
        self._settled_until = -math.inf  # before this moment, 1 to 4 apply only if something is told

    @property
    def residents(self) -> Mapping[str, Resident]:
        return self.residency.residents

    @property
    def cooldowns(self) -> Mapping[str, Cooldown]:
        return self.residency.cooldowns

    @property
    def draining(self) -> bool:
        return self._draining

    @draining.setter
    def draining(self, draining: bool) -> None:
        self._draining = draining
        self._invalidate()

    # Told by the engine

    def add(self, job: Job, now: float) -> None:
        self.queue.add(job, now)
        self._invalidate()

    def withdraw(self, job_id: str) -> Waiting:
        """Take a waiting job out that will not run. Raises KeyError."""
        self._invalidate()
        return self.queue.remove(job_id)

    def admitted(self, job: Job, now: float) -> Waiting:
        resident = self.residents[job.model]
        if not resident.running:
            self.turns.rejoin(resident, self.residents.values())
        resident.running[job.id] = len(job.requests)
        resident.requests += len(job.requests)
        resident.last_used = now
        resident.served = True
        resident.adapters.update(job.adapters)
        self._jobs[job.id] = (job, 0.0)
        self._invalidate()
        return self.queue.take(job.id)

    def expects(self, model: str, next_step: NextStep | None, mid_forward: bool = False) -> None:
        """What the lane's next step would run: told whenever it may have changed."""
        resident = self.residents[model]
        if (next_step and next_step.component) != (resident.next_step and resident.next_step.component):
            self._invalidate()
        resident.next_step, resident.mid_forward = next_step, mid_forward

    def placed(self, model: str, components: Mapping[str, int], parked: Mapping[str, int]) -> None:
        """Where the lane's weights are now."""
        resident = self.residents[model]
        resident.components, resident.parked = dict(components), dict(parked)
        self.ledger.correct_weights(model, dict(components), dict(parked))
        if not resident.away:
            self.residency.load_requests.pop(model, None)
        self._invalidate()

    def loaded(self, model: str, now: float, load_s: float, read_s: float = 0.0) -> None:
        self.residency.loaded(model, now, load_s, read_s)
        self.model_loads.arrived()
        self._invalidate()

    def came_back(self, model: str, now: float, seconds: float) -> None:
        self.residency.came_back(model, now, seconds)
        self.model_loads.arrived()
        self._invalidate()

    def reading(self, model: str) -> None:
        """Its bytes are booked and its files are being read."""
        self.residency.arriving = model
        self._invalidate()

    def was_read(self) -> None:
        """The files of the model on its way are in memory, or will not get there by reading: it may load."""
        self.model_loads.read = True
        self._invalidate()

    def load_ran_out(self, model: str, free_bytes: int) -> bool:
        """A load did not fit into what was free. True when it will be tried again, once, with all that can be had."""
        self.model_loads.arrived()
        self._invalidate()
        return self.residency.load_ran_out(model, free_bytes)

    def load_failed(self, model: str, now: float, reason: str) -> Cooldown:
        """Raises the model's cool-down; its waiting jobs are the engine's to end."""
        self.model_loads.arrived()
        self._invalidate()
        return self.residency.load_failed(model, now, reason)

    def evicted(self, model: str, seconds: float = 0.0) -> None:
        """`seconds`: what it took to let go of it."""
        self.residency.evicted(model, seconds)
        self._invalidate()

    def cache_resized(self, model: str, now: float, asked_bytes: int, n_bytes: int) -> None:
        self.ledger.correct(model, "kv_cache", n_bytes)
        resident = self.residents[model]
        resident.cache_floor = n_bytes if n_bytes > asked_bytes else -1
        resident.cache_cut_at = now if max(asked_bytes, n_bytes) < 0.9 * resident.facts.cache_bytes else math.inf
        self._invalidate()

    def stepped(self, model: str, now: float, seconds: float, shares: Mapping[str, float] | None = None) -> None:
        """`shares`: of those seconds, what each job used."""
        resident = self.residents[model]
        resident.last_used = now
        self.turns.took(resident, seconds)
        for job_id, used in (shares or {}).items():
            if job_id in self._jobs:
                job, before = self._jobs[job_id]
                self._jobs[job_id] = (job, before + used)

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
        job, used = self._jobs.pop(job_id)
        self.queue.ended(job, used)
        return True

    def observe(self, reading: Reading | None) -> None:
        """The driver's figures."""
        others = self.ledger.others_bytes
        self.ledger.observe(reading)
        if self.ledger.others_bytes != others:
            self._invalidate()

    def ask_load(self, model: str, now: float) -> None:
        """A person wants the model there, more urgently than any job."""
        self.residency.ask_load(model, now)
        self._invalidate()

    def ask_unload(self, model: str) -> None:
        """Evict the model once it is idle; a pinned one stays."""
        self.residency.ask_unload(model)
        self._invalidate()

    def forget(self, model: str) -> None:
        """Evict the model once it is idle, pinned or not, with what was said of it. Its waiting jobs are the engine's to end."""
        self.residency.forget(model)
        self._invalidate()

    def pin(self, model: str, pinned: bool) -> None:
        self.residency.pin(model, pinned)
        self._invalidate()

    def keep_alive(self, model: str, seconds: float | None) -> None:
        self.residency.keep_alive(model, seconds)
        self._invalidate()

    # Asked by the engine

    def next_action(self, now: float) -> Action:
        if now >= self._settled_until:
            action = self._change(now)
            if action is not None:
                return action
            self._settled_until = self.model_loads.next_change(now)
        working = [r for r in self.residents.values() if r.running and not r.away]
        if working:
            return self._step(self.turns.next_of(working, self.model_loads.in_the_way_of_a_chat), now)  # 5
        stale = min(self.residents.values(), key=self.residency.expires_at, default=None)
        if stale is not None and self.residency.expires_at(stale) <= now:
            return Evict(stale.name)  # 6
        until = min(self._settled_until, self.residency.expires_at(stale) if stale is not None else math.inf)
        return Wait(None if until == math.inf else until)  # 7

    def decided_until(self, model: str) -> float:
        """Until when, where nothing is told, equal steps of this lane follow each other: nobody else has work. -inf: ask after each.

        A chat's words go out one by one.
        """
        resident = self.residents[model]
        return -math.inf if resident.is_chat or self._others_wait(resident) else self._settled_until

    @property
    def chat_due_in_s(self) -> float:
        """How long the step of another lane that begins now may take until a chat has its turn; inf: no chat runs."""
        waits = any(r.is_chat and r.running and not r.away for r in self.residents.values())
        return self.turns.chat_due_in_s if waits else math.inf

    def expires_in_s(self, model: str, now: float) -> float | None:
        """Idle seconds until the model is evicted; None: never."""
        left = self.residency.expires_at(self.residents[model]) - now
        return None if left == math.inf else max(0.0, left)

    # The parts of the decision

    def _invalidate(self) -> None:
        self._settled_until = -math.inf

    def _change(self, now: float) -> Action | None:
        """1 to 4: who comes and who goes."""
        for model in self.residency.leaving:
            if model in self.residents and not self.residents[model].running:
                return Evict(model)  # 1
        coming, urgent = self.model_loads.next(now, self._draining)  # 3, 4
        # While the doors of those in the way are closed, the others go on taking jobs.
        hurry = urgent and coming is not None
        if not hurry and not self._draining and (admit := self._admission()) is not None:
            return self._room_for_adapters(admit.job, now) or admit  # 2
        return coming or self.model_loads.cache_to_grow(now, self._draining)

    def _admission(self) -> Admit | None:
        best: tuple[float, Job] | None = None
        for model, resident in self.residents.items():
            if (
                model in self.model_loads.admission_closed
                or model in self.residency.leaving
                or not self.residency.is_there(model)
            ):
                continue
            head = self.queue.head(model)
            if head is not None and resident.has_room(head.job):
                due = self.queue.due(model)
                if best is None or due < best[0]:
                    best = (due, head.job)
        return None if best is None else Admit(best[1])

    def _room_for_adapters(self, job: Job, now: float) -> Action | None:
        """What goes before they come; None when nothing has to or nothing can."""
        need = self.residents[job.model].bytes_to_bring(job)
        if need <= self.ledger.free_bytes:
            return None
        return self.residency.plan(need, now, but=job.model).action

    def _step(self, resident: Resident, now: float) -> Action:
        next_step = resident.next_step
        if next_step is None or resident.mid_forward:
            return Step(resident.name)
        rows, need = self._stepping.rows_and_bytes(resident, next_step, self._others_wait(resident))
        if need > self.ledger.free_bytes:
            plan = self.residency.plan(need, now, but=resident.name)
            if plan.action is not None:
                return plan.action
        return Step(resident.name, rows, min(need, self.ledger.free_bytes))

    def _others_wait(self, resident: Resident) -> bool:
        """Whether somebody else's work would run sooner if this step were short."""
        return any(r.running and not r.away and r is not resident for r in self.residents.values())
