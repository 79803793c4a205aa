"""Makes the output items of a response, and the events that tell of them, from the deltas of a reply. Pure functions.

The items come in the order in which the model writes: what it thinks, what it says, its calls. A response that is sent
whole is made in the same way as one that is streamed, so that the two do not differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pipelines.chat_interface import CallDelta
from server.api.openai.responses.open_items import OpenCall, OpenCustomCall, OpenItem, OpenMessage, OpenReasoning
from server.api.openai.responses.schema import ResponseCall
from server.api.openai.responses.tools import Called
from server.api.wire import JsonObject
from server.service.chat_input import ChatDelta
from server.service.responses import Item


class Output:
    def __init__(self, response_id: str, call: ResponseCall) -> None:
        self._id = response_id
        self._call = call
        self._open: OpenItem | None = None
        self.items: list[Item] = []  # those that are done

    def add(self, delta: ChatDelta) -> Iterator[JsonObject]:
        """Takes the next part of the reply and yields its events."""
        if delta.call is not None:
            yield from self._add_call(delta.call)
        elif delta.section == "content" and (delta.text or delta.logprobs):
            if not isinstance(self._open, OpenMessage):
                yield from self._close()
                self._open = OpenMessage(self._id, len(self.items))
                yield from self._open.begin()
            yield from self._open.add(delta)
        elif delta.section == "thinking" and delta.text and self._call.with_thinking:
            if not isinstance(self._open, OpenReasoning):
                yield from self._close()
                self._open = OpenReasoning(self._id, len(self.items), with_summary=self._call.with_summary)
                yield from self._open.begin()
            yield from self._open.add(delta)

    def end(self, status: Literal["completed", "incomplete"]) -> Iterator[JsonObject]:
        """Ends the last item. Where the model wrote nothing, that is a message without text."""
        if self._open is None and not self.items:
            self._open = OpenMessage(self._id, 0)
            yield from self._open.begin()
        yield from self._close(status)

    def _add_call(self, part: CallDelta) -> Iterator[JsonObject]:
        if not isinstance(self._open, OpenCall | OpenCustomCall) or self._open.call_index != part.index:
            yield from self._close()
            called = self._call.tools.called.get(part.name, Called(part.name))
            kind = OpenCustomCall if called.custom else OpenCall
            self._open = kind(self._id, len(self.items), part, called)
            yield from self._open.begin()
        yield from self._open.add(part)

    def _close(self, status: Literal["completed", "incomplete"] = "completed") -> Iterator[JsonObject]:
        if self._open is not None:
            yield from self._open.end(status)
            self.items.append(self._open.item(status))
            self._open = None
