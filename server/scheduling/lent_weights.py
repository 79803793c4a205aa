"""Tracks the adapters that loaded models hold for their jobs: coming, in use, or idle. Device thread only; pure.

The bytes of an adapter are booked when the first job that borrows it is admitted, before its lane loads it. One that no
running job uses leaves after its own keep-alive, or when its memory is needed (`eviction.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

from server.job import Job
from server.memory.ledger import Ledger
from server.scheduling.actions import DropAdapters
from server.scheduling.resident import Lent, Resident


class LentWeights:
    def __init__(self, ledger: Ledger, residents: Mapping[str, Resident], keep_alive_s: Callable[[str], float]) -> None:
        """keep_alive_s: of an adapter, by its name."""
        self._ledger = ledger
        self._residents = residents
        self._keep_alive_s = keep_alive_s

    def missing_bytes(self, resident: Resident, job: Job) -> int:
        """Returns the bytes of the job's adapters that are neither held nor booked for another job."""
        loras = sum(n_bytes for lora, n_bytes in job.loras.items() if lora not in resident.loras)
        return loras + sum(each.n_bytes for each in job.lent if each.component not in resident.lent)

    def admitted(self, resident: Resident, job: Job, now: float) -> None:
        resident.loras.update(job.loras)
        for adapter in job.lent:
            lent = resident.lent.setdefault(adapter.component, Lent(adapter, now))
            lent.jobs.add(job.id)
        self.placed(resident)

    def placed(self, resident: Resident) -> None:
        """Book the adapters that are still to be loaded, after the ledger has taken what the lane holds."""
        for component, lent in resident.lent.items():
            if lent.jobs and not resident.holds(component):
                free = self._ledger.free_bytes + self._ledger.held_by(resident.name, "weights", component)
                self._ledger.correct(resident.name, "weights", min(lent.adapter.n_bytes, free), component)

    def job_ended(self, resident: Resident, job_id: str) -> None:
        for component, lent in list(resident.lent.items()):
            if job_id not in lent.jobs:
                continue
            lent.jobs.discard(job_id)
            lent.last_used = resident.last_used
            if not lent.jobs and not resident.holds(component):  # it was never loaded, or could not be
                self._forget(resident, component)

    def dropped(self, resident: Resident, components: Collection[str], now: float) -> None:
        """The lane was asked to drop these, and `resident` tells what it still holds."""
        for component in components:
            if not resident.holds(component):
                self._forget(resident, component)
            elif component in resident.lent:
                resident.lent[component].last_used = now

    def stale(self, now: float) -> DropAdapters | None:
        """Returns the action that drops adapters whose keep-alive is over."""
        for resident in self._residents.values():
            over = tuple(name for name, lent in resident.lent.items() if self._expires_at(lent) <= now)
            if over:
                return DropAdapters(resident.name, over)
        return None

    def next_expiry(self, now: float) -> float:
        """Returns the next moment at which `stale` changes without an outcome; inf: never."""
        expiries = (self._expires_at(lent) for each in self._residents.values() for lent in each.lent.values())
        return min((moment for moment in expiries if moment > now), default=math.inf)

    def _expires_at(self, lent: Lent) -> float:
        return math.inf if lent.jobs else lent.last_used + self._keep_alive_s(lent.adapter.name)

    def _forget(self, resident: Resident, component: str) -> None:
        resident.lent.pop(component, None)
        self._ledger.correct(resident.name, "weights", 0, component)
