"""Which models are on the device, for how long, and what a person said about them. Device thread only; pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from server.memory.ledger import Ledger
from server.scheduling.actions import ModelFacts, ResizeCache
from server.scheduling.eviction import Plan, Room
from server.scheduling.load_times import LoadTimes
from server.scheduling.resident import Resident

SLICE = 4.0  # a model with work stays this many times as long as it took to come: at most a fifth of the time goes into loads
PARKED_SLICE = 16.0  # likewise once it came back from host memory: that may be asked of it with every burst of chat
FIRST_COOLDOWN_S = 10.0  # after a failed load; doubles up to the last
LAST_COOLDOWN_S = 300.0
GROW_AFTER_S = 10.0  # a KV cache made smaller stays so at least this long: to grow, its chats are read again


@dataclass(frozen=True, slots=True)
class Cooldown:
    until: float
    seconds: float
    reason: str


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
        self.load_requests: dict[str, float] = {}  # model → since when a person wants it loaded
        self.leaving: set[str] = set()  # take no more jobs, go once they are idle
        self.arriving = ""  # the model whose bytes are booked and whose files are being read
        self._ledger = ledger
        self._facts = facts
        self._wanted = wanted
        self.min_residency_s = min_residency_s
        self._pins: dict[str, bool] = {}
        self._keep_alives: dict[str, float] = {}
        self.load_times = LoadTimes()
        self._ran_out: dict[str, int] = {}  # bytes that were too few for a load, from when it failed until it worked
        self._room = Room(
            ledger,
            self.residents,
            self.leaving,
            wanted=wanted,
            is_pinned=self.is_pinned,
            free_from=self.free_from,
        )

    # What a person said

    def ask_load(self, model: str, now: float) -> None:
        self.leaving.discard(model)
        resident = self.residents.get(model)
        if resident is not None:
            resident.last_used = now
        if resident is None or resident.away:
            self.load_requests.setdefault(model, now)

    def ask_unload(self, model: str) -> None:
        self.load_requests.pop(model, None)
        if (model in self.residents or model == self.arriving) and not self.is_pinned(model):
            self.leaving.add(model)

    def forget(self, model: str) -> None:
        self.pin(model, False)
        self.ask_unload(model)
        self._pins.pop(model, None)
        self._keep_alives.pop(model, None)
        self.load_times.forget(model)
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

    def loaded(self, model: str, now: float, load_s: float, read_s: float = 0.0) -> Resident:
        """`read_s`: of `load_s`, in which its files were read beside the rest."""
        self.arriving = ""
        facts = self._facts(model)
        self.load_times.loaded(model, facts.need_bytes, load_s, read_s)
        arrival_s = self.load_times.expected_s(model, facts.need_bytes)
        resident = Resident(facts, since=now, load_s=load_s, last_used=now, slice_s=SLICE * arrival_s)
        self.residents[model] = resident
        self.cooldowns.pop(model, None)
        self.load_requests.pop(model, None)
        self._ran_out.pop(model, None)
        return resident

    def came_back(self, model: str, now: float, seconds: float) -> None:
        resident = self.residents[model]
        resident.since, resident.slice_s, resident.served = now, PARKED_SLICE * seconds, bool(resident.running)
        self.load_requests.pop(model, None)

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
        self.load_requests.pop(model, None)
        before = self.cooldowns.get(model)
        seconds = min(LAST_COOLDOWN_S, before.seconds * 2) if before else FIRST_COOLDOWN_S
        self.cooldowns[model] = Cooldown(now + seconds, seconds, reason)
        return self.cooldowns[model]

    def evicted(self, model: str, seconds: float = 0.0) -> None:
        self.load_times.left(seconds)
        del self.residents[model]
        self.leaving.discard(model)

    # What follows

    def plan(self, need_bytes: int, now: float, *, but: str, impatient: bool = False) -> Plan:
        """See `Room.plan`."""
        return self._room.plan(need_bytes, now, but=but, impatient=impatient)

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
        """Seconds until `model` is there, once it is its turn."""
        resident = self.residents.get(model)
        if resident is not None:
            return 0.1 * resident.load_s if resident.away else 0.0
        return self.load_times.expected_s(model, self.facts_of(model).need_bytes)

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
        return resident.since + (resident.slice_s if has_work else min(self.min_residency_s, resident.slice_s))

    def cache_to_grow(self, now: float, beside: int) -> ResizeCache | None:
        """A KV cache that was made smaller, when the bytes have come back. `beside`: what stays free for others."""
        for resident in self.residents.values():
            more = resident.facts.cache_bytes - self._ledger.held_by(resident.name, "kv_cache")
            if self.grows_at(resident) <= now and more + max(0, beside) <= self._ledger.free_bytes:
                return ResizeCache(resident.name, resident.facts.cache_bytes)
        return None

    def grows_at(self, resident: Resident) -> float:
        return math.inf if resident.away else resident.cache_cut_at + GROW_AFTER_S
