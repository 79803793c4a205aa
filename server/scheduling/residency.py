"""Which models are on the device and for how long, and what people decided about them. Device thread only; pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from server.memory.ledger import Ledger
from server.protocol import Forget, KeepAlive, LoadModel, ModelMessage, Pin, UnloadModel
from server.scheduling.actions import ModelFacts, ResizeCache
from server.scheduling.eviction import Candidate, EvictionPlan, plan_eviction
from server.scheduling.load_times import LoadTimes
from server.scheduling.resident import Resident

SLICE = 4.0  # minimum residency while busy, in multiples of the load time; caps loading at 20 % of the time
PARKED_SLICE = 16.0  # the same after a return from host memory, which each burst of chat may ask for
FIRST_COOLDOWN_S = 10.0  # after a failed load; doubles with each further failure
LAST_COOLDOWN_S = 300.0
GROW_AFTER_S = (
    10.0  # a KV cache that was cut stays small for at least this long: growing it means prefilling its chats again
)


@dataclass(frozen=True, slots=True)
class Cooldown:
    """A model whose load failed is not tried again before `until`."""

    until: float
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class LoadInProgress:
    """The one model that is being loaded: its bytes are booked, its files are being read or have been read."""

    model: str
    read_s: float | None = None  # seconds that reading its files took; None while they are being read


class Residency:
    def __init__(
        self,
        ledger: Ledger,
        facts: Callable[[str], ModelFacts],
        wanted: Callable[[str], bool],
        *,
        min_residency_s: float,
    ) -> None:
        """wanted: whether waiting jobs of a model will be started."""
        self.residents: dict[str, Resident] = {}
        self.cooldowns: dict[str, Cooldown] = {}
        self.load_requests: dict[str, float] = {}  # model → when a person asked for it
        self.leaving: set[str] = set()  # models that admit no more jobs and are evicted once they are idle
        self.loading: LoadInProgress | None = None
        self.load_times = LoadTimes()
        self.min_residency_s = min_residency_s
        self._ledger = ledger
        self._facts = facts
        self._wanted = wanted
        self._pins: dict[str, bool] = {}
        self._keep_alives: dict[str, float] = {}
        self._ran_out: set[str] = (
            set()
        )  # models that ran out of memory on their way to the device and will be tried once more

    # What people decide

    def handle(self, message: ModelMessage, now: float) -> None:
        match message:
            case LoadModel(model):
                self._request_load(model, now)
            case UnloadModel(model):
                self.unload(model)
            case Forget(model):
                self._forget(model)
            case Pin(model, pinned):
                self._pins[model] = pinned
                if pinned:
                    self.leaving.discard(model)
            case KeepAlive(model, seconds):
                self._keep_alives.pop(model, None)
                if seconds is not None:
                    self._keep_alives[model] = seconds

    def unload(self, model: str) -> None:
        """Evict the model once it is idle, unless it is pinned."""
        self.load_requests.pop(model, None)
        if (model in self.residents or self.is_loading(model)) and not self.is_pinned(model):
            self.leaving.add(model)

    def _request_load(self, model: str, now: float) -> None:
        self.leaving.discard(model)
        resident = self.residents.get(model)
        if resident is not None:
            resident.last_used = now
        if resident is None or resident.away:
            self.load_requests.setdefault(model, now)

    def _forget(self, model: str) -> None:
        self._pins[model] = False
        self.unload(model)
        self._pins.pop(model, None)
        self._keep_alives.pop(model, None)
        self.load_times.forget(model)
        self.cooldowns.pop(model, None)

    def is_pinned(self, model: str) -> bool:
        return self._pins[model] if model in self._pins else self.facts_of(model).pinned

    def keep_alive_s(self, model: str) -> float:
        return self._keep_alives[model] if model in self._keep_alives else self.facts_of(model).keep_alive_s

    # What happened

    def files_read(self, model: str, seconds: float) -> None:
        if self.loading is not None and self.loading.model == model:
            self.loading = replace(self.loading, read_s=seconds)

    def loaded(self, model: str, now: float, load_s: float) -> Resident:
        """load_s: all of it, the reading of the files included."""
        read_s = (self.loading.read_s or 0.0) if self.loading is not None else 0.0
        self.loading = None
        facts = self._facts(model)
        self.load_times.loaded(model, facts.need_bytes, load_s, read_s)
        expected_s = self.load_times.expected_s(model, facts.need_bytes)
        resident = Resident(facts, since=now, load_s=load_s, last_used=now, slice_s=SLICE * expected_s)
        self.residents[model] = resident
        self.cooldowns.pop(model, None)
        self.load_requests.pop(model, None)
        self._ran_out.discard(model)
        return resident

    def unparked(self, model: str, now: float, seconds: float) -> None:
        """The model was parked as a whole and works again."""
        resident = self.residents[model]
        resident.since, resident.slice_s, resident.served = now, PARKED_SLICE * seconds, bool(resident.running)

    def ready(self, model: str) -> None:
        """All that the model's next step needs is on the device."""
        self.load_requests.pop(model, None)
        self._ran_out.discard(model)

    def ran_out_of_memory(self, model: str, free_bytes: int) -> bool:
        """A load or unpark failed with `free_bytes` free. True: it is tried once more, with all the memory that can be had."""
        if self.is_loading(model):
            self.loading = None
        again = model not in self._ran_out and self.most_obtainable(model) > free_bytes
        if again:
            self._ran_out.add(model)
        else:
            self._ran_out.discard(model)
        return again

    def load_failed(self, model: str, now: float, reason: str) -> Cooldown:
        self.loading = None
        self.leaving.discard(model)
        self._ran_out.discard(model)
        self.load_requests.pop(model, None)
        before = self.cooldowns.get(model)
        seconds = min(LAST_COOLDOWN_S, before.seconds * 2) if before else FIRST_COOLDOWN_S
        self.cooldowns[model] = Cooldown(now + seconds, seconds, reason)
        return self.cooldowns[model]

    def evicted(self, model: str, seconds: float = 0.0) -> None:
        """seconds: how long the eviction took."""
        self.load_times.left(seconds)
        del self.residents[model]
        self.leaving.discard(model)
        self._ran_out.discard(model)

    # What follows

    def plan_eviction(self, need_bytes: int, now: float, *, keep: str, impatient: bool = False) -> EvictionPlan:
        """Plans how `need_bytes` become free for the model `keep`, which itself stays."""
        candidates = [
            Candidate(
                resident,
                pinned=self.is_pinned(name),
                wanted=self._wanted(name),
                leaving=name in self.leaving,
                protected_until=self.protected_until(resident),
            )
            for name, resident in self.residents.items()
            if name != keep
        ]
        return plan_eviction(need_bytes, candidates, self._ledger, now, impatient=impatient)

    def facts_of(self, model: str) -> ModelFacts:
        """The facts with which the model was loaded, else those of the catalogue now."""
        resident = self.residents.get(model)
        return resident.facts if resident is not None else self._facts(model)

    def is_ready(self, model: str) -> bool:
        """Whether the model is on the device with all that its next step needs."""
        resident = self.residents.get(model)
        return resident is not None and not resident.away

    def is_loading(self, model: str) -> bool:
        return self.loading is not None and self.loading.model == model

    def missing_bytes(self, model: str) -> int:
        """Bytes of the device that `model` needs before it can work."""
        if model in self._ran_out:
            return self.most_obtainable(model)
        resident = self.residents.get(model)
        if resident is None:
            return self.bytes_to_load(model)
        weights = sum(resident.parked[name] for name in resident.away)
        cache = resident.facts.cache_bytes if resident.away and not resident.components else 0
        return weights + max(0, cache - self._ledger.held_by(model, "kv_cache"))

    def bytes_to_load(self, model: str) -> int:
        """Weights and cache, less the weights that another model on the device shares."""
        facts = self.facts_of(model)
        return facts.need_bytes - self._ledger.bytes_already_held(facts.shareable)

    def arrival_s(self, model: str) -> float:
        """Seconds that loading or unparking `model` is expected to take."""
        resident = self.residents.get(model)
        if resident is not None:
            return 0.1 * resident.load_s if resident.away else 0.0
        return self.load_times.expected_s(model, self.facts_of(model).need_bytes)

    def in_cooldown(self, model: str, now: float) -> bool:
        cooldown = self.cooldowns.get(model)
        return cooldown is not None and cooldown.until > now

    def expires_at(self, resident: Resident) -> float:
        """When its keep-alive is over; inf while it works or is pinned."""
        if resident.running or self.is_pinned(resident.name):
            return math.inf
        return resident.last_used + self.keep_alive_s(resident.name)

    def protected_until(self, resident: Resident) -> float:
        """The end of its minimum residency or, while it has work, of its time slice.

        A model that loads in an instant can come back in an instant: it never keeps others waiting for the whole minimum.
        """
        has_work = bool(resident.running) or self._wanted(resident.name)
        return resident.since + (resident.slice_s if has_work else min(self.min_residency_s, resident.slice_s))

    def cache_to_grow(self, now: float, keep_free: int) -> ResizeCache | None:
        """A KV cache that was cut and can have its full size again. keep_free: bytes that must stay free."""
        for resident in self.residents.values():
            more = resident.facts.cache_bytes - self._ledger.held_by(resident.name, "kv_cache")
            if self.cache_grows_at(resident) <= now and more + max(0, keep_free) <= self._ledger.free_bytes:
                return ResizeCache(resident.name, resident.facts.cache_bytes)
        return None

    def cache_grows_at(self, resident: Resident) -> float:
        return math.inf if resident.away else resident.cache_cut_at + GROW_AFTER_S

    def most_obtainable(self, model: str) -> int:
        """Bytes that would be free for `model` if every other model but the pinned ones left the device."""
        others = [name for name in self.residents if name != model and not self.is_pinned(name)]
        return self._ledger.free_bytes + sum(self._ledger.held_by(name) for name in others)
