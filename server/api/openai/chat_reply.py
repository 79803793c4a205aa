"""The JSON of a chat completion, whole and in chunks, in OpenAI's format. Pure functions.

What a model thought stands beside its answer as `reasoning_content`, which DeepSeek introduced and most servers and
clients adopted, and as `reasoning`, which OpenRouter and newer clients read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipelines.chat_interface import CallDelta, TokenLogprobs, ToolCall
from server.api.openai.chat_schema import ChatCall
from server.api.openai.reply_parts import token_logprobs, usage, warnings
from server.api.wire import JsonObject
from server.http.sse import data
from server.service.chat_input import ChatChoice, ChatDelta, ChatReply


def completion(head: JsonObject, reply: ChatReply, call: ChatCall) -> JsonObject:
    """head: id, time of creation and model."""
    choices = [_choice(index, choice, call) for index, choice in enumerate(reply.choices)]
    return {**head, "object": "chat.completion", "choices": choices, "usage": usage(reply), **warnings(reply)}


def _choice(index: int, choice: ChatChoice, call: ChatCall) -> JsonObject:
    thinking = _thinking(choice.thinking) if call.with_thinking and choice.thinking else {}
    calls = _calls(choice.tool_calls, call)
    content = choice.text or (None if calls else "")
    return {
        "index": index,
        "message": {"role": "assistant", "content": content, "refusal": None, **thinking, **calls},
        "logprobs": _logprobs(choice.logprobs) if call.with_logprobs else None,
        "finish_reason": _finish_reason(choice, call),
    }


def _calls(calls: Sequence[ToolCall], call: ChatCall) -> JsonObject:
    functions = [{"name": made.name, "arguments": made.arguments} for made in calls]
    if not calls:
        return {}
    if call.calls_as_functions:
        return {"function_call": functions[0]}
    ids = [made.id for made in calls]
    return {"tool_calls": [_typed(id, function) for id, function in zip(ids, functions, strict=True)]}


def _typed(id: str, function: JsonObject) -> JsonObject:
    return {"id": id, "type": "function", "function": function}


def _finish_reason(choice: ChatChoice, call: ChatCall) -> str:
    older = call.calls_as_functions and choice.finish_reason == "tool_calls"
    return "function_call" if older else choice.finish_reason


class Chunks:
    """Encodes the chunks of one stream as server-sent events. Each choice begins with a chunk that names the role."""

    def __init__(self, head: JsonObject, call: ChatCall) -> None:
        self._head = {**head, "object": "chat.completion.chunk"}
        self._usage: JsonObject = {"usage": None} if call.with_usage else {}
        self._call = call
        self._begun: set[int] = set()

    def delta(self, delta: ChatDelta) -> bytes:
        """Encodes the next text or part of a call; nothing for thinking that the client does not want."""
        if delta.section == "thinking" and not self._call.with_thinking:
            return b""
        logprobs = _logprobs(delta.logprobs) if delta.logprobs else None
        begin = self._begin(delta.index, None if delta.call else "")
        return begin + self._chunk(delta.index, self._content(delta), logprobs=logprobs)

    def _content(self, delta: ChatDelta) -> JsonObject:
        if delta.call is not None:
            return self._part(delta.call)
        return {"content": delta.text} if delta.section == "content" else _thinking(delta.text)

    def _part(self, part: CallDelta) -> JsonObject:
        """The first part of a call has its id and name, each further one more of the arguments."""
        function = {"name": part.name, "arguments": part.arguments} if part.name else {"arguments": part.arguments}
        if self._call.calls_as_functions:
            return {"function_call": function}
        call = _typed(part.id, function) if part.name else {"function": function}
        return {"tool_calls": [{"index": part.index, **call}]}

    def end(self, reply: ChatReply) -> Iterable[bytes]:
        """Yields the finish reason of each choice, with warnings in the last one, then the usage when requested."""
        for index, choice in enumerate(reply.choices):
            last = index == len(reply.choices) - 1
            further = warnings(reply) if last else {}
            yield self._begin(index) + self._chunk(index, {}, _finish_reason(choice, self._call), **further)
        if self._usage:
            yield data({**self._head, "choices": [], "usage": usage(reply)})
        yield b"data: [DONE]\n\n"

    def _begin(self, index: int, content: str | None = "") -> bytes:
        """Returns the first chunk of a choice, or nothing when it has begun. content: None if it begins with a call."""
        if index in self._begun:
            return b""
        self._begun.add(index)
        return self._chunk(index, {"role": "assistant", "content": content})

    def _chunk(
        self,
        index: int,
        delta: JsonObject,
        finish_reason: str | None = None,
        *,
        logprobs: JsonObject | None = None,
        **further: JsonObject,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return data({**self._head, "choices": [choice], **self._usage, **further})


def _thinking(text: str) -> JsonObject:
    return {"reasoning_content": text, "reasoning": text}


def _logprobs(tokens: Iterable[TokenLogprobs]) -> JsonObject:
    return {"content": token_logprobs(tokens), "refusal": None}
