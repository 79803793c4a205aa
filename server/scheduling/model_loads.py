"""Decides which model is loaded or unparked next, and what has to leave the device for it. Device thread only; pure.

Models that work waits for and that are not ready make claims. The most urgent few are looked at: the first whose bytes are free is
loaded; for one whose bytes are not, an eviction is planned as a whole (`eviction.py`). A claim that has waited longer than its patience
goes before running lanes and closes admission to the models in its way, so that they drain. One model at a time is loaded: its bytes are
booked while its files are read.
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

LOOKAHEAD = 4  # claims looked at: bounds the cost of a decision, and how far a small model may overtake a large one
PATIENCE_LOADS = 3.0  # least patience of a claim, in multiples of the time that loading its model takes
CHAT_PATIENCE = 0.2  # patience of a chat model, as a share of that of others: a person waits for the reply


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
        """The next action that brings a claim forward, and whether it goes before admissions to the loaded models."""
        self.admission_closed = frozenset()
        loading = self._residency.loading
        if loading is not None and loading.read_s is not None:
            return Load(loading.model), True
        keep_free, too_much = self._keep_free(), math.inf
        for _, model, since in self._claims(now, draining)[:LOOKAHEAD]:
            need = self.bytes_needed(model, keep_free)
            impatient = now >= self._impatient_at(model, since)
            if self._ledger.free_bytes >= need:
                return self._bring(model), impatient
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
        """A load or unpark has succeeded or failed."""
        self._promised = ""

    @property
    def in_the_way_of_a_chat(self) -> Collection[str]:
        """Lanes that drain for a waiting chat model: the sooner they are done, the sooner it is loaded."""
        return self.admission_closed if self._promised and self._is_chat(self._promised) else ()

    def parked_with_work(self) -> list[str]:
        return [r.name for r in self._residency.residents.values() if r.running and r.away]

    def waiting_for(self, model: str, now: float) -> WaitingFor:
        """What a waiting job of `model` waits for."""
        if self._residency.is_ready(model):
            return "turn"
        if self._residency.is_loading(model):
            return "model_load"
        need = self.bytes_needed(model)
        plan = self._residency.plan_eviction(need, now, keep=model)
        return "model_load" if self._ledger.free_bytes >= need or plan.action is not None else "gpu_memory"

    def patience_of(self, model: str) -> float:
        """Seconds that a claim waits before it may drain or park working lanes."""
        patience = max(self._patience_s, PATIENCE_LOADS * self._residency.arrival_s(model))
        return patience * CHAT_PATIENCE if self._is_chat(model) else patience

    def bytes_needed(self, model: str, keep_free: int | None = None) -> int:
        """Bytes that must be free before `model` is brought: its missing bytes, and the activations of one row where they can be had."""
        missing = self._residency.missing_bytes(model)
        keep_free = self._keep_free() if keep_free is None else keep_free
        activations = max(0, keep_free, self._peaks.one_row(self._residency.facts_of(model).fingerprint or model))
        return missing if missing + activations > self._residency.most_obtainable(model) else missing + activations

    def next_change(self, now: float) -> float:
        """The next moment at which a decision may change although no message or outcome comes; inf: never."""
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
        """A KV cache that was cut grows back while no claim wants the memory."""
        return None if self._claims(now, draining) else self._residency.cache_to_grow(now, self._keep_free())

    def _impatient_at(self, model: str, since: float) -> float:
        """Computed in this one place, so that `next` finds the claim impatient at the very moment that `next_change` names."""
        return since + self.patience_of(model)

    def _bring(self, model: str) -> Action:
        away = self._residency.residents[model].away if model in self._residency.residents else ()
        if away:
            return Unpark(model, away)
        return Read(model) if self._reads_ahead else Load(model)

    def _claims(self, now: float, draining: bool) -> list[tuple[float, str, float]]:
        """(due, model, since) of the models that work waits for and that are not ready, the most urgent first."""
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
        if self._residency.loading is not None:  # one model at a time is loaded; parked ones may come back meanwhile
            claims = [claim for claim in claims if claim[1] in residents]
        claims = [claim for claim in claims if not self._residency.in_cooldown(claim[1], now)]
        return sorted(claims, key=lambda claim: (claim[1] != self._promised, claim))

    def _keep_free(self) -> int:
        """Bytes to leave free for the activations of one row of a running lane."""
        residents = self._residency.residents.values()
        booked = sum(self._ledger.held_by(r.name, "activations") for r in residents if r.mid_forward)
        return max((self._peaks.one_row(r.key) for r in residents if r.running), default=0) - booked

    def _is_chat(self, model: str) -> bool:
        return self._residency.facts_of(model).type == "chat"
