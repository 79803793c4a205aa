"""Turns the texts of an embedding request into tokens on worker threads. Event loop only."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from models.errors import ModelsError
from models.isolation.panics import without_panic
from models.spec import ModelSpec
from pipelines.embedding_interface import TextOptions, TextRefused, TextTokens
from pipelines.fault_points import reach
from server.errors import BadRequest, Unavailable
from server.service.model_turns import ModelTurns

logger = logging.getLogger(__name__)

AT_ONCE = 2  # requests of one model that hold a thread, so that a few texts do not wait for thousands


class TextReader(Protocol):
    """Called on worker threads. Raises `TextRefused`, and `ModelsError` when the tokenizer cannot be opened."""

    def read(
        self, spec: ModelSpec, inputs: Sequence[str | Sequence[int]], options: TextOptions
    ) -> tuple[TextTokens, ...]: ...


class Texts:
    def __init__(
        self,
        reader: TextReader,
        executor: Executor,
        during: Callable[[str, str], AbstractContextManager[None]] = lambda action, model: nullcontext(),
    ) -> None:
        """executor: not that of chats' prompts, which would wait for thousands of texts. during: as of `Prompts`."""
        self._during = during
        self._reader = reader
        self._executor = executor
        self._turns = ModelTurns(AT_ONCE)

    async def read(
        self, spec: ModelSpec, inputs: Sequence[str | Sequence[int]], options: TextOptions
    ) -> tuple[TextTokens, ...]:
        """inputs: texts, or tokens that the model reads as they are. Raises BadRequest, Unavailable."""

        def read() -> tuple[TextTokens, ...]:
            with self._during("texts", spec.name):
                reach("tokenise", spec.name)
                return self._reader.read(spec, inputs, options)

        try:
            async with self._turns.of(spec.fingerprint):
                return await asyncio.get_running_loop().run_in_executor(self._executor, without_panic, read)
        except TextRefused as error:
            if error.detail:
                logger.info("text refused", extra={"model": spec.name, "detail": error.detail})
            raise BadRequest(error.message, param=error.field) from None
        except ModelsError as error:
            logger.warning("tokenizer not opened", extra={"model": spec.name, "detail": error.detail or error.message})
            raise Unavailable(f"The model {spec.name} failed to load: {error.message}.", retry_after_s=5) from None
