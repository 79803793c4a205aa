"""Fakes of engine, catalogue, readers and memory requirements. Tests trigger the events of the fake engine."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import models.errors
from models.embedding_layout import EmbeddingLayout
from models.spec import Defaults, Limits, ModelSpec, ModelType
from pipelines.chat_interface import (
    CallDelta,
    ChatRequest,
    Message,
    Prompt,
    PromptOptions,
    PromptRefused,
    PromptTooLong,
    RawPrompt,
    Section,
    TokenLogprobs,
    TokenText,
    ToolCall,
)
from pipelines.diffusion_interface import DiffusionRequest
from pipelines.embedding_interface import EmbeddingRequest, TextOptions, TextRefused, TextTokens
from pipelines.interface import FinishReason, Request, Sound
from server.engine_status import (
    DeviceStatus,
    EngineStatus,
    MemoryHolder,
    ModelStatus,
    QueueEntry,
    RunningEntry,
    WaitingFor,
)
from server.errors import NeverFits, Unavailable
from server.job import Job
from server.protocol import (
    Cancel,
    Event,
    JobCanceled,
    JobEmbedded,
    JobFailed,
    JobPreviewed,
    JobProgressed,
    JobReplied,
    JobStarted,
    JobText,
    ModelMessage,
    OutputReady,
    Recall,
)
from server.units import size

GIB = 2**30


class FakeCatalogue:
    refused = ()

    def __init__(self, *specs: ModelSpec) -> None:
        self._specs = {spec.name: spec for spec in specs}

    def get(self, name: str) -> ModelSpec:
        if name not in self._specs:
            raise models.errors.UnknownModel("There is no model of that name.")
        return self._specs[name]

    recall = get

    def names(self) -> Sequence[str]:
        return list(self._specs)

    def specs(self) -> Sequence[ModelSpec]:
        return list(self._specs.values())

    def default_for(self, kind: ModelType) -> str | None:
        return next((spec.name for spec in self._specs.values() if spec.type == kind), None)


def spec(name: str, type: ModelType, **values: Any) -> ModelSpec:
    return ModelSpec(name=name, type=type, path=None, source="test", **{"weight_bytes": GIB} | values)


def small_catalogue() -> FakeCatalogue:
    return FakeCatalogue(
        spec(
            "painter",
            "image",
            defaults=Defaults(steps=4, guidance_scale=3.0, width=64, height=64),
            limits=Limits(size_multiple=8, max_steps=100, max_pixels=512 * 512),
            call={"shift": 2.0},
        ),
        spec(
            "filmer",
            "video",
            defaults=Defaults(steps=4, width=64, height=32, num_frames=9, fps=4),
            limits=Limits(size_multiple=16, frames_multiple=4, frames_remainder=1, max_duration_s=12),
            sizes={"9:16": (32, 64)},
        ),
        spec("talker", "chat", defaults=Defaults(max_tokens=64), limits=Limits(context_tokens=65_536)),
        spec("giant", "image", defaults=Defaults(steps=4), weight_bytes=99 * GIB),
    )


def with_embedder() -> FakeCatalogue:
    """The small catalogue, and a model whose vectors have four values."""
    layout = EmbeddingLayout(dimensions=4, pooling=("mean",), prompts={"query": "query: "})
    return FakeCatalogue(
        *small_catalogue().specs(), spec("embedder", "embedding", limits=Limits(context_tokens=100), embedding=layout)
    )


class FakeRequirements:
    """A model needs as much memory as its weights, unless a test sets `needs`."""

    def __init__(self) -> None:
        self.needs: dict[str, int] = {}  # model → bytes

    def of(self, spec: ModelSpec, requests: Sequence[Request] = ()) -> int:
        return self.needs.get(spec.name, spec.weight_bytes)


class FakePromptReader:
    """Makes one token of each character of the messages as JSON, so that a test can read them back from the prompt."""

    def __init__(self) -> None:
        self.messages: list[Sequence[Message]] = []  # of each prompt
        self.options: list[PromptOptions] = []  # of each prompt
        self.raw: list[RawPrompt] = []
        self.error: Exception | None = None  # what reading a prompt raises
        self.warnings: tuple[str, ...] = ()
        self.max_thinking_tokens: int | None = None

    def read(self, spec: ModelSpec, messages: Sequence[Message], options: PromptOptions) -> Prompt:
        if self.error is not None:
            raise self.error
        self.messages.append(messages)
        self.options.append(options)
        tokens = tuple(map(ord, json.dumps([[message.role, message.content] for message in messages])))
        context = spec.limits.context_tokens
        if context is not None and len(tokens) >= context:
            raise PromptTooLong(len(tokens), context)
        return Prompt(tokens=tokens, max_thinking_tokens=self.max_thinking_tokens, warnings=self.warnings)

    def read_raw(self, spec: ModelSpec, raw: RawPrompt) -> Prompt:
        """Makes one token of each character; a token stands for the character of its number."""
        if self.error is not None:
            raise self.error
        self.raw.append(raw)
        tokens = tuple(map(ord, raw.text)) if isinstance(raw.text, str) else raw.text
        if any(0xD800 <= token < 0xE000 or token >= 0x110000 for token in tokens):
            raise PromptRefused("The prompt contains characters that are no text.", field=raw.field)
        text = "".join(map(chr, tokens))
        return Prompt(tokens=tokens, continues=True, raw=True, text=text, offsets=tuple(range(len(text))))

    def constrain(self, spec: ModelSpec, prompt: Prompt) -> Prompt:
        raise AssertionError("its prompts have no grammar")

    def n_tokens_known(self, spec: ModelSpec) -> int:
        return 0x110000

    def open(self, spec: ModelSpec) -> None:
        pass


class FakeTextReader:
    """Makes one token of each character."""

    def read(
        self, spec: ModelSpec, inputs: Sequence[str | Sequence[int]], options: TextOptions
    ) -> tuple[TextTokens, ...]:
        limit = spec.limits.context_tokens or 512
        texts = [tuple(map(ord, text)) if isinstance(text, str) else tuple(text) for text in inputs]
        if options.truncate:
            texts = [text[:limit] for text in texts]
        if (longest := max(map(len, texts))) > limit:
            raise TextRefused(f"A text has {longest} tokens; the model reads at most {limit}.")
        if options.max_tokens is not None and sum(map(len, texts)) > options.max_tokens:
            raise TextRefused(f"The input has more than {options.max_tokens} tokens in total.")
        return tuple(map(TextTokens, texts))


def messages_in(prompt: Prompt) -> list[tuple[str, str]]:
    """Role and content of each message in a prompt of `FakePromptReader`."""
    return [(role, content) for role, content in json.loads("".join(map(chr, prompt.tokens)))]


@dataclass(frozen=True, slots=True)
class FakeReply:
    text: str
    thinking: str = ""
    calls: tuple[ToolCall, ...] = ()
    stop_text: str | None = None
    finish_reason: FinishReason | None = None  # None: "tool_calls" or "stop"


def vector_of(tokens: Sequence[int]) -> tuple[float, ...]:
    """The vector that `FakeEngine` gives a text: its length, its first and its last token, and a third."""
    return len(tokens), tokens[0], tokens[-1], 1 / 3


class FakeEngine:
    """Keeps submitted jobs until a test runs or fails them. Chats get what `reply` returns at once; None: no reply."""

    def __init__(self, capacity_bytes: int = 8 * GIB) -> None:
        self.deliver: Callable[[Event], None] = lambda event: None
        self.not_ready_reason: str | None = "the engine is starting"
        self.jobs: dict[str, Job] = {}
        self.submitted = asyncio.Event()
        self.sent: list[Cancel | Recall | ModelMessage] = []
        self.draining = False
        self.alive = True
        self.stuck_in: str | None = None
        self.reply: Callable[[ChatRequest], str | FakeReply] | None = _echo
        self.embeds = True  # embeddings are made at once
        self.usable_bytes = capacity_bytes

    # The engine port

    def check_fits(self, model: str, need_bytes: int) -> None:
        if need_bytes > self.usable_bytes:
            raise NeverFits(f"{model} needs {size(need_bytes)}, this device has {size(self.usable_bytes)} for models.")

    def submit(self, job: Job, need_bytes: int = 0, at: float | None = None) -> None:
        if self.not_ready_reason is not None:
            raise Unavailable(f"Not accepting jobs: {self.not_ready_reason}.", retry_after_s=5)
        self.check_fits(job.model, need_bytes)
        self.jobs[job.id] = job
        self.submitted.set()
        request = job.requests[0]
        if isinstance(request, EmbeddingRequest) and self.embeds:
            self.start_job(job.id)
            vectors = np.array([vector_of(text.tokens) for text in request.texts], np.float32)
            self.deliver(JobEmbedded(job.id, vectors[:, : request.dimensions], request.n_tokens))
        if isinstance(request, ChatRequest) and self.reply is not None:
            self.start_job(job.id)
            if request.n_prompt_logprobs is not None:
                self.score(job.id, request.prompt)
            made = self.reply(request)
            reply = FakeReply(made) if isinstance(made, str) else made
            self.finish_chat(
                job.id,
                reply.text,
                reply.thinking,
                calls=reply.calls,
                stop_text=reply.stop_text,
                finish_reason=reply.finish_reason,
            )

    def send(self, message: Cancel | Recall | ModelMessage) -> None:
        self.sent.append(message)

    def start(self) -> None:
        self.not_ready_reason = None

    async def drain(self, timeout_s: float) -> None:
        self.draining = True
        self.not_ready_reason = "the server is shutting down"

    @property
    def canceled(self) -> list[str]:
        """Ids of the jobs whose cancellation was requested, in order."""
        return [message.job_id for message in self.sent if isinstance(message, Cancel)]

    # Triggered by tests

    def start_job(self, job_id: str, queue_ms: int = 7, load_ms: int = 3) -> None:
        self.deliver(JobStarted(job_id, queue_ms, load_ms))

    def progress(self, job_id: str, stage: Any, step: int = 0, total: int = 4) -> None:
        self.deliver(JobProgressed(job_id, stage, step, total))

    def preview(self, job_id: str, value: int) -> None:
        self.deliver(JobPreviewed(job_id, np.full((6, 8, 3), value, np.uint8)))

    def render(
        self,
        job_id: str,
        index: int = 0,
        value: float | None = None,
        sound: Sound | None = None,
        *,
        flagged: bool = False,
    ) -> None:
        """Delivers output `index`, of the requested size: noise from the request's seed, or `value` everywhere."""
        request = self.jobs[job_id].requests[index]
        assert isinstance(request, DiffusionRequest)
        shape = (request.num_frames or 1, request.height, request.width, 3)
        noise = np.random.default_rng(request.seed).random(shape, dtype=np.float32)
        frames = noise if value is None else np.full(shape, value, np.float32)
        output = OutputReady(job_id, index, frames, 2, "FlowMatchEulerDiscreteScheduler", sound=sound, flagged=flagged)
        self.deliver(output)

    def run(self, job_id: str) -> None:
        """Starts a job and delivers all of its outputs."""
        self.start_job(job_id)
        for index in range(len(self.jobs[job_id].requests)):
            self.render(job_id, index)

    def work(self) -> None:
        """Does what a real engine would do by itself with all submitted jobs: ends canceled ones, runs the others."""
        for job_id in list(self.jobs):
            if job_id in self.canceled:
                self.confirm_cancel(job_id)
            elif isinstance(self.jobs[job_id].requests[0], DiffusionRequest):
                self.run(job_id)
            del self.jobs[job_id]

    def fail(self, job_id: str, code: Any = "model_error", message: str = "The model failed.") -> None:
        self.deliver(JobFailed(job_id, code, message, True))

    def confirm_cancel(self, job_id: str) -> None:
        self.deliver(JobCanceled(job_id))

    def say(
        self, job_id: str, text: str, section: Section = "content", logprobs: tuple[TokenLogprobs, ...] = ()
    ) -> None:
        """Delivers the next text of a chat's reply."""
        self.deliver(JobText(job_id, text, time.monotonic(), section, logprobs))

    def score(self, job_id: str, prompt: Prompt) -> None:
        """Delivers the log probabilities of a raw prompt's characters: -1 but for the first, which has none."""
        texts = [
            TokenText(chr(each), chr(each).encode(), -1.0 if i else math.nan, each)
            for i, each in enumerate(prompt.tokens)
        ]
        self.say(job_id, "", "prompt", tuple(TokenLogprobs(text, (text,) if i else ()) for i, text in enumerate(texts)))

    def call(self, job_id: str, index: int, call: ToolCall) -> None:
        """Delivers a call of a reply in three parts: its name, and its arguments in two."""
        middle = len(call.arguments) // 2
        parts = [
            CallDelta(index, call.id, call.name),
            CallDelta(index, arguments=call.arguments[:middle]),
            CallDelta(index, arguments=call.arguments[middle:]),
        ]
        for part in parts:
            self.deliver(JobText(job_id, "", time.monotonic(), call=part))

    def finish_chat(
        self,
        job_id: str,
        text: str,
        thinking: str = "",
        warnings: tuple[str, ...] = (),
        calls: tuple[ToolCall, ...] = (),
        stop_text: str | None = None,
        finish_reason: FinishReason | None = None,
    ) -> None:
        """Delivers a whole reply: what the model thought, its answer, its calls of tools, and the end."""
        if thinking:
            self.say(job_id, thinking, "thinking")
        if text or not calls:
            self.say(job_id, text)
        for index, call in enumerate(calls):
            self.call(job_id, index, call)
        n_thinking = 3 if thinking else 0
        finish: FinishReason = finish_reason or ("tool_calls" if calls else "stop")
        end = JobReplied(job_id, text, 12, 5 + n_thinking, finish, thinking, n_thinking, warnings, calls, stop_text)
        self.deliver(end)

    def publish(
        self,
        queue: Sequence[tuple[str, WaitingFor, float | None]] = (),
        running: Sequence[tuple[str, float | None]] = (),
        models: Sequence[ModelStatus] = (),
    ) -> None:
        """Delivers a status. queue: (job id, reason to wait, eta); running: (job id, eta)."""
        device = DeviceStatus(
            name="cpu",
            total_bytes=8 * GIB,
            used_bytes=2 * GIB,
            others_bytes=0,
            reserve_bytes=GIB,
            free_bytes=5 * GIB,
            holders=(MemoryHolder("painter", "weights", 2 * GIB),),
        )
        self.deliver(
            EngineStatus(
                queue=tuple(QueueEntry(job_id, reason, GIB, eta) for job_id, reason, eta in queue),
                running=tuple(RunningEntry(job_id, eta) for job_id, eta in running),
                models=tuple(models),
                device=device,
            )
        )


def _echo(request: ChatRequest) -> str:
    return " and on" if request.prompt.raw else f"You said: {messages_in(request.prompt)[-1][1]}"
