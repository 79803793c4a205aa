"""Opens chat turns: checks the limits, charges the message, reads the stored conversation. Event loop only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection

from models.spec import ModelSpec
from pipelines.chat_interface import Message, Prompt
from server.accounts.auth import ApiKey
from server.accounts.quotas import Plan
from server.accounts.usage import Accounts
from server.errors import BadRequest, ServerError
from server.jobs.artifacts import new_id
from server.jobs.limits import JobLimits
from server.jobs.results import Results
from server.service.chat_charge import ChatCharge, charge_chat
from server.service.chat_context import ChatContext
from server.service.chat_exchange import ChatExchange
from server.service.chat_images import ChatImages
from server.service.chat_input import ChatInput
from server.service.chat_turn import ChatTurn
from server.service.metrics import Metrics
from server.service.prompts import Prompts
from server.service.running_chats import RunningChats
from server.store import messages
from server.store.database import Database

MAX_SCORES = 2_000_000  # of the prompts of one request: each takes about 500 bytes until the reply is sent
REFUND_WAIT_S = 1.0  # longest that a refused message waits for its refund; a store that is busy refunds it later


class Chats:
    def __init__(
        self,
        *,
        database: Database,
        accounts: Accounts,
        limits: JobLimits,
        results: Results,
        metrics: Metrics,
        running_chats: RunningChats,
        prompts: Prompts,
        images: ChatImages,
        clock: Callable[[], datetime],
        system_prompt: str | None,
    ) -> None:
        """system_prompt: the server's own, for messages without one; models may have a default after that."""
        self._database = database
        self._accounts = accounts
        self._limits = limits
        self._results = results
        self._metrics = metrics
        self.running_chats = running_chats
        self._prompts = prompts
        self._images = images
        self._clock = clock
        self._system_prompt = system_prompt

    async def open(self, key: ApiKey, chat_input: ChatInput) -> ChatTurn:
        """Charges a message and reads its prompt; the reply is made while the turn's `deltas` are read.

        Raises BadRequest, UnknownModel, NeverFits, Conflict, TooMany, Unavailable; then nothing was charged.
        """
        plan, spec = self._allowed(key, chat_input)
        running = self.running_chats
        now = self._clock()
        conversation_id = chat_input.conversation_id or f"conv_{new_id()}"

        def charge_and_read(conn: Connection) -> tuple[ChatCharge, list[Message]]:
            charge = charge_chat(conn, key, plan, now, chat_input.n_replies)
            return charge, messages.history(conn, key.id, conversation_id) if chat_input.conversation_id else []

        taken = running.take(key.id, chat_input.n_replies)  # the turn gives them back
        try:
            charge, history = await self._database.write(charge_and_read)
        except BaseException:
            taken.give_back()
            raise
        try:
            chat_input = replace(chat_input, messages=await self._images.fetched(key, chat_input.messages))
            context = self._context(spec, chat_input, history)
            read_prompts = await self._read_prompts(spec, chat_input, context)
        except BaseException as error:
            taken.give_back()
            refund = charge.refund(self._results)
            if isinstance(error, ServerError):  # its reply says how much of the day's limit is used
                await asyncio.wait({refund}, timeout=REFUND_WAIT_S)
            raise
        exchange = ChatExchange(
            key_id=key.id,
            conversation_id=conversation_id,
            existed=bool(history),
            stored=chat_input.stored,
            new_messages=chat_input.messages,
            model=spec.name,
            system=chat_input.system,
        )
        return ChatTurn(
            key=key,
            priority=plan.priority,
            chat_input=chat_input,
            spec=spec,
            need_bytes=self._limits.need_bytes(spec),
            context=context,
            read_prompts=read_prompts,
            prompts=self._prompts,
            charge=charge,
            exchange=exchange,
            running_chats=running,
            taken=taken,
            database=self._database,
            results=self._results,
            metrics=self._metrics,
            clock=self._clock,
        )

    async def count_tokens(self, key: ApiKey, chat_input: ChatInput) -> int:
        """The tokens of the prompt that `open` would make of a conversation that the client keeps. Not charged.

        Raises as `open` does.
        """
        _, spec = self._allowed(key, chat_input)
        with self.running_chats.count(key.id):
            chat_input = replace(chat_input, messages=await self._images.fetched(key, chat_input.messages))
            context = self._context(spec, chat_input)
            read_prompts = await self._read_prompts(spec, chat_input, context)
        return sum(len(prompt.tokens) for prompt in read_prompts)

    def _allowed(self, key: ApiKey, chat_input: ChatInput) -> tuple[Plan, ModelSpec]:
        """The key's plan and the model. Raises when this key may not send one more message now."""
        plan = self._accounts.plan_of(key)
        spec = self._limits.model(chat_input.model, "chat")
        self._images.check(spec, chat_input.messages)
        running = self.running_chats
        self._limits.check(key, plan, spec, running.n_of_key[key.id], len(running.event_queues))
        return plan, spec

    def _context(self, spec: ModelSpec, chat_input: ChatInput, history: Sequence[Message] = ()) -> ChatContext:
        system = chat_input.system or self._system_prompt or spec.defaults.system
        given, droppable = chat_input.messages, chat_input.may_leave_out
        earlier = given[droppable.start : droppable.stop]
        return ChatContext(system, [*history, *earlier], given[droppable.stop :], given[: droppable.start])

    async def _read_prompts(self, spec: ModelSpec, chat_input: ChatInput, context: ChatContext) -> Sequence[Prompt]:
        if chat_input.logit_bias:
            await self._prompts.check_tokens(spec, "logit_bias", [token for token, _ in chat_input.logit_bias])
        if chat_input.stop_tokens:
            await self._prompts.check_tokens(spec, "stop_token_ids", chat_input.stop_tokens)
        if chat_input.raw_prompts:
            prompts = [await self._prompts.read_raw(spec, raw) for raw in chat_input.raw_prompts]
            _check_scores(chat_input, prompts)
            return prompts
        return [await self._prompts.read(spec, context, chat_input.prompt_options)]


def _check_scores(chat_input: ChatInput, prompts: Sequence[Prompt]) -> None:
    """Raises `BadRequest` when the log probabilities of the prompts would take too much memory."""
    if chat_input.n_prompt_logprobs is None:
        return
    n_tokens = chat_input.n_choices * sum(len(prompt.tokens) for prompt in prompts)
    if n_tokens * (1 + chat_input.n_prompt_logprobs) > MAX_SCORES:
        message = (
            f"The prompts of one request may have {MAX_SCORES:,} log probabilities together, those of the likeliest "
            "tokens included. Send fewer or shorter prompts, or ask for fewer tokens at each place."
        )
        raise BadRequest(message, param="prompt")
