"""Which model comes onto the device next, and what has to go for it. Device thread only; pure.

Claims of models that are not there, the most urgent first; a few are looked at. One that fits comes; for one that does not, room is
planned whole (`room.py`). A claim that waits longer than is worth its load is impatient: it goes before those that are there,
and closes the doors of those in its way. One model at a time is on its way: its bytes are booked while its files are read.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from server.memory.activations import Peaks
from server.memory.ledger import Ledger
from server.protocol import WaitingFor
from server.scheduling.actions import Action, Load, Read, Unpark
from server.scheduling.fair_queue import AGEING, FairQueue
from server.scheduling.residency import Residency

LOOKAHEAD = 4  # models looked at that could come: bounds the cost of a decision, and how far a small one may overtake
PATIENCE_LOADS = 3.0  # a model waits for others' work at least this many times as long as its load takes
CHAT_PATIENCE = 0.2  # of the patience of the rest: somebody sits in front of it


class ModelLoads:
    def __init__(
        self,
        ledger: Ledger,
        queue: FairQueue,
        residency: Residency,
        peaks: Peaks,
        *,
        patience_s: float,
        reads_ahead: bool,
    ) -> None:
        self.admission_closed: frozenset[str] = frozenset()  # models whose doors are closed
        self.read = False  # the files of the model on its way were read
        self._ledger = ledger
        self._queue = queue
        self._residency = residency
        self._peaks = peaks
        self._patience_s = patience_s
        self._reads_ahead = reads_ahead
        self._promised = ""  # the model that room is being made for: nobody else takes it meanwhile

    def next(self, now: float, draining: bool) -> tuple[Action | None, bool]:
        """What brings the first one that can come nearer, and whether that goes before those that are there."""
        self.admission_closed = frozenset()
        if self._residency.arriving and self.read:
            return Load(self._residency.arriving), True
        beside, too_much = self._room_beside(), math.inf
        for _, model, since in self._claims(now, draining)[:LOOKAHEAD]:
            need = self.need_to_come(model, beside)
            impatient = now - since > self.patience_of(model)
            if self._ledger.free_bytes >= need:
                return self._bring(model), impatient
            if not impatient and need >= too_much:
                continue
            plan = self._residency.plan(need, now, but=model, impatient=impatient)
            if plan.action is not None or plan.admission_closed:
                self._promised = model
                self.admission_closed = plan.admission_closed
                return plan.action, impatient
            too_much = min(too_much, need)
        return None, False

    def arrived(self) -> None:
        self._promised, self.read = "", False

    @property
    def in_the_way_of_a_chat(self) -> Collection[str]:
        """Lanes in whose place a chat waits: the sooner they are done, the sooner it comes."""
        return self.admission_closed if self._promised and self._is_chat(self._promised) else ()

    def parked_work(self) -> list[str]:
        return [r.name for r in self._residency.residents.values() if r.running and r.away]

    def waiting_for(self, model: str, now: float) -> WaitingFor:
        """What a waiting job of `model` waits for."""
        if self._residency.is_there(model):
            return "turn"
        if model == self._residency.arriving:
            return "model_load"
        need = self.need_to_come(model)
        plan = self._residency.plan(need, now, but=model)
        return "model_load" if self._ledger.free_bytes >= need or plan.action is not None else "gpu_memory"

    def patience_of(self, model: str) -> float:
        patience = max(self._patience_s, PATIENCE_LOADS * self._residency.arrival_s(model))
        return patience * CHAT_PATIENCE if self._is_chat(model) else patience

    def need_to_come(self, model: str, beside: int | None = None) -> int:
        """Its missing bytes, and room for the largest single row that it or a running lane may take beside them."""
        missing = self._residency.missing_bytes(model)
        beside = self._room_beside() if beside is None else beside
        beside = max(0, beside, self._peaks.one_row(self._residency.facts_of(model).fingerprint or model))
        return missing if missing + beside > self._ledger.usable_bytes else missing + beside

    def next_change(self, now: float) -> float:
        """When something may come or go though nobody tells anything."""
        residents = self._residency.residents
        moments = [cooldown.until for cooldown in self._residency.cooldowns.values()]
        for model in self._queue.models():
            oldest = self._queue.oldest(model)
            if oldest is not None and not self._residency.is_there(model):
                moments.append(oldest.since + self.patience_of(model))
        moments += [self._residency.grows_at(r) for r in residents.values()]
        moments += [residents[model].last_used + self.patience_of(model) for model in self.parked_work()]
        if moments or self._residency.load_requests:
            moments += [self._residency.free_from(r) for r in residents.values()]
        return min((moment for moment in moments if moment > now), default=math.inf)

    def cache_to_grow(self, now: float, draining: bool) -> Action | None:
        """The bytes have come back and nobody who is not there wants them."""
        return None if self._claims(now, draining) else self._residency.cache_to_grow(now, self._room_beside())

    def _bring(self, model: str) -> Action:
        away = self._residency.residents[model].away if model in self._residency.residents else ()
        if away:
            return Unpark(model, away)
        return Read(model) if self._reads_ahead else Load(model)

    def _claims(self, now: float, draining: bool) -> list[tuple[float, str, float]]:
        """(due, model, since) of the models that work waits for and that are not there, the most urgent first."""
        is_there, residents = self._residency.is_there, self._residency.residents
        claims: list[tuple[float, str, float]] = []
        for model in self.parked_work():
            since = residents[model].last_used
            claims.append((self._queue.level + AGEING * since, model, since))
        if not draining:
            claims += [(-math.inf, model, -math.inf) for model in self._residency.load_requests if not is_there(model)]
            for model in self._queue.models():
                oldest = self._queue.oldest(model)
                if oldest is not None and not is_there(model):
                    claims.append((self._queue.due(model), model, oldest.since))
        if self._residency.arriving:  # one at a time is loaded; parked ones may come back meanwhile
            claims = [claim for claim in claims if claim[1] in residents]
        claims = [claim for claim in claims if not self._residency.cooling(claim[1], now)]
        return sorted(claims, key=lambda claim: (claim[1] != self._promised, claim))

    def _room_beside(self) -> int:
        """Bytes to leave free for the largest single row that a running lane may take."""
        residents = self._residency.residents.values()
        booked = sum(self._ledger.held_by(r.name, "activations") for r in residents if r.mid_forward)
        return max((self._peaks.one_row(r.key) for r in residents if r.running), default=0) - booked

    def _is_chat(self, model: str) -> bool:
        return self._residency.facts_of(model).type == "chat"
