"""What the product does, without HTTP: accept (charge + store + submit), look up, cancel, reply, tidy. Event loop only."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, TypeAlias, assert_never

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from models.spec import ModelSpec, ModelType
from pipelines.interface import Request
from server import views
from server.acceptance import Acceptance, Accepted, Allowance, Catalogue, Engine
from server.accounts import Accounts
from server.artifacts import Artifacts
from server.auth import ApiKey
from server.board import Board, LiveJob
from server.choices import Choices
from server.conversation import ChatMessage, Chats, Conversation
from server.conversations import Conversations
from server.decisions import Decisions, ModelView
from server.delivery import Delivery
from server.errors import NotFound, Unavailable
from server.events import JobEvents
from server.jobs import (
    DeviceStatus,
    EngineStatus,
    Event,
    JobCanceled,
    JobFailed,
    JobPreviewed,
    JobProgressed,
    JobReplied,
    JobReturned,
    JobStarted,
    JobText,
    OutputReady,
    PeaksLearned,
    State,
    VerdictsReached,
)
from server.metrics import Metrics
from server.quotas import Bursts, Plan, today
from server.resolving import FindLora, GenerateRequest
from server.store import idempotency, turns, usage
from server.store import jobs as store
from server.store.database import Database
from server.store.jobs import JobRow, OutputRow
from server.store.usage import Kind
from server.views import JobView
from server.watchers import Watch
from server.webhooks import Webhooks

logger = logging.getLogger(__name__)

JobKind: TypeAlias = Literal["image", "video"]

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
        board: Board,
        plans: Mapping[str, Plan],
        bursts: Bursts,
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
        self._board = board
        self._job_retention = job_retention
        self._auto_dtype = auto_dtype
        self._learned = learned
        self.decisions = Decisions(
            database=database, catalogue=catalogue, engine=engine, board=board, keep_alive_s=keep_alive_s
        )
        self.conversations = Conversations(database)
        self.choices = Choices(database)
        self.lora_names = lora_names
        self.accounts = Accounts(database=database, plans=plans, clock=clock)
        self._delivery = Delivery(
            database=database,
            artifacts=artifacts,
            board=board,
            clock=clock,
            output_retention=output_retention,
            cancel_in_engine=engine.cancel,
            on_end=lambda kind, state: self.metrics.ended(kind, state),
        )
        self._acceptance = Acceptance(
            database=database,
            catalogue=catalogue,
            engine=engine,
            board=board,
            delivery=self._delivery,
            plans=plans,
            bursts=bursts,
            clock=clock,
            queue_size=queue_size,
            max_queued_per_key=max_queued_per_key,
            auto_dtype=auto_dtype,
            find_lora=find_lora,
            check_cooling=self.decisions.check_cooling,
            check_webhook=webhooks.check,
            need_bytes=need_bytes,
        )
        self.webhooks = webhooks
        self.metrics = Metrics(board)
        board.watchers.on_commit = webhooks.wake
        board.on_step = self.metrics.stepped
        self.events = JobEvents(database, board)
        self._chats = Chats(
            database=database,
            engine=engine,
            delivery=self._delivery,
            clock=clock,
            system_prompt=system_prompt,
            on_sent=self.metrics.text_sent,
        )

    # Pictures and clips

    async def accept(self, key: ApiKey, request: GenerateRequest, idempotency_key: str | None = None) -> Accepted:
        """See `Acceptance.accept`."""
        return await self._acceptance.accept(key, request, idempotency_key)

    async def status(self, key: ApiKey, job_id: str) -> JobView:
        """Raises `NotFound`, the same for an unknown, foreign and deleted job."""
        live = self._live(key, job_id)
        if live is not None:
            return views.of_live(live, self._board)
        row, outputs = await self._database.read(lambda conn: _look_up(conn, key.id, job_id))
        # It may have ended between the two looks; a job that just came onto the board is not known to anybody yet.
        return views.of_row(row, outputs)

    def live(self, key: ApiKey) -> list[JobView]:
        """The key's jobs that have not ended, the latest first."""
        return [views.of_live(job, self._board) for job in self._board.of_key(key.id)][::-1]

    def preview(self, key: ApiKey, job_id: str) -> NDArray[np.uint8] | None:
        """How a job that runs looks by now, (H, W, 3); None where none was made."""
        live = self._live(key, job_id)
        return None if live is None else live.preview

    async def finished(self, key: ApiKey, job_id: str) -> JobView:
        """Its status once it has ended. Raises `NotFound`."""
        with self.watch(key, job_id) as watch:
            while self._board.view(job_id) is not None:
                await watch.changed(FINISHED_LOOK_S)
        return await self.status(key, job_id)

    async def status_of(self, key_id: str, job_id: str) -> JobView:
        """As `status`, for what happens without a request."""
        row, outputs = await self._database.read(lambda conn: _look_up(conn, key_id, job_id))
        return views.of_row(row, outputs)

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
            live = self._board.view(row.id)
            shown.append(views.of_row(row, outputs) if live is None else views.of_live(live, self._board))
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
            self._delivery.cancel(live, refund=True)
        self._engine.cancel(job_id)
        if live.end is None:
            return views.of_live(live, self._board)
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
        return views.of_row(row, ())

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

    def watch(self, key: ApiKey, job_id: str | None, previews: bool = False) -> AbstractContextManager[Watch]:
        """To be told of one job or of all the key's."""
        return self._board.watchers.watch(key.id, job_id, previews=previews)

    def check_streams(self, key: ApiKey) -> None:
        """Raises `TooMany` when this key may not open another stream of events."""
        self._board.watchers.check(key.id)

    def close_streams(self) -> None:
        """The server stops: readers of events are sent away to come back."""
        self._board.watchers.close()

    # Chat

    async def chat(self, key: ApiKey, message: ChatMessage) -> Conversation:
        """Charge the message; the reply is made as the conversation's `deltas` are read.

        Raises BadRequest, UnknownModel, NeverFits, TooMany, Unavailable; then nothing was charged.
        """
        plan = self._acceptance.plan(key)
        spec = self.spec_of(message.model, "chat")
        self._acceptance.check(key, plan, spec, self._chats.of_key[key.id], len(self._chats.inboxes))
        return await self._chats.open(key, plan, message, spec)

    # What there is

    @property
    def board(self) -> Board:
        return self._board

    def models(self) -> Sequence[ModelView]:
        live = {picture.status.model: picture for picture in self._board.models()}
        now = self.clock()
        return [self.decisions.view(spec, live.get(spec.name), now) for spec in self._catalogue.specs()]

    def model(self, name: str) -> ModelView:
        return self.decisions.view(self._catalogue.get(name), self._board.model(name), self.clock())

    def spec_of(self, name: str | None, kind: ModelType) -> ModelSpec:
        """None is the default. Raises `UnknownModel`, and `BadRequest` for a model of another type."""
        return self._acceptance.model(name, kind)

    def devices(self) -> Sequence[DeviceStatus]:
        return self._board.devices()

    def default_for(self, kind: ModelType) -> str | None:
        return self._catalogue.default_for(kind)

    @property
    def auto_dtype(self) -> str:
        return self._auto_dtype

    @property
    def not_ready_reason(self) -> str | None:
        return self._engine.not_ready_reason

    async def allowance(self, key: ApiKey, kind: Kind) -> Allowance:
        day = today(self.clock())
        used = await self._database.read(lambda conn: usage.used_today(conn, key.id, day))
        return Allowance(kind, self._acceptance.plan(key).limit(kind), used[kind])

    # Events, start, upkeep, end

    def on_event(self, event: Event) -> None:
        self.metrics.take(event)
        match event:
            case EngineStatus():
                self._board.apply(event)
            case JobProgressed():
                self._board.apply(event)
            case JobPreviewed():
                self._board.show(event.job_id, event.colours)
            case OutputReady():
                self._delivery.rendered(event)
            case JobText() | JobReplied():
                self._chats.deliver(event)
            case JobStarted():
                if not self._chats.deliver(event):
                    self._delivery.started(event)
            case JobFailed():
                if not self._chats.deliver(event):
                    self._delivery.failed(event)
            case JobCanceled():
                if not self._chats.deliver(event):
                    self._delivery.canceled(event)
            case PeaksLearned() | VerdictsReached():
                self._learned(event)
            case JobReturned():
                pass  # the fleet's own
            case _:
                assert_never(event)

    async def recover(self) -> int:
        """At start, before the first request: drop files no job knows, and run again what was not finished.

        Returns how many jobs were handed back.
        """
        rows = await self._database.write(lambda conn: store.recover_jobs(conn, self.clock()))
        swept = await self._artifacts.sweep(await self._database.read(store.file_names))
        known = set(self._catalogue.names())
        for row in rows:
            if row.model in known:
                self._acceptance.run(row)
            else:
                self._delivery.fail(
                    self._board.add(row), "model_gone", f"{row.model} is no longer in the catalogue.", False
                )
        if rows or swept:
            logger.info("recovered", extra={"jobs": len(rows), "files_swept": swept})
        return len(rows)

    async def tidy(self) -> None:
        """Remove what has outlived its time: outputs, then jobs, conversations and books."""
        now = self.clock()

        def forget(conn: Connection) -> list[str]:
            gone = [name for job_id in store.expired(conn, now) for name in store.forget_outputs(conn, job_id)]
            gone += store.forget_jobs_before(conn, now - self._job_retention)
            idempotency.forget_before(conn, now)
            turns.forget_before(conn, now - self._job_retention)
            usage.forget_days_before(conn, today(now - self._job_retention))
            return gone

        await self._artifacts.delete(await self._database.write(forget))

    async def close(self, timeout_s: float) -> None:
        """Let what is being saved come to its end. The engine is drained by then."""
        await self._delivery.close(timeout_s)

    def _live(self, key: ApiKey, job_id: str) -> LiveJob | None:
        live = self._board.view(job_id)
        return live if live is not None and live.row.key_id == key.id else None


def _look_up(conn: Connection, key_id: str, job_id: str) -> tuple[JobRow, list[OutputRow]]:
    row = store.get_job(conn, job_id, key_id)
    if row is None:
        raise NotFound(NO_SUCH_JOB)
    return row, store.outputs_of(conn, job_id)
