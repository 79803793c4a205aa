"""Makes one reply to a message with a job of the engine: its deltas as they come, then the whole. Event loop only.

A message usually has one choice; with `n` it has several, each with a job of its own.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from pipelines.chat_interface import TokenLogprobs
from server.errors import BadRequest, ContextTooLong, Internal, ServerError, Unavailable
from server.job import Job
from server.protocol import JobCanceled, JobFailed, JobReplied, JobStarted, JobText
from server.service.chat_input import ChatChoice, ChatDelta, ChatTimes
from server.service.running_chats import RunningChats


class ChoiceRun:
    def __init__(self, index: int, job: Job, need_bytes: int, running_chats: RunningChats) -> None:
        self._index = index
        self._job = job
        self._need_bytes = need_bytes
        self._running_chats = running_chats
        self._logprobs: list[TokenLogprobs] = []
        self._prompt_logprobs: tuple[TokenLogprobs, ...] = ()
        self._end: JobReplied | None = None
        self.started = False  # whether the engine has begun with the reply
        self._started_at = 0.0  # on the monotonic clock, as those of the texts
        self._load_ms = 0
        self._text_at: tuple[float, float] | None = None  # of the first and the last text

    async def deltas(self) -> AsyncGenerator[ChatDelta]:
        """Yields the texts of the job, then sets the reply. Raises a `ServerError` when the job fails.

        Closing the generator early cancels the job.
        """
        async with aclosing(self._running_chats.run(self._job, self._need_bytes)) as events:
            async for event in events:
                match event:
                    case JobStarted(_, _, load_ms):
                        self.started = True
                        self._started_at, self._load_ms = time.monotonic(), load_ms
                    case JobText(_, text, at, section, logprobs, call):
                        if section == "prompt":
                            self._prompt_logprobs = logprobs
                        else:
                            self._logprobs += logprobs
                            self._text_at = (self._text_at[0] if self._text_at else at, at)
                        yield ChatDelta(self._index, section, text, logprobs, at, call)
                    case JobReplied():
                        self._end = event
                    case JobFailed() | JobCanceled():
                        raise _error_of(event)

    @property
    def prompt_tokens(self) -> int:
        return self._reply.prompt_tokens

    @property
    def warnings(self) -> tuple[str, ...]:
        return self._reply.warnings

    @property
    def choice(self) -> ChatChoice:
        return ChatChoice(
            text=self._reply.text,
            thinking=self._reply.thinking,
            finish_reason=self._reply.finish_reason,
            completion_tokens=self._reply.completion_tokens,
            thinking_tokens=self._reply.thinking_tokens,
            logprobs=tuple(self._logprobs),
            prompt_logprobs=self._prompt_logprobs,
            tool_calls=self._reply.tool_calls,
            stop_text=self._reply.stop_text,
            times=self._times,
        )

    @property
    def _times(self) -> ChatTimes:
        load_s = self._load_ms / 1000
        if self._text_at is None:
            return ChatTimes(load_s)
        first, last = self._text_at
        return ChatTimes(load_s, max(0.0, first - self._started_at), last - first)

    @property
    def _reply(self) -> JobReplied:
        assert self._end is not None, "deltas() sets the reply or raises"
        return self._end


def _error_of(end: JobFailed | JobCanceled) -> ServerError:
    match end:
        case JobFailed(code="context_overflow", message=text):
            return ContextTooLong(text)
        case JobFailed(code="bad_request", message=text):
            return BadRequest(text)
        case JobFailed(code="model_error" | "invalid_output"):
            return Internal("The model failed on this message. The message was not charged.")
        case JobFailed(message=text):
            return Unavailable(text, retry_after_s=5)
        case JobCanceled():
            return Unavailable("The server stopped this reply. The message was not charged.", retry_after_s=5)
