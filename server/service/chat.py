"""Chat without HTTP: charge one message, hand the turns to the engine, hand its text on, keep the exchange. Event loop only.

A chat is not a job: it is not stored, and it ends with the client that asked.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from sqlalchemy import Connection

from models.spec import ModelSpec
from pipelines.interface import ChatRequest, FinishReason, Message
from server.accounts.auth import ApiKey
from server.accounts.quotas import Plan, seconds_to_reset, today
from server.accounts.usage import Accounts
from server.errors import BadRequest, Internal, ServerError, Unavailable
from server.fleet.port import Engine
from server.job import Job
from server.jobs.artifacts import new_id
from server.jobs.limits import JobLimits
from server.jobs.request import DRAWN_SEEDS
from server.jobs.results import Results
from server.protocol import Cancel, JobCanceled, JobFailed, JobReplied, JobStarted, JobText
from server.service.metrics import Metrics
from server.store import messages, usage
from server.store.database import Database

logger = logging.getLogger(__name__)

ChatEvent: TypeAlias = JobStarted | JobText | JobReplied | JobFailed | JobCanceled


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    """As the client said it; None is not said."""

    turns: tuple[Message, ...]  # what is new: one message of the user, or a whole conversation that the client keeps
    kept: bool = True  # whether the server keeps the conversation
    conversation_id: str | None = None
    system: str | None = None
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
    text: str
    at: datetime
    conversation_id: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason
    warnings: tuple[str, ...] = ()


class Chats:
    """The chats under way, by the id of their engine job."""

    def __init__(
        self,
        *,
        database: Database,
        engine: Engine,
        accounts: Accounts,
        limits: JobLimits,
        results: Results,
        metrics: Metrics,
        clock: Callable[[], datetime],
        system_prompt: str | None,
    ) -> None:
        self.database = database
        self.engine = engine
        self.results = results
        self.clock = clock
        self.limits = limits
        self.metrics = metrics
        self._accounts = accounts
        self._system_prompt = system_prompt
        self.inboxes: dict[str, asyncio.Queue[ChatEvent]] = {}
        self.of_key: Counter[str] = Counter()

    def deliver(self, event: ChatEvent) -> bool:
        """False when the event is not a chat's."""
        inbox = self.inboxes.get(event.job_id)
        if inbox is not None:
            inbox.put_nowait(event)
        return inbox is not None

    async def open(self, key: ApiKey, message: ChatMessage) -> Conversation:
        """Charge the message and read the conversation so far; the reply is made as the conversation's `deltas` are read.

        Raises BadRequest, UnknownModel, NeverFits, TooMany, Unavailable; then nothing was charged.
        """
        plan = self._accounts.plan_of(key)
        spec = self.limits.model(message.model, "chat")
        self.limits.check_chat(key, plan, spec, self.of_key[key.id], len(self.inboxes))
        now = self.clock()
        day, conversation_id = today(now), message.conversation_id or f"conv_{new_id()}"
        known = message.conversation_id is not None

        def charge(conn: Connection) -> tuple[int, list[Message]]:
            retry_after_s = seconds_to_reset(now)
            used = usage.charge(conn, key.id, day, "chats", 1, plan.chats, retry_after_s=retry_after_s)
            return used, messages.history(conn, key.id, conversation_id) if known else []

        used, history = await self.database.write(charge)
        system = message.system or self._system_prompt or spec.defaults.system
        if any(turn.role == "system" for turn in message.turns):
            system = None
        return Conversation(self, key, plan, message, spec, conversation_id, system, history, day, used)


class Conversation:
    """One message and the reply to it. Iterate over `deltas` to the end; then `reply` is there."""

    def __init__(
        self,
        chats: Chats,
        key: ApiKey,
        plan: Plan,
        message: ChatMessage,
        spec: ModelSpec,
        conversation_id: str,
        system: str | None,
        history: list[Message],
        day: str,
        used: int,
    ) -> None:
        self._chats = chats
        self._key = key
        self._plan = plan
        self._message = message
        self._spec = spec
        self.conversation_id = conversation_id
        self._system = system
        self._history = history
        self._known = bool(history)  # a conversation that was there before
        self._left_out = 0  # messages of the history that the model no longer sees
        self._day = day
        self.used = used  # messages of this day, this one included
        self._charge_id = f"chat_{new_id()}"
        self._started = False
        self._made = ""  # of the reply, as far as its reader has seen it
        self.limit = plan.chats
        self.model = spec.name
        self.reply: ChatReply | None = None

    async def deltas(self, *, streamed: bool = False) -> AsyncGenerator[str]:
        """The reply's text as it is made. Leaving early cancels it; a failure is refunded and raised.

        streamed: each text goes out before the next is asked for, and how long that took is measured. What was read of a reply
        that was left early is kept as if the model had ended there: its reader may say "go on".
        """
        first = True
        self._chats.of_key[self._key.id] += 1
        try:
            while True:
                end: JobReplied | JobFailed | JobCanceled | None = None
                async with aclosing(self._run()) as events:
                    async for event in events:
                        if isinstance(event, JobText):
                            yield event.text
                            if streamed:
                                self._chats.metrics.text_sent(event.at, first)
                                first = False
                                self._made += event.text
                        else:
                            end = event
                if isinstance(end, JobReplied):
                    self._made = ""  # kept whole, once
                    await self._keep(end)
                    return
                if isinstance(end, JobFailed) and end.code == "context_overflow" and self._history:
                    # The server keeps the turns, so it is the server's to make room: the older half is left out.
                    left_out = (len(self._history) // 2 + 1) // 2 * 2
                    self._left_out += min(left_out, len(self._history))
                    self._history = self._history[left_out:]
                    continue
                raise _error_of(end)
        except ServerError:
            self._refund()
            raise
        except (asyncio.CancelledError, GeneratorExit):
            if not self._started:
                self._refund()
            elif self._made and self._message.kept:
                self._keep_unfinished()
            raise
        finally:
            self._chats.of_key[self._key.id] -= 1
            if not self._chats.of_key[self._key.id]:
                del self._chats.of_key[self._key.id]

    async def _run(self) -> AsyncGenerator[JobText | JobReplied | JobFailed | JobCanceled]:
        """One engine job: its texts, then its end."""
        job = self._job()
        inbox = self._chats.inboxes[job.id] = asyncio.Queue()
        ended = False
        try:
            self._chats.engine.submit(job, self._chats.limits.need_bytes(self._spec))
            while not ended:
                event = await inbox.get()
                if isinstance(event, JobStarted):
                    self._started = True
                    continue
                ended = not isinstance(event, JobText)
                yield event
        finally:
            del self._chats.inboxes[job.id]
            if not ended:
                self._chats.engine.send(Cancel(job.id))

    def _job(self) -> Job:
        said, defaults = self._message, self._spec.defaults
        job_id = f"chat_{new_id()}"
        system = [Message("system", self._system)] if self._system else []
        request = ChatRequest(
            id=f"{job_id}/0",
            owner=self._key.id,
            messages=(*system, *self._history, *said.turns),
            max_tokens=said.max_tokens if said.max_tokens is not None else defaults.max_tokens,
            temperature=said.temperature if said.temperature is not None else defaults.temperature,
            top_p=said.top_p if said.top_p is not None else defaults.top_p,
            seed=said.seed if said.seed is not None else secrets.randbelow(DRAWN_SEEDS),
            stop=said.stop,
            repetition_penalty=defaults.repetition_penalty,
            presence_penalty=said.presence_penalty,
            frequency_penalty=said.frequency_penalty,
        )
        return Job(
            id=job_id,
            owner=self._key.id,
            type="chat",
            model=self._spec.name,
            requests=(request,),
            priority=self._plan.priority,
        )

    async def _keep(self, end: JobReplied) -> None:
        now = self._chats.clock()
        warnings = []
        if self._left_out:
            warnings.append(
                f"The conversation is longer than the model's context: its oldest {self._left_out} messages were left out."
            )
        if self._message.kept:
            try:
                await self._chats.database.write(lambda conn: self._append(conn, end.text, now))
            except Unavailable:  # the reply is worth more than its memory
                logger.warning("conversation turn not stored")
                warnings.append("This exchange could not be stored: the conversation goes on without it.")
        self.reply = ChatReply(
            text=end.text,
            at=now,
            conversation_id=self.conversation_id,
            model=self._spec.name,
            prompt_tokens=end.prompt_tokens,
            completion_tokens=end.completion_tokens,
            finish_reason=end.finish_reason,
            warnings=tuple(warnings),
        )

    def _keep_unfinished(self) -> None:
        """In a task of its own: who asked is gone."""
        text, now, results = self._made, self._chats.clock(), self._chats.results
        results.spawn(results.persist(lambda conn: self._append(conn, text, now)))

    def _append(self, conn: Connection, text: str, at: datetime) -> None:
        said = [*self._message.turns, Message("assistant", text)]
        messages.append(
            conn,
            self._key.id,
            self.conversation_id,
            said,
            at,
            model=self._spec.name,
            system=self._message.system,
            goes_on=self._known,
        )

    def _refund(self) -> None:
        """In a task of its own: who asked may be gone."""
        charge_id, key_id, day = self._charge_id, self._key.id, self._day
        results = self._chats.results
        results.spawn(results.persist(lambda conn: usage.refund_units(conn, charge_id, key_id, day, "chats", 1)))


def _error_of(end: JobFailed | JobCanceled | None) -> ServerError:
    match end:
        case JobFailed(code="context_overflow" | "bad_request", message=text):
            return BadRequest(text)
        case JobFailed(code="model_error" | "invalid_output"):
            return Internal("The model failed on this message. It was not counted.")
        case JobFailed(message=text):
            return Unavailable(text, retry_after_s=5)
        case _:
            return Unavailable("The server stopped this reply. It was not counted.", retry_after_s=5)
