"""Tracks which models are on the device and how long they stay: pins, keep-alives, minimum residency, cooldowns.

Device thread only; pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from models.errors import UnknownModel
from server.engine_status import LoadError
from server.memory.ledger import Ledger
from server.protocol import Forget, KeepAlive, LoadModel, ModelMessage, Pin, SetAside, Settled, UnloadModel
from server.scheduling.actions import ModelFacts, ResizeCache
from server.scheduling.eviction import Candidate, EvictionPlan, plan_eviction
from server.scheduling.load_times import LoadTimes
from server.scheduling.resident import Resident

SLICE = 4.0  # minimum residency while busy, in multiples of the load time; caps loading at 20 % of the time
PARKED_SLICE = 16.0  # the same in multiples of the time of an unpark, which each burst of chats may cause
FIRST_COOLDOWN_S = 10.0  # after a failed load; doubles with each further failure
LAST_COOLDOWN_S = 300.0
GROW_AFTER_S = 10.0  # a KV cache that was cut stays small at least this long, as growing it prefills its chats again


@dataclass(frozen=True, slots=True)
class Cooldown:
    """A model whose load failed is not loaded again before `until`. Kept until a load succeeds or the files change."""

    until: float
    seconds: float
    error: LoadError


@dataclass(frozen=True, slots=True)
class LoadInProgress:
    """The one model that is being loaded. Its bytes are booked; its files are being read, or have been read."""

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
        """facts: those of the catalogue now. wanted: whether jobs wait for a model and will be started."""
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
        self._ran_out: set[str] = set()  # models whose load or unpark ran out of memory and is tried once more

    # Messages

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
            case SetAside(model, seconds, error):
                self.cooldowns[model] = Cooldown(now + seconds, seconds, error)
            case Settled():
                pass  # it concerns no model

    def unload(self, model: str) -> None:
        """Evict the model once it is idle, unless it is pinned, and end its cooldown."""
        self.load_requests.pop(model, None)
        self.cooldowns.pop(model, None)
        if (model in self.residents or self.is_loading(model)) and not self.is_pinned(model):
            self.leaving.add(model)

    def _request_load(self, model: str, now: float) -> None:
        self.leaving.discard(model)
        resident = self.residents.get(model)
        if resident is not None:
            resident.last_used = now
        if resident is None or resident.to_unpark:
            self.load_requests.setdefault(model, now)

    def _forget(self, model: str) -> None:
        self._pins[model] = False
        self.unload(model)
        self._pins.pop(model, None)
        self._keep_alives.pop(model, None)
        self.load_times.forget(model)

    def is_pinned(self, model: str) -> bool:
        return self._pins[model] if model in self._pins else self.facts_of(model).pinned

    def keep_alive_s(self, model: str) -> float:
        return self._keep_alives[model] if model in self._keep_alives else self.facts_of(model).keep_alive_s

    def adapter_keep_alive_s(self, name: str) -> float:
        """Returns the keep-alive of an adapter; 0 for one whose entry was removed, as no job will ask for it again."""
        try:
            return self.keep_alive_s(name)
        except (KeyError, UnknownModel):
            return 0.0

    # Outcomes, reported by the engine through the scheduler

    def files_read(self, model: str, seconds: float) -> None:
        if self.loading is not None and self.loading.model == model:
            self.loading = replace(self.loading, read_s=seconds)

    def loaded(self, model: str, now: float, load_s: float) -> Resident:
        """load_s: seconds of the whole load, with the reading of the files."""
        read_s, self.loading = self.read_s, None
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
        """The model was parked as a whole, and has come back in `seconds`."""
        resident = self.residents[model]
        resident.since, resident.slice_s, resident.served = now, PARKED_SLICE * seconds, bool(resident.running)

    def ready(self, model: str) -> None:
        """All components that the model's next step needs are on the device."""
        self.load_requests.pop(model, None)
        self._ran_out.discard(model)

    def ran_out_of_memory(self, model: str, free_bytes: int) -> bool:
        """A load or unpark failed with `free_bytes` free. True: it is tried once more, with all obtainable memory."""
        if self.is_loading(model):
            self.loading = None
        again = model not in self._ran_out and self.max_obtainable_bytes(model) > free_bytes
        if again:
            self._ran_out.add(model)
        else:
            self._ran_out.discard(model)
        return again

    def load_failed(self, model: str, now: float, error: LoadError) -> Cooldown:
        self.loading = None
        self.leaving.discard(model)
        self._ran_out.discard(model)
        self.load_requests.pop(model, None)
        before = self.cooldowns.get(model)
        seconds = min(LAST_COOLDOWN_S, before.seconds * 2) if before else FIRST_COOLDOWN_S
        self.cooldowns[model] = Cooldown(now + seconds, seconds, error)
        return self.cooldowns[model]

    def evicted(self, model: str, seconds: float = 0.0) -> None:
        """seconds: how long the eviction took."""
        self.load_times.evicted(seconds)
        del self.residents[model]
        self.leaving.discard(model)
        self._ran_out.discard(model)

    # Questions of the other parts of the scheduler

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
        borrowers = list(self.residents.values())
        return plan_eviction(need_bytes, candidates, self._ledger, now, impatient=impatient, borrowers=borrowers)

    def facts_of(self, model: str) -> ModelFacts:
        """Returns the facts with which the model was loaded; if it is not loaded, those of the catalogue now."""
        resident = self.residents.get(model)
        return resident.facts if resident is not None else self._facts(model)

    def is_ready(self, model: str) -> bool:
        """Whether the model is on the device with all components that its next step needs."""
        resident = self.residents.get(model)
        return resident is not None and not resident.to_unpark

    @property
    def read_s(self) -> float:
        """Seconds that reading the files of the loading model took; 0 when they were not read ahead."""
        return (self.loading.read_s or 0.0) if self.loading is not None else 0.0

    def is_loading(self, model: str) -> bool:
        return self.loading is not None and self.loading.model == model

    def missing_bytes(self, model: str) -> int:
        """Returns the bytes of the device that `model` still needs before it can work."""
        if model in self._ran_out:
            return self.max_obtainable_bytes(model)
        resident = self.residents.get(model)
        if resident is None:
            return self.bytes_to_load(model)
        weights = sum(resident.parked[name] for name in resident.to_unpark)
        cache = resident.facts.cache_bytes if resident.to_unpark and not resident.components else 0
        return weights + max(0, cache - self._ledger.held_by(model, "kv_cache"))

    def bytes_to_load(self, model: str) -> int:
        """Returns the bytes of weights and KV cache, less the weights that another model on the device shares."""
        facts = self.facts_of(model)
        return facts.need_bytes - self._ledger.bytes_already_held(facts.shareable)

    def time_to_ready_s(self, model: str) -> float:
        """Returns the seconds that loading or unparking `model` is expected to take; 0 when it is ready."""
        resident = self.residents.get(model)
        if resident is not None:
            return 0.1 * resident.load_s if resident.to_unpark else 0.0
        return self.load_times.expected_s(model, self.facts_of(model).need_bytes)

    def in_cooldown(self, model: str, now: float) -> bool:
        cooldown = self.cooldowns.get(model)
        return cooldown is not None and cooldown.until > now

    def expires_at(self, resident: Resident) -> float:
        """Returns when its keep-alive is over; inf while it has running jobs, is pinned, or is kept for ever."""
        if resident.running or self.is_pinned(resident.name):
            return math.inf
        return resident.last_used + self.keep_alive_s(resident.name)

    def expires_in_s(self, resident: Resident, now: float) -> float | None:
        """Returns the seconds until its keep-alive is over; None when `expires_at` is inf."""
        left = self.expires_at(resident) - now
        return None if left == math.inf else max(0.0, left)

    def protected_until(self, resident: Resident) -> float:
        """Returns the end of its minimum residency or, while it has work, of its time slice.

        The minimum residency is at most the time slice: a model that loads in an instant may soon be evicted.
        """
        has_work = bool(resident.running) or self._wanted(resident.name)
        return resident.since + (resident.slice_s if has_work else min(self.min_residency_s, resident.slice_s))

    def cache_to_grow(self, now: float, keep_free: int) -> ResizeCache | None:
        """Returns the action that restores a KV cache that was cut, if that leaves `keep_free` bytes free."""
        for resident in self.residents.values():
            more = resident.facts.cache_bytes - self._ledger.held_by(resident.name, "kv_cache")
            if self.cache_grows_at(resident) <= now and more + max(0, keep_free) <= self._ledger.free_bytes:
                return ResizeCache(resident.name, resident.facts.cache_bytes)
        return None

    def cache_grows_at(self, resident: Resident) -> float:
        return math.inf if resident.to_unpark else resident.cache_cut_at + GROW_AFTER_S

    def max_obtainable_bytes(self, model: str) -> int:
        """Returns the bytes that would be free for `model` if every other model that is not pinned left the device."""
        others = [name for name in self.residents if name != model and not self.is_pinned(name)]
        return self._ledger.free_bytes + sum(self._ledger.held_by(name) for name in others)
