"""The JSON of replies in Ollama's API: one object, or one a line, the last of which tells times and counts.

Durations are in nanoseconds, and only those that were measured are told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Literal

from pipelines.chat_interface import TokenLogprobs, ToolCall
from pipelines.interface import FinishReason
from server.api.openai.reply_parts import token_logprobs, warnings
from server.api.shared.call_arguments import arguments_object
from server.api.wire import JsonObject, Reply, timestamp
from server.http.json_lines import line
from server.service.chat_input import ChatDelta, ChatReply


class OllamaReplyMessage(Reply):
    role: Literal["assistant"]
    content: str
    thinking: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class OllamaReply(Reply):
    """A whole reply, or one line of a stream."""

    model: str
    created_at: str
    done: bool
    message: OllamaReplyMessage | None = None  # of a chat
    response: str | None = None  # of a text
    thinking: str | None = None  # of a text
    logprobs: list[dict[str, Any]] | None = None
    done_reason: Literal["stop", "length", "load", "unload"] | None = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None
    warnings: list[str] | None = None


DONE_REASONS: Mapping[FinishReason, str] = {"stop": "stop", "length": "length", "tool_calls": "stop"}


class Replies:
    """Makes the objects of one reply."""

    def __init__(self, kind: Literal["chat", "generate"], model: str, clock: Callable[[], datetime]) -> None:
        self._kind = kind
        self._model = model
        self._clock = clock
        self._began_at = time.monotonic()

    def whole(self, reply: ChatReply) -> JsonObject:
        (choice,) = reply.choices
        said = self._said(choice.text, choice.thinking, choice.tool_calls)
        return self._object({**said, **_logprobs(choice.logprobs), "done": True, **self._numbers(reply)})

    def without_question(self, reason: str) -> JsonObject:
        """The reply to a request that only loads a model, or unloads it."""
        return self._object({**self._said(), "done": True, "done_reason": reason})

    def silence(self) -> JsonObject:
        return self._object({**self._said(), "done": False})

    def delta(self, delta: ChatDelta) -> bytes:
        """Encodes the next text; nothing for a part of a call, since calls are told whole."""
        if not delta.text and not delta.logprobs:
            return b""
        said = self._said(delta.text) if delta.section == "content" else self._said(thinking=delta.text)
        return line(self._object({**said, **_logprobs(delta.logprobs), "done": False}))

    def end(self, reply: ChatReply) -> Iterable[bytes]:
        (choice,) = reply.choices
        if choice.tool_calls:
            yield line(self._object({**self._said(calls=choice.tool_calls), "done": False}))
        yield line(self._object({**self._said(), "done": True, **self._numbers(reply)}))

    def _said(self, text: str = "", thinking: str = "", calls: Iterable[ToolCall] = ()) -> JsonObject:
        thought = {"thinking": thinking} if thinking else {}
        if self._kind == "generate":
            return {"response": text, **thought}
        called = [_call(index, call) for index, call in enumerate(calls)]
        return {
            "message": {
                "role": "assistant", "content": text, **thought, **({"tool_calls": called} if called else {})
            }
        }  # fmt: skip

    def _object(self, content: JsonObject) -> JsonObject:
        return {"model": self._model, "created_at": timestamp(self._clock()), **content}

    def _numbers(self, reply: ChatReply) -> JsonObject:
        (choice,) = reply.choices
        times = choice.times
        measured = {
            "total_duration": time.monotonic() - self._began_at,
            "load_duration": times.load_s,
            "prompt_eval_duration": times.prompt_s,
            "eval_duration": times.reply_s,
        }
        return {
            "done_reason": DONE_REASONS[choice.finish_reason],
            **{name: round(seconds * 1e9) for name, seconds in measured.items() if seconds is not None},
            "prompt_eval_count": reply.prompt_tokens,
            "eval_count": reply.completion_tokens,
            **warnings(reply),
        }


def _call(index: int, call: ToolCall) -> JsonObject:
    """Arguments that are no JSON object, as those of a reply that was cut off, stand beside an empty one."""
    arguments = arguments_object(call.arguments)
    cut_off = {"partial_json": call.arguments} if arguments is None else {}
    return {"id": call.id, "function": {"index": index, "name": call.name, "arguments": arguments or {}, **cut_off}}


def _logprobs(logprobs: Iterable[TokenLogprobs]) -> JsonObject:
    told = token_logprobs(logprobs)
    return {"logprobs": told} if told else {}
