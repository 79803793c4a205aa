"""Decides which waiting job starts next on a loaded model, and what leaves first for its adapters.

Device thread only; pure.
"""

from __future__ import annotations

from server.job import UNSTORED, Job
from server.memory.ledger import Ledger
from server.scheduling.actions import Action, Admit
from server.scheduling.fair_queue import FairQueue
from server.scheduling.lent_weights import LentWeights
from server.scheduling.model_loads import ModelLoads
from server.scheduling.residency import Residency


class Admission:
    def __init__(
        self,
        ledger: Ledger,
        queue: FairQueue,
        residency: Residency,
        model_loads: ModelLoads,
        lent_weights: LentWeights,
    ) -> None:
        self._ledger = ledger
        self._queue = queue
        self._residency = residency
        self._model_loads = model_loads
        self._lent_weights = lent_weights

    def next(self, now: float, *, others_run: bool) -> Action | None:
        """Returns the action for the fairest job whose model is ready and has room for it.

        others_run: whether anything runs or is being loaded, for which a job that has to run alone waits.
        """
        closed, leaving = self._model_loads.admission_closed, self._residency.leaving
        ready = {
            model: resident
            for model, resident in self._residency.residents.items()
            if model not in closed and model not in leaving and self._residency.is_ready(model)
        }
        alone = [waiting.job for waiting in self._queue.alone() if waiting.job.model in ready]
        heads = [(self._queue.due(job.model), job) for job in alone]
        for model, resident in ready.items():
            head = self._queue.head(model)
            if head is None or head.job.alone or not resident.has_room(head.job):
                continue
            if not alone or head.job.type in UNSTORED:  # what others store would go on beside the one that runs alone
                heads.append((self._queue.due(model), head.job))
        heads.sort(key=lambda each: each[0])
        for _, job in heads:
            if job.alone and others_run:
                return None  # it is its turn, so nothing starts before it any more
            if (action := self._with_adapters(job, now)) is not None:
                return action
        return None

    def _with_adapters(self, job: Job, now: float) -> Action | None:
        """Returns the action that admits the job, or one that frees memory for its adapters first.

        None: their memory can be freed only once running jobs of the model, which hold other adapters, have ended.
        """
        resident = self._residency.residents[job.model]
        need = self._lent_weights.missing_bytes(resident, job)
        if need <= self._ledger.free_bytes:
            return Admit(job)
        if (action := self._residency.plan_eviction(need, now, keep=job.model).action) is not None:
            return action
        return None if any(lent.jobs for lent in resident.lent.values()) else Admit(job)
