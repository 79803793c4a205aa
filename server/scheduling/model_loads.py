"""Decides which model is loaded or unparked next, and which others leave the device for it. Device thread only; pure.

A model that jobs wait for and that is not ready makes a claim. The few most urgent claims are looked at: the first
whose bytes are free is loaded; for a claim whose bytes are not free, an eviction is planned as a whole (`eviction.py`).
A claim that has waited longer than its patience goes before running lanes, and closes admission to the models that
occupy its memory, so that they drain. One model at a time is loaded; its bytes are booked while its files are read.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from server.engine_status import WaitingFor
from server.job import UNSTORED
from server.memory.activations import Peaks
from server.memory.ledger import Ledger
from server.scheduling.actions import Action, Load, Read, Unpark
from server.scheduling.fair_queue import AGEING, FairQueue
from server.scheduling.residency import Residency

LOOKAHEAD = 4  # claims looked at: bounds the cost of a decision, and how far a small model may overtake a large one
PATIENCE_LOADS = 3.0  # least patience of a claim, in multiples of its model's load time
ONLINE_PATIENCE = 0.2  # patience of a model whose clients wait on their connections, as a share of that of others


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
        self.admission_closed: frozenset[str] = frozenset()  # models that must drain for an impatient claim
        self._ledger = ledger
        self._queue = queue
        self._residency = residency
        self._peaks = peaks
        self._patience_s = patience_s
        self._reads_ahead = reads_ahead
        self._promised = ""  # the model that memory is being freed for: its claim stays the first

    def next(self, now: float, draining: bool) -> tuple[Action | None, bool]:
        """Returns the next action for a claim, and whether it goes before admissions to the loaded models."""
        self.admission_closed = frozenset()
        loading = self._residency.loading
        if loading is not None and loading.read_s is not None:
            return Load(loading.model), True
        keep_free, too_much = self._keep_free(), math.inf
        for _, model, since in self._claims(now, draining)[:LOOKAHEAD]:
            need = self.bytes_needed(model, keep_free)
            impatient = now >= self._impatient_at(model, since)
            if self._ledger.free_bytes >= need:
                return self._load_or_unpark(model), impatient
            if not impatient and need >= too_much:
                continue
            plan = self._residency.plan_eviction(need, now, keep=model, impatient=impatient)
            if plan.action is not None or plan.admission_closed:
                self._promised = model
                self.admission_closed = plan.admission_closed
                return plan.action, impatient
            too_much = min(too_much, need)
        return None, False

    def ended(self) -> None:
        """A load or unpark has succeeded or failed: memory is no longer freed for its model."""
        self._promised = ""

    @property
    def draining_for_chat(self) -> Collection[str]:
        """The lanes that drain for a waiting chat model. They step first, so that it is loaded sooner."""
        return self.admission_closed if self._promised and self._is_chat(self._promised) else ()

    def parked_with_work(self) -> list[str]:
        """Returns the models with running jobs whose next step needs a parked component."""
        return [r.name for r in self._residency.residents.values() if r.running and r.to_unpark]

    def waiting_for(self, model: str, now: float) -> WaitingFor:
        """Returns what a waiting job of `model` waits for."""
        if self._residency.is_ready(model):
            return "turn"
        if self._residency.is_loading(model):
            return "model_load"
        need = self.bytes_needed(model)
        plan = self._residency.plan_eviction(need, now, keep=model)
        return "model_load" if self._ledger.free_bytes >= need or plan.action is not None else "gpu_memory"

    def patience_of(self, model: str) -> float:
        """Returns the seconds that a claim waits before it may drain or park working lanes."""
        patience = max(self._patience_s, PATIENCE_LOADS * self._residency.time_to_ready_s(model))
        is_online = self._residency.facts_of(model).type in UNSTORED
        return patience * ONLINE_PATIENCE if is_online else patience

    def bytes_needed(self, model: str, keep_free: int | None = None) -> int:
        """Returns the bytes that must be free before `model` is loaded or unparked.

        These are its missing bytes and the activations of one row, or only the former where both can never be free.
        """
        missing = self._residency.missing_bytes(model)
        keep_free = self._keep_free() if keep_free is None else keep_free
        key = self._residency.facts_of(model).fingerprint or model
        need = missing + max(0, keep_free, self._peaks.max_row_bytes(key))
        return missing if need > self._residency.max_obtainable_bytes(model) else need

    def next_change(self, now: float) -> float:
        """Returns the next moment at which a decision may change without a message or an outcome; inf: never."""
        residency, residents = self._residency, self._residency.residents
        moments = [cooldown.until for cooldown in residency.cooldowns.values()]
        for model in self._queue.models():
            oldest = self._queue.oldest(model)
            if oldest is not None and not residency.is_ready(model):
                moments.append(self._impatient_at(model, oldest.since))
        moments += [residency.cache_grows_at(r) for r in residents.values()]
        moments += [self._impatient_at(model, residents[model].last_used) for model in self.parked_with_work()]
        if moments or residency.load_requests:
            moments += [residency.protected_until(r) for r in residents.values()]
        return min((moment for moment in moments if moment > now), default=math.inf)

    def has_claims(self, now: float, draining: bool) -> bool:
        """Whether work waits for a model that is not ready and may be loaded."""
        return bool(self._claims(now, draining))

    def cache_to_grow(self, now: float, draining: bool) -> Action | None:
        """Returns the action that restores a KV cache that was cut, while no claim needs the memory."""
        return None if self._claims(now, draining) else self._residency.cache_to_grow(now, self._keep_free())

    def _impatient_at(self, model: str, since: float) -> float:
        """Computed only here, so that `next` finds the claim impatient at exactly the moment `next_change` returned."""
        return since + self.patience_of(model)

    def _load_or_unpark(self, model: str) -> Action:
        resident = self._residency.residents.get(model)
        if resident is not None and (components := resident.to_unpark):
            return Unpark(model, components)
        return Read(model) if self._reads_ahead else Load(model)

    def _claims(self, now: float, draining: bool) -> list[tuple[float, str, float]]:
        """Returns (due, model, since) of the models that work waits for and that are not ready, most urgent first."""
        is_ready, residents = self._residency.is_ready, self._residency.residents
        claims: list[tuple[float, str, float]] = []
        for model in self.parked_with_work():
            since = residents[model].last_used
            claims.append((self._queue.level + AGEING * since, model, since))
        if not draining:
            claims += [(-math.inf, model, -math.inf) for model in self._residency.load_requests if not is_ready(model)]
            for model in self._queue.models():
                oldest = self._queue.oldest(model)
                if oldest is not None and not is_ready(model):
                    claims.append((self._queue.due(model), model, oldest.since))
        if self._residency.loading is not None:  # one model at a time is loaded; others may be unparked meanwhile
            claims = [claim for claim in claims if claim[1] in residents]
        claims = [claim for claim in claims if not self._residency.in_cooldown(claim[1], now)]
        return sorted(claims, key=lambda claim: (claim[1] != self._promised, claim))

    def _keep_free(self) -> int:
        """Returns the bytes to leave free for the activations of one row of a running lane."""
        residents = self._residency.residents.values()
        booked = sum(self._ledger.held_by(r.name, "activations") for r in residents if r.mid_forward)
        return max((self._peaks.max_row_bytes(r.key) for r in residents if r.running), default=0) - booked

    def _is_chat(self, model: str) -> bool:
        return self._residency.facts_of(model).type == "chat"
