"""Who leaves the device to make room on it. Room is planned whole and made only if the plan suffices. Device thread only; pure.

Who leaves, in this order, by score within each:
  a. models nobody uses: parked in host memory where that has room, else dropped
  b. components of a working lane that its next quantum does not need: parked
  c. what a chat's KV cache can do without
and when the one that asks has lost patience, of those that have had their slice of the device:
  d. working lanes: parked with all that runs on them, which keeps its place
  e. working lanes that cannot be parked: their doors close until they are idle
Never a pinned model, never one in its minimum residency; of one inside a forward only the doors are closed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from server.memory.ledger import Ledger
from server.scheduling.actions import Action, Evict, Park, ResizeCache
from server.scheduling.resident import Resident


@dataclass(frozen=True, slots=True)
class Plan:
    """How room is made: what to do now, or whose doors to close until they are idle. Neither: nothing suffices."""

    action: Action | None = None
    admission_closed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Victim:
    frees: int
    action: Action | None  # None: it must become idle first
    model: str


class Room:
    def __init__(
        self,
        ledger: Ledger,
        residents: Mapping[str, Resident],
        leaving: Collection[str],
        *,
        wanted: Callable[[str], bool],
        is_pinned: Callable[[str], bool],
        free_from: Callable[[Resident], float],
    ) -> None:
        """`leaving`: models that go once they are idle. `free_from`: when a model's time on the device that nobody may cut is over."""
        self._ledger = ledger
        self._residents = residents
        self._leaving = leaving
        self._wanted = wanted
        self._is_pinned = is_pinned
        self._free_from = free_from

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
        admission_closed = frozenset(victim.model for victim in chosen if victim.action is None)
        if admission_closed:
            return Plan(None, admission_closed)
        return Plan(chosen[0].action if chosen else None)

    def _victims(self, now: float, but: str, impatient: bool) -> Iterator[Victim]:
        inside = [
            r for r in self._residents.values() if r.name != but and r.mid_forward and not self._is_pinned(r.name)
        ]
        others = [
            r for r in self._residents.values() if r.name != but and not r.mid_forward and not self._is_pinned(r.name)
        ]
        held = self._ledger.held_by
        idle = [r for r in others if not r.running and held(r.name) and self._free_from(r) <= now]
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
                if self._free_from(resident) <= now and held(resident.name, "weights"):
                    yield self._busy_victim(resident)

    def _busy_victim(self, resident: Resident) -> Victim:
        weights = self._ledger.held_by(resident.name, "weights")
        if (
            resident.parkable
            and not resident.mid_forward
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
            or resident.name in self._leaving
            or size + host.parked_of(resident.name) > host.host_bytes
        ):
            return Evict(resident.name)
        if size <= host.host_free_bytes:
            return Park(resident.name, tuple(resident.components))
        parked = [r for r in self._residents.values() if r.parked and not r.components and not r.running]
        parked = [r for r in parked if r.last_used < resident.last_used and not self._is_pinned(r.name)]
        return Evict(min(parked, key=lambda r: r.last_used).name) if parked else Evict(resident.name)
