"""Whether a request is taken, and taking it: rules, then charge + store + submit. Event loop only.

A job row and its charge are one transaction, committed before the client is told; what is told is never lost.
"""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import json
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Protocol

from sqlalchemy import Connection

from models.errors import UnknownModel as NoSuchModel
from models.spec import ModelSpec, ModelType
from pipelines.interface import Request
from server.accounts.auth import ApiKey
from server.accounts.quotas import BurstLimiter, Plan, seconds_to_reset, today
from server.errors import BadRequest, TooMany, Unavailable, UnknownModel
from server.job import State
from server.jobs.artifacts import new_id
from server.jobs.live_jobs import LiveJobs
from server.jobs.request import DRAWN_SEEDS, FindLora, GenerateRequest, engine_job, resolve
from server.jobs.results import Results
from server.service.chat import ChatEngine
from server.service.model_overrides import ModelsEngine
from server.store import idempotency, usage
from server.store import jobs as store
from server.store.database import Database
from server.store.jobs import JobRow
from server.store.usage import Kind

logger = logging.getLogger(__name__)


class Catalogue(Protocol):
    def get(self, name: str, /) -> ModelSpec: ...
    def recall(self, name: str, /) -> ModelSpec: ...
    def names(self) -> Sequence[str]: ...
    def specs(self) -> Sequence[ModelSpec]: ...
    def default_for(self, kind: ModelType, /) -> str | None: ...


class Engine(ChatEngine, ModelsEngine, Protocol):
    @property
    def not_ready_reason(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a key has used of its day, for the RateLimit headers."""

    kind: Kind
    limit: int | None
    used: int


@dataclass(frozen=True, slots=True)
class Accepted:
    job_id: str
    allowance: Allowance


class Submission:
    def __init__(
        self,
        *,
        database: Database,
        catalogue: Catalogue,
        engine: Engine,
        live_jobs: LiveJobs,
        results: Results,
        plans: Mapping[str, Plan],
        burst_limiter: BurstLimiter,
        clock: Callable[[], datetime],
        queue_size: int,
        max_queued_per_key: int | None,
        auto_dtype: str,
        find_lora: FindLora | None = None,
        check_cooling: Callable[[str], None],
        check_webhook: Callable[[str], None],
        need_bytes: Callable[[ModelSpec, Sequence[Request]], int],
    ) -> None:
        """`check_cooling` raises while a model whose load failed is not tried again. `need_bytes`: of a device, for these requests."""
        self._database = database
        self._catalogue = catalogue
        self._engine = engine
        self._live_jobs = live_jobs
        self._results = results
        self._plans = plans
        self._burst_limiter = burst_limiter
        self._clock = clock
        self._queue_size = queue_size
        self._max_queued_per_key = max_queued_per_key
        self._auto_dtype = auto_dtype
        self._find_lora = find_lora
        self._check_cooling = check_cooling
        self._need_bytes = need_bytes
        self._check_webhook = check_webhook  # raises `BadRequest`
        self._accepting: Counter[str] = Counter()  # by key: on the way into the store, not yet on the board

    async def accept(self, key: ApiKey, request: GenerateRequest, idempotency_key: str | None = None) -> Accepted:
        """Charge, store and submit; when this returns, a power cut loses nothing.

        Raises BadRequest, UnknownModel, NeverFits, Conflict, TooMany, Unavailable; then nothing was charged.
        """
        plan = self.plan(key)
        spec = self.model(request.model, request.type)
        if request.webhook_url is not None:
            self._check_webhook(request.webhook_url)
        resolved = resolve(
            request,
            spec,
            drawn_seed=secrets.randbelow(DRAWN_SEEDS),
            auto_dtype=self._auto_dtype,
            priority=plan.priority,
            find_lora=self._find_lora,
        )
        self.check(key, plan, spec, self._live_jobs.n_of_key(key.id) + self._accepting[key.id])
        now = self._clock()
        row = JobRow(
            id=f"job_{int(now.timestamp())}_{new_id()}",
            key_id=key.id,
            type=request.type,
            model=spec.name,
            state=State.QUEUED,
            request=resolved.request,
            params=resolved.params,
            warnings=[],
            charged_day=today(now),
            charged_kind="images" if request.type == "image" else "videos",
            charged_units=request.n,
            attempt=1,
            created_at=now,
        )
        self._engine.check_fits(spec.name, self._need_bytes(spec, engine_job(row).requests))
        claim = None if idempotency_key is None else (idempotency_key, _fingerprint(request))
        self._accepting[key.id] += 1
        # In a task of its own: a client that hangs up now must not leave a stored job that nobody runs.
        return await asyncio.shield(self._results.spawn(self._store_and_submit(row, plan, claim)))

    async def _store_and_submit(self, row: JobRow, plan: Plan, claim: tuple[str, str] | None) -> Accepted:
        kind, day = row.charged_kind, row.charged_day
        assert kind is not None
        assert day is not None
        limit, retry_after_s = plan.limit(kind), seconds_to_reset(row.created_at)

        def charge_and_insert(conn: Connection) -> tuple[str | None, int]:
            if claim is not None:
                earlier = idempotency.claim(conn, row.key_id, *claim, row.id, row.created_at)
                if earlier is not None:
                    return earlier, usage.used_today(conn, row.key_id, day)[kind]
            used = usage.charge(conn, row.key_id, day, kind, row.charged_units, limit, retry_after_s=retry_after_s)
            store.insert_job(conn, row)
            return None, used

        try:
            earlier, used = await self._database.write(charge_and_insert)
        finally:
            self._accepting[row.key_id] -= 1
            if not self._accepting[row.key_id]:
                del self._accepting[row.key_id]
        if earlier is None:
            self.run(row)
        return Accepted(earlier or row.id, Allowance(kind, limit, used))

    def run(self, row: JobRow) -> None:
        """Onto the board and into the engine: a job just stored, or one handed back at start."""
        self._live_jobs.add(row)
        said = {"job": row.id, "key_id": row.key_id, "type": row.type, "model": row.model, "attempt": row.attempt}
        logger.info("job queued", extra=said)
        try:
            self._engine.submit(engine_job(row), self._catalogue.recall(row.model).weight_bytes)
        except Unavailable:
            # It drains or died since we asked. The job is stored: the next start hands it back.
            logger.warning("job waits for the next start", extra={"job": row.id})

    def plan(self, key: ApiKey) -> Plan:
        plan = self._plans.get(key.plan)
        if plan is None:
            raise Unavailable("This key's plan is not among the configured ones.")
        return plan

    def model(self, name: str | None, kind: ModelType) -> ModelSpec:
        """Raises `UnknownModel`, and `BadRequest` for a model of another type."""
        wanted = name or self._catalogue.default_for(kind)
        if wanted is None:
            raise UnknownModel(f"There is no {kind} model here; try: pull NAME")
        try:
            spec = self._catalogue.get(wanted)
        except NoSuchModel:
            near = difflib.get_close_matches(wanted, self._catalogue.names(), 1)
            hint = f" The nearest name is {near[0]}." if near else ""
            raise UnknownModel(f"There is no model {wanted} here; try: pull {wanted}.{hint}") from None
        if spec.type != kind:
            raise BadRequest(f"model {wanted} is for {spec.type}, not for {kind}. GET /api/models lists them all.")
        return spec

    def check(self, key: ApiKey, plan: Plan, spec: ModelSpec, n_of_key: int, n_chats: int = 0) -> None:
        """Raises when this key may not start one more now: NeverFits, Conflict, TooMany, Unavailable.

        n_of_key: what it has under way; n_chats: chats under way, of all keys.
        """
        reason = self._engine.not_ready_reason
        if reason is not None:
            raise Unavailable(f"Not accepting work: {reason}.", retry_after_s=5)
        self._check_cooling(spec.name)
        self._engine.check_fits(spec.name, self._need_bytes(spec, ()))
        self._burst_limiter.take(key.id, plan)
        limits = [limit for limit in (plan.max_queued, self._max_queued_per_key) if limit is not None]
        if limits and n_of_key >= min(limits):
            raise TooMany(
                f"This key has {n_of_key} jobs that are not finished, the most it may have.", retry_after_s=_soon()
            )
        if self._live_jobs.n_queued + self._accepting.total() + n_chats >= self._queue_size:
            raise TooMany(f"The queue is full: {self._queue_size} jobs are waiting.", retry_after_s=_soon())


def _fingerprint(request: GenerateRequest) -> str:
    """Of what the client said, not of what it became: a drawn seed must not make two of one request."""
    return hashlib.sha256(json.dumps(asdict(request), sort_keys=True).encode()).hexdigest()


def _soon() -> int:
    """Seconds, drawn: clients turned away together must not all come back together."""
    return 4 + secrets.randbelow(5)
