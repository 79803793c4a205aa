"""Decides the next thing the device does. Device thread only: no torch, no locks, no I/O, no clock of its own.

`next_action` reads the state and the time and returns data; the engine carries it out and tells the outcome back.

The decision, first that applies:
  1. a waiting job whose model is resident and has room is admitted, fairest first
  2. a model that a waiting job needs is loaded, once it fits
  3. what stands in its way is evicted: the whole set is planned first, and only if the set suffices
  4. a lane with work takes a step: chat first, up to its share of the device's time, then whoever used least
  5. a lane idle past its keep-alive is evicted
  6. wait, until something can change by itself
A job that waited longer than the patience closes the door of the models in its way, so that they drain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from server.jobs import Job, JobType, WaitingFor
from server.memory import Ledger
from server.queue import FairQueue, Waiting

LOOKAHEAD = 64  # jobs looked at per decision: bounds its cost however long the queue
FIRST_COOLDOWN_S = 10.0  # after a failed load; doubles up to the last
LAST_COOLDOWN_S = 300.0


@dataclass(frozen=True, slots=True)
class Load:
    model: str


@dataclass(frozen=True, slots=True)
class Evict:
    model: str


@dataclass(frozen=True, slots=True)
class Admit:
    job: Job


@dataclass(frozen=True, slots=True)
class Step:
    model: str


@dataclass(frozen=True, slots=True)
class Wait:
    until: float | None  # None: until a message comes


Action: TypeAlias = Load | Evict | Admit | Step | Wait


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the policy needs to know of a model."""

    name: str
    type: JobType
    need_bytes: int  # weights and cache, from the file headers
    max_running: int  # requests in its lane at once
    keep_alive_s: float  # idle seconds until it is evicted; inf: never
    pinned: bool = False


@dataclass(slots=True)
class Resident:
    """A lane as the policy sees it."""

    facts: ModelFacts
    since: float
    load_s: float
    last_used: float
    running: dict[str, int] = field(default_factory=dict)  # job id → its unfinished requests
    device_s: float = 0.0  # time used, as of the lane's last turn

    @property
    def requests(self) -> int:
        return sum(self.running.values())

    def has_room(self, job: Job) -> bool:
        return not self.running or self.requests + len(job.requests) <= self.facts.max_running

    def victim_score(self, now: float) -> float:
        """Larger goes sooner: idle long, cheap to bring back."""
        return (now - self.last_used) / max(self.load_s, 1e-3)


@dataclass(frozen=True, slots=True)
class Cooldown:
    until: float
    seconds: float
    reason: str


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
        self.residents: dict[str, Resident] = {}
        self.cooldowns: dict[str, Cooldown] = {}
        self.draining = False
        self._facts = facts
        self._chat_share = chat_share
        self._min_residency_s = min_residency_s
        self._patience_s = patience_s
        self._asked: dict[str, float] = {}  # model → since when a person wants it loaded
        self._leaving: set[str] = set()  # takes no more jobs, goes once it is idle
        self._pins: dict[str, bool] = {}
        self._keep_alives: dict[str, float] = {}
        self._class_s = {True: 0.0, False: 0.0}  # device seconds of chat and of the rest, divided by their share

    # Told by the engine

    def add(self, job: Job, now: float) -> None:
        self.queue.add(job, now)

    def ask_load(self, model: str, now: float) -> None:
        """A person wants the model there, as urgently as any job."""
        self._leaving.discard(model)
        if model in self.residents:
            self.residents[model].last_used = now
        else:
            self._asked.setdefault(model, now)

    def ask_unload(self, model: str) -> None:
        """Evict the model once it is idle; a pinned one stays."""
        self._asked.pop(model, None)
        if model in self.residents and not self.is_pinned(model):
            self._leaving.add(model)

    def forget(self, model: str) -> None:
        """Evict the model once it is idle, pinned or not, and what was said about it. Its waiting jobs are the engine's to end."""
        self.pin(model, False)
        self.ask_unload(model)
        self._pins.pop(model, None)
        self._keep_alives.pop(model, None)
        self.cooldowns.pop(model, None)

    def pin(self, model: str, pinned: bool) -> None:
        self._pins[model] = pinned
        if pinned:
            self._leaving.discard(model)

    def keep_alive(self, model: str, seconds: float | None) -> None:
        if seconds is None:
            self._keep_alives.pop(model, None)
        else:
            self._keep_alives[model] = seconds

    def admitted(self, job: Job, now: float) -> Waiting:
        resident = self.residents[job.model]
        if not resident.running:
            self._rejoin(resident)
        resident.running[job.id] = len(job.requests)
        resident.last_used = now
        return self.queue.take(job.id)

    def loaded(self, model: str, now: float, load_s: float) -> None:
        self.residents[model] = Resident(self._facts(model), since=now, load_s=load_s, last_used=now)
        self.cooldowns.pop(model, None)
        self._asked.pop(model, None)

    def load_failed(self, model: str, now: float, reason: str) -> Cooldown:
        """Raises the model's cool-down; its waiting jobs are the engine's to end."""
        self._asked.pop(model, None)
        before = self.cooldowns.get(model)
        seconds = min(LAST_COOLDOWN_S, before.seconds * 2) if before else FIRST_COOLDOWN_S
        self.cooldowns[model] = Cooldown(now + seconds, seconds, reason)
        return self.cooldowns[model]

    def evicted(self, model: str) -> None:
        del self.residents[model]
        self._leaving.discard(model)

    def stepped(self, model: str, now: float, seconds: float) -> None:
        resident = self.residents[model]
        resident.last_used = now
        resident.device_s += seconds
        is_chat = resident.facts.type == "chat"
        self._class_s[is_chat] += seconds / (self._chat_share if is_chat else 1 - self._chat_share)

    def request_ended(self, job_id: str, model: str) -> bool:
        """True when that was the job's last unfinished request."""
        running = self.residents[model].running
        running[job_id] -= 1
        if running[job_id]:
            return False
        del running[job_id]
        return True

    # Asked by the engine

    def next_action(self, now: float) -> Action:
        closed = self._closed_doors(now) | self._leaving
        for model in self._leaving:
            if not self.residents[model].running:
                return Evict(model)
        if not self.draining:
            missing: dict[str, Waiting] = {}
            for waiting in self.queue.in_order(LOOKAHEAD):
                resident = self.residents.get(waiting.job.model)
                if resident is None:
                    missing.setdefault(waiting.job.model, waiting)
                elif waiting.job.model not in closed and resident.has_room(waiting.job):
                    return Admit(waiting.job)  # 1
            oldest = self.queue.oldest()
            if oldest and oldest.job.model not in self.residents and self._impatient(oldest, now):
                missing = {oldest.job.model: oldest, **missing}
            for model in (*self._asked, *missing):
                action = self._make_resident(model, now)  # 2, 3
                if action is not None:
                    return action
        working = [resident for resident in self.residents.values() if resident.running]
        if working:
            return Step(self._whose_turn(working).facts.name)  # 4
        stale = next((r for r in self.residents.values() if self._expires_at(r) <= now), None)
        if stale is not None:
            return Evict(stale.facts.name)  # 5
        return Wait(self._next_change(now))  # 6

    def waiting_for(self, model: str, now: float) -> WaitingFor:
        """What a waiting job of `model` waits for."""
        if model in self.residents:
            return "turn"
        if self.ledger.free_bytes >= self.need_bytes(model) or self._victims(model, now):
            return "model_load"
        return "gpu_memory"

    def is_pinned(self, model: str) -> bool:
        return self._pins[model] if model in self._pins else self._facts(model).pinned

    def keep_alive_s(self, model: str) -> float:
        return self._keep_alives[model] if model in self._keep_alives else self._facts(model).keep_alive_s

    def need_bytes(self, model: str) -> int:
        return self._facts(model).need_bytes

    def missing_bytes(self, model: str) -> int:
        """Bytes a waiting job of `model` needs before it can start: none when the model is there."""
        return 0 if model in self.residents else self.need_bytes(model)

    def expires_in_s(self, model: str, now: float) -> float | None:
        """Idle seconds until the model is evicted; None: never."""
        left = self._expires_at(self.residents[model]) - now
        return None if left == math.inf else max(0.0, left)

    def _make_resident(self, model: str, now: float) -> Action | None:
        cooldown = self.cooldowns.get(model)
        if cooldown is not None and cooldown.until > now:
            return None
        if self.ledger.free_bytes >= self.need_bytes(model):
            return Load(model)
        victims = self._victims(model, now)
        return Evict(victims[0].facts.name) if victims else None

    def _victims(self, model: str, now: float, *, busy_too: bool = False) -> list[Resident]:
        """The cheapest set whose leaving makes room for `model`; empty when no set suffices."""
        free, need = self.ledger.free_bytes, self.need_bytes(model)
        chosen: list[Resident] = []
        for resident in sorted(self._evictable(now, busy_too), key=lambda r: -r.victim_score(now)):
            if free >= need:
                break
            chosen.append(resident)
            free += self.ledger.held_by(resident.facts.name)
        return chosen if free >= need else []

    def _evictable(self, now: float, busy_too: bool) -> Iterator[Resident]:
        for resident in self.residents.values():
            settled = now - resident.since >= self._min_residency_s
            if not self.is_pinned(resident.facts.name) and (busy_too or (settled and not resident.running)):
                yield resident

    def _closed_doors(self, now: float) -> frozenset[str]:
        """Models that take no new jobs because a job that lost patience needs their memory."""
        oldest = self.queue.oldest()
        if oldest is None or oldest.job.model in self.residents or not self._impatient(oldest, now):
            return frozenset()
        if self.ledger.free_bytes >= self.need_bytes(oldest.job.model) or oldest.job.model in self.cooldowns:
            return frozenset()
        return frozenset(r.facts.name for r in self._victims(oldest.job.model, now, busy_too=True))

    def _impatient(self, waiting: Waiting, now: float) -> bool:
        return now - waiting.since > self._patience_s

    def _whose_turn(self, working: list[Resident]) -> Resident:
        chats = [r for r in working if r.facts.type == "chat"]
        others = [r for r in working if r.facts.type != "chat"]
        if chats and others:
            among = chats if self._class_s[True] <= self._class_s[False] else others
        else:
            among = chats or others
        return min(among, key=lambda r: r.device_s)

    def _rejoin(self, resident: Resident) -> None:
        """A lane or class that was idle starts level with the others: idle time is not credit."""
        working = [r for r in self.residents.values() if r.running]
        resident.device_s = max(resident.device_s, min((r.device_s for r in working), default=0.0))
        is_chat = resident.facts.type == "chat"
        if not any((r.facts.type == "chat") == is_chat for r in working):
            other_works = any((r.facts.type == "chat") != is_chat for r in working)
            floor = self._class_s[not is_chat] if other_works else 0.0
            self._class_s[is_chat] = max(self._class_s[is_chat], floor)

    def _expires_at(self, resident: Resident) -> float:
        name = resident.facts.name
        return math.inf if self.is_pinned(name) else resident.last_used + self.keep_alive_s(name)

    def _next_change(self, now: float) -> float | None:
        moments = [self._expires_at(r) for r in self.residents.values()]
        moments += [c.until for model, c in self.cooldowns.items() if c.until > now]
        if len(self.queue):
            moments += [r.since + self._min_residency_s for r in self.residents.values()]
        later = [moment for moment in moments if now < moment < math.inf]
        return min(later, default=None)
