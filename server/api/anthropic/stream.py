"""The events of a streamed message: one block after the other, each begun, continued and ended. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from server.api.anthropic.reply import call_id, empty_message, ending, usage, warnings
from server.api.anthropic.schema import MessageCall
from server.api.anthropic.signature import signature
from server.api.wire import JsonObject
from server.http.sse import event
from server.service.chat_input import ChatDelta, ChatReply

Block: TypeAlias = str | int  # "thinking", "content", or the index of a call


class Events:
    """Encodes the events of one message."""

    def __init__(self, head: JsonObject, call: MessageCall, prompt_tokens: int) -> None:
        """head: id and model."""
        self._message = empty_message(head, prompt_tokens)
        self._shows_thinking = call.shows_thinking
        self._begun = False
        self._index = -1  # of the block that was begun last
        self._open: Block | None = None
        self._left_out = ""  # thinking of the open block that its signature will carry

    def delta(self, delta: ChatDelta) -> bytes:
        """Encodes the next text or part of a call."""
        if (call := delta.call) is not None:
            begun = {"type": "tool_use", "id": call_id(call.id), "name": call.name, "input": {}}
            content = {"type": "input_json_delta", "partial_json": call.arguments} if call.arguments else None
            return self._begin() + self._block(call.index, begun, content)
        if not delta.text:
            return self._begin()
        if delta.section == "content":
            content = {"type": "text_delta", "text": delta.text}
            return self._begin() + self._block("content", {"type": "text", "text": ""}, content)
        content = {"type": "thinking_delta", "thinking": delta.text} if self._shows_thinking else None
        events = self._block("thinking", {"type": "thinking", "thinking": "", "signature": ""}, content)
        if not self._shows_thinking:
            self._left_out += delta.text
        return self._begin() + events

    def end(self, reply: ChatReply) -> Iterable[bytes]:
        """Encodes the end of the last block and of the message."""
        (choice,) = reply.choices
        ends = {"delta": ending(choice), "usage": usage(reply), **warnings(reply)}
        yield self._begin() + self._end_block() + _event("message_delta", ends) + _event("message_stop", {})

    def _begin(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        return _event("message_start", {"message": self._message}) + _event("ping", {})

    def _block(self, block: Block, begun: JsonObject, delta: JsonObject | None) -> bytes:
        """Goes on with a block, or begins it where another one, or none, is open."""
        events = b""
        if block != self._open:
            events += self._end_block()
            self._index, self._open = self._index + 1, block
            events += _event("content_block_start", {"index": self._index, "content_block": begun})
        return events + self._delta(delta) if delta else events

    def _end_block(self) -> bytes:
        if self._open is None:
            return b""
        events = b""
        if self._open == "thinking":
            events += self._delta({"type": "signature_delta", "signature": signature(self._left_out)})
            self._left_out = ""
        self._open = None
        return events + _event("content_block_stop", {"index": self._index})

    def _delta(self, delta: JsonObject) -> bytes:
        return _event("content_block_delta", {"index": self._index, "delta": delta})


def _event(name: str, content: JsonObject) -> bytes:
    return event(name, {"type": name, **content})
