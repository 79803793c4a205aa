"""Decides the next thing the device does. Device thread only: no torch, no locks, no I/O, no clock of its own.

`next_action` reads the state and the time and returns data; the engine carries it out and tells the outcome back.

The decision, first that applies:
  1. a model that was told to leave and is idle is evicted
  2. a waiting job whose model is there and has room is admitted, fairest first
  3. a model that work waits for is brought onto the device, once it fits beside what the running jobs need
  4. what stands in its way leaves: the whole set is planned first (`residency.py`), and only if the set suffices
  5. a lane with work takes a step (`turns.py`), as wide as is useful and fits
  6. a model idle past its keep-alive is evicted
  7. wait, until something can change by itself
A model that waits longer than is worth its load closes the doors of those in its way, so that they drain. Nothing but a message, an
outcome or a moment foreseen changes 1 to 4, so between those a decision is only 5: its cost does not grow with the queue.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from pipelines.interface import Quantum
from server.actions import Action, Admit, Evict, Load, ModelFacts, Park, ResizeCache, Step, Unpark, Wait
from server.jobs import Job, WaitingFor
from server.memory import Ledger, Reading
from server.peaks import Peaks
from server.queue import AGEING, FairQueue, Waiting
from server.residency import Cooldown, Residency
from server.residents import Resident
from server.turns import Turns
from server.widths import Widths, bucket_of

__all__ = [
    "Action", "Admit", "Evict", "Load", "ModelFacts", "Park", "ResizeCache", "Scheduler", "Step", "Unpark", "Wait",
]  # fmt: skip

LOOKAHEAD = 4  # models looked at that could come: bounds the cost of a decision, and how far a small one may overtake
PATIENCE_LOADS = 3.0  # a model waits for others' work at least this many times as long as its load takes
CHAT_PATIENCE = 0.2  # of the patience of the rest: somebody sits in front of it


class Scheduler:
    def __init__(
        self,
        ledger: Ledger,
        facts: Callable[[str], ModelFacts],
        *,
        chat_share: float = 0.5,
        min_residency_s: float = 2.0,
        patience_s: float = 10.0,
    ) -> None:
        self.ledger = ledger
        self.queue = FairQueue()
        self.peaks = Peaks()
        self.widths = Widths()
        self.residency = Residency(
            ledger, facts, lambda model: self.queue.n_of_model(model) > 0, min_residency_s=min_residency_s
        )
        self.turns = Turns(chat_share)
        self._draining = False
        self._patience_s = patience_s
        self._jobs: dict[str, tuple[Job, float]] = {}  # running jobs and the device seconds they used
        self._calm_until = -math.inf  # before this moment, 1 to 4 apply only if something is told
        self._promised = ""  # the model that room is being made for: nobody else takes it meanwhile
        self._closed: frozenset[str] = frozenset()  # models whose doors are closed

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
        self._stir()

    # Told by the engine

    def add(self, job: Job, now: float) -> None:
        self.queue.add(job, now)
        self._stir()

    def withdraw(self, job_id: str) -> Waiting:
        """Take a waiting job out that will not run. Raises KeyError."""
        self._stir()
        return self.queue.remove(job_id)

    def admitted(self, job: Job, now: float) -> Waiting:
        resident = self.residents[job.model]
        if not resident.running:
            self.turns.rejoin(resident, self.residents.values())
        resident.running[job.id] = len(job.requests)
        resident.requests += len(job.requests)
        resident.last_used = now
        self._jobs[job.id] = (job, 0.0)
        self._stir()
        return self.queue.take(job.id)

    def expects(self, model: str, quantum: Quantum | None, midway: bool = False) -> None:
        """What the lane's next step would run: told whenever it may have changed."""
        resident = self.residents[model]
        if (quantum and quantum.component) != (resident.quantum and resident.quantum.component):
            self._stir()
        resident.quantum, resident.midway = quantum, midway

    def placed(self, model: str, components: Mapping[str, int], parked: Mapping[str, int]) -> None:
        """Where the lane's weights are now."""
        resident = self.residents[model]
        resident.components, resident.parked = dict(components), dict(parked)
        self.ledger.correct_weights(model, dict(components), dict(parked))
        if not resident.away:
            self.residency.asked.pop(model, None)
        self._stir()

    def loaded(self, model: str, now: float, load_s: float) -> None:
        self.residency.loaded(model, now, load_s)
        self._promised = ""
        self._stir()

    def came_back(self, model: str, now: float, seconds: float) -> None:
        self.residency.came_back(model, now, seconds)
        self._promised = ""
        self._stir()

    def load_ran_out(self, model: str, free_bytes: int) -> bool:
        """A load did not fit into what was free. True when it will be tried again, once, with all that can be had."""
        self._stir()
        return self.residency.load_ran_out(model, free_bytes)

    def load_failed(self, model: str, now: float, reason: str) -> Cooldown:
        """Raises the model's cool-down; its waiting jobs are the engine's to end."""
        self._stir()
        return self.residency.load_failed(model, now, reason)

    def evicted(self, model: str) -> None:
        self.residency.evicted(model)
        self._stir()

    def cache_resized(self, model: str, asked_bytes: int, n_bytes: int) -> None:
        self.ledger.correct(model, "kv_cache", n_bytes)
        self.residents[model].cache_floor = n_bytes if n_bytes > asked_bytes else -1
        self._stir()

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
        self._stir()
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
            self._stir()

    def ask_load(self, model: str, now: float) -> None:
        """A person wants the model there, more urgently than any job."""
        self.residency.ask_load(model, now)
        self._stir()

    def ask_unload(self, model: str) -> None:
        """Evict the model once it is idle; a pinned one stays."""
        self.residency.ask_unload(model)
        self._stir()

    def forget(self, model: str) -> None:
        """Evict the model once it is idle, pinned or not, with what was said of it. Its waiting jobs are the engine's to end."""
        self.residency.forget(model)
        self._stir()

    def pin(self, model: str, pinned: bool) -> None:
        self.residency.pin(model, pinned)
        self._stir()

    def keep_alive(self, model: str, seconds: float | None) -> None:
        self.residency.keep_alive(model, seconds)
        self._stir()

    # Asked by the engine

    def next_action(self, now: float) -> Action:
        if now >= self._calm_until:
            action = self._change(now)
            if action is not None:
                return action
            self._calm_until = self._next_change(now)
        working = [r for r in self.residents.values() if r.running and not r.away]
        if working:
            return self._step(self.turns.next_of(working), now)  # 5
        stale = min(self.residents.values(), key=self.residency.expires_at, default=None)
        if stale is not None and self.residency.expires_at(stale) <= now:
            return Evict(stale.name)  # 6
        until = min(self._calm_until, self.residency.expires_at(stale) if stale is not None else math.inf)
        return Wait(None if until == math.inf else until)  # 7

    @property
    def chat_due_in_s(self) -> float:
        """How long the step of another lane that begins now may take until a chat has its turn; inf: no chat runs."""
        waits = any(r.is_chat and r.running and not r.away for r in self.residents.values())
        return self.turns.chat_due_in_s if waits else math.inf

    def waiting_for(self, model: str, now: float) -> WaitingFor:
        """What a waiting job of `model` waits for."""
        if self._is_there(model):
            return "turn"
        need = self._need_to_come(model, self._room_beside())
        plan = self.residency.plan(need, now, but=model)
        return "model_load" if self.ledger.free_bytes >= need or plan.action is not None else "gpu_memory"

    def need_bytes(self, model: str) -> int:
        return self.residency.facts_of(model).need_bytes

    def missing_bytes(self, model: str) -> int:
        """Bytes a waiting job of `model` needs before it can start: none when the model is there."""
        return self.residency.missing_bytes(model)

    def is_pinned(self, model: str) -> bool:
        return self.residency.is_pinned(model)

    def keep_alive_s(self, model: str) -> float:
        return self.residency.keep_alive_s(model)

    def expires_in_s(self, model: str, now: float) -> float | None:
        """Idle seconds until the model is evicted; None: never."""
        left = self.residency.expires_at(self.residents[model]) - now
        return None if left == math.inf else max(0.0, left)

    # The parts of the decision

    def _stir(self) -> None:
        self._calm_until = -math.inf

    def _change(self, now: float) -> Action | None:
        """1 to 4: who comes and who goes."""
        for model in self.residency.leaving:
            if not self.residents[model].running:
                return Evict(model)  # 1
        self._closed = frozenset()
        claims = [] if self._draining and not self._parked_work() else self._claims(now)
        coming, urgent = self._first_to_come(claims, now)
        if not urgent and not self._draining and (admit := self._admission()) is not None:
            return admit  # 2
        return coming  # 3, 4

    def _admission(self) -> Admit | None:
        best: tuple[float, Job] | None = None
        for model, resident in self.residents.items():
            if model in self._closed or model in self.residency.leaving or not self._is_there(model):
                continue
            head = self.queue.head(model)
            if head is not None and resident.has_room(head.job):
                due = self.queue.due(model)
                if best is None or due < best[0]:
                    best = (due, head.job)
        return None if best is None else Admit(best[1])

    def _claims(self, now: float) -> list[tuple[float, str, float]]:
        """(due, model, since) of the models that work waits for and that are not there, the most urgent first."""
        claims = [(-math.inf, model, -math.inf) for model in self.residency.asked if not self._is_there(model)]
        for model in self._parked_work():
            since = self.residents[model].last_used
            claims.append((self.queue.level + AGEING * since, model, since))
        if not self._draining:
            for model in self.queue.models():
                oldest = self.queue.oldest(model)
                if oldest is not None and not self._is_there(model):
                    claims.append((self.queue.due(model), model, oldest.since))
        claims = [claim for claim in claims if not self.residency.cooling(claim[1], now)]
        return sorted(claims, key=lambda claim: (claim[1] != self._promised, claim))

    def _first_to_come(self, claims: list[tuple[float, str, float]], now: float) -> tuple[Action | None, bool]:
        """What brings the first one that can come nearer, and whether that goes before those that are there."""
        beside, too_much = self._room_beside(), math.inf
        for _, model, since in claims[:LOOKAHEAD]:
            need = self._need_to_come(model, beside)
            impatient = now - since > self.patience_of(model)
            if self.ledger.free_bytes >= need:
                away = self.residents[model].away if model in self.residents else ()
                return (Unpark(model, away) if away else Load(model)), impatient  # 3
            if not impatient and need >= too_much:
                continue
            plan = self.residency.plan(need, now, but=model, impatient=impatient)
            if plan.action is not None or plan.doors:
                self._promised = model
                self._closed = plan.doors
                return plan.action, impatient  # 4
            too_much = min(too_much, need)
        return None, False

    def _room_beside(self) -> int:
        """Bytes to leave free for the largest single row that a running lane may take."""
        booked = sum(self.ledger.held_by(r.name, "activations") for r in self.residents.values() if r.midway)
        return max((self.peaks.one_row(r.key) for r in self.residents.values() if r.running), default=0) - booked

    def _need_to_come(self, model: str, beside: int) -> int:
        """Its missing bytes, and room for the largest single row that it or a running lane may take beside them."""
        missing = self.residency.missing_bytes(model)
        beside = max(0, beside, self.peaks.one_row(self.residency.facts_of(model).fingerprint or model))
        return missing if missing + beside > self.ledger.usable_bytes else missing + beside

    def _is_there(self, model: str) -> bool:
        resident = self.residents.get(model)
        return resident is not None and not resident.away

    def _parked_work(self) -> list[str]:
        return [r.name for r in self.residents.values() if r.running and r.away]

    def patience_of(self, model: str) -> float:
        patience = max(self._patience_s, PATIENCE_LOADS * self.residency.arrival_s(model))
        return patience * CHAT_PATIENCE if self.residency.facts_of(model).type == "chat" else patience

    def _step(self, resident: Resident, now: float) -> Action:
        quantum = resident.quantum
        if quantum is None or resident.midway:
            return Step(resident.name)
        shape = f"{quantum.stage} {quantum.shape}"
        rows = quantum.rows if resident.is_chat else min(quantum.rows, self.widths.useful(resident.key, shape))
        rows, need = self._that_fits(resident, quantum, max(1, rows))
        if need > self.ledger.free_bytes:
            plan = self.residency.plan(need, now, but=resident.name)
            if plan.action is not None:
                return plan.action
        return Step(resident.name, rows, min(need, self.ledger.free_bytes))

    def _that_fits(self, resident: Resident, quantum: Quantum, rows: int) -> tuple[int, int]:
        """The most rows that fit, at least one, and the bytes they will hold."""
        entry = f"{quantum.component}.{quantum.entry}"
        while True:
            need = self.peaks.predict(resident.key, entry, quantum.shape, quantum.units, bucket_of(rows))
            if need is None:  # never measured: where it can be, a single row tells
                return (1 if self.ledger.has_driver and not resident.is_chat else rows), 0
            if rows == 1 or need <= self.ledger.free_bytes:
                return rows, need
            rows = bucket_of(rows) // 2

    def _next_change(self, now: float) -> float:
        moments = [c.until for c in self.cooldowns.values()]
        for model in self.queue.models():
            oldest = self.queue.oldest(model)
            if oldest is not None and not self._is_there(model):
                moments.append(oldest.since + self.patience_of(model))
        moments += [self.residents[model].last_used + self.patience_of(model) for model in self._parked_work()]
        if moments or self.residency.asked:
            moments += [self.residency.free_from(r) for r in self.residents.values()]
        return min((moment for moment in moments if moment > now), default=math.inf)
