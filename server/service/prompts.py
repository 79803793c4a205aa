"""Turns the messages of a chat into its prompt on worker threads, before anything is charged or sent to the engine.

Templates and tokenizers take long for long texts, so neither the event loop nor a device thread runs them. Event loop
only.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

from models.errors import ModelsError
from models.isolation.panics import without_panic
from models.spec import ModelSpec
from pipelines.chat_interface import Message, Prompt, PromptOptions, PromptRefused, PromptTooLong, RawPrompt
from pipelines.fault_points import reach
from server.errors import BadRequest, ContextTooLong, Unavailable
from server.service.chat_context import ChatContext
from server.service.media_memory import MediaMemory
from server.service.model_turns import ModelTurns

logger = logging.getLogger(__name__)

T = TypeVar("T")

AT_ONCE = 2  # prompts of one model that hold a thread; its tokenizer serves one of them at a time


class PromptReader(Protocol):
    """Called on worker threads. Raises `PromptRefused`, and `ModelsError` when the tokenizer cannot be opened."""

    def read(self, spec: ModelSpec, messages: Sequence[Message], options: PromptOptions) -> Prompt: ...
    def read_raw(self, spec: ModelSpec, raw: RawPrompt) -> Prompt: ...
    def constrain(self, spec: ModelSpec, prompt: Prompt) -> Prompt: ...
    def n_tokens_known(self, spec: ModelSpec) -> int: ...
    def open(self, spec: ModelSpec) -> None: ...


class Prompts:
    def __init__(
        self,
        reader: PromptReader,
        executor: Executor,
        grammar_executor: Executor | None = None,
        during: Callable[[str, str], AbstractContextManager[None]] = lambda action, model: nullcontext(),
    ) -> None:
        """grammar_executor: of its threads, each may take seconds to read a grammar; None: the same as of prompts.

        during: marks what a worker thread does with a model within a block, see `server.marks`.
        """
        self._during = during
        self._reader = reader
        self._executor = executor
        self._grammar_executor = grammar_executor or executor
        self._media_memory = MediaMemory()
        self._turns = ModelTurns(AT_ONCE)
        self._with_pictures = asyncio.Semaphore(1)  # their prompts take long, and leave a thread to the others

    def open_early(self, spec: ModelSpec) -> None:
        """Open the model's tokenizer on a worker thread, so that the first chat does not wait for it."""

        def open_tokenizer() -> None:
            with self._during("tokenizer", spec.name):
                self._reader.open(spec)

        opening = self._executor.submit(open_tokenizer)
        opening.add_done_callback(lambda done: _log_failure(spec, done))

    async def read(self, spec: ModelSpec, context: ChatContext, options: PromptOptions) -> Prompt:
        """The prompt of a conversation, which is shortened until it fits if the server keeps its history.

        Raises `ContextTooLong`, `BadRequest` for messages that the template refuses, `TooMany` when the pictures of all
        chats take too much memory, and `Unavailable` when the tokenizer cannot be opened.
        """
        while True:
            messages = context.messages
            try:
                has_pictures = any(message.images for message in messages)
                async with self._with_pictures if has_pictures else nullcontext():
                    prompt = await self._run(spec, functools.partial(self._reader.read, spec, messages, options))
                prompt = await self._constrained(spec, prompt)
            except PromptTooLong as error:
                if not context.shorten():
                    raise ContextTooLong(error.message) from None
            else:
                if prompt.media is not None:
                    self._media_memory.take(prompt.media)
                return prompt

    async def read_raw(self, spec: ModelSpec, raw: RawPrompt) -> Prompt:
        """Raises `ContextTooLong`, `Unavailable` as `read` does, and `BadRequest` for tokens that the model has not."""
        try:
            prompt = await self._run(spec, functools.partial(self._reader.read_raw, spec, raw))
        except PromptTooLong as error:
            raise ContextTooLong(error.message, param=error.field) from None
        return await self._constrained(spec, prompt)

    async def check_tokens(self, spec: ModelSpec, field: str, tokens: Sequence[int]) -> None:
        """Raises `BadRequest` when the model has no such tokens."""
        n_known = await self._run(spec, lambda: self._reader.n_tokens_known(spec))
        if any(not 0 <= token < n_known for token in tokens):
            raise BadRequest(f"{field} must name tokens of the model: 0 to {n_known - 1}.", param=field)

    async def _constrained(self, spec: ModelSpec, prompt: Prompt) -> Prompt:
        """The prompt with its grammar compiled, which other prompts do not wait for."""
        if prompt.grammar is None or prompt.constraint is not None:
            return prompt
        work = functools.partial(self._reader.constrain, spec, prompt)
        return await self._run(spec, work, self._grammar_executor)

    async def _run(self, spec: ModelSpec, work: Callable[[], T], executor: Executor | None = None) -> T:
        def marked() -> T:
            with self._during("prompt", spec.name):
                reach("template", spec.name)
                return work()

        try:
            async with self._turns.of(spec.fingerprint) if executor is None else nullcontext():
                return await asyncio.get_running_loop().run_in_executor(
                    executor or self._executor, without_panic, marked
                )
        except PromptTooLong:
            raise
        except PromptRefused as error:
            logger.info("prompt refused", extra={"model": spec.name, "detail": error.detail})
            raise BadRequest(error.message, param=error.field) from None
        except ModelsError as error:
            logger.warning("tokenizer not opened", extra={"model": spec.name, "detail": error.detail or error.message})
            raise Unavailable(f"The model {spec.name} failed to load: {error.message}.", retry_after_s=5) from None


def _log_failure(spec: ModelSpec, opening: Future[None]) -> None:
    """The first chat tries again, and its client gets the reason."""
    if not opening.cancelled() and (error := opening.exception()) is not None:
        logger.info("tokenizer not opened early", extra={"model": spec.name, "reason": str(error)})
