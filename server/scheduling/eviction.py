"""Chooses which models to evict, park or shrink so that a given number of bytes becomes free on the device.

Pure functions. The whole set of victims is planned first, and its first action is carried out only if the set suffices.
Victims are taken in this order, by score within each group:
  -. recorded forwards of any model, also of the one that needs the bytes: dropped
  0. adapters that no running job uses, of any model, also of the one that needs the bytes: dropped
  a. idle models: parked if host memory has room for them, else evicted
  b. components of a working lane that its next step does not need: parked
  c. half of a chat model's KV cache
and, when the patience of the model that needs the bytes is over, working lanes whose time slice is over:
  d. those that can be parked, together with their running jobs, which keep their progress
  e. those that cannot be parked: admission to them is closed until they have drained
Pinned models are never victims, nor are models within their minimum residency. A lane that is suspended inside a
forward is only drained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pipelines.interface import GRAPHS
from server.memory.ledger import Ledger
from server.scheduling.actions import Action, DropAdapters, Evict, Park, ResizeCache
from server.scheduling.resident import Resident


@dataclass(frozen=True, slots=True)
class EvictionPlan:
    """The next action that frees memory, or the models that must drain first; neither if no set of victims suffices."""

    action: Action | None = None
    admission_closed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A resident model, with the facts that decide whether it may leave the device."""

    resident: Resident
    pinned: bool
    wanted: bool  # jobs wait for it
    leaving: bool  # it must be evicted as soon as it is idle
    protected_until: float  # end of its minimum residency or, while it has work, of its time slice

    @property
    def name(self) -> str:
        return self.resident.name


@dataclass(frozen=True, slots=True)
class Victim:
    model: str
    frees: int  # bytes
    action: Action | None  # None: the model has to drain first


def plan_eviction(
    need_bytes: int,
    candidates: Sequence[Candidate],
    ledger: Ledger,
    now: float,
    *,
    impatient: bool,
    borrowers: Sequence[Resident] = (),
) -> EvictionPlan:
    """Plans how `need_bytes` become free. impatient: working lanes may be parked or drained too.

    borrowers: models whose idle adapters may leave, be they candidates or not.
    """
    free = ledger.free_bytes
    chosen: list[Victim] = []
    for victim in (*_idle_adapters(borrowers), *victims(candidates, ledger, now, impatient=impatient)):
        if free >= need_bytes:
            break
        if not isinstance(victim.action, ResizeCache | DropAdapters):  # its adapters are counted already
            victim = replace(victim, frees=victim.frees - _dropped_bytes(victim.model, chosen))
        if any(victim.model == other.model and isinstance(other.action, Park | None) for other in chosen):
            continue  # these bytes are already counted: its components are parked, or it leaves as a whole
        chosen.append(victim)
        free += victim.frees
    if free < need_bytes:
        return EvictionPlan()
    for victim in list(chosen):  # a larger victim that was chosen later may suffice without this one
        if free - victim.frees >= need_bytes:
            chosen.remove(victim)
            free -= victim.frees
    to_drain = frozenset(victim.model for victim in chosen if victim.action is None)
    if to_drain:
        return EvictionPlan(admission_closed=to_drain)
    return EvictionPlan(chosen[0].action if chosen else None)


def _idle_adapters(borrowers: Sequence[Resident]) -> Iterator[Victim]:
    """Recorded forwards, then adapters, the one that has been idle longest first."""
    for resident in borrowers:
        if n_bytes := resident.components.get(GRAPHS, 0):
            yield Victim(resident.name, n_bytes, DropAdapters(resident.name, (GRAPHS,)))
    idle = [(resident, component) for resident in borrowers for component in resident.idle_adapters]
    for resident, component in sorted(idle, key=lambda each: each[0].lent[each[1]].last_used):
        action = DropAdapters(resident.name, (component,))
        yield Victim(resident.name, resident.components[component], action)


def _dropped_bytes(model: str, chosen: Sequence[Victim]) -> int:
    return sum(other.frees for other in chosen if other.model == model and isinstance(other.action, DropAdapters))


def victims(candidates: Sequence[Candidate], ledger: Ledger, now: float, *, impatient: bool) -> Iterator[Victim]:
    """Yields all possible victims in the order of the list at the top of this file."""
    may_leave = [c for c in candidates if not c.pinned]
    settled = [c for c in may_leave if not c.resident.mid_forward]
    yield from _idle_victims(settled, candidates, ledger, now, impatient)
    busy = [c.resident for c in settled if c.resident.running]
    yield from _unneeded_components(busy, ledger)
    yield from _cache_halves(busy, ledger)
    if impatient:
        suspended = [c for c in may_leave if c.resident.mid_forward]
        working = [*(c for c in settled if c.resident.running), *suspended]
        for candidate in sorted(working, key=lambda c: c.resident.since):
            if candidate.protected_until <= now and ledger.held_by(candidate.name, "weights"):
                yield _working_victim(candidate.resident, ledger)


def _idle_victims(
    settled: Sequence[Candidate], all_candidates: Sequence[Candidate], ledger: Ledger, now: float, impatient: bool
) -> Iterator[Victim]:
    idle = [c for c in settled if not c.resident.running and ledger.held_by(c.name) and c.protected_until <= now]
    # A loaded model must serve one job before it may be evicted; otherwise two models that wait for each other thrash.
    idle = [c for c in idle if not c.wanted or (impatient and c.resident.served)]
    for candidate in sorted(idle, key=lambda c: (c.wanted, -c.resident.victim_score(now))):
        yield Victim(candidate.name, ledger.freed_by(candidate.name), _park_or_evict(candidate, all_candidates, ledger))


def _unneeded_components(busy: Sequence[Resident], ledger: Ledger) -> Iterator[Victim]:
    for resident in busy:
        unneeded = resident.unneeded
        n_bytes = sum(unneeded.values())
        if n_bytes and resident.parkable and not ledger.is_shared(resident.name) and n_bytes <= ledger.host_free_bytes:
            yield Victim(resident.name, n_bytes, Park(resident.name, tuple(unneeded)))


def _cache_halves(busy: Sequence[Resident], ledger: Ledger) -> Iterator[Victim]:
    for resident in busy:
        cache = ledger.held_by(resident.name, "kv_cache")
        if cache and (resident.cache_floor < 0 or cache > resident.cache_floor):
            yield Victim(resident.name, cache // 2, ResizeCache(resident.name, cache // 2))


def _working_victim(resident: Resident, ledger: Ledger) -> Victim:
    weights = ledger.held_by(resident.name, "weights")
    if (
        resident.parkable
        and not resident.mid_forward
        and not resident.is_chat
        and not ledger.is_shared(resident.name)
        and resident.components
        and weights <= ledger.host_free_bytes
    ):
        return Victim(resident.name, weights, Park(resident.name, tuple(resident.components)))
    return Victim(resident.name, ledger.freed_by(resident.name), None)


def _park_or_evict(candidate: Candidate, all_candidates: Sequence[Candidate], ledger: Ledger) -> Action:
    """Returns the action that removes an idle model from the device: park it if host memory allows, else evict it.

    If host memory is full of parked models that have been idle for longer, the longest idle of them is evicted first.
    """
    resident, size = candidate.resident, ledger.held_by(candidate.name, "weights")
    if (
        not resident.components
        or not resident.parkable
        or ledger.is_shared(resident.name)
        or candidate.leaving
        or size + ledger.parked_of(resident.name) > ledger.host_bytes
    ):
        return Evict(resident.name)
    if size <= ledger.host_free_bytes:
        return Park(resident.name, tuple(resident.components))
    parked = [
        c.resident
        for c in all_candidates
        if c.resident.parked and not c.resident.components and not c.resident.running and not c.pinned
    ]
    parked = [other for other in parked if other.last_used < resident.last_used]
    return Evict(min(parked, key=lambda other: other.last_used).name) if parked else Evict(resident.name)
