"""Embeds texts: checks the limits, reads the texts on a worker thread, runs one job of the engine. Event loop only.

An embedding is not a stored job: it ends when its client disconnects. Plans do not count embeddings; bursts and queue
lengths are limited for them as for chats, together with these.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from models.spec import ModelSpec
from pipelines.embedding_interface import EmbeddingRequest, TextOptions
from server.accounts.auth import ApiKey
from server.accounts.usage import Accounts
from server.errors import BadRequest, Internal, ServerError, Unavailable
from server.job import UNSTORED, Job
from server.jobs.artifacts import new_id
from server.jobs.limits import JobLimits
from server.protocol import JobCanceled, JobEmbedded, JobFailed
from server.service.running_chats import RunningChats
from server.service.texts import Texts

MAX_TEXTS = 2048  # of one request, as OpenAI has it
MAX_TOKENS = 300_000  # of all texts of one request


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingInput:
    inputs: Sequence[str | Sequence[int]]  # 1 to MAX_TEXTS texts, or tokens that the model reads as they are
    model: str | None = None
    dimensions: int | None = None  # keep only the first values of each vector
    normalize: bool | None = None  # to length 1; None: as the checkpoint says
    options: TextOptions = field(default_factory=TextOptions)


@dataclass(frozen=True, slots=True)
class EmbeddingReply:
    model: str
    vectors: NDArray[np.float32]  # (number of inputs, dimensions), in their order
    n_tokens: int  # of all inputs, with the tokens of prompts
    warnings: tuple[str, ...] = ()


class Embeddings:
    def __init__(
        self,
        *,
        accounts: Accounts,
        limits: JobLimits,
        running: RunningChats,
        texts: Texts,
    ) -> None:
        self._accounts = accounts
        self._limits = limits
        self._running = running
        self._texts = texts

    async def embed(self, key: ApiKey, given: EmbeddingInput) -> EmbeddingReply:
        """Returns one vector for each input. A caller that is canceled cancels the job.

        Raises BadRequest, UnknownModel, NeverFits, Conflict, TooMany, Unavailable, Internal.
        """
        assert 0 < len(given.inputs) <= MAX_TEXTS
        plan, spec = self._accounts.plan_of(key), self._limits.model(given.model, "embedding")
        running = self._running
        self._limits.check(key, plan, spec, running.n_of_key[key.id], len(running.event_queues))
        _check_dimensions(spec, given.dimensions)
        with running.count(key.id):
            texts = await self._texts.read(spec, given.inputs, replace(given.options, max_tokens=MAX_TOKENS))
            job_id = f"{UNSTORED['embedding']}{new_id()}"
            request = EmbeddingRequest(
                id=f"{job_id}/0",
                owner=key.id,
                texts=texts,
                dimensions=given.dimensions,
                normalize=given.normalize,
            )
            job = Job(
                id=job_id,
                owner=key.id,
                type="embedding",
                model=spec.name,
                requests=(request,),
                priority=plan.priority,
            )
            return await self._run(job, self._limits.need_bytes(spec, (request,)))

    async def _run(self, job: Job, need_bytes: int) -> EmbeddingReply:
        async with aclosing(self._running.run(job, need_bytes)) as events:
            async for event in events:
                match event:
                    case JobEmbedded(_, vectors, n_tokens, warnings):
                        return EmbeddingReply(job.model, vectors, n_tokens, warnings)
                    case JobFailed() | JobCanceled():
                        raise _error_of(event)
        raise AssertionError("the events of a job end with its end")


def _check_dimensions(spec: ModelSpec, dimensions: int | None) -> None:
    if dimensions is not None and spec.embedding is not None and dimensions > spec.embedding.dimensions:
        most = spec.embedding.dimensions
        raise BadRequest(f"dimensions must be from 1 to {most}, those of {spec.name}.", param="dimensions")


def _error_of(end: JobFailed | JobCanceled) -> ServerError:
    match end:
        case JobFailed(code="context_overflow" | "bad_request", message=text):
            return BadRequest(text, param="input")
        case JobFailed(code="model_error" | "invalid_output"):
            return Internal("The model failed on these texts.")
        case JobFailed(message=text):
            return Unavailable(text, retry_after_s=5)
        case JobCanceled():
            return Unavailable("The server stopped this request.", retry_after_s=5)
