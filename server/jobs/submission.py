"""Accepts jobs: checks a request, stores the job with its charge in one transaction, submits it to the engine.

Event loop only. The order is check → store and charge → live jobs → engine. The client gets the id only after the job
is stored, so an accepted job survives a crash: the next start submits it again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from sqlalchemy import Connection

from pipelines.fault_points import reach
from server.accounts.auth import ApiKey
from server.accounts.quotas import Plan, seconds_to_reset, today
from server.accounts.usage import Accounts, Allowance
from server.errors import BadRequest, ServerError, Unavailable
from server.fleet.engine_port import Engine
from server.job import State
from server.jobs.artifacts import new_id
from server.jobs.inputs.files import InputFiles
from server.jobs.limits import Catalogue, JobLimits
from server.jobs.live_jobs import LiveJob, LiveJobs
from server.jobs.request.generate_request import RANDOM_SEED_LIMIT, GenerateRequest
from server.jobs.request.resolution import resolve
from server.jobs.request.stored_request import engine_job
from server.jobs.request.task_choice import check_inputs
from server.jobs.results import Results
from server.jobs.webhooks import Webhooks
from server.store import idempotency, input_files, usage
from server.store import jobs as store
from server.store.database import Database
from server.store.input_files import InputFileRow
from server.store.jobs import JobRow

logger = logging.getLogger(__name__)

KINDS_OF_USAGE: Mapping[Literal["image", "video"], usage.Kind] = {"image": "images", "video": "videos"}


class Loras(Protocol):
    def names(self) -> list[str]: ...
    def find(self, name: str) -> Path:
        """The file of a LoRA. Raises `models.errors.UnknownModel` or `BadModel`."""


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
        accounts: Accounts,
        limits: JobLimits,
        live_jobs: LiveJobs,
        results: Results,
        webhooks: Webhooks,
        loras: Loras,
        input_files: InputFiles,
        clock: Callable[[], datetime],
        auto_dtype: str,
    ) -> None:
        """auto_dtype: the precision of models with dtype "auto", on the devices of this machine."""
        self._database = database
        self._catalogue = catalogue
        self._engine = engine
        self._accounts = accounts
        self._limits = limits
        self._live_jobs = live_jobs
        self._results = results
        self._webhooks = webhooks
        self._loras = loras
        self._input_files = input_files
        self._clock = clock
        self._auto_dtype = auto_dtype

    async def accept(self, key: ApiKey, request: GenerateRequest, idempotency_key: str | None = None) -> Accepted:
        """Checks, charges, stores and submits a job. Once this returns, the job survives a power cut.

        A request that comes again with its idempotency key is answered whatever the limits are by now.

        Raises BadRequest, UnknownModel, NeverFits, Conflict, TooMany, Unavailable; then nothing was charged.
        """
        plan = self._accounts.plan_of(key)
        if idempotency_key is not None and (earlier := await self._earlier(key, request, idempotency_key)) is not None:
            return Accepted(earlier, await self._accounts.allowance(key, KINDS_OF_USAGE[request.type]))
        spec = self._limits.model(request.model, request.type)
        if request.webhook_url is not None:
            self._webhooks.check(request.webhook_url)
        inputs: Mapping[str, InputFileRow] = {}
        if request.media:  # is decoded only for a request that this model takes, and a key that may start a job now
            check_inputs(request, spec, self._catalogue.specs())
            self._limits.check_job(key, plan, spec, n_requests=0)
            inputs = await self._input_files.find(key, request.media)
        resolved = resolve(
            request,
            spec,
            drawn_seed=secrets.randbelow(RANDOM_SEED_LIMIT),
            auto_dtype=self._auto_dtype,
            priority=plan.priority,
            find_lora=self._loras.find,
            files={place: self._input_files.media_file(row, request.media[place]) for place, row in inputs.items()},
            models=self._catalogue,
        )
        self._limits.check_job(key, plan, spec)
        now = self._clock()
        row = JobRow(
            id=f"job_{int(now.timestamp())}_{new_id()}",
            key_id=key.id,
            type=request.type,
            model=spec.name,
            state=State.QUEUED,
            request=resolved.request,
            params=resolved.params,
            warnings=list(
                dict.fromkeys((*resolved.warnings, *(each for file in inputs.values() for each in file.warnings)))
            ),
            charged_day=today(now),
            charged_kind=KINDS_OF_USAGE[request.type],
            charged_units=request.n,
            attempt=1,
            created_at=now,
        )
        self._limits.check_fits(spec, engine_job(row).requests)
        claim = None if idempotency_key is None else (idempotency_key, _fingerprint(request, inputs))
        file_ids = {file.id for file in inputs.values()}
        self._limits.storing(key.id)
        # In a separate task, because a client that disconnects now must not leave a stored job that is never submitted.
        return await asyncio.shield(self._results.spawn(self._store_and_run(row, plan, claim, file_ids)))

    async def _earlier(self, key: ApiKey, request: GenerateRequest, idempotency_key: str) -> str | None:
        """The job that this request was accepted as before. Raises `Conflict`, and what finding its files raises."""
        now = self._clock()
        claim = await self._database.read(lambda conn: idempotency.find(conn, key.id, idempotency_key, now))
        if claim is None:
            return None
        inputs = await self._input_files.find(key, request.media) if request.media else {}
        return claim.job_for(_fingerprint(request, inputs))

    async def _store_and_run(
        self, row: JobRow, plan: Plan, claim: tuple[str, str] | None, file_ids: AbstractSet[str]
    ) -> Accepted:
        """claim: the client's idempotency key and the fingerprint of the request. file_ids: of what the job uses."""
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
            if not input_files.refer(conn, row.id, file_ids):
                raise BadRequest("A file of the request was deleted before the job was stored.")
            return None, used

        try:
            earlier, used = await self._database.write(charge_and_insert)
        finally:
            self._limits.stored(row.key_id)
        reach("accepted", row.id)
        if earlier is None:
            self.run(row)
        return Accepted(earlier or row.id, Allowance(kind, limit, used))

    def run(self, row: JobRow) -> None:
        """Adds a stored job to the live jobs and submits it to the engine, after its acceptance or at a restart.

        Never raises. A job that this server cannot run any more fails with the reason, a refund and `retryable` false.
        """
        self.start(self._live_jobs.add(row))

    def start(self, job: LiveJob) -> None:
        """As `run`, of a job that is among the live ones already."""
        row = job.row
        fields = {"job": row.id, "key_id": row.key_id, "type": row.type, "model": row.model, "attempt": row.attempt}
        logger.info("job queued", extra=fields)
        try:
            submitted = engine_job(row)
            need_bytes = self._limits.need_bytes(self._catalogue.recall(row.model), submitted.requests)
            self._engine.submit(submitted, need_bytes)
        except Unavailable:
            # The engine drains or has died since the check. The next start submits the stored job again.
            logger.warning("job waits for the next start", extra={"job": row.id})
        except Exception as error:
            logger.exception("stored job cannot run", extra={"job": row.id})
            known = isinstance(error, ServerError)
            reason = str(error) if known else "This server can no longer run the job as it was stored."
            self._results.fail(job, "does_not_fit" if known else "not_runnable", reason, False)


def _fingerprint(request: GenerateRequest, inputs: Mapping[str, InputFileRow]) -> str:
    """A hash of the request as the client sent it, before a random seed is drawn: the same for a repeated request.

    Files count by their contents, because a door gives those that it receives a new id each time.
    """
    values = asdict(request.with_media({place: file.sha256 for place, file in inputs.items()}))
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
