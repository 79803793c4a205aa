"""What the product does, without HTTP: its parts wired together; accept, look up, cancel, reply. Event loop only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from models.spec import ModelSpec, ModelType
from pipelines.interface import Request
from server.accounts.a1111_options import A1111Options
from server.accounts.auth import ApiKey
from server.accounts.quotas import BurstLimiter, Plan, today
from server.accounts.usage import Accounts
from server.errors import NotFound, Unavailable
from server.job import State
from server.jobs import job_view
from server.jobs.artifacts import Artifacts
from server.jobs.event_stream import JobEvents
from server.jobs.job_view import JobView
from server.jobs.live_jobs import LiveJob, LiveJobs
from server.jobs.recovery import Recovery
from server.jobs.request import FindLora, GenerateRequest
from server.jobs.results import Results
from server.jobs.submission import Accepted, Allowance, Catalogue, Engine, Submission
from server.jobs.webhooks import Webhooks
from server.protocol import DeviceStatus, Event, PeaksLearned, VerdictsReached
from server.service.chat import ChatMessage, Chats, Conversation
from server.service.conversations import Conversations
from server.service.dispatch import Dispatch
from server.service.metrics import Metrics
from server.service.model_overrides import ModelOverrides, ModelView
from server.store import jobs as store
from server.store import usage
from server.store.database import Database
from server.store.jobs import JobRow, OutputRow
from server.store.usage import Kind

NO_SUCH_JOB = "There is no such job."
NO_SUCH_FILE = "There is no such file."
FINISHED_LOOK_S = 60.0  # a wait for an end looks for itself this often, though it is woken
CANCEL_WAIT_S = 5.0  # for the store to take a cancellation before the client is told to ask again


class Service:
    def __init__(
        self,
        *,
        database: Database,
        catalogue: Catalogue,
        engine: Engine,
        artifacts: Artifacts,
        live_jobs: LiveJobs,
        plans: Mapping[str, Plan],
        burst_limiter: BurstLimiter,
        clock: Callable[[], datetime],
        webhooks: Webhooks,
        queue_size: int = 10_000,
        max_queued_per_key: int | None = None,
        output_retention: timedelta = timedelta(hours=24),
        job_retention: timedelta = timedelta(days=30),
        system_prompt: str | None = None,
        auto_dtype: str = "float32",
        keep_alive_s: float = 300.0,
        learned: Callable[[PeaksLearned | VerdictsReached], None] = lambda _: None,
        find_lora: FindLora | None = None,
        lora_names: Callable[[], Sequence[str]] = lambda: (),
        need_bytes: Callable[[ModelSpec, Sequence[Request]], int] = lambda spec, _: spec.weight_bytes,
    ) -> None:
        """`learned` keeps what the engines learn. `auto_dtype` is what a model that leaves its dtype open runs in on this device."""
        self.clock = clock
        self._database = database
        self._catalogue = catalogue
        self._engine = engine
        self._artifacts = artifacts
        self.live_jobs = live_jobs
        self.auto_dtype = auto_dtype
        self.metrics = Metrics(live_jobs)
        self.model_overrides = ModelOverrides(
            database=database, catalogue=catalogue, engine=engine, live_jobs=live_jobs, keep_alive_s=keep_alive_s
        )
        self.conversations = Conversations(database)
        self.choices = A1111Options(database)
        self.lora_names = lora_names
        self.accounts = Accounts(database=database, plans=plans, clock=clock)
        self._results = Results(
            database=database,
            artifacts=artifacts,
            live_jobs=live_jobs,
            clock=clock,
            output_retention=output_retention,
            cancel_in_engine=engine.cancel,
            on_end=self.metrics.ended,
        )
        self._submission = Submission(
            database=database,
            catalogue=catalogue,
            engine=engine,
            live_jobs=live_jobs,
            results=self._results,
            plans=plans,
            burst_limiter=burst_limiter,
            clock=clock,
            queue_size=queue_size,
            max_queued_per_key=max_queued_per_key,
            auto_dtype=auto_dtype,
            find_lora=find_lora,
            check_cooling=self.model_overrides.check_cooling,
            check_webhook=webhooks.check,
            need_bytes=need_bytes,
        )
        self.webhooks = webhooks
        live_jobs.on_webhook = webhooks.wake
        live_jobs.on_step = self.metrics.stepped
        self.events = JobEvents(database, live_jobs)
        self._chats = Chats(
            database=database,
            engine=engine,
            results=self._results,
            clock=clock,
            system_prompt=system_prompt,
            on_sent=self.metrics.text_sent,
        )
        self.on_event: Callable[[Event], None] = Dispatch(
            live_jobs=live_jobs, results=self._results, chats=self._chats, metrics=self.metrics, learned=learned
        ).take
        self.recovery = Recovery(
            database=database,
            catalogue=catalogue,
            artifacts=artifacts,
            live_jobs=live_jobs,
            submission=self._submission,
            results=self._results,
            clock=clock,
            job_retention=job_retention,
        )

    # Pictures and clips

    async def accept(self, key: ApiKey, request: GenerateRequest, idempotency_key: str | None = None) -> Accepted:
        """See `Submission.accept`."""
        return await self._submission.accept(key, request, idempotency_key)

    async def status(self, key: ApiKey, job_id: str) -> JobView:
        """Raises `NotFound`, the same for an unknown, foreign and deleted job."""
        live = self._live(key, job_id)
        if live is not None:
            return job_view.of_live(live, self.live_jobs)
        # It may have ended between the two looks; a job that just came onto the board is not known to anybody yet.
        return await self.status_of(key.id, job_id)

    def live(self, key: ApiKey) -> list[JobView]:
        """The key's jobs that have not ended, the latest first."""
        return [job_view.of_live(job, self.live_jobs) for job in self.live_jobs.of_key(key.id)][::-1]

    def preview(self, key: ApiKey, job_id: str) -> NDArray[np.uint8] | None:
        """How a job that runs looks by now, (H, W, 3); None where none was made."""
        live = self._live(key, job_id)
        return None if live is None else live.preview

    async def finished(self, key: ApiKey, job_id: str) -> JobView:
        """Its status once it has ended. Raises `NotFound`."""
        with self.events.watch(key, job_id) as watch:
            while self.live_jobs.view(job_id) is not None:
                await watch.changed(FINISHED_LOOK_S)
        return await self.status(key, job_id)

    async def status_of(self, key_id: str, job_id: str) -> JobView:
        """As `status`, for what happens without a request."""
        row, outputs = await self._database.read(lambda conn: _look_up(conn, key_id, job_id))
        return job_view.of_row(row, outputs)

    async def list(
        self,
        key: ApiKey,
        status: State | None,
        limit: int,
        cursor: str | None,
        kind: Literal["image", "video"] | None = None,
    ) -> tuple[Sequence[JobView], str | None]:
        """Newest first, and the cursor of the next page. Raises `BadRequest` for a cursor that is not ours."""

        def page(conn: Connection) -> tuple[list[tuple[JobRow, list[OutputRow]]], str | None]:
            rows, after = store.list_jobs(conn, key.id, status, limit, cursor, kind)
            return [(row, store.outputs_of(conn, row.id)) for row in rows], after

        found, after = await self._database.read(page)
        shown = []
        for row, outputs in found:
            live = self.live_jobs.view(row.id)
            shown.append(job_view.of_row(row, outputs) if live is None else job_view.of_live(live, self.live_jobs))
        return shown, after

    async def cancel(self, key: ApiKey, job_id: str) -> JobView:
        """Queued: canceled at once and refunded. Running: canceled before its next step. Finished: it is deleted.

        Asking again changes nothing. Raises `NotFound`, `Unavailable`.
        """
        live = self._live(key, job_id)
        if live is None:
            return await self._delete(key, job_id)
        live.cancel_asked = True
        if live.state is State.QUEUED:
            self._results.cancel(live, refund=True)
        self._engine.cancel(job_id)
        if live.end is None:
            return job_view.of_live(live, self.live_jobs)
        try:
            await asyncio.wait_for(asyncio.shield(live.end), CANCEL_WAIT_S)
        except TimeoutError:
            raise Unavailable("The cancellation is not stored yet. Ask again shortly.", retry_after_s=5) from None
        return await self.status(key, job_id)

    async def _delete(self, key: ApiKey, job_id: str) -> JobView:
        def delete(conn: Connection) -> tuple[JobRow, list[str]]:
            row, _ = _look_up(conn, key.id, job_id)
            return row, [] if row.state is State.CANCELED else store.delete_job(conn, job_id, key.id)

        row, file_names = await self._database.write(delete)
        await self._artifacts.delete(file_names)
        return job_view.of_row(row, ())

    async def cursor_after(self, key: ApiKey, job_id: str) -> str | None:
        """What `list` takes to go on after this job; None when there is no such job."""
        return await self._database.read(lambda conn: store.cursor_after(conn, key.id, job_id))

    async def file(self, output_id: str, key: ApiKey | None) -> tuple[OutputRow, Path]:
        """`key` None: the caller holds a valid link. Raises `NotFound`, the same for unknown, foreign and deleted."""
        found = await self._database.read(lambda conn: store.get_output(conn, output_id))
        if found is None or (key is not None and found[1] != key.id):
            raise NotFound(NO_SUCH_FILE)
        path = self._artifacts.path(found[0].file_name)
        if path is None:
            raise NotFound(NO_SUCH_FILE)
        return found[0], path

    def link(self, output: OutputRow, expires_at: datetime) -> str:
        """The query that opens this output without a key."""
        return self._artifacts.sign(output.id, expires_at)

    def link_opens(self, output_id: str, expires: str, signature: str) -> bool:
        return self._artifacts.verify(output_id, expires, signature)

    # Chat

    async def chat(self, key: ApiKey, message: ChatMessage) -> Conversation:
        """Charge the message; the reply is made as the conversation's `deltas` are read.

        Raises BadRequest, UnknownModel, NeverFits, TooMany, Unavailable; then nothing was charged.
        """
        plan = self._submission.plan(key)
        spec = self.spec_of(message.model, "chat")
        self._submission.check(key, plan, spec, self._chats.of_key[key.id], len(self._chats.inboxes))
        return await self._chats.open(key, plan, message, spec)

    # What there is

    def models(self) -> Sequence[ModelView]:
        live = {snapshot.status.model: snapshot for snapshot in self.live_jobs.models()}
        now = self.clock()
        return [self.model_overrides.view(spec, live.get(spec.name), now) for spec in self._catalogue.specs()]

    def model(self, name: str) -> ModelView:
        return self.model_overrides.view(self._catalogue.get(name), self.live_jobs.model(name), self.clock())

    def spec_of(self, name: str | None, kind: ModelType) -> ModelSpec:
        """None is the default. Raises `UnknownModel`, and `BadRequest` for a model of another type."""
        return self._submission.model(name, kind)

    def devices(self) -> Sequence[DeviceStatus]:
        return self.live_jobs.devices()

    def default_for(self, kind: ModelType) -> str | None:
        return self._catalogue.default_for(kind)

    async def allowance(self, key: ApiKey, kind: Kind) -> Allowance:
        day = today(self.clock())
        used = await self._database.read(lambda conn: usage.used_today(conn, key.id, day))
        return Allowance(kind, self._submission.plan(key).limit(kind), used[kind])

    # The end

    async def close(self, timeout_s: float) -> None:
        """Let what is being saved come to its end. The engine is drained by then."""
        await self._results.close(timeout_s)

    def _live(self, key: ApiKey, job_id: str) -> LiveJob | None:
        live = self.live_jobs.view(job_id)
        return live if live is not None and live.row.key_id == key.id else None


def _look_up(conn: Connection, key_id: str, job_id: str) -> tuple[JobRow, list[OutputRow]]:
    row = store.get_job(conn, job_id, key_id)
    if row is None:
        raise NotFound(NO_SUCH_JOB)
    return row, store.outputs_of(conn, job_id)
