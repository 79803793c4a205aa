"""Which models are on the device, what a person said about them, and who leaves to make room. Device thread only; pure.

Room is planned whole and made only if the plan suffices. Who leaves, in this order, by score within each:
  a. models nobody uses: parked in host memory where that has room, else dropped
  b. components of a working lane that its next quantum does not need: parked
  c. what a chat's KV cache can do without
and when the one that asks has lost patience, of those that have had their slice of the device:
  d. working lanes: parked with all that runs on them, which keeps its place
  e. working lanes that cannot be parked: their doors close until they are idle
Never a pinned model, never one in its minimum residency; of one inside a forward only the doors are closed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median_low

from server.actions import Action, Evict, ModelFacts, Park, ResizeCache
from server.memory import Ledger
from server.residents import Resident

SLICE = 4.0  # a model with work stays this many times as long as it took to come: at most a fifth of the time goes into loads
FIRST_COOLDOWN_S = 10.0  # after a failed load; doubles up to the last
LAST_COOLDOWN_S = 300.0
LEAVE_MEMORY = 0.3  # weight of the newest leave in their mean
GROW_AFTER_S = 10.0  # a KV cache made smaller stays so at least this long: to grow, its chats are read again
BYTES_PER_S = 1e9  # of a load, until one was measured
LOADS_KEPT = 5  # the last few of a model, whose median is how long its next will take


@dataclass(frozen=True, slots=True)
class Cooldown:
    until: float
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """How room is made: what to do now, or whose doors to close until they are idle. Neither: nothing suffices."""

    action: Action | None = None
    doors: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Victim:
    frees: int
    action: Action | None  # None: it must become idle first
    model: str


class Residency:
    def __init__(
        self,
        ledger: Ledger,
        facts: Callable[[str], ModelFacts],
        wanted: Callable[[str], bool],
        *,
        min_residency_s: float,
    ) -> None:
        """`wanted`: whether jobs wait for a model, and will be started."""
        self.residents: dict[str, Resident] = {}
        self.cooldowns: dict[str, Cooldown] = {}
        self.asked: dict[str, float] = {}  # model → since when a person wants it loaded
        self.leaving: set[str] = set()  # take no more jobs, go once they are idle
        self.arriving = ""  # the model whose bytes are booked and whose files are being read
        self._ledger = ledger
        self._facts = facts
        self._wanted = wanted
        self.min_residency_s = min_residency_s
        self._pins: dict[str, bool] = {}
        self._keep_alives: dict[str, float] = {}
        self._load_s: dict[str, deque[float]] = {}  # the last few measured
        self._bytes_per_s = BYTES_PER_S
        self.leave_s = 0.0  # what it takes an idle model to go: a running mean
        self._ran_out: dict[str, int] = {}  # bytes that were too few for a load, from when it failed until it worked

    # What a person said

    def ask_load(self, model: str, now: float) -> None:
        self.leaving.discard(model)
        resident = self.residents.get(model)
        if resident is not None:
            resident.last_used = now
        if resident is None or resident.away:
            self.asked.setdefault(model, now)

    def ask_unload(self, model: str) -> None:
        self.asked.pop(model, None)
        if (model in self.residents or model == self.arriving) and not self.is_pinned(model):
            self.leaving.add(model)

    def forget(self, model: str) -> None:
        self.pin(model, False)
        self.ask_unload(model)
        self._pins.pop(model, None)
        self._keep_alives.pop(model, None)
        self._load_s.pop(model, None)
        self.cooldowns.pop(model, None)

    def pin(self, model: str, pinned: bool) -> None:
        self._pins[model] = pinned
        if pinned:
            self.leaving.discard(model)

    def keep_alive(self, model: str, seconds: float | None) -> None:
        if seconds is None:
            self._keep_alives.pop(model, None)
        else:
            self._keep_alives[model] = seconds

    def is_pinned(self, model: str) -> bool:
        return self._pins[model] if model in self._pins else self.facts_of(model).pinned

    def keep_alive_s(self, model: str) -> float:
        return self._keep_alives[model] if model in self._keep_alives else self.facts_of(model).keep_alive_s

    # What happened

    def loaded(self, model: str, now: float, load_s: float) -> Resident:
        self.arriving = ""
        facts = self._facts(model)
        measured = self._load_s.setdefault(model, deque(maxlen=LOADS_KEPT))
        measured.append(load_s)
        resident = Resident(facts, since=now, load_s=load_s, last_used=now, arrival_s=median_low(measured))
        self.residents[model] = resident
        if load_s > 0.1:  # a tiny model says nothing of the disk
            self._bytes_per_s = max(1.0, facts.need_bytes / load_s)
        self.cooldowns.pop(model, None)
        self.asked.pop(model, None)
        self._ran_out.pop(model, None)
        return resident

    def came_back(self, model: str, now: float, seconds: float) -> None:
        resident = self.residents[model]
        resident.since, resident.arrival_s, resident.served = now, seconds, bool(resident.running)
        self.asked.pop(model, None)

    def load_ran_out(self, model: str, free_bytes: int) -> bool:
        """A load did not fit into what was free. True when it should be tried again with more, once."""
        self.arriving = ""
        again = model not in self._ran_out and self._ledger.usable_bytes > free_bytes
        if again:
            self._ran_out[model] = free_bytes
        return again

    def load_failed(self, model: str, now: float, reason: str) -> Cooldown:
        self.arriving = ""
        self.leaving.discard(model)
        self._ran_out.pop(model, None)
        self.asked.pop(model, None)
        before = self.cooldowns.get(model)
        seconds = min(LAST_COOLDOWN_S, before.seconds * 2) if before else FIRST_COOLDOWN_S
        self.cooldowns[model] = Cooldown(now + seconds, seconds, reason)
        return self.cooldowns[model]

    def evicted(self, model: str, seconds: float = 0.0) -> None:
        self.leave_s += LEAVE_MEMORY * (seconds - self.leave_s)
        del self.residents[model]
        self.leaving.discard(model)

    # What follows

    def facts_of(self, model: str) -> ModelFacts:
        """As it was when it was loaded, else as the catalogue says now."""
        resident = self.residents.get(model)
        return resident.facts if resident is not None else self._facts(model)

    def is_there(self, model: str) -> bool:
        resident = self.residents.get(model)
        return resident is not None and not resident.away

    def missing_bytes(self, model: str) -> int:
        """What `model` needs of the device before it can work."""
        resident = self.residents.get(model)
        if resident is None:
            return self._ledger.usable_bytes if model in self._ran_out else self.bytes_to_load(model)
        weights = sum(resident.parked[name] for name in resident.away)
        cache = resident.facts.cache_bytes if resident.away and not resident.components else 0
        return weights + max(0, cache - self._ledger.held_by(model, "kv_cache"))

    def bytes_to_load(self, model: str) -> int:
        """Less what another model holds of the same weights."""
        facts = self.facts_of(model)
        return facts.need_bytes - self._ledger.there_already(facts.shareable)

    def arrival_s(self, model: str) -> float:
        """Seconds until `model` is there, once it is its turn: measured, or guessed from its bytes."""
        resident = self.residents.get(model)
        if resident is not None:
            return 0.1 * resident.load_s if resident.away else 0.0
        measured = self._load_s.get(model)
        # The first of a process also imports libraries and tries the model out: of two, the shorter is the better guess.
        return median_low(measured) if measured else self.facts_of(model).need_bytes / self._bytes_per_s

    def cooling(self, model: str, now: float) -> bool:
        cooldown = self.cooldowns.get(model)
        return cooldown is not None and cooldown.until > now

    def expires_at(self, resident: Resident) -> float:
        if resident.running or self.is_pinned(resident.name):
            return math.inf
        return resident.last_used + self.keep_alive_s(resident.name)

    def free_from(self, resident: Resident) -> float:
        """When its minimum residency is over, or, while there is work for it, its slice.

        A model that came in an instant is brought back in one: it keeps nobody waiting for the whole minimum.
        """
        has_work = bool(resident.running) or self._wanted(resident.name)
        slice_s = SLICE * resident.arrival_s
        return resident.since + (slice_s if has_work else min(self.min_residency_s, slice_s))

    def cache_to_grow(self, now: float, beside: int) -> ResizeCache | None:
        """A KV cache that was made smaller, when the bytes have come back. `beside`: what stays free for others."""
        for resident in self.residents.values():
            more = resident.facts.cache_bytes - self._ledger.held_by(resident.name, "kv_cache")
            if self.grows_at(resident) <= now and more + max(0, beside) <= self._ledger.free_bytes:
                return ResizeCache(resident.name, resident.facts.cache_bytes)
        return None

    def grows_at(self, resident: Resident) -> float:
        return math.inf if resident.away else resident.cache_cut_at + GROW_AFTER_S

    # Making room

    def plan(self, need_bytes: int, now: float, *, but: str, impatient: bool = False) -> Plan:
        """How `need_bytes` become free for `but`, which itself stays."""
        free = self._ledger.free_bytes
        chosen: list[Victim] = []
        for victim in self._victims(now, but, impatient):
            if free >= need_bytes:
                break
            if any(victim.model == one.model and isinstance(one.action, Park | None) for one in chosen):
                continue  # its spare components count already, or it leaves as a whole
            chosen.append(victim)
            free += victim.frees
        if free < need_bytes:
            return Plan()
        for victim in list(chosen):  # what a later, larger one made needless
            if free - victim.frees >= need_bytes:
                chosen.remove(victim)
                free -= victim.frees
        doors = frozenset(victim.model for victim in chosen if victim.action is None)
        if doors:
            return Plan(None, doors)
        return Plan(chosen[0].action if chosen else None)

    def _victims(self, now: float, but: str, impatient: bool) -> Iterator[Victim]:
        inside = [r for r in self.residents.values() if r.name != but and r.midway and not self.is_pinned(r.name)]
        others = [r for r in self.residents.values() if r.name != but and not r.midway and not self.is_pinned(r.name)]
        held = self._ledger.held_by
        idle = [r for r in others if not r.running and held(r.name) and self.free_from(r) <= now]
        # One that has just come takes a job before it may go: two that wait for each other's place would come and go for ever.
        idle = [r for r in idle if not self._wanted(r.name) or (impatient and r.served)]
        for resident in sorted(idle, key=lambda r: (self._wanted(r.name), -r.victim_score(now, 1.0))):
            yield Victim(self._ledger.freed_by(resident.name), self._send_away(resident), resident.name)
        busy = [r for r in others if r.running]
        for resident in busy:
            spare = sum(resident.spare.values())
            if (
                spare
                and resident.parkable
                and not self._ledger.is_shared(resident.name)
                and spare <= self._ledger.host_free_bytes
            ):
                yield Victim(spare, Park(resident.name, tuple(resident.spare)), resident.name)
        for resident in busy:
            cache = held(resident.name, "kv_cache")
            if cache and (resident.cache_floor < 0 or cache > resident.cache_floor):
                yield Victim(cache // 2, ResizeCache(resident.name, cache // 2), resident.name)
        if impatient:
            for resident in sorted([*busy, *inside], key=lambda r: r.since):
                if self.free_from(resident) <= now and held(resident.name, "weights"):
                    yield self._busy_victim(resident)

    def _busy_victim(self, resident: Resident) -> Victim:
        weights = self._ledger.held_by(resident.name, "weights")
        if (
            resident.parkable
            and not resident.midway
            and not resident.is_chat
            and not self._ledger.is_shared(resident.name)
            and resident.components
            and weights <= self._ledger.host_free_bytes
        ):
            return Victim(weights, Park(resident.name, tuple(resident.components)), resident.name)
        return Victim(self._ledger.freed_by(resident.name), None, resident.name)

    def _send_away(self, resident: Resident) -> Action:
        """Park an idle model, or drop it; room on the host is made by dropping what was parked and idle for longer."""
        size = self._ledger.held_by(resident.name, "weights")
        host = self._ledger
        if (
            not resident.components
            or not resident.parkable
            or host.is_shared(resident.name)
            or resident.name in self.leaving
            or size + host.parked_of(resident.name) > host.host_bytes
        ):
            return Evict(resident.name)
        if size <= host.host_free_bytes:
            return Park(resident.name, tuple(resident.components))
        parked = [r for r in self.residents.values() if r.parked and not r.components and not r.running]
        parked = [r for r in parked if r.last_used < resident.last_used and not self.is_pinned(r.name)]
        return Evict(min(parked, key=lambda r: r.last_used).name) if parked else Evict(resident.name)
