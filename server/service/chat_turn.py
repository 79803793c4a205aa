"""One turn of a chat: the client's message, the engine jobs that make the reply, and the reply. Event loop only."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime

from models.spec import ModelSpec
from pipelines.interface import ChatRequest, FinishReason, Message
from server.accounts.auth import ApiKey
from server.errors import BadRequest, Internal, ServerError, Unavailable
from server.job import Job
from server.jobs.artifacts import new_id
from server.jobs.request import RANDOM_SEED_LIMIT
from server.jobs.results import Results
from server.protocol import JobCanceled, JobFailed, JobReplied, JobStarted, JobText
from server.service.chat_charge import ChatCharge
from server.service.chat_context import ChatContext
from server.service.chat_exchange import ChatExchange
from server.service.metrics import Metrics
from server.service.running_chats import RunningChats
from server.store.database import Database

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatInput:
    """What the client sent; None: not given."""

    messages: tuple[Message, ...]  # one message of the user, or a whole conversation that the client keeps
    stored: bool = True  # whether the server keeps the conversation
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


class ChatTurn:
    """Makes the reply to one charged message. Iterate over `deltas` to the end; then `reply` is set."""

    def __init__(
        self,
        *,
        key: ApiKey,
        priority: int,
        chat_input: ChatInput,
        spec: ModelSpec,
        need_bytes: int,
        context: ChatContext,
        charge: ChatCharge,
        exchange: ChatExchange,
        running_chats: RunningChats,
        database: Database,
        results: Results,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        self._key = key
        self._priority = priority
        self._input = chat_input
        self._spec = spec
        self._need_bytes = need_bytes
        self._context = context
        self._exchange = exchange
        self._running_chats = running_chats
        self._database = database
        self._results = results
        self._metrics = metrics
        self._clock = clock
        self._started = False  # whether the engine has begun with the reply
        self._sent_text = ""  # the part of a streamed reply that the client has received
        self.charge = charge
        self.model = spec.name
        self.reply: ChatReply | None = None

    async def deltas(self, *, streamed: bool = False) -> AsyncGenerator[str]:
        """Yields the text of the reply as it is made. Raises a `ServerError` after a refund when the reply fails.

        Closing the generator early cancels the reply. A reply that has not started is then refunded; of a streamed
        reply the text received so far is stored as if the model had ended there, so that the user can continue.

        streamed: each text is sent to the client before the next one is requested, and that delay is measured.
        """
        first = True
        with self._running_chats.count(self._key.id):
            try:
                async with aclosing(self._texts()) as texts:
                    async for text in texts:
                        yield text.text
                        if streamed:
                            self._metrics.text_sent(text.at, first)
                            first = False
                            self._sent_text += text.text
            except ServerError:
                self.charge.refund(self._results)
                raise
            except (asyncio.CancelledError, GeneratorExit):
                if not self._started:
                    self.charge.refund(self._results)
                elif self._sent_text:
                    self._exchange.store_partial(self._results, self._sent_text, self._clock())
                raise

    async def _texts(self) -> AsyncGenerator[JobText]:
        """Yields the texts of the engine's job, then sets `reply`. Raises a `ServerError` when the job fails.

        A conversation that is too long for the model's context is shortened and tried again, because the server, which
        keeps the conversation, has to make it fit.
        """
        while True:
            end: JobReplied | JobFailed | JobCanceled | None = None
            async with aclosing(self._running_chats.run(self._job(), self._need_bytes)) as events:
                async for event in events:
                    match event:
                        case JobStarted():
                            self._started = True
                        case JobText():
                            yield event
                        case _:
                            end = event
            if isinstance(end, JobReplied):
                self._sent_text = ""  # the whole reply is stored instead
                self.reply = await self._stored_reply(end)
                return
            overflow = isinstance(end, JobFailed) and end.code == "context_overflow"
            if not (overflow and self._context.shorten()):
                raise _error_of(end)

    def _job(self) -> Job:
        given, defaults = self._input, self._spec.defaults
        job_id = f"chat_{new_id()}"
        request = ChatRequest(
            id=f"{job_id}/0",
            owner=self._key.id,
            messages=self._context.messages,
            max_tokens=given.max_tokens if given.max_tokens is not None else defaults.max_tokens,
            temperature=given.temperature if given.temperature is not None else defaults.temperature,
            top_p=given.top_p if given.top_p is not None else defaults.top_p,
            seed=given.seed if given.seed is not None else secrets.randbelow(RANDOM_SEED_LIMIT),
            stop=given.stop,
            repetition_penalty=defaults.repetition_penalty,
            presence_penalty=given.presence_penalty,
            frequency_penalty=given.frequency_penalty,
        )
        return Job(
            id=job_id,
            owner=self._key.id,
            type="chat",
            model=self._spec.name,
            requests=(request,),
            priority=self._priority,
        )

    async def _stored_reply(self, end: JobReplied) -> ChatReply:
        """Stores the exchange; a store that is unavailable costs only a warning, because the reply is ready."""
        now, warnings = self._clock(), []
        if self._context.n_left_out:
            warnings.append(
                "The conversation is longer than the model's context: "
                f"its oldest {self._context.n_left_out} messages were left out."
            )
        if not await self._exchange.store(self._database, end.text, now):
            logger.warning("conversation turn not stored")
            warnings.append("This exchange could not be stored: later replies will not take it into account.")
        return ChatReply(
            text=end.text,
            at=now,
            conversation_id=self._exchange.conversation_id,
            model=self._spec.name,
            prompt_tokens=end.prompt_tokens,
            completion_tokens=end.completion_tokens,
            finish_reason=end.finish_reason,
            warnings=tuple(warnings),
        )


def _error_of(end: JobFailed | JobCanceled | None) -> ServerError:
    match end:
        case JobFailed(code="context_overflow" | "bad_request", message=text):
            return BadRequest(text)
        case JobFailed(code="model_error" | "invalid_output"):
            return Internal("The model failed on this message. The message was not charged.")
        case JobFailed(message=text):
            return Unavailable(text, retry_after_s=5)
        case _:
            return Unavailable("The server stopped this reply. The message was not charged.", retry_after_s=5)
