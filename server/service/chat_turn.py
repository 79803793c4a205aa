"""One turn of a chat: the client's message, the engine jobs that make the reply, and the reply. Event loop only."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import TypeVar

from models.spec import ModelSpec
from pipelines.chat_interface import ChatRequest, Message, Prompt
from server.accounts.auth import ApiKey
from server.errors import ContextTooLong, ServerError
from server.job import Job
from server.jobs.artifacts import new_id
from server.jobs.request.generate_request import MAX_SEED, RANDOM_SEED_LIMIT
from server.jobs.results import Results
from server.service.chat_charge import ChatCharge
from server.service.chat_choice import ChoiceRun
from server.service.chat_context import ChatContext
from server.service.chat_exchange import ChatExchange
from server.service.chat_input import ChatDelta, ChatInput, ChatReply
from server.service.merge import merged
from server.service.metrics import Metrics
from server.service.prompts import Prompts
from server.service.running_chats import RepliesTaken, RunningChats
from server.store.database import Database

logger = logging.getLogger(__name__)

T = TypeVar("T")


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
        read_prompts: Sequence[Prompt],
        prompts: Prompts,
        charge: ChatCharge,
        exchange: ChatExchange,
        running_chats: RunningChats,
        taken: RepliesTaken,
        database: Database,
        results: Results,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        """read_prompts: that of the messages, or of each raw prompt. taken: of the replies that the key may have."""
        self._key = key
        self._priority = priority
        self._input = chat_input
        self._spec = spec
        self._need_bytes = need_bytes
        self._context = context
        self._prompts = prompts
        self._exchange = exchange
        self._running_chats = running_chats
        self._taken = taken
        self._database = database
        self._results = results
        self._metrics = metrics
        self._clock = clock
        self._choices: list[ChoiceRun] = []
        # The part of a streamed reply that the client has received. No text comes in the section prompt.
        self._sent = {"thinking": "", "content": "", "prompt": ""}
        self.read_prompts = read_prompts
        self.charge = charge
        self.model = spec.name
        self.reply: ChatReply | None = None

    @property
    def prompt_tokens(self) -> int:
        return sum(len(prompt.tokens) for prompt in self.read_prompts)

    async def deltas(self, *, streamed: bool = False) -> AsyncGenerator[ChatDelta]:
        """Yields the text of the reply as it is made. Raises a `ServerError` after a refund when the reply fails.

        Closing the generator early cancels the reply. A reply that has not started is then refunded; of a streamed
        reply the text received so far is stored as if the model had ended there, so that the user can continue.

        streamed: each text is sent to the client before the next one is requested, and that delay is measured.
        """
        first = True
        try:
            async with aclosing(self._deltas()) as deltas:
                async for delta in deltas:
                    yield delta
                    if streamed:
                        self._metrics.text_sent(delta.at, first)
                        first = False
                        self._sent[delta.section] += delta.text
        except ServerError:
            self.charge.refund(self._results)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            if not any(choice.started for choice in self._choices):
                self.charge.refund(self._results)
                raise
            if self.reply is None:
                self.charge.keep(self._results)
                if self._sent["content"]:
                    self._exchange.store_partial(self._results, self._received(), self._clock())
            raise
        finally:
            self._taken.give_back()

    async def _deltas(self) -> AsyncGenerator[ChatDelta]:
        """Yields the texts of all choices, then sets `reply`. Raises a `ServerError` when one of them fails.

        A conversation that the server keeps and that is too long for the model's KV cache is shortened and tried again.
        """
        while True:
            self._choices = [
                ChoiceRun(index, job, self._need_bytes, self._running_chats) for index, job in enumerate(self._jobs())
            ]
            try:
                async with aclosing(merged([choice.deltas() for choice in self._choices])) as deltas:
                    async for delta in deltas:
                        yield delta
            except ContextTooLong:
                if not self._context.shorten():
                    raise
                self.read_prompts = [await self._prompts.read(self._spec, self._context, self._input.prompt_options)]
            else:
                break
        self._sent = dict.fromkeys(self._sent, "")  # the whole reply is stored instead
        self.reply = await self._stored_reply()

    def _jobs(self) -> Sequence[Job]:
        seed = _given_or(self._input.seed, secrets.randbelow(RANDOM_SEED_LIMIT))
        seeds = [(seed + index) % (MAX_SEED + 1) for index in range(self._input.n_choices)]
        return [self._job(prompt, each) for prompt in self.read_prompts for each in seeds]

    def _job(self, prompt: Prompt, seed: int) -> Job:
        given, defaults = self._input, self._spec.defaults
        job_id = f"chat_{new_id()}"
        request = ChatRequest(
            id=f"{job_id}/0",
            owner=self._key.id,
            prompt=prompt,
            max_tokens=_given_or(given.max_tokens, defaults.max_tokens),
            temperature=_given_or(given.temperature, defaults.temperature),
            top_p=_given_or(given.top_p, defaults.top_p),
            top_k=_given_or(given.top_k, defaults.top_k),
            min_p=_given_or(given.min_p, defaults.min_p),
            seed=seed,
            stop=given.stop,
            stop_tokens=given.stop_tokens,
            min_tokens=given.min_tokens,
            ignores_end=given.ignores_end,
            repetition_penalty=_given_or(given.repetition_penalty, defaults.repetition_penalty),
            presence_penalty=given.presence_penalty,
            frequency_penalty=given.frequency_penalty,
            logit_bias=given.logit_bias,
            n_logprobs=given.n_logprobs,
            n_prompt_logprobs=given.n_prompt_logprobs,
            max_thinking_tokens=_given_or(given.max_thinking_tokens, prompt.max_thinking_tokens),
        )
        return Job(
            id=job_id,
            owner=self._key.id,
            type="chat",
            model=self._spec.name,
            requests=(request,),
            priority=self._priority,
        )

    async def _stored_reply(self) -> ChatReply:
        """Stores the exchange; a store that is unavailable costs only a warning, because the reply is ready."""
        now, first_choices = self._clock(), self._choices[:: self._input.n_choices]  # of each prompt
        noted = [*(prompt.warnings for prompt in self.read_prompts), *(choice.warnings for choice in first_choices)]
        warnings = [*self._input.warnings, *dict.fromkeys(warning for each in noted for warning in each)]
        if self._context.n_left_out:
            warnings.append(
                "The conversation is longer than the model's context: "
                f"its oldest {self._context.n_left_out} messages were left out."
            )
        choices = tuple(choice.choice for choice in self._choices)
        message = Message("assistant", choices[0].text, thinking=choices[0].thinking, tool_calls=choices[0].tool_calls)
        if not self._exchange.stored:
            self.charge.keep(self._results)
        elif not await self._exchange.store(self._database, message, now, self.charge.id):
            self.charge.keep(self._results)
            logger.warning("conversation turn not stored")
            warnings.append("This exchange could not be stored: later replies will not take it into account.")
        return ChatReply(
            choices=choices,
            at=now,
            conversation_id=self._exchange.conversation_id,
            model=self._spec.name,
            prompt_tokens=sum(choice.prompt_tokens for choice in first_choices),
            warnings=tuple(warnings),
        )

    def _received(self) -> Message:
        return Message("assistant", self._sent["content"], thinking=self._sent["thinking"])


def _given_or(given: T | None, default: T) -> T:
    """What the client gave, which may be 0."""
    return default if given is None else given
