"""The JSON of a response, and its events in a stream, in OpenAI's format. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from server.api.openai.responses.output import Output
from server.api.openai.responses.schema import ResponseCall
from server.api.wire import JsonObject
from server.errors import ServerError
from server.http.sse import event
from server.service.chat_input import ChatDelta, ChatReply


class ResponseReply:
    """Makes one response of the deltas of its chat, step by step."""

    def __init__(self, response_id: str, created_at: int, model: str, call: ResponseCall) -> None:
        self.id = response_id
        self._head = _head(response_id, created_at, model, call)
        self._output = Output(response_id, call)

    def add(self, delta: ChatDelta) -> Iterable[JsonObject]:
        """Takes the next part of the reply and returns its events, which must all be read."""
        return self._output.add(delta)

    def begun(self) -> Sequence[JsonObject]:
        """Returns the events at the beginning of the response."""
        response = self._response("in_progress")
        return [
            {"type": "response.created", "response": response},
            {"type": "response.in_progress", "response": response},
        ]

    def ended(self, reply: ChatReply) -> Iterator[JsonObject]:
        """Yields the events of the items that end with the reply; then `whole` knows them all."""
        (choice,) = reply.choices
        yield from self._output.end("incomplete" if choice.finish_reason == "length" else "completed")

    def whole(self, reply: ChatReply, completed_at: int) -> JsonObject:
        """Returns the response after `ended`."""
        (choice,) = reply.choices
        warnings = {"warnings": list(reply.warnings)} if reply.warnings else {}
        if choice.finish_reason == "length":
            reason = {"incomplete_details": {"reason": "max_output_tokens"}}
            return self._response("incomplete", usage=_usage(reply), **reason, **warnings)
        return self._response("completed", completed_at=completed_at, usage=_usage(reply), **warnings)

    def failed(self, error: ServerError) -> JsonObject:
        """Returns the event that ends the stream of a response whose reply failed."""
        reason = {"code": error.code or "server_error", "message": error.message}
        return {"type": "response.failed", "response": self._response("failed", error=reason)}

    def _response(self, status: str, **fields: Any) -> JsonObject:
        return {**self._head, "status": status, "output": list(self._output.items), **fields}


def ending(response: JsonObject) -> JsonObject:
    """Returns the last event of a stream."""
    return {"type": f"response.{response['status']}", "response": response}


class Events:
    """Numbers the events of one stream and encodes them."""

    def __init__(self) -> None:
        self._n_events = 0

    def encode(self, content: JsonObject) -> bytes:
        numbered = {"type": content["type"], "sequence_number": self._n_events, **content}
        self._n_events += 1
        return event(content["type"], numbered)


def _head(response_id: str, created_at: int, model: str, call: ResponseCall) -> JsonObject:
    """The fields that stay the same, with what clients of OpenAI's types require."""
    echoed, text, reasoning = call.echoed, call.echoed.get("text") or {}, call.echoed.get("reasoning") or {}
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": call.instructions,
        "max_output_tokens": call.chat_input.max_tokens,
        "max_tool_calls": echoed.get("max_tool_calls"),
        "metadata": echoed.get("metadata") or {},
        "model": model,
        "output": [],
        "parallel_tool_calls": call.chat_input.prompt_options.tool_use.parallel,
        "previous_response_id": call.previous_id,
        "prompt_cache_key": echoed.get("prompt_cache_key"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "safety_identifier": echoed.get("safety_identifier"),
        "service_tier": "default",
        "store": call.stored,
        "temperature": echoed.get("temperature"),
        "text": {**text, "format": text.get("format") or {"type": "text"}},
        "tool_choice": echoed.get("tool_choice") or "auto",
        "tools": echoed.get("tools") or [],
        "top_logprobs": call.chat_input.n_logprobs or 0,
        "top_p": echoed.get("top_p"),
        "truncation": "auto" if call.truncated else "disabled",
        "usage": None,
        "user": echoed.get("user"),
    }


def _usage(reply: ChatReply) -> JsonObject:
    return {
        "input_tokens": reply.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": reply.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": reply.thinking_tokens},
        "total_tokens": reply.prompt_tokens + reply.completion_tokens,
    }
