"""Checks whether a key may start one more job or chat: readiness, model, memory, bursts, queue lengths.

Event loop only.
"""

from __future__ import annotations

import difflib
import math
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from models.catalogue_reader import RefusedModel
from models.errors import NotServed, StillRead
from models.errors import UnknownModel as NoSuchModel
from models.model_names import PLAIN, SeveralModels
from models.spec import ModelSpec, ModelType
from pipelines.interface import Request
from server.accounts.auth import ApiKey
from server.accounts.quotas import BurstLimiter, Plan
from server.errors import BadRequest, ModelStillRead, TooMany, Unavailable, UnknownModel
from server.fleet.engine_port import Engine
from server.jobs.live_jobs import LiveJobs

MAX_NAMED = 8  # models that an error names


class Catalogue(Protocol):
    @property
    def refused(self) -> Sequence[RefusedModel]: ...
    def get(self, name: str, /) -> ModelSpec: ...
    def recall(self, name: str, /) -> ModelSpec: ...
    def names(self) -> Sequence[str]: ...
    def specs(self) -> Sequence[ModelSpec]: ...
    def default_for(self, kind: ModelType, /) -> str | None: ...


class MemoryRequirements(Protocol):
    def of(self, spec: ModelSpec, requests: Sequence[Request] = ()) -> int:
        """Bytes of device memory that the model, with these requests running on it, needs at least."""


class JobLimits:
    def __init__(
        self,
        *,
        catalogue: Catalogue,
        engine: Engine,
        live_jobs: LiveJobs,
        burst_limiter: BurstLimiter,
        requirements: MemoryRequirements,
        queue_size: int,
        max_queued_per_key: int | None,
        storage_fault: Callable[[], str | None] = lambda: None,
    ) -> None:
        """storage_fault: why nothing that is accepted could be kept, or None."""
        self._catalogue = catalogue
        self._engine = engine
        self._live_jobs = live_jobs
        self._burst_limiter = burst_limiter
        self._requirements = requirements
        self._queue_size = queue_size
        self._max_queued_per_key = max_queued_per_key
        self._storage_fault = storage_fault
        self._being_stored: Counter[str] = Counter()  # by key: accepted jobs that the store does not have yet

    def model(self, name: str | None, kind: ModelType) -> ModelSpec:
        """The model that this name means, or the default one.

        Raises `UnknownModel`; `BadRequest` for another type of model; `Unavailable` while its files are being read.
        """
        wanted = name or self._catalogue.default_for(kind)
        if wanted is None:
            raise UnknownModel(f"There is no {kind} model here; try: pull NAME")
        try:
            spec = self._catalogue.get(wanted)
        except StillRead as error:
            raise ModelStillRead(error.message) from None
        except (NotServed, SeveralModels) as error:
            raise UnknownModel(error.message) from None
        except NoSuchModel:
            missing = f"model {wanted} here; try: pull {wanted}." if PLAIN.fullmatch(wanted) else "such model here."
            raise UnknownModel(f"There is no {missing}{nearest_name(wanted, self._catalogue)}") from None
        enlarges_clips = kind == "video" and spec.adapter == "upscaler"
        if spec.type != kind and not enlarges_clips:
            able = [other.name for other in self._catalogue.specs() if other.type == kind][:MAX_NAMED]
            others = f"Models for {kind} here: {', '.join(able)}." if able else f"There is no model for {kind} here."
            is_for = "is an adapter that requests borrow" if spec.type == "adapter" else f"is for {spec.type}"
            message = f"model {spec.name} {is_for}, not for {kind}. {others} GET /api/models lists them all."
            raise BadRequest(message, param="model")
        return spec

    def check_job(self, key: ApiKey, plan: Plan, spec: ModelSpec, *, n_requests: int = 1) -> None:
        """Raises when this key may not start one more job now: NeverFits, Conflict, TooMany, Unavailable.

        n_requests: 0 for a check that is made again before the job is stored.
        """
        n_of_key = self._live_jobs.n_of_key(key.id) + self._being_stored[key.id]
        self.check(key, plan, spec, n_of_key, n_requests=n_requests)

    def check_fits(self, spec: ModelSpec, requests: Sequence[Request]) -> None:
        """Raises `NeverFits` when no device can hold the model with these requests, `Conflict` when pins prevent it."""
        self._engine.check_fits(spec.name, self.need_bytes(spec, requests))

    def need_bytes(self, spec: ModelSpec, requests: Sequence[Request] = ()) -> int:
        """Bytes of device memory that the model needs at least, with these requests running on it."""
        return self._requirements.of(spec, requests)

    def storing(self, key_id: str) -> None:
        """Counts an accepted job while the store writes it: it is not live yet. `stored` must follow."""
        self._being_stored[key_id] += 1

    def stored(self, key_id: str) -> None:
        """Ends `storing`, whether the write succeeded or failed."""
        self._being_stored[key_id] -= 1
        if not self._being_stored[key_id]:
            del self._being_stored[key_id]

    def count_request(self, key: ApiKey, plan: Plan) -> None:
        """Counts a request that starts no job among those of a minute. Raises `TooMany`."""
        self._burst_limiter.take(key.id, plan)

    def expect_request(self, key: ApiKey, plan: Plan) -> None:
        """Before files are decoded for a request that is counted later. Raises `TooMany` when it would be refused."""
        self._burst_limiter.take(key.id, plan, 0)

    def check(
        self, key: ApiKey, plan: Plan, spec: ModelSpec, n_of_key: int, n_chats: int = 0, *, n_requests: int = 1
    ) -> None:
        """As `check_job`. n_of_key: unfinished jobs or chats of this key; n_chats: running chats of all keys."""
        reason = self._engine.not_ready_reason or self._storage_fault()
        if reason is not None:
            raise Unavailable(f"Not accepting work: {reason}.", retry_after_s=5)
        check_cooldown(self._live_jobs, spec.name)
        self.check_fits(spec, ())
        self._burst_limiter.take(key.id, plan, n_requests)
        limits = [limit for limit in (plan.max_queued, self._max_queued_per_key) if limit is not None]
        if limits and n_of_key >= min(limits):
            raise TooMany(
                f"This key has {n_of_key} unfinished jobs, which is the maximum for this key.", retry_after_s=_soon()
            )
        if self._live_jobs.n_queued + self._being_stored.total() + n_chats >= self._queue_size:
            raise TooMany(f"The queue is full: {self._queue_size} jobs are waiting.", retry_after_s=_soon())


def nearest_name(name: str, catalogue: Catalogue) -> str:
    """A sentence that names the model whose name is nearest, with a space before it; empty when none is near."""
    near = difflib.get_close_matches(name.lower(), catalogue.names(), 1)
    return f" The nearest name is {near[0]}." if near else ""


def check_cooldown(live_jobs: LiveJobs, model: str) -> None:
    """Raises `Unavailable` while a model waits for the next try after a failed load."""
    snapshot = live_jobs.model(model)
    if snapshot is not None and snapshot.retry_in_s is not None:  # None as soon as the cooldown is over
        retry_s = max(1, math.ceil(snapshot.retry_in_s))
        raise Unavailable(f"The model {model} failed to load. It is tried again in {retry_s} s.", retry_after_s=retry_s)


def _soon() -> int:
    """Random seconds, so that clients that were refused together do not retry together."""
    return 4 + secrets.randbelow(5)
